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
    """
    weights = distances / errors**2
    if not weights.any():
        return drops.astype(float)
    rate = max(0.0, float((weights * drops).sum() / (weights * distances).sum()))
    predicted = rate * distances
    unsure = (MISFIT * predicted) ** 2 + distances**2 / (weights * distances).sum()
    return predicted + unsure / (unsure + errors**2) * (drops - predicted)
