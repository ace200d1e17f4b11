"""How good a candidate is, and how sure that is: intervals and paired comparisons on the same rows.

Rows come as `Task.correct` has them: (rows,) bool, right or wrong, with closed formulas; or (rows, 2), points gained
and points possible, whose metric is a ratio of sums (F1) and whose errors are those of a bootstrap over the rows.
"""

from __future__ import annotations

import math

import numpy as np

Z95_TWO_SIDED = 1.959964
Z95_ONE_SIDED = 1.644854
RESAMPLES = 1000


def wilson(correct: np.ndarray) -> tuple[float, float]:
    """95 % interval, in points, of the metric: Wilson's (1927) for bools, else percentiles of the bootstrap."""
    if correct.ndim == 2:
        lo, hi = np.percentile(_resampled(correct), [2.5, 97.5])
        return float(lo), float(hi)
    n, p, z = len(correct), float(correct.mean()), Z95_TWO_SIDED
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle - half), 100 * (middle + half)


def paired_drop(baseline: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    """Drop of the candidate and its standard error, in points, positive = worse; both of the same rows.

    Half a row is added to each cell of the two-by-two table (Agresti and Min 2005, doi 10.1002/sim.1781), so that two
    models that never differ still have an error; that least error is kept where rows are resampled.
    """
    n = len(baseline)
    if baseline.ndim == 2:
        spread = (_resampled(baseline) - _resampled(candidate)).std(ddof=1)  # the same rows on both sides
        return _points(baseline) - _points(candidate), math.hypot(spread, 100 / (n + 2))
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
    """Exact two-sided McNemar test: the probability of so uneven a split of the rows on which only one is right.

    For points: that of so large a drop where there is none, by the bootstrap's error.
    """
    if baseline.ndim == 2:
        drop, error = paired_drop(baseline, candidate)
        return math.erfc(abs(drop) / error / math.sqrt(2))
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    n, k = lost + won, min(lost, won)
    log_half = n * math.log(0.5)
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def negative_flips(baseline: np.ndarray, candidate: np.ndarray) -> int:
    """Rows that were right before and are wrong now; of points: those that lose some."""
    if baseline.ndim == 2:
        lost = [possible - gained for gained, possible in (baseline.T, candidate.T)]
        return int((lost[1] > lost[0]).sum())
    return int((baseline & ~candidate).sum())


def _points(rows: np.ndarray) -> float:
    gained, possible = rows.sum(axis=0)
    return float(100 * gained / possible) if possible else 0.0


def _resampled(rows: np.ndarray) -> np.ndarray:
    """The metric of `RESAMPLES` draws of rows with replacement, in points, (RESAMPLES,); the same draws every time."""
    random, n = np.random.default_rng(0), len(rows)
    return np.array([_points(rows[random.integers(n, size=n)]) for _ in range(RESAMPLES)])
