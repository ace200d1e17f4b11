"""One-sided bounds of proportions and of means of per-row influences, and simultaneous ones.

Columns are candidates, rows are rows; everything is in the unit of the influences. `z` is the normal quantile of a
bound's confidence.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
Z95_ONE_SIDED = NORMAL.inv_cdf(0.95)
DRAWS = 10_000  # of the maximum over the candidates
# A bound from few rows that differ allows for a loss that no row has shown: ATOMS such rows count in the skewness.
ATOMS, ATOM = 2.0, 1.25  # ATOM: such a loss, in multiples of the largest one
PLENTY = 20  # rows that differ, beyond which fewer than ATOMS do
FEW_SHARED = 10  # rows that differ, under which a candidate's correlation with the others is taken as 0


def one_sided(confidence: float) -> float:
    """The normal quantile, 0 at least."""
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence {confidence}: a number from 0 to below 1 is expected")
    return NORMAL.inv_cdf(max(0.5, confidence))


def student(z: float, rows: int) -> float:
    """The quantile of Student's t with rows - 1 degrees that belongs to a normal one (first two terms)."""
    freedom = max(1, rows - 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def tango(lost: np.ndarray, won: np.ndarray, n: np.ndarray | int, z: float) -> np.ndarray:
    """Upper score bound (Tango 1998) of the share lost less the share won, as many as `lost` and `won` (floats)."""
    lo, hi = (lost - won) / n, np.ones(len(lost))
    more = lost - won + _ties(z)
    for _ in range(35):
        drop = (lo + hi) / 2
        b, c = (2 * n - lost + won) * drop - lost - won, -won * drop * (1 - drop)
        q = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)  # the likeliest share won where this is the drop
        inside = more - n * drop > -z * np.sqrt(np.maximum(n * (2 * q + drop * (1 - drop)), 0))
        lo, hi = np.where(inside, drop, lo), np.where(inside, hi, drop)
    return hi


def score_bound(
    effects: np.ndarray,
    means: np.ndarray,
    z: float,
    largest: np.ndarray | float | None = None,
    scarce: np.ndarray | float = 0.0,
    differing: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Upper score bound of each mean, (columns,), from the influences of the rows, (rows, columns).

    Under the exponential tilt of the sample that has another mean, the variance changes by the skewness: var(m) =
    s2 + (m - mean) m3 / s2 (Efron 1981, doi 10.2307/3314608). The bound solves n (m - mean)^2 = z^2 var(m); for
    counts it is Wilson's. ATOMS rows with a loss that has not been seen are part of the skewness, fewer where more
    than PLENTY rows are `differing`; `scarce` (0 to 1) is how near that loss is to `largest`, what a row can lose at
    most, rather than to the largest one seen. Both may be of several kinds of rows, (kinds,) and (columns, kinds): the
    worst kind counts.
    """
    n = len(effects)
    centred = effects - effects.mean(axis=0)
    squares = centred**2
    s2, s3, seen = squares.sum(axis=0), (squares * centred).sum(axis=0), np.sqrt(squares.max(axis=0))
    unseen = ATOM * seen
    if largest is not None:
        most, seen_, share = np.atleast_1d(largest), unseen[:, None], np.asarray(scarce, float)
        share = np.where(seen_ > 1e-9, share if share.ndim == 2 else share.reshape(-1, 1), 1.0)
        near = np.clip(seen_, 1e-9, most.max())
        unseen = np.max(near ** (1 - share) * np.maximum(near, most) ** share, axis=1)
    atoms = ATOMS * np.minimum(1, PLENTY / np.maximum(differing, 1))
    tilt = np.maximum(0, (s3 + atoms * unseen**3) / np.maximum(s2 + atoms * unseen**2, 1e-18))
    usual = np.sqrt((squares**2).sum(axis=0) / np.maximum(s2, 1e-18))
    half = z * z * tilt / 2 + _ties(z) * np.where(seen > 1e-9, usual, unseen)
    return means + (half + np.sqrt((z * z * tilt / 2) ** 2 + z * z * s2)) / n


def both_sides(
    influence: np.ndarray, mean: float, z: float, largest: float | None = None, moved: tuple[int, int] = (0, 0)
) -> tuple[float, float]:
    """Lower and upper bound of one mean. `largest`: what a row may lose or gain at most; `moved`: how many rows lose
    something, and gain something, which tells how far what has not been seen is to be allowed for."""
    columns = np.stack([-influence, influence], axis=1)
    rows = np.array(moved if largest is not None else [len(influence)] * 2)
    lo, hi = score_bound(columns, np.array([-mean, mean]), z, largest, scarce(rows, PLENTY), rows)
    return -float(lo), float(hi)


def together(effects: np.ndarray, differing: np.ndarray, confidence: float) -> float:
    """The normal quantile at which bounds of all columns of (rows, candidates) hold together."""
    count = effects.shape[1]
    if count < 2:
        return one_sided(confidence)
    sidak = one_sided(confidence ** (1 / count))
    effects = effects[:, differing >= FEW_SHARED]
    shared = effects.shape[1]
    if shared < 2 or DRAWS * (1 - confidence) < 100:  # or too few of the draws lie beyond
        return sidak
    centred = effects - effects.mean(axis=0)
    scaled = centred / np.maximum(np.sqrt(np.square(centred).sum(axis=0)), 1e-12)
    values, vectors = np.linalg.eigh((scaled.T @ scaled).astype(np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    largest = np.sort((_draws(shared) @ root.T).max(axis=1))
    lo, hi = one_sided(confidence), sidak
    for _ in range(30):  # where the correlated ones and the others stay below together
        middle = (lo + hi) / 2
        below = np.searchsorted(largest, middle) / DRAWS * NORMAL.cdf(middle) ** (count - shared)
        lo, hi = (middle, hi) if below < confidence else (lo, middle)
    return hi


@lru_cache(maxsize=8)
def _draws(columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((DRAWS, columns), dtype=np.float32)


def _ties(z: float) -> float:
    """Rows that a bound below 95 % is wider by (continuity): with few rows that differ it would not hold."""
    return 0.5 * max(0.0, 1 - (z / Z95_ONE_SIDED) ** 2)


def scarce(differing: np.ndarray, few: int) -> np.ndarray:
    """1 where no row differs, 0 where `few` do."""
    return np.maximum(0.0, 1 - differing / few)


@lru_cache(maxsize=64)
def poisson_limit(count: int, tail: float) -> float:
    """The mean of a Poisson variable that is at least `count` with probability `tail`."""
    lo, hi = 0.0, 10.0 * count + 50
    for _ in range(80):
        middle = (lo + hi) / 2
        below = sum(math.exp(-middle) * middle**i / math.factorial(i) for i in range(count))
        lo, hi = (middle, hi) if 1 - below < tail else (lo, middle)
    return lo
