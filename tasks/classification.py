"""What a model's numbers say of whole rows: which label, which labels, what number, and how many points that is worth.

Without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paredown.runtime.preprocessor import Encoder


def points(correct: np.ndarray) -> float:
    """The metric of rows as `Task.correct` gives them, 0..100; 0 where nothing could be gained."""
    if correct.ndim == 1:
        return float(100 * correct.mean())
    gained, possible = correct.sum(axis=0)
    return float(100 * gained / possible) if possible else 0.0


def near(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which numbers (rows, 1) are within a tenth of `spread` of each other, (rows,) bool."""
    return np.abs(ours - theirs)[:, 0] <= 0.1 * spread(theirs)


def spread(outputs: np.ndarray) -> float:
    """The standard deviation of a model's numbers; their size where they are all the same but for rounding, 1 where
    that is 0."""
    deviation, size = float(outputs.std()), float(np.abs(outputs).max(initial=0))
    return deviation if deviation > 1e-6 * size else size or 1.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of each label by itself."""
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def classified_right(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """logits (rows, labels) float, gold (rows,) int -> (rows,) bool."""
    return logits.argmax(axis=-1) == gold


def class_scores(logits: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    """logits (rows, labels) -> one {label, score, scores} per row; scores are softmax probabilities."""
    probabilities = softmax(logits)
    return [
        {
            "label": labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in probabilities
    ]


def labels_right(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """logits and gold (rows, labels) -> (rows, 2): twice the right labels, and those said and those true together.

    The ratio of the sums is the micro-averaged F1.
    """
    said = logits > 0
    return np.stack([2 * (said & (gold == 1)).sum(axis=1), said.sum(axis=1) + gold.sum(axis=1)], axis=1).astype(float)


def label_scores(logits: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    """logits (rows, labels) -> one {labels, scores} per row: the labels whose probability is over 0.5."""
    return [
        {
            "labels": [label for label, p in zip(labels, row, strict=True) if p > 0.5],
            "scores": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in sigmoid(logits)
    ]


def explained(outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """outputs (rows, 1), gold (rows,) -> (rows, 2): squared distance of the gold number from the mean of all, less the
    squared error, and the former; both in variances of all gold numbers.

    The ratio of the sums is R2, the share of the variance that is explained; below 0 for a model worse than the mean.
    Part of the rows is held against their distance from the mean of all rows. Where the gold numbers are all the same,
    the former is 1.
    """
    unit = spread(gold)
    apart = np.square((gold - gold.mean()) / unit)
    if not apart.mean() > 0.5:  # no variance: `spread` is their size
        apart = np.ones(len(gold))
    return np.stack([apart - np.square((gold - outputs[:, 0]) / unit), apart], axis=1)


def values(outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    """outputs (rows, 1) -> one {value} per row."""
    return [{"value": float(row[0])} for row in outputs]
