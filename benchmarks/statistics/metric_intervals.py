"""Uncertainty of quality: intervals, paired comparisons on the same rows, simultaneous bounds.

Rows come as `Task.correct` has them. (rows,) bool: right or wrong; score intervals. (rows, 2) float64, points gained
and points possible, whose metric is a ratio of sums (F1, and means such as MRR): every row has an influence on the
metric (its derivative by the row's weight), and bounds are made from the mean, the variance and the skewness of the
influences. `benchmarks/simulations/coverage.py` simulates how often each interval contains the truth (table in
docs/choosing.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from paredown.tasks.scores import points

from .bounds import (
    NORMAL,
    Z95_ONE_SIDED,
    both_sides,
    one_sided,
    poisson_limit,
    scarce,
    score_bound,
    student,
    tango,
    together,
)

Z95_TWO_SIDED = NORMAL.inv_cdf(0.975)
FEW = 5  # rows that differ (of a label), under which an unseen loss nears that of a row which loses everything
EXACT = 12  # rows that differ, up to which every exchange of them is counted


def drop_upper(baseline: np.ndarray, candidate: np.ndarray, confidence: float = 0.95) -> float:
    """One-sided upper bound of the drop in points, at most 100; both (rows,) bool or (rows, 2), of the same rows.

    Bools: the score bound of Tango 1998 (doi 10.1002/(SICI)1097-0258(19980430)17:8<891). Points: `score_bound`.
    A confidence below 0.5 counts as 0.5.
    """
    return float(_uppers(baseline, [candidate], one_sided(confidence))[0])


def drop_upper_95(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """`drop_upper` at 95 %."""
    return drop_upper(baseline, candidate, 0.95)


def drop_interval(baseline: np.ndarray, candidate: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the drop in points: two one-sided bounds, each with half of the error."""
    side = (1 + confidence) / 2
    return -drop_upper(candidate, baseline, side), drop_upper(baseline, candidate, side)


def upper_bounds(baseline: np.ndarray, candidates: Sequence[np.ndarray], confidence: float = 0.95) -> np.ndarray:
    """One-sided upper bounds of all candidates' drops that hold together with this confidence, (candidates,) points.

    The maximum over the candidates of correlated normal statistics, whose correlation is that of the rows' influences
    (Westfall and Young 1993; Chernozhukov et al. 2013, doi 10.1214/13-AOS1161), gives the level at which each bound is
    taken. Few rows that differ say little about the correlation: there it is 0 (Sidak 1967). Candidates with the same
    answers count once, and those with the baseline's do not count. Cached by the content of the arrays.
    """
    if not candidates:
        return np.zeros(0)
    return _upper_bounds(Answers.of(baseline), tuple(map(Answers.of, candidates)), confidence).copy()


def metric_interval(correct: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the metric in points: (rows,) bool or (rows, 2).

    Bools: Wilson's (1927), with Poisson's limits for one to three rows right or wrong (Brown, Cai and DasGupta 2001,
    doi 10.1214/ss/1009213286). Points: `score_bound` on both sides.
    """
    z = one_sided((1 + confidence) / 2)
    if correct.ndim == 2:
        gained, possible = correct.T
        if not possible.any():
            return 0.0, 0.0
        bounded = bool(((gained >= 0) & (gained <= possible)).all())  # a row may lose all of its points
        metric, largest = points(correct), 100.0 if bounded else None
        moved = int((gained < possible - 1e-9).sum()), int((gained > 1e-9).sum())
        lo, hi = both_sides(_influence(correct), metric, student(z, len(correct)), largest, moved)
        return max(0.0, lo) if bounded else lo, min(100.0, hi)
    n, p = len(correct), float(correct.mean())
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    lo, hi, right = middle - half, middle + half, int(correct.sum())
    if 0 < right <= 3:
        lo = poisson_limit(right, 1 - confidence) / n
    if 0 < n - right <= 3:
        hi = 1 - poisson_limit(n - right, 1 - confidence) / n
    return 100 * max(0.0, lo), 100 * min(1.0, hi)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the mean of (rows,) numbers from -1 to 1 (correlations), as `metric_interval`'s."""
    mean, z = float(values.mean()), student(one_sided((1 + confidence) / 2), len(values))
    lo, hi = both_sides(values - mean, mean, z)
    return max(-1.0, lo), min(1.0, hi)


def paired_drop(baseline: np.ndarray, candidate: np.ndarray) -> tuple[float, float]:
    """Drop of the candidate and its standard error, in points, positive = worse; both of the same rows.

    Half a row is added to each cell of the two-by-two table (Agresti and Min 2005, doi 10.1002/sim.1781), so that two
    models that never differ still have an error; for points a least error stands for it while under FEW rows differ.
    """
    n = len(baseline)
    if baseline.ndim == 2:
        spread = float((_influence(baseline) - _influence(candidate)).std(ddof=min(1, n - 1))) / math.sqrt(n)
        least = 100 / (n + 2) * max(0.0, 1 - _differing(baseline, candidate) / FEW)
        return points(baseline) - points(candidate), math.hypot(spread, least)
    lost = int((baseline & ~candidate).sum())
    won = int((~baseline & candidate).sum())
    b, c, m = lost + 0.5, won + 0.5, n + 2
    error = math.sqrt(b + c - (b - c) ** 2 / m) / m
    return 100 * (lost - won) / n, 100 * error


def mcnemar_p(baseline: np.ndarray, candidate: np.ndarray) -> float:
    """Exact two-sided McNemar test: the probability of so uneven a split of the rows on which only one is right.

    Points: the same test by exchanging the two models' rows (approximate randomisation, Noreen 1989): every exchange
    of up to EXACT rows that differ, the normal limit of its distribution for more.
    """
    if baseline.ndim == 2:
        gained, possible = (baseline + candidate).sum(axis=0)
        both = gained / possible if possible else 0.0  # the metric of both together, which no exchange changes
        moved = baseline - candidate
        parts = moved[:, 0] - both * moved[:, 1]
        parts = parts[(moved != 0).any(axis=1)]
        observed = abs(parts.sum())
        if len(parts) > EXACT:
            return math.erfc(observed / math.sqrt(2 * np.square(parts).sum())) if observed else 1.0
        signs = 1 - 2 * (np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts)) & 1)
        return float(np.mean(np.abs(signs @ parts) >= observed * (1 - 1e-9)))
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

    `keys`: the group of each row. Intervals are paired and each holds by itself; the largest of the upper bounds is
    also a 95 % bound of the worst group's drop, whichever group that is.
    """
    names, group, rows = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    bounds = np.zeros((len(rows), 3))
    if baseline.ndim == 1:
        lost, won = (np.bincount(group, change, len(rows)) for change in (baseline & ~candidate, ~baseline & candidate))
        lows, highs = -tango(won, lost, rows, Z95_TWO_SIDED), tango(lost, won, rows, Z95_TWO_SIDED)
        bounds = 100 * np.stack([lows, highs, tango(lost, won, rows, Z95_ONE_SIDED)], axis=1)
    parts = np.split(np.argsort(group, kind="stable"), np.cumsum(rows)[:-1])
    found = []
    for i, part in enumerate(parts):
        theirs, ours = baseline[part], candidate[part]
        lo, hi, upper = bounds[i] if baseline.ndim == 1 else (*drop_interval(theirs, ours), drop_upper(theirs, ours))
        found.append(
            {
                "name": str(names[i]),
                "rows": len(part),
                "metric": points(ours),
                "drop": points(theirs) - points(ours),
                "drop_ci": [float(lo), float(hi)],
                "drop_upper_95": float(upper),
            }
        )
    return sorted(found, key=lambda entry: -entry["drop"])


def macro_f1(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Mean F1 over the labels that are in `gold` or predicted, in points: (1,), or (models,) of (models, rows) int."""
    return np.array([_macro(row, gold)[0] for row in np.atleast_2d(predicted)])


def macro_f1_drop(
    baseline: np.ndarray, candidate: np.ndarray, gold: np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
    """Drop of macro F1 in points and its one-sided upper bound; all three (rows,) int labels."""
    drops, uppers = macro_f1_upper_bounds(baseline, [candidate], gold, confidence)
    return float(drops[0]), float(uppers[0])


def macro_f1_upper_bounds(
    baseline: np.ndarray, candidates: Sequence[np.ndarray], gold: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Drops of macro F1 in points and upper bounds that hold together, (candidates,) each; (rows,) int labels.

    As `upper_bounds`, with the influences of a mean of ratios. A label with few rows makes the bound wide: a row of it
    may lose much. Only labels that are in `gold` or predicted are judged. Cached by the content of the arrays.
    """
    if not len(candidates):
        return np.zeros(0), np.zeros(0)
    keys = Answers.of(baseline), tuple(map(Answers.of, candidates)), Answers.of(gold)
    drops, uppers = _macro_upper_bounds(*keys, confidence)
    return drops.copy(), uppers.copy()


def worst_flips(baseline: np.ndarray, candidate: np.ndarray, confidence: np.ndarray, most: int) -> list[int]:
    """Row numbers of negative flips, those that the candidate is surest of first; confidence (rows,) 0..1."""
    flipped = np.flatnonzero(baseline & ~candidate)
    return flipped[np.argsort(-confidence[flipped], kind="stable")][:most].tolist()


class Answers:
    """An array that can be the key of a cache: equal where dtype, shape and content are."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array)
        self._key = (array.dtype.str, array.shape, hashlib.blake2b(self.array.data, digest_size=16).digest())

    @staticmethod
    def of(array: np.ndarray) -> Answers:
        return Answers(array)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self._key == other._key


@lru_cache(maxsize=128)
def _upper_bounds(baseline: Answers, candidates: tuple[Answers, ...], confidence: float) -> np.ndarray:
    base = baseline.array
    different = list(dict.fromkeys(c for c in candidates if c != baseline))
    if base.ndim == 1:
        effects = np.array([base.astype(np.float32) - c.array for c in different]).reshape(-1, len(base)).T
    else:
        ours = _influence(base)
        effects = np.array([ours - _influence(c.array) for c in different]).reshape(-1, len(base)).T
    differing = np.array([_differing(base, c.array) for c in different])
    z = together(effects, differing, confidence)
    return _uppers(base, [c.array for c in candidates], z)


@lru_cache(maxsize=128)
def _macro_upper_bounds(
    baseline: Answers, candidates: tuple[Answers, ...], gold: Answers, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    metric, ours = _macro(baseline.array, gold.array)
    others = {c: _macro(c.array, gold.array) for c in candidates}
    different = [c for c in others if c != baseline]
    n = len(gold.array)
    effects = np.array([ours - others[c][1] for c in different]).reshape(-1, n).T
    differing = np.array([_differing(baseline.array, c.array) for c in different])
    z = student(together(effects, differing, confidence), n)
    labels, which, rows = np.unique(gold.array, return_inverse=True, return_counts=True)
    changed = np.array([np.bincount(which, c.array != baseline.array, len(labels)) for c in candidates])
    all_of_it = 100 * n / rows / len(labels)  # what a row of each label can lose
    drops = np.array([metric - others[c][0] for c in candidates])
    columns = np.array([ours - others[c][1] for c in candidates]).T
    return drops, np.minimum(100, score_bound(columns, drops, z, all_of_it, scarce(changed, FEW), changed.sum(axis=1)))


def _uppers(baseline: np.ndarray, candidates: Sequence[np.ndarray], z: float) -> np.ndarray:
    """Each candidate's own one-sided upper bound at the normal quantile `z`, (candidates,) points."""
    n = len(baseline)
    if baseline.ndim == 1:
        lost = np.array([np.count_nonzero(baseline & ~c) for c in candidates], np.float64)
        won = np.array([np.count_nonzero(~baseline & c) for c in candidates], np.float64)
        return 100 * tango(lost, won, n, z)
    ours, metric = _influence(baseline), points(baseline)
    columns = np.stack([ours - _influence(c) for c in candidates], axis=1)
    drops = np.array([metric - points(c) for c in candidates])
    differing = np.array([_differing(baseline, c) for c in candidates])
    return np.minimum(
        np.maximum(100, drops), score_bound(columns, drops, student(z, n), 100.0, scarce(differing, FEW), differing)
    )


def _influence(rows: np.ndarray) -> np.ndarray:
    """Influence of each row of points (rows, 2) on 100 * gained / possible, (rows,); the mean is 0."""
    gained, possible = rows[:, 0], rows[:, 1]
    total = possible.sum()
    if not total:
        return np.zeros(len(rows))
    return 100 * len(rows) / total * (gained - gained.sum() / total * possible)


def _macro(predicted: np.ndarray, gold: np.ndarray) -> tuple[float, np.ndarray]:
    """Macro F1 in points, and the influence of each row on it, (rows,)."""
    n = len(gold)
    labels, both = np.unique(np.concatenate([predicted, gold]), return_inverse=True)
    ours, theirs = both[:n], both[n:]
    right = ours == theirs
    named = np.bincount(both, minlength=len(labels))
    scores = 2 * np.bincount(theirs[right], minlength=len(labels)) / named
    gain = np.where(right, 2 / named[theirs], 0) - (scores / named)[ours] - (scores / named)[theirs]
    return float(100 * scores.mean()), 100 * n / len(labels) * gain


def _differing(baseline: np.ndarray, candidate: np.ndarray) -> int:
    differ = baseline != candidate
    return int(np.count_nonzero(differ.any(axis=1) if differ.ndim == 2 else differ))
