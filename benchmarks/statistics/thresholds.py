"""The confidence threshold of a cascade: which rows its first model answers."""

from __future__ import annotations

import numpy as np

from .shrinkage import expected_as_rows_are_added

ROUNDING = 1e-5  # of a confidence: less than that may be on either side of a threshold, by the batch it is in


def threshold_for(sure: np.ndarray, first: np.ndarray, then: np.ndarray, regrets: np.ndarray, max_drop: float) -> float:
    """The lowest threshold that is expected to lose at most `max_drop` points against the second model alone.

    `sure`: confidences of the first model, (rows,); `first`, `then`: each model's rows as `Task.correct` has them;
    `regrets`: what the first model's answers cost by the second one's own probabilities (`Task.regrets`), (rows,).
    Counts of labels alone would lose more on other rows than on these, for the lowest threshold is where chance was
    kind; hence `expected_as_rows_are_added`. A threshold lies halfway between the confidences of two rows, so that
    rounding moves none of them across. Above 1 when none is good enough: then the first model never answers.
    """
    order = np.argsort(-sure, kind="stable")
    drop = expected_as_rows_are_added(lost_rows(first, then)[order], regrets[order])
    below = np.append(sure[order][1:], sure.min() - 4 * ROUNDING)  # the next row's
    parts = sure[order] - below > 2 * ROUNDING  # a threshold cannot part equals
    good = np.flatnonzero(parts & (drop <= max_drop))
    return float((sure[order] + below)[good[-1]] / 2) if len(good) else 2.0


def lost_rows(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """What answering each row by the first model rather than by the second one loses, in rows, (rows,) float64: 100
    times their mean is the drop in points. `first`, `then`: as `Task.correct` has the rows; of points, which make a
    ratio of sums, to first order."""
    if then.ndim == 1:
        return then.astype(float) - first.astype(float)
    gained, possible = then.sum(axis=0)
    if not possible:
        return np.zeros(len(then))
    lost = then - first
    return len(then) * (lost[:, 0] - gained / possible * lost[:, 1]) / possible
