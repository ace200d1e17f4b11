"""Regression: each row, a text or a pair of texts, has a number. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import values
from paredown.runtime.preprocessor import Preprocessor

from .base import COMPARES_ROWS, MULTI_LABEL, Feature, Task, TaskWithoutClasses, Tensor
from .classification import BOTH_TEXTS
from .columns import NUMBERS, PAIR_NUMBERS
from .scores import spread

NO_CONFIDENCE = "a row has a number, and no confidence"


class TextRegression(TaskWithoutClasses):
    name = "text-regression"
    problem_type = "regression"
    metric_name = "R2"
    answer = "number"
    columns = NUMBERS
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.CASCADE: f"it asks how confident the first model is of one label, and {NO_CONFIDENCE}",
        Feature.EXPLAIN: NO_CONFIDENCE,
        Feature.FAIRNESS: COMPARES_ROWS,
    }
    must_match = ()  # a number goes by any name

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        return [np.full((), np.nan)] * len(ids)

    def correct(self, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
        return explained(outputs, gold)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """The numbers as they are."""
        return outputs

    def same_choices(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return near(ours, theirs)

    def unit(self, outputs: np.ndarray) -> float:
        return spread(outputs)

    distance_name = ("squared error", "variances")

    def distances(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        """Squared errors in variances of `theirs`."""
        before = np.stack(theirs)
        return np.square((np.stack(ours) - before)[:, 0] / spread(before))

    def regrets(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        return self.distances(ours, theirs)

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, 1) -> one {value} a row."""
        return values(outputs)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        return {"value": ("FP32", [-1]), self.output: ("FP32", [-1, labels])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        return {
            "value": ("FP32", outputs[:, 0], [len(outputs)]),
            self.output: ("FP32", outputs, list(outputs.shape)),
        }

    def describe_answer(self, manifest: dict) -> str:
        return "into a number"

    limits = "it gives a number, and does not say how sure it is of it."

    def fits_shape(self, shape: tuple[int, ...], rows: int, tokens: int, labels: int) -> bool:
        return shape in ((rows, labels), (rows,))

    def describe_shape(self, labels: Sequence[str]) -> str:
        return "(rows, 1)"

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return labels == 1 and problem_type != MULTI_LABEL


class TextPairRegression(TextRegression):
    name = "text-pair-regression"
    columns = PAIR_NUMBERS
    adapters = ("token_types",)
    unsupported: ClassVar = {**TextRegression.unsupported, Feature.TRUNCATE: BOTH_TEXTS}


def near(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which numbers (rows, 1) are within a tenth of `spread` of each other, (rows,) bool."""
    return np.abs(ours - theirs)[:, 0] <= 0.1 * spread(theirs)


def explained(outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """outputs (rows, 1), gold (rows,) -> (rows, 2): squared distance of the gold number from the mean of all, less the
    squared error, and the former; both in variances of all gold numbers.

    The ratio of the sums is R2, the share of the variance that is explained; below 0 for a model worse than the mean.
    Part of the rows is compared with their distance from the mean of all rows. Where the gold numbers are all the same,
    the former is 1.
    """
    unit = spread(gold)
    apart = np.square((gold - gold.mean()) / unit)
    if not apart.mean() > 0.5:  # no variance: `spread` is their size
        apart = np.ones(len(gold))
    return np.stack([apart - np.square((gold - outputs[:, 0]) / unit), apart], axis=1)
