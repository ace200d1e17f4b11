"""One small adapter per task: what a row's answer is, how it is scored, what the head is called.

Nothing else in the house knows one task from another; a new task is a new record in TASKS.
Without torch, because the bundle is scored where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Task:
    """How one kind of model is read, scored and answered."""

    name: str
    head: str  # what the architecture's class name ends in
    auto_class: str  # the transformers class that loads it
    inputs: tuple[str, ...]  # names of the model's inputs
    output: str  # name of the model output that is compared and scored
    metric_name: str
    correct: Callable[[np.ndarray, np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray, tuple[str, ...]], list[dict]]

    @property
    def reads_text(self) -> bool:
        return "input_ids" in self.inputs

    def metric(self, outputs: np.ndarray, gold: np.ndarray) -> float:
        """Mean of `correct` in points, 0..100."""
        return float(100 * self.correct(outputs, gold).mean())


def _classified_right(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """logits (rows, labels) float, gold (rows,) int -> (rows,) bool."""
    return logits.argmax(axis=-1) == gold


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _class_scores(logits: np.ndarray, labels: tuple[str, ...]) -> list[dict]:
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


TASKS = {
    "text-classification": Task(
        name="text-classification",
        head="ForSequenceClassification",
        auto_class="AutoModelForSequenceClassification",
        inputs=("input_ids", "attention_mask"),
        output="logits",
        metric_name="accuracy",
        correct=_classified_right,
        decode=_class_scores,
    ),
    # Can be cut, saved, loaded and exported; recipes and the command line read text only.
    "image-classification": Task(
        name="image-classification",
        head="ForImageClassification",
        auto_class="AutoModelForImageClassification",
        inputs=("pixel_values",),
        output="logits",
        metric_name="accuracy",
        correct=_classified_right,
        decode=_class_scores,
    ),
}
