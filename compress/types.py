"""Types that several packages of `compress` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

Progress = Callable[[float, str], None]  # share done 0..1, what is happening
Loss: TypeAlias = "Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]"
Labels = np.ndarray | Sequence[np.ndarray]  # (rows,) int64, or (tokens,) of each row; NO_LABEL where there is none;
# numbers: (rows,) float64, NaN where there is none; ends of an answer: (tokens, 2) int64, 1 where it begins and ends;
# a text to write: its tokens
Labelled = tuple[Sequence[Sequence[int]], Labels]  # token ids and labels of each row


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on."""

    ids: Sequence[Sequence[int]]  # token ids of each row, or its pixels
    labels: Labels | None = None  # None: no row has one
    scores: np.ndarray | None = None  # the teacher's logits, as `run_rows` gives them; None: computed when needed
    validation: Labelled | None = None  # for early stopping; in distillation, with the teacher's logits as labels
