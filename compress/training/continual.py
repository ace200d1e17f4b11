"""Continual learning: new rows and new labels, without forgetting the old ones.

Replay: some old rows beside the new ones. Learning without forgetting: Li and Hoiem 2016, arXiv 1606.09282. Elastic
weight consolidation: Kirkpatrick et al. 2017, arXiv 1612.00796.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import collate, per_row
from paredown.tasks.base import NO_LABEL

from ..config import Update
from ..models.inference import teacher_scores
from ..models.output_kinds import OutputKind, answers, divergence, inputs_of, kind_of, label_names, tensors
from ..types import Labelled, Labels, Loss, Progress
from .collate import ROW
from .losses import ValidationLoss, labels_key, one_a_line, supervised
from .target_scaling import standard_units
from .trainer import Monitor, fit


@dataclass(frozen=True)
class UpdateData:
    """Rows of an update."""

    old: Labelled  # rows that the model was trained on; `Update.replay` says how many are used again
    new: Labelled
    labels: Sequence[str]  # of the updated model, the old ones first
    validation: Labelled | None = None  # old and new rows, for early stopping


def update(
    model: PreTrainedModel,
    data: UpdateData,
    settings: Update,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Train `model` on the new rows in place; returns it with an output for each of `data.labels`.

    `patience` stops on the validation rows. loss = CE + lwf * T^2 KL(old / T || new / T) over the old labels + ewc / 2
    * sum F (w - w0)^2.
    """
    old, new = data.old, data.new
    picked = replayed(old[1], round(settings.replay * len(new[1])), seed)
    ids = [*new[0], *(old[0][i] for i in picked)]
    wanted = [*new[1], *(old[1][i] for i in picked)]
    with standard_units(model, ids, wanted, move=False) as unit:  # what it said before is to be kept
        judge = None
        if data.validation is not None:
            judge = ValidationLoss(data.validation[0], unit(data.validation[1]))
        name = labels_key(model)
        rows: list[dict] = [{ROW: row, name: label} for row, label in zip(ids, unit(wanted), strict=True)]
        if settings.lwf:
            for row, score in zip(rows, per_row(teacher_scores(model, ids), ids), strict=True):
                row["old_logits"] = score
        ewc = None
        if settings.ewc:
            sample = [old[0][i] for i in replayed(old[1], settings.ewc_rows, seed)]
            ewc = _ElasticWeightConsolidation(model, sample, seed)
        loss = _loss(model, settings, ewc)
        grow(model, data.labels, seed)
        return fit(model, rows, loss, settings, seed=seed, monitor=Monitor(judge, progress))


def _loss(model: PreTrainedModel, settings: Update, ewc: _ElasticWeightConsolidation | None) -> Loss:
    """The loss of an update; `model` before it has outputs for new labels."""
    known, kind = model.num_labels, kind_of(model)

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = batch.get("attention_mask")
        logits = net(**inputs_of(batch)).logits
        total = supervised(logits, batch, kind)
        if settings.lwf:
            before = answers(batch["old_logits"], mask, kind)
            now = answers(logits[..., :known], mask, kind)
            total = total + settings.lwf * divergence(now, before, settings.temperature)
        if ewc is not None:
            total = total + settings.ewc / 2 * ewc.distance(model)
        return total

    return loss


def replayed(given: Labels, count: int, seed: int) -> np.ndarray:
    """Numbers of `count` rows (or all), as evenly over their labels as they allow; of rows with several, and of words:
    over the rarest of each row; of numbers: over ten equal parts of their range."""
    labels = given
    if isinstance(given, np.ndarray) and given.dtype == np.float64:
        labels = np.digitize(given, np.linspace(given.min(), given.max(), 11)[1:-1])
        given = labels
    if not isinstance(given, np.ndarray):
        labels = _rarest(given)
    elif given.ndim > 1:
        labels = _rarest([np.flatnonzero(row) for row in given])
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), dtype=np.int64)  # the how-manieth row of its label this is, in that order
    seen: dict[int, int] = {}
    for i in order:
        turn[i] = seen[int(labels[i])] = seen.get(int(labels[i]), -1) + 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def _rarest(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Of each row the label of a token that the fewest tokens have, (rows,) int64; NO_LABEL where none has one."""
    lines = one_a_line(labels)
    counts = np.bincount(lines[lines != NO_LABEL])
    return np.array([min(row[row != NO_LABEL].tolist(), key=lambda i: counts[i], default=NO_LABEL) for row in labels])


def grow(model: PreTrainedModel, labels: Sequence[str], seed: int) -> None:
    """Outputs for further labels, in place: the old ones come first in `labels` and answer as before."""
    known = label_names(model)
    if list(labels[: len(known)]) != known:
        raise InputError(f"labels: the checkpoint's own come first, in their order: {', '.join(known[:5])}")
    more = len(labels) - len(known)
    if not more:
        return
    heads = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == len(known)]
    path, head = heads[-1]  # a head ends in its classifier, whatever it is called
    wide = nn.Linear(head.in_features, len(labels), bias=head.bias is not None)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        spread = float(head.weight.std())
        wide.weight.copy_(torch.cat([head.weight, spread * torch.randn(more, head.in_features, generator=random)]))
        if head.bias is not None:
            wide.bias.copy_(torch.cat([head.bias, torch.zeros(more)]))
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, wide)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.num_labels = len(labels)  # type: ignore[assignment]


class _ElasticWeightConsolidation:
    """The old weights, and how much each of them matters: the diagonal of the Fisher information."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[Sequence[int]], seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        frozen = copy.deepcopy(model).eval()
        self.weights = {name: p.detach() for name, p in frozen.named_parameters()}
        self.worth = {name: torch.zeros_like(p) for name, p in self.weights.items()}
        for row in ids:
            batch = tensors(collate([row], 0))
            lines = answers(frozen(**batch).logits, batch.get("attention_mask"), kind_of(model))
            if kind_of(model) is not OutputKind.REGRESSION:
                chances = lines.log_softmax(-1)
                lines = chances.gather(1, torch.multinomial(chances.exp(), 1, generator=random))
            cast(nn.Module, frozen).zero_grad()
            lines.sum().backward()
            for name, p in frozen.named_parameters():
                if p.grad is not None:
                    self.worth[name] += p.grad**2 / len(ids)

    def distance(self, model: nn.Module) -> torch.Tensor:
        """Sum of F (w - w0)^2; the outputs of labels that are new are free."""
        terms = []
        for name, p in model.named_parameters():
            if p.requires_grad:
                old, worth = self.weights[name].to(p.device), self.worth[name].to(p.device)
                terms.append((worth * (p[: len(old)] - old) ** 2).sum())
        return torch.stack(terms).sum()
