"""Intervals of ratios and differences between samples taken turn by turn, the turns of all candidates in step.

What was measured in one turn hangs together, and so do the turns of one process: whole clusters are resampled, the same
ones on both sides, so that what the machine did to a turn cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
# 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; beyond, its expansion around the normal quantile.
T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
Z975 = 1.959964


def t975(freedom: int) -> float:
    """97.5 % quantile of Student's t."""
    return T975[freedom - 1] if freedom <= len(T975) else Z975 + (Z975**3 + Z975) / (4 * freedom)


def half_width(differences: np.ndarray) -> float:
    """Half of the 95 % t interval of the mean of paired differences, (turns,); infinite for a single turn."""
    n = len(differences)
    return t975(n - 1) * float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else math.inf


def resample(turns: int, processes: Sequence[int] | None, random: np.random.Generator) -> np.ndarray:
    """Turn numbers of each resample, (RESAMPLES, turns): processes first, then turns within each (cluster bootstrap).

    `processes`: the process that each turn ran in, as many turns in each; None: all in one.
    """
    kinds = np.unique(np.asarray(processes)) if processes else np.zeros(1)
    each = turns // len(kinds)
    if len(kinds) == 1 or each * len(kinds) != turns:
        return random.integers(0, turns, size=(RESAMPLES, turns))
    process = np.repeat(random.integers(0, len(kinds), size=(RESAMPLES, len(kinds))), each, axis=1)
    return process * each + random.integers(0, each, size=(RESAMPLES, turns))


def interval(resampled: np.ndarray, clusters: int) -> tuple[float, float]:
    """95 % interval of a bootstrapped statistic, its percentiles expanded for few clusters.

    (Hesterberg 2015, doi 10.1080/00031305.2015.1089789, section 5.3: plain percentiles are too narrow by
    sqrt((n - 1) / n) and take the normal for the t distribution.)
    """
    z = math.sqrt(clusters / max(clusters - 1, 1)) * t975(max(clusters - 1, 1))
    tail = 50 * math.erfc(z / math.sqrt(2))
    lo, hi = np.percentile(resampled, [tail, 100 - tail])
    return float(lo), float(hi)


def ratio(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], processes: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Median of ours / median of theirs and its 95 % interval; samples by turn, both sides' turns in step."""
    point = float(np.median(np.concatenate(ours)) / np.median(np.concatenate(theirs)))
    picks = resample(len(ours), processes, np.random.default_rng(0))
    lo, hi = interval(medians(ours, picks) / medians(theirs, picks), len(ours))
    return point, lo, hi


def medians(turns: Sequence[Sequence[float]], picks: np.ndarray) -> np.ndarray:
    """Median of the samples of each resample's turns, (resamples,)."""
    flat = np.concatenate([np.asarray(turn, dtype=float) for turn in turns])
    order = np.argsort(flat)
    flat, turn = flat[order], np.repeat(np.arange(len(turns)), [len(turn) for turn in turns])[order]
    found = []
    for part in np.array_split(picks, 1 + len(picks) * len(flat) // 2_000_000):  # a few MB at a time
        counts = (part[:, :, None] == np.arange(len(turns))).sum(axis=1)  # how often each resample has each turn
        upto = np.cumsum(counts[:, turn], axis=1, dtype=np.int32)
        total = upto[:, -1:]
        low, high = (upto < (total + 1) // 2).sum(axis=1), (upto < total // 2 + 1).sum(axis=1)
        found.append((flat[low] + flat[high]) / 2)
    return np.concatenate(found)
