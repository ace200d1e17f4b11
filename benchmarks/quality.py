"""How good a candidate is, and how sure that is: intervals and paired comparisons on the same rows."""

from __future__ import annotations

import math

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
