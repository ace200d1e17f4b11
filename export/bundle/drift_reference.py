"""Reference counts of ordinary inputs and outputs, which a server compares its traffic with.

reference.json, written from validation texts when the bundle is packed. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WORDS = 50  # the most frequent tokens that are counted one by one
BINS = 10
SHARES = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]  # upper edges of the share of unknown tokens


@dataclass(frozen=True)
class Quantity:
    """One thing that is counted: by bins (value <= edge, the last bin is open), or by kind."""

    counts: np.ndarray  # (bins,) int64
    edges: tuple[float, ...] | None = None  # None: kinds, which have no order


def quantities(reference: dict) -> dict[str, Quantity]:
    """The content of reference.json as counts by name."""
    return {
        name: Quantity(np.array(entry["counts"], np.int64), tuple(entry["edges"]) if "edges" in entry else None)
        for name, entry in reference["quantities"].items()
    }


def describe(
    ids: Sequence[Sequence[int]], probabilities: np.ndarray, unknown: int | None, *, vectors: bool = False
) -> dict:
    """The content of reference.json for rows of token ids, or of pixels, and the model's probabilities (rows, labels)
    on them.

    `vectors`: they are vectors, of which the product with their mean is counted.
    """
    centre = {}
    if vectors:
        mean = probabilities.mean(axis=0, dtype=np.float64)
        centre = {"centre": (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist()}
        probabilities = towards(probabilities, centre["centre"])
    words: list[int] = []
    if not isinstance(ids[0], np.ndarray):
        tokens, times = np.unique(np.concatenate([np.asarray(row) for row in ids]), return_counts=True)
        words = tokens[np.argsort(-times, kind="stable")][:WORDS].tolist()
    values = {**_measured(ids, unknown), "confidence": probabilities.max(axis=1)}
    edges = {name: SHARES if name == "unknown_share" else _deciles(value) for name, value in values.items()}
    counts = count(ids, probabilities, unknown, words, edges)
    entries = {
        name: {"counts": c.tolist()} | ({"edges": edges[name]} if name in edges else {}) for name, c in counts.items()
    }
    return {"schema": 1, "rows": len(ids), "unknown": unknown, "words": words, "quantities": entries} | centre


def towards(vectors: np.ndarray, centre: Sequence[float]) -> np.ndarray:
    """How far vectors (rows, width) of length 1 point to where the reference's do in the mean, (rows, 1)."""
    return vectors @ np.asarray(centre, dtype=vectors.dtype)[:, None]


def count(
    ids: Sequence[Sequence[int]],
    probabilities: np.ndarray,
    unknown: int | None,
    words: Sequence[int],
    edges: Mapping[str, Sequence[float]],
) -> dict[str, np.ndarray]:
    """Counts of some rows in the bins of a reference; every row is in one bin of each quantity, every token in one of
    `vocabulary`."""
    values = {**_measured(ids, unknown), "confidence": probabilities.max(axis=1)}
    found = {
        name: np.bincount(np.searchsorted(edges[name], value), minlength=len(edges[name]) + 1)
        for name, value in values.items()
    }
    if not isinstance(ids[0], np.ndarray):
        place = {word: i for i, word in enumerate(words)}
        flat = [place.get(token, len(words)) for row in ids for token in row]
        found["vocabulary"] = np.bincount(flat, minlength=len(words) + 1)
    found["label"] = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return found


def _measured(rows: Sequence[Sequence[int]], unknown: int | None) -> dict[str, np.ndarray]:
    """What is counted of each row by itself, (rows,): of an image brightness and contrast, in the model's own units; of
    a text its tokens and the share of unknown ones."""
    if isinstance(rows[0], np.ndarray):
        return {"brightness": np.array([np.mean(row) for row in rows]), "contrast": np.array([np.std(r) for r in rows])}
    flat = np.concatenate([np.asarray(row, np.int64) for row in rows])
    lengths = np.array([len(row) for row in rows])
    strange = np.add.reduceat(flat == unknown, np.concatenate([[0], np.cumsum(lengths)[:-1]])) / lengths
    return {"length": lengths, "unknown_share": strange}


def psi(reference: np.ndarray, now: np.ndarray) -> float:
    """Population stability index of two count vectors, less what chance alone would give: (bins - 1)(1/n + 1/m).

    sum((p - q) ln(p / q)), half a row added to each bin; the expectation under no drift is Yurdakul's (2018).
    """
    p, q = (reference + 0.5) / (reference + 0.5).sum(), (now + 0.5) / (now + 0.5).sum()
    chance = (len(p) - 1) * (1 / max(reference.sum(), 1) + 1 / max(now.sum(), 1))
    return max(0.0, float(((p - q) * np.log(p / q)).sum() - chance))


def ks(reference: np.ndarray, now: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two binned samples, 0..1: the largest difference of their cumulative shares."""
    p, q = (np.cumsum(counts) / max(counts.sum(), 1) for counts in (reference, now))
    return float(np.abs(p - q).max())


def _deciles(values: np.ndarray) -> list[float]:
    """Upper edges of up to BINS bins with about as many values each."""
    return sorted({float(edge) for edge in np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")})
