"""One small adapter per task: what a row's answer is, how it is scored, what the head is called.

Nothing else in the house knows one task from another; a new task is a new record in TASKS.
Without torch, because the bundle is scored where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import data, tags
from .data import TEXT, WORDS, Columns, Rows
from .encoder import Encoder


@dataclass(frozen=True)
class Task:
    """How one kind of model is read, scored and answered.

    `outputs` are what `run_rows` gives: (rows, labels), or (tokens of all rows, labels) when `per_token`.
    """

    name: str
    head: str  # what the architecture's class name ends in
    auto_class: str  # the transformers class that loads it
    inputs: tuple[str, ...]  # names of the model's inputs
    output: str  # name of the model output that is compared and scored
    metric_name: str
    gold: Callable[[Rows, Encoder], Any]  # what `correct` compares with
    taught: Callable[[Rows, Encoder], np.ndarray | Sequence[np.ndarray]]  # labels to train on: of rows, or of tokens
    correct: Callable[[np.ndarray, Any], np.ndarray]  # (rows,) bool; or (rows, 2): points gained, points possible
    decode: Callable[[np.ndarray, tuple[str, ...], Sequence[str], Encoder], list[dict]]  # one answer a text
    columns: Columns = TEXT
    per_token: bool = False  # the model answers for every token, not for the row

    @property
    def reads_text(self) -> bool:
        return "input_ids" in self.inputs

    def read(self, source: str, **how: Any) -> Rows:
        """`data.read` with this task's columns."""
        return data.read(source, columns=self.columns, **how)

    def metric(self, outputs: np.ndarray, gold: Any) -> float:
        """What was gained of what could be, in points, 0..100: the mean of `correct` where that is of bools."""
        return points(self.correct(outputs, gold))

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """(rows, labels) of rows that are `lengths` tokens long; per token: their mean."""
        found = softmax(outputs)
        if not self.per_token:
            return found
        return np.stack([part.mean(axis=0) for part in np.split(found, np.cumsum(lengths)[:-1])])


def points(correct: np.ndarray) -> float:
    """The metric of rows as `Task.correct` gives them, 0..100; 0 where nothing could be gained."""
    if correct.ndim == 1:
        return float(100 * correct.mean())
    gained, possible = correct.sum(axis=0)
    return float(100 * gained / possible) if possible else 0.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _gold(rows: Rows, encoder: Encoder) -> np.ndarray:
    return rows.gold


def _classified_right(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """logits (rows, labels) float, gold (rows,) int -> (rows,) bool."""
    return logits.argmax(axis=-1) == gold


def _class_scores(logits: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
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


def _entities(logits: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    return tags.decode(softmax(logits), labels, texts, encoder)


TASKS = {
    "text-classification": Task(
        name="text-classification",
        head="ForSequenceClassification",
        auto_class="AutoModelForSequenceClassification",
        inputs=("input_ids", "attention_mask"),
        output="logits",
        metric_name="accuracy",
        gold=_gold,
        taught=_gold,
        correct=_classified_right,
        decode=_class_scores,
    ),
    "token-classification": Task(
        name="token-classification",
        head="ForTokenClassification",
        auto_class="AutoModelForTokenClassification",
        inputs=("input_ids", "attention_mask"),
        output="logits",
        metric_name="F1",
        gold=tags.aligned,
        taught=tags.token_labels,
        correct=tags.found,
        decode=_entities,
        columns=WORDS,
        per_token=True,
    ),
    # Can be cut, saved, loaded and exported; recipes and the command line read text only.
    "image-classification": Task(
        name="image-classification",
        head="ForImageClassification",
        auto_class="AutoModelForImageClassification",
        inputs=("pixel_values",),
        output="logits",
        metric_name="accuracy",
        gold=_gold,
        taught=_gold,
        correct=_classified_right,
        decode=_class_scores,
    ),
}
