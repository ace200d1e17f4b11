"""Multi-label classification: a row may have several labels, or none; each logit is a probability of its own. Without
torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from paredown.runtime.answers import several_labels, sigmoid
from paredown.runtime.preprocessor import Preprocessor

from .base import MULTI_LABEL, NO_LABEL, Feature, Task, Tensor
from .columns import LABELS
from .rows import Rows
from .scores import kl

ONE_LABEL = "a row may have several labels"


class MultiLabelClassification(Task):
    name = "multi-label-classification"
    problem_type = MULTI_LABEL
    metric_name = "F1"  # micro-averaged
    answer = "labels"
    columns = LABELS
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.EXPLAIN: ONE_LABEL,
        Feature.FAIRNESS: ONE_LABEL,
        Feature.NEW_LABELS: "the old rows do not say which of them have it too: label them, and fine-tune on all rows",
    }

    def row_labels(self, rows: Rows) -> None:
        return None

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        return [np.full(labels, NO_LABEL)] * len(ids)

    def correct(self, outputs: np.ndarray, gold: np.ndarray) -> np.ndarray:
        return labels_right(outputs, gold)

    def predicted(self, outputs: np.ndarray, gold: np.ndarray) -> None:
        return None

    certainty = "labels"

    def confidence(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """The least probability of what it says of each label."""
        return sigmoid(np.abs(outputs)).min(axis=-1)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return sigmoid(outputs)

    def same_choices(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return ((ours > 0) == (theirs > 0)).all(axis=-1)

    def distances(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([kl(_yes_or_no(a), _yes_or_no(b)).sum() for a, b in zip(ours, theirs, strict=True)])

    def regrets(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        """The mean over the labels, each predicted by itself."""
        return super().regrets([_yes_or_no(a) for a in ours], [_yes_or_no(b) for b in theirs])

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, labels) -> one {labels, scores} a row: the labels whose probability is over 0.5."""
        return several_labels(outputs, labels)

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        shape = list(outputs.shape)
        return {
            "label": ("BYTES", [";".join(answer["labels"]) for answer in several_labels(outputs, labels)], shape[:1]),
            "scores": ("FP32", sigmoid(outputs), shape),
            self.output: ("FP32", outputs, shape),
        }

    limits = "each label is decided by itself, at a probability of 0.5."

    def missing_setting(self, architecture: str, config: Mapping[str, Any]) -> tuple[str, str, str] | None:
        if "problem_type" in config or not architecture.endswith(self.heads):
            return None
        return "problem_type", MULTI_LABEL, "several labels may be right at once"

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return problem_type == self.problem_type


def labels_right(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """logits and gold (rows, labels) -> (rows, 2): twice the labels that are right, and those predicted and those true
    together. The ratio of the sums is the micro-averaged F1.
    """
    said = logits > 0
    return np.stack([2 * (said & (gold == 1)).sum(axis=1), said.sum(axis=1) + gold.sum(axis=1)], axis=1).astype(float)


def _yes_or_no(logits: np.ndarray) -> np.ndarray:
    """(labels,) logits of independent labels -> (labels, 2) logits of yes and no."""
    return np.stack([logits, np.zeros_like(logits)], axis=-1)
