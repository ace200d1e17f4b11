"""Expected calibration error."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CALIBRATED = 999  # draws of answers that a calibrated model would give
SURE = 0.05  # probability under which a calibration error is not put down to chance


class Calibration(NamedTuple):
    """Expected calibration error, and the probability that a calibrated model shows one as large."""

    error: float  # points
    p: float


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Calibration:
    """Expected calibration error in points (Guo et al. 2017, arXiv 1706.04599) without its bias, and its p-value.

    confidence (rows,) 0..1, correct (rows,) bool. |confidence - accuracy| over bins of equal width, weighted by their
    rows, is over 0 for a calibrated model too: 11 points at 20 rows. It is shrunk by the share of the squared gaps
    that binomial noise explains (as in Kumar et al. 2019, arXiv 1909.10155). p: from CALIBRATED draws of the answers
    of a model that is right as often as it says, with these confidences (Widmann et al. 2019, arXiv 1910.11385).
    """
    index, n = np.minimum((confidence * bins).astype(int), bins - 1), len(correct)
    confidence = np.asarray(confidence, np.float64)
    gap = np.bincount(index, confidence - correct, bins)
    noise, squares = float((confidence * (1 - confidence)).sum()), float(np.square(gap).sum())
    plain = np.abs(gap).sum()
    random, of_bin, drawn = np.random.default_rng(0), np.eye(bins, dtype=np.float32)[index], []
    sums = np.bincount(index, confidence, bins)
    for count in np.diff(np.linspace(0, CALIBRATED, 2 + n * CALIBRATED // 8_000_000).astype(int)):
        right = random.random((count, n), dtype=np.float32) < confidence.astype(np.float32)
        drawn.append(np.abs(sums - right.astype(np.float32) @ of_bin).sum(axis=1))
    above = int((np.concatenate(drawn) >= plain - 1e-3).sum())
    shrunk = plain * math.sqrt(max(0.0, 1 - noise / squares)) if squares > 1e-18 else 0.0
    return Calibration(float(100 * shrunk / n), (1 + above) / (1 + CALIBRATED))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """The calibration error that a gate sees: `calibration`'s, or 0 where chance explains it (p over SURE).

    So a gate on it refuses a calibrated model in at most one of twenty measurements, however few the rows are.
    """
    error, p = calibration(confidence, correct, bins)
    return error if p <= SURE else 0.0
