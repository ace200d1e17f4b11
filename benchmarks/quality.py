"""How good a candidate is, and how sure that is: intervals and paired comparisons on the same rows.

Rows come as `Task.correct` has them: (rows,) bool, right or wrong, with closed formulas; or (rows, 2), points gained
and points possible, whose metric is a ratio of sums (F1) and whose errors are those of a bootstrap over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..export.predict import points

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
        return points(baseline) - points(candidate), math.hypot(spread, 100 / (n + 2))
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
    """Rows that were right before and are wrong now; of points: those that lose more than a hundredth of one, which
    rounding moves a number by."""
    if baseline.ndim == 2:
        lost = [possible - gained for gained, possible in (baseline.T, candidate.T)]
        return int((lost[1] > lost[0] + 0.01).sum())
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
                "metric": points(ours),
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
    """How often each row is in each of `RESAMPLES` samples with replacement, (RESAMPLES, rows) float32."""
    picks = np.random.default_rng(seed).integers(0, rows, size=(RESAMPLES, rows))
    return np.stack([np.bincount(pick, minlength=rows) for pick in picks]).astype(np.float32)


def _resampled(rows: np.ndarray) -> np.ndarray:
    """The metric of samples of rows of points, (RESAMPLES,); the same samples for as many rows."""
    gained, possible = (_resampled_rows(len(rows), 0) @ rows.astype(np.float32)).T
    return 100 * gained / np.maximum(possible, 1)  # they are counts: below 1 is nothing


def worst_flips(baseline: np.ndarray, candidate: np.ndarray, confidence: np.ndarray, most: int) -> list[int]:
    """Row numbers of negative flips, those that the candidate is surest of first; confidence (rows,) 0..1."""
    flipped = np.flatnonzero(baseline & ~candidate)
    return flipped[np.argsort(-confidence[flipped], kind="stable")][:most].tolist()
