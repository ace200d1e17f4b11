"""Students of sequence-to-sequence models: a copy of the teacher with fewer layers in each half."""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import cast

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError

from ..config import Distill
from ..models.seq2seq import halves_of


def fewer_layers(teacher: PreTrainedModel, settings: Distill) -> PreTrainedModel:
    """A copy of the teacher with only the named layers of each half, or evenly spread ones, first and last in; a half
    that has fewer keeps all of its own."""
    if settings.width is not None:
        raise InputError("width: not supported for text-to-text students; leave it out")
    student, parts = copy.deepcopy(teacher), halves_of(teacher)
    counts = (settings.layers, settings.layers if settings.decoder_layers is None else settings.decoder_layers)
    for path, key, wanted in zip((parts.encoder, parts.decoder), parts.depths, counts, strict=True):
        blocks = cast(nn.ModuleList, attrgetter(path)(student))
        keep = _spread(wanted, len(blocks)) if isinstance(wanted, int) else wanted
        if not keep or keep != sorted(set(keep) & set(range(len(blocks)))) or (parts.first_stays and keep[0]):
            first = ", the first one in," if parts.first_stays else ""
            raise InputError(f"layers: {keep} is not an ascending choice{first} of the layers 0..{len(blocks) - 1}")
        kept = [blocks[k] for k in keep]
        del blocks[:]
        blocks.extend(kept)
        for place, block in enumerate(kept):
            for module in block.modules():
                if getattr(module, "layer_idx", None) is not None:  # where its keys and values are held
                    module.layer_idx = place  # type: ignore[assignment]
        setattr(student.config, key, len(kept))
    return student


def _spread(count: int, depth: int) -> list[int]:
    if count < 1:
        raise InputError(f"layers: {count} is not a number from 1")
    count = min(count, depth)
    return sorted({int(x) for x in np.linspace(0, depth - 1, count).round()}) if count > 1 else [0]


def same_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raise InputError where the logits of two models are not of the same tokens."""
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise InputError(f"the student has logits for {ours} tokens, its teacher for {theirs}; they must be the same")
