"""Training and validation losses: against labels, numbers, or another model's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from paredown.runtime.causal_decoding import NEXT
from paredown.tasks.base import NO_LABEL
from paredown.tasks.text_generation import nats

from ..distributed.group import loss_of_all, over_all, rows_of_all
from ..models.inference import forward, run_shared
from ..models.output_kinds import OutputKind, answers, divergence, kind_of, pad_id
from ..types import Labels

SCALE = 20.0  # of cosines, as in sentence-transformers: 1 / temperature
JUDGED = 256  # pairs whose loss is one
SMALLEST = 1e-9  # amount of labels that a sum is divided by
CHOSEN = "chosen"  # of a row that may have several labels: 1 and 0, (labels,)


def one_a_line(labels: Labels) -> np.ndarray:
    """Labels (or logits) of rows as they are; those of tokens, one row's after another's."""
    return labels if isinstance(labels, np.ndarray) else np.concatenate([np.atleast_1d(label) for label in labels])


def labels_key(model: PreTrainedModel) -> str:
    """The name under which a row to train on has its labels: of a row or its tokens, or 1 and 0 for every label."""
    return CHOSEN if kind_of(model) is OutputKind.MULTI_LABEL else "labels"


def answered(
    logits: torch.Tensor, batch: dict[str, torch.Tensor], kind: OutputKind
) -> tuple[torch.Tensor, torch.Tensor]:
    """A model's answers, (lines, labels) float32, and their labels (lines,) int64 (numbers: float64): a line a row, a
    real token, a label of a row that may have several, an end of an answer, a token of a text that is written, or
    one after another."""
    if kind is OutputKind.MULTI_LABEL:
        return answers(logits, None, kind), batch[CHOSEN].reshape(-1)
    mask, labels = batch.get("attention_mask"), batch["labels"]
    if kind is OutputKind.SEQ2SEQ:
        return logits[labels != NO_LABEL].float(), labels[labels != NO_LABEL]
    lines = answers(logits, mask, kind)
    if kind is OutputKind.SPAN:
        return lines, chosen_tokens(labels)
    if kind is OutputKind.CAUSAL_LM:
        assert mask is not None
        return lines, labels[:, 1:][mask[:, 1:].bool()]
    return lines, labels if labels.ndim == 1 or mask is None else labels[mask.bool()]


def chosen_tokens(marks: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, 2), 1 where an answer begins and ends -> (rows * 2,) int64 the tokens; NO_LABEL where no 1 is."""
    there = (marks == 1).transpose(1, 2).flatten(0, 1)
    return torch.where(there.any(dim=1), there.long().argmax(dim=1), NO_LABEL)


def supervised(
    logits: torch.Tensor, batch: dict[str, torch.Tensor], kind: OutputKind, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy with the labels that there are, nats; with numbers, half the mean squared error; of vectors,
    `pair_loss`. 0 where no row of the batch has one. `weights`: of each label, (labels,)."""
    if kind is OutputKind.VECTOR:
        return _pair_loss_of_all(logits, batch)
    lines, labels = answered(logits, batch, kind)
    there = ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL
    lines, labels, amount = lines[there], labels[there], there.sum()
    if labels.is_floating_point():
        total = nn.functional.mse_loss(lines, labels[:, None].to(lines.dtype), reduction="sum") / 2
    else:
        given = None if weights is None else weights.to(lines.device)
        total = nn.functional.cross_entropy(lines, labels, weight=given, reduction="sum")
        amount = amount if given is None else given[labels].sum()
    return total / over_all(amount).clamp(min=SMALLEST)


def _pair_loss_of_all(vectors: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """`pair_loss` of a batch of which other processes may have a part."""
    first, second = vectors.chunk(2)
    every = torch.cat([*rows_of_all(first), *rows_of_all(second)])
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -1).chunk(2)
    rows = [row for half in ids for part in rows_of_all(half) for row in part]
    numbers = torch.cat(rows_of_all(batch["labels"]))
    loss = pair_loss(every, numbers, pad_sequence(rows, batch_first=True, padding_value=-1))
    return loss_of_all(loss + 0 * vectors.sum())  # a gradient where none of the rows is of this process


def pair_loss(vectors: torch.Tensor, numbers: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The loss of pairs: `vectors` (2 * pairs, width) and `ids` (2 * pairs, length) are of all first texts, then of
    all second ones; `numbers` (pairs,) their similarity, inf where the second answers the first.

    With numbers CoSENT's: log(1 + sum exp(SCALE * (cos_b - cos_a))) over pairs a, b of which a has the higher number,
    which asks for their order alone. Without: the cross-entropy of finding the own passage among all of the batch
    (Henderson et al. 2017, arXiv 1705.00652), other copies of it left out.
    """
    first, second = vectors.float().chunk(2)
    if not numbers.isinf().any():
        near = SCALE * (first * second).sum(1)
        apart = (near[None, :] - near[:, None])[numbers[:, None] > numbers[None, :]]
        return torch.cat([apart, apart.new_zeros(1)]).logsumexp(0)
    passages = ids.chunk(2)[1]
    same = (passages[:, None] == passages[None, :]).all(-1).fill_diagonal_(False)
    near = (SCALE * first @ second.T).masked_fill(same, -torch.inf)
    return nn.functional.cross_entropy(near, torch.arange(len(near), device=near.device))


@dataclass
class ValidationLoss:
    """Validation during training: how far the model's answers are from the wanted ones; less is better."""

    ids: Sequence[Sequence[int]]
    wanted: Labels  # logits to come near, as `run_rows` gives them, or labels, numbers or texts to predict
    weights: torch.Tensor | None = None  # of each label, (labels,)

    def __call__(self, model: PreTrainedModel) -> float:
        """Mean cross-entropy against the wanted distribution or labels, nats, or half the mean squared error; of
        vectors, 1 less the mean cosine, or the mean of `pair_loss`; the model is left as it was."""
        training, device = model.training, model.device
        cast(nn.Module, model).to("cpu").eval()
        kind = kind_of(model)
        if kind is OutputKind.SEQ2SEQ:
            from .seq2seq_targets import cross_entropy

            value = cross_entropy(model, self.ids, self.wanted)
            cast(nn.Module, model).to(device).train(training)
            return value
        found = run_shared(
            partial(forward, model), self.ids, pad_id(model), NEXT if kind is OutputKind.CAUSAL_LM else "logits"
        )
        cast(nn.Module, model).to(device).train(training)
        if kind is OutputKind.CAUSAL_LM:  # the rows' own tokens are wanted
            return nats(found, [len(row) for row in self.ids])
        logits, wanted = torch.from_numpy(found), torch.from_numpy(one_a_line(self.wanted))
        if kind is OutputKind.VECTOR:
            if wanted.ndim > 1:
                return float(divergence(answers(logits, None, kind), answers(wanted, None, kind)))
            return _pairs_loss(logits, wanted, self.ids)
        if kind is OutputKind.REGRESSION:
            return float(divergence(logits, wanted.reshape(-1, 1).to(logits.dtype)))
        if kind is OutputKind.MULTI_LABEL:
            logits = answers(logits, None, kind)
            wanted = answers(wanted, None, kind) if wanted.is_floating_point() else wanted.reshape(-1)
        if kind is OutputKind.SPAN:
            (logits, mask), (wanted, _) = (rows_again(lines, self.ids) for lines in (logits, wanted))
            logits = answers(logits, mask, kind)
            wanted = answers(wanted, mask, kind) if wanted.is_floating_point() else chosen_tokens(wanted)
        wanted = wanted if wanted.ndim == 1 else wanted.softmax(-1)
        return float(nn.functional.cross_entropy(logits, wanted, weight=self.weights))


def _pairs_loss(vectors: torch.Tensor, numbers: torch.Tensor, ids: Sequence[Sequence[int]]) -> float:
    """Mean `pair_loss` of rows as `Rows` has them, JUDGED pairs at a time."""
    losses = []
    for first in torch.nonzero(~numbers.isnan())[:, 0].split(JUDGED):
        rows = torch.cat([first, first + 1])
        padded = pad_sequence([torch.tensor(ids[i]) for i in rows.tolist()], batch_first=True, padding_value=-1)
        losses.append(float(pair_loss(vectors[rows], numbers[first], padded)) * len(first))
    return sum(losses) / max(1, int((~numbers.isnan()).sum()))


def rows_again(lines: torch.Tensor, ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens of all rows, ...) -> (rows, longest, ...) with zeros behind a row's end, and where its tokens are."""
    parts = list(lines.split([len(row) for row in ids]))
    mask = [torch.ones(len(row), dtype=torch.bool) for row in ids]
    return pad_sequence(parts, batch_first=True), pad_sequence(mask, batch_first=True)
