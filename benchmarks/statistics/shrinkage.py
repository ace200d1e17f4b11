"""Drops of several models estimated from few labels and from what needs none: how far each is from its teacher.

A drop that is counted on a thousand labelled rows has a standard error of most of a point. The distance to the
teacher's outputs on the same rows has far less noise, and grows with the drop, at a rate that all models of a data set
share within some misfit. Both are combined as Fay and Herriot do for small areas (1979, doi 10.2307/2286322): each
drop is drawn towards what its distance predicts, the more so the larger its own error.
"""

from __future__ import annotations

import numpy as np

MISFIT = 1 / 3  # standard deviation of a model's own rate, as a share of the common one


def expected_drops(drops: np.ndarray, errors: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Estimates of the true drops, (models,) points.

    `drops`: as counted, points; `errors`: their standard errors, over 0; `distances`: of the models' outputs from the
    teacher's, at least 0, in any unit. The rate is that of weighted least squares through the origin, and not below 0.
    For each model it is taken mostly from those at a similar distance, as drops are not proportional to distance all
    the way from a pruned model to a static student: by MISFIT more for each factor e between two distances.
    """
    apart = distances > 0
    if not apart.any():
        return drops.astype(float)
    rates, variances = drops[apart] / distances[apart], np.square(errors[apart] / distances[apart])
    usual = MISFIT * max(0.0, float((rates / variances).sum() / (1 / variances).sum()))
    factors = np.log(np.where(apart, distances, 1.0)[:, None] / distances[apart])
    weights = 1 / (variances + usual**2 * (1 + np.square(factors)))  # (models, those apart)
    rate = np.maximum(0.0, (weights * rates).sum(axis=1) / weights.sum(axis=1))
    return _drawn(drops, errors, distances, rate, 1 / weights.sum(axis=1))


def expected_as_rows_are_added(lost: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Estimates of the drop that answering the first 1, 2, ... of these rows by one model rather than another costs,
    (rows,) points of all rows.

    `lost`: 1 where only the other model is right, -1 where only the one is, else 0, (rows,), or as `lost_rows` has
    points; `distances`: of their outputs, at least 0, (rows,). The rate is that of all rows, where the most labels are.
    """
    drops, distances = 100 * lost.cumsum() / len(lost), distances.cumsum()
    errors = 100 * np.sqrt(np.maximum(1, np.square(lost).cumsum())) / len(lost)
    if not distances[-1]:
        return drops
    rate = max(0.0, drops[-1] / distances[-1])
    return _drawn(drops, errors, distances, rate, (errors[-1] / distances[-1]) ** 2)


def _drawn(
    drops: np.ndarray,
    errors: np.ndarray,
    distances: np.ndarray,
    rate: np.ndarray | float,
    variance: np.ndarray | float,
) -> np.ndarray:
    """Drops drawn towards rate * distance; `variance`: of the rate."""
    predicted = rate * distances
    unsure = (MISFIT * predicted) ** 2 + variance * distances**2
    return predicted + unsure / (unsure + errors**2) * (drops - predicted)
