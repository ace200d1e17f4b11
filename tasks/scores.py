"""Arithmetic that tasks share: probabilities, points, and distances of two models' outputs. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paredown.runtime.answers import softmax

FLOOR = 1e-9  # a probability below it counts as this: no row costs more than 21 nats


def points(correct: np.ndarray) -> float:
    """The metric of rows as `Task.correct` gives them, 0..100; 0 where nothing could be gained."""
    if correct.ndim == 1:
        return float(100 * correct.mean())
    gained, possible = correct.sum(axis=0)
    return float(100 * gained / possible) if possible else 0.0


def spread(outputs: np.ndarray) -> float:
    """The standard deviation of a model's numbers; their size where they are all the same but for rounding, 1 where
    that is 0."""
    deviation, size = float(outputs.std()), float(np.abs(outputs).max(initial=0))
    return deviation if deviation > 1e-6 * size else size or 1.0


def mean_probabilities(outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Outputs (tokens of all rows, labels) of rows `lengths` tokens long -> (rows, labels): the mean of the
    probabilities of a row's tokens."""
    parts = np.split(softmax(outputs), np.cumsum(lengths)[:-1])
    return np.stack([part.mean(axis=0) for part in parts])


def kl(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """KL divergence of the softmax over the last axis of `ours` from that of `theirs`, nats."""
    q, p = (np.log(softmax(logits.astype(np.float64)) + FLOOR) for logits in (ours, theirs))
    return (np.exp(p) * (p - q)).sum(axis=-1)


def padded(values: np.ndarray, lengths: Sequence[int], fill: float | str = 0) -> np.ndarray:
    """(tokens of all rows, ...) -> (rows, longest, ...), with `fill` where a row has no more tokens."""
    place = np.arange(max(lengths)) < np.array(lengths)[:, None]
    wide = np.full([*place.shape, *values.shape[1:]], fill, values.dtype)
    wide[place] = values
    return wide
