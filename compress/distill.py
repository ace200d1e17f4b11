"""A smaller model learns to answer as a larger one does.

Logit loss: Hinton et al. 2015, arXiv 1503.02531. Hidden-state loss per token: TinyBERT, arXiv 1909.10351, without its
projection, because the student keeps the teacher's hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from .encoder import run_rows
from .errors import InputError
from .settings import Distill, Heal
from .structure import blocks, keep_blocks
from .train import NO_LABEL, Progress, fit, forward


def distill(
    teacher: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    settings: Distill,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """A student made of `teacher`'s layers, healed on token ids; the teacher is not changed. `labels` as in `heal`."""
    student = student_of(teacher, settings.layers)
    return heal(student, teacher, ids, settings, labels=labels, seed=seed, progress=progress)


def student_of(teacher: PreTrainedModel, layers: int | list[int]) -> PreTrainedModel:
    """A copy of the teacher with only the named layers, or with `layers` of them evenly spread, first and last in."""
    depth = len(blocks(teacher))
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise InputError(f"layers: {layers} is not between 1 and the teacher's {depth}")
        layers = sorted({int(x) for x in np.linspace(0, depth - 1, layers).round()}) if layers > 1 else [0]
    student = copy.deepcopy(teacher)
    keep_blocks(student, layers)
    return student


def heal(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    settings: Heal,
    *,
    labels: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Train `student` in place towards the teacher's logits (and hidden states); returns it in evaluation mode.

    `labels` (rows,) int64, NO_LABEL (-100) where a row has none; used when `label_weight` is above 0. `scores`: what
    `teacher_scores` gave for the same rows, so that several students share it.
    loss = T^2 KL(teacher / T || student / T) + hidden_weight * MSE of matched hidden states + label_weight * CE.
    """
    given = np.full(len(ids), NO_LABEL) if labels is None else labels
    if settings.label_weight and labels is None:
        raise InputError("label_weight is above 0 and no row has a label; give labels or set it to 0")
    teacher = teacher.eval()
    if scores is None:
        scores = teacher_scores(teacher, ids)
    rows = [
        {"input_ids": row, "labels": int(label), "teacher_logits": score}
        for row, label, score in zip(ids, given, scores, strict=True)
    ]
    pairs = _matched_layers(len(blocks(student)), len(blocks(teacher)))
    t = settings.temperature

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        out = net(**inputs, output_hidden_states=settings.hidden_weight > 0)
        logits = out.logits.float()
        target = functional.log_softmax(batch["teacher_logits"] / t, dim=-1)
        total = (
            t
            * t
            * functional.kl_div(
                functional.log_softmax(logits / t, dim=-1), target, reduction="batchmean", log_target=True
            )
        )
        if settings.hidden_weight:
            with torch.no_grad():
                wanted = teacher.to(logits.device)(**inputs, output_hidden_states=True).hidden_states
            total = total + settings.hidden_weight * _hidden_loss(
                out.hidden_states, wanted, pairs, inputs["attention_mask"]
            )
        if settings.label_weight and (batch["labels"] != NO_LABEL).any():
            total = total + settings.label_weight * functional.cross_entropy(
                logits, batch["labels"], ignore_index=NO_LABEL
            )
        return total

    return fit(student, rows, loss, settings, seed=seed, progress=progress)


def teacher_scores(teacher: PreTrainedModel, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """The teacher's logits for every row, (rows, labels) float32: the dearest part of a short distillation."""
    return run_rows(partial(forward, teacher), ids, int(teacher.config.pad_token_id or 0), "logits")


def _matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """(student, teacher) indices into hidden_states (0 is the embeddings): layer i of n meets layer i * N / n."""
    return [(i, round(i * teacher / student)) for i in range(1, student + 1)]


def _hidden_loss(student, teacher, pairs: list[tuple[int, int]], mask: torch.Tensor) -> torch.Tensor:
    """Mean squared difference over real tokens, relative to the teacher's own mean square, averaged over the pairs."""
    real = mask.unsqueeze(-1).float()
    total = torch.zeros((), device=mask.device)
    for i, j in pairs:
        want = teacher[j].float()
        error = ((student[i].float() - want) ** 2 * real).sum()
        total = total + error / (want**2 * real).sum()
    return total / len(pairs)
