"""A task that paredown does not know, as an installed package brings it: stars, where one star off is still right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paredown.runtime.answers import softmax
from paredown.runtime.preprocessor import Preprocessor
from paredown.tasks.base import Tensor
from paredown.tasks.classification import TextClassification


class StarRating(TextClassification):
    name = "star-rating"
    metric_name = "within one star"
    limits = "five stars are no better than what four stars were given for."

    def correct(self, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
        return np.abs(outputs.argmax(axis=-1) - gold) <= 1

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, labels) -> one {stars, expected} a row."""
        stars = np.arange(1, len(labels) + 1)
        return [{"stars": int(row.argmax()) + 1, "expected": float(row @ stars)} for row in softmax(outputs)]

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        return {"stars": ("INT64", [-1])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        return {"stars": ("INT64", outputs.argmax(axis=-1) + 1, [len(outputs)])}
