"""Training targets of sequence-to-sequence models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.preprocessor import by_length
from paredown.tasks.base import NO_LABEL

from ..models.output_kinds import inputs_of

Texts = np.ndarray | Sequence[np.ndarray]  # token ids of each text
JUDGED_ROWS = 16  # rows a call, when a loss is only evaluated


def training_rows(model: PreTrainedModel, ids: Sequence[Sequence[int]], targets: Texts) -> list[dict]:
    """Rows to train on: at each place of its target the decoder is given the tokens before it."""
    start = int(model.generation_config.decoder_start_token_id)
    return [
        {"input_ids": row, "labels": target, "decoder_input_ids": np.array([start, *target[:-1]], dtype=np.int64)}
        for row, target in zip(ids, targets, strict=True)
    ]


def targets_of(model: PreTrainedModel, said: Texts) -> list[np.ndarray]:
    """Token ids without the padding behind them: sequences (rows, tokens) that were written, or targets as they are."""
    pad = model.generation_config.pad_token_id
    return [np.asarray(row, dtype=np.int64)[np.asarray(row) != pad] for row in said]


def cross_entropy(model: PreTrainedModel, ids: Sequence[Sequence[int]], said: Texts) -> float:
    """Mean over all tokens of the texts in `said`, nats; the model is in evaluation mode on the CPU."""
    from ..training.collate import stack

    rows, pad = training_rows(model, ids, targets_of(model, said)), int(model.config.pad_token_id)
    total, tokens = 0.0, 0
    for picked in by_length(ids, JUDGED_ROWS):
        batch = stack([rows[i] for i in picked], pad)
        labels = batch["labels"]
        with torch.inference_mode():
            logits = model(**inputs_of(batch)).logits[labels != NO_LABEL].float()
        total += float(nn.functional.cross_entropy(logits, labels[labels != NO_LABEL], reduction="sum"))
        tokens += len(logits)
    return total / tokens


def along(model: PreTrainedModel, ids: Sequence[Sequence[int]], labels: Texts | None, said: np.ndarray) -> list[dict]:
    """Rows to distil on: along the row's own text where it has one, else along what the teacher `said` (rows, tokens).

    "targets" is the text, "labels" is NO_LABEL where it is not the row's own.
    """
    given = [None] * len(ids) if labels is None else [label if np.ndim(label) else None for label in labels]
    theirs = targets_of(model, said)
    rows = training_rows(model, ids, [said if own is None else own for own, said in zip(given, theirs, strict=True)])
    for row, own in zip(rows, given, strict=True):
        row["targets"] = row["labels"]
        if own is None:
            row["labels"] = np.full(len(row["targets"]), NO_LABEL)
    return rows
