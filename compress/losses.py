"""What a model is taught with and judged by: its answers against labels, numbers, or another model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .encoder import run_rows
from .inference import answers, divergence, forward, gives_number, has_several
from .tags import NO_LABEL

CHOSEN = "chosen"  # of a row that may have several labels: 1 and 0, (labels,)
Labels = np.ndarray | Sequence[np.ndarray]  # (rows,) int64, or (tokens,) of each row; NO_LABEL where there is none;
# numbers: (rows,) float64, NaN where there is none


def one_a_line(labels: Labels) -> np.ndarray:
    """Labels (or logits) of rows as they are; those of tokens, one row's after another's."""
    return labels if isinstance(labels, np.ndarray) else np.concatenate(labels)


def labels_key(model: PreTrainedModel) -> str:
    """The name under which a row to train on has its labels: of a row or its tokens, or 1 and 0 for every label."""
    return CHOSEN if has_several(model) else "labels"


def answered(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A model's answers, (lines, labels) float32, and their labels (lines,) int64 (numbers: float64): a line a row, a
    real token, or a label of a row that may have several."""
    if CHOSEN in batch:
        return answers(logits, None, several=True), batch[CHOSEN].reshape(-1)
    mask, labels = batch["attention_mask"], batch["labels"]
    return answers(logits, mask), labels if labels.ndim == 1 else labels[mask.bool()]


def supervised(
    logits: torch.Tensor, batch: dict[str, torch.Tensor], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy with the labels that there are, nats; with numbers, half the mean squared error. 0 where no
    row of the batch has one. `weights`: of each label, (labels,)."""
    lines, labels = answered(logits, batch)
    there = ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
    if not there.any():
        return lines.new_zeros(())
    if labels.is_floating_point():
        return divergence(lines[there], labels[there, None].to(lines.dtype))
    given = None if weights is None else weights.to(lines.device)
    return nn.functional.cross_entropy(lines, labels, weight=given, ignore_index=NO_LABEL)


@dataclass
class Judge:
    """Validation during training: how far the model's answers are from the wanted ones; less is better."""

    ids: Sequence[Sequence[int]]
    wanted: Labels  # logits to come near, as `run_rows` gives them, or labels or numbers to predict
    weights: torch.Tensor | None = None  # of each label, (labels,)

    def __call__(self, model: PreTrainedModel) -> float:
        """Mean cross-entropy against the wanted distribution or labels, nats, or half the mean squared error; the model
        is left as it was."""
        training, device = model.training, model.device
        cast(nn.Module, model).to("cpu").eval()
        logits = torch.from_numpy(
            run_rows(partial(forward, model), self.ids, int(model.config.pad_token_id or 0), "logits")
        )
        cast(nn.Module, model).to(device).train(training)
        wanted = torch.from_numpy(one_a_line(self.wanted))
        if gives_number(model):
            return float(divergence(logits, wanted.reshape(-1, 1).to(logits.dtype)))
        if has_several(model):
            logits = answers(logits, None, several=True)
            wanted = answers(wanted, None, several=True) if wanted.is_floating_point() else wanted.reshape(-1)
        wanted = wanted if wanted.ndim == 1 else wanted.softmax(-1)
        return float(nn.functional.cross_entropy(logits, wanted, weight=self.weights))
