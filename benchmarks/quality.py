"""How good a candidate is, and how sure that is: intervals and paired comparisons on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Z95_TWO_SIDED = 1.959964
Z95_ONE_SIDED = 1.644854


def wilson(correct: np.ndarray) -> tuple[float, float]:
    """95 % interval, in points, of the mean of `correct` (rows,) bool (Wilson 1927)."""
    n, p, z = len(correct), float(correct.mean()), Z95_TWO_SIDED
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle - half), 100 * (middle + half)


def paired_drop(baseline: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    """Drop of the candidate and its standard error, in points, positive = worse; both (rows,) bool, the same rows.

    Half a row is added to each cell of the two-by-two table (Agresti and Min 2005, doi 10.1002/sim.1781), so that two
    models that never differ still have an error.
    """
    n = len(baseline)
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    b, c, m = lost + 0.5, won + 0.5, n + 2
    error = math.sqrt(b + c - (b - c) ** 2 / m) / m
    return 100 * (lost - won) / n, 100 * error


def drop_upper_95(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """One-sided 95 % upper bound of the drop, in points."""
    drop, error = paired_drop(baseline, candidate)
    return drop + Z95_ONE_SIDED * error


def mcnemar_p(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """Exact two-sided McNemar test: the probability of so uneven a split of the rows on which only one is right."""
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    n, k = lost + won, min(lost, won)
    log_half = n * math.log(0.5)
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def negative_flips(baseline: np.ndarray, candidate: np.ndarray) -> int:
    """Rows that were right before and are wrong now."""
    return int((baseline & ~candidate).sum())


def flip_share(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """Negative flips in per cent of all rows (the negative flip rate of Yan et al. 2021, arXiv 2011.09161)."""
    return 100 * negative_flips(baseline, candidate) / len(baseline)


def by_key(baseline: np.ndarray, candidate: np.ndarray, keys: Sequence[str]) -> list[dict]:
    """The drop within each group of rows, worst first: name, rows, metric, drop, its 95 % interval and upper bound.

    `keys`: the group of each row. Intervals are paired and not corrected for the number of groups.
    """
    names = np.asarray(keys)
    found = []
    for name in np.unique(names):
        ours, theirs = candidate[names == name], baseline[names == name]
        drop, error = paired_drop(theirs, ours)
        half = Z95_TWO_SIDED * error
        found.append(
            {
                "name": str(name),
                "rows": len(ours),
                "metric": float(100 * ours.mean()),
                "drop": drop,
                "drop_ci": [drop - half, drop + half],
                "drop_upper_95": drop + Z95_ONE_SIDED * error,
            }
        )
    return sorted(found, key=lambda entry: -entry["drop"])


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in points: |confidence - accuracy| over bins of equal width, weighted by their rows.

    (Guo et al. 2017, arXiv 1706.04599.) confidence (rows,) 0..1, correct (rows,) bool.
    """
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(index, confidence - correct, bins)
    return float(100 * np.abs(gap).sum() / len(correct))


def macro_f1(predicted: np.ndarray, gold: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean F1 over the labels that are in `gold` or `predicted`, in points, for each row of `weights` (samples, rows).

    Without weights one sample in which every row counts once: (1,).
    """
    counts = np.ones((1, len(gold)), np.float32) if weights is None else weights
    scores = []
    for label in np.union1d(predicted, gold):
        ours, theirs = predicted == label, gold == label
        hits = counts @ (ours & theirs).astype(np.float32)
        named = counts @ (ours.astype(np.float32) + theirs)
        scores.append(2 * hits / np.maximum(named, 1))
    return 100 * np.mean(scores, axis=0)


def macro_f1_drop(baseline: np.ndarray, candidate: np.ndarray, gold: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Drop of macro F1 in points and its one-sided 95 % upper bound, by a paired bootstrap of 1,000 samples of rows.

    All three are (rows,) int labels. The bound is that of the basic bootstrap: twice the drop less the 5 % quantile.
    """
    counts = _resampled_rows(len(gold), seed)
    drop = float(macro_f1(baseline, gold)[0] - macro_f1(candidate, gold)[0])
    drops = macro_f1(baseline, gold, counts) - macro_f1(candidate, gold, counts)
    return drop, float(2 * drop - np.percentile(drops, 5))


@lru_cache(maxsize=4)
def _resampled_rows(rows: int, seed: int) -> np.ndarray:
    """How often each row is in each of 1,000 samples with replacement, (1000, rows) float32."""
    picks = np.random.default_rng(seed).integers(0, rows, size=(1000, rows))
    return np.stack([np.bincount(pick, minlength=rows) for pick in picks]).astype(np.float32)


def worst_flips(baseline: np.ndarray, candidate: np.ndarray, confidence: np.ndarray, most: int) -> list[int]:
    """Row numbers of negative flips, those that the candidate is surest of first; confidence (rows,) 0..1."""
    flipped = np.flatnonzero(baseline & ~candidate)
    return flipped[np.argsort(-confidence[flipped], kind="stable")][:most].tolist()
