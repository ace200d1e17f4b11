"""Truncation inside a model: it reads the first and the last tokens of a longer row.

Head and tail carry most of what a classifier needs of a document (Sun et al. 2019, arXiv 1905.05583, section 5.3.1).
The tokens are selected in the graph itself, so an exported model, or the second one of a cascade, takes whole rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .checkpoint import read_ends
from .validation import TRUNCATE


def truncate(model: PreTrainedModel, first: int, last: int) -> None:
    """Let `model`, in place, read the `first` and the `last` tokens of each row that has more, special tokens
    included. Its config says so: `load` gives the same model back."""
    setattr(model.config, TRUNCATE, [first, last])
    apply_truncation(model)


def apply_truncation(model: PreTrainedModel) -> None:
    """Do what the config of a loaded model says; nothing where it says nothing."""
    wanted = getattr(model.config, TRUNCATE, None)
    if wanted:
        model.register_forward_pre_hook(partial(_with_ends, *wanted), with_kwargs=True)


def places_read(model: PreTrainedModel, count: int) -> list[int]:
    """Which of the `count` tokens of a row the model reads."""
    window = getattr(model.config, TRUNCATE, None)
    return list(range(count) if window is None else read_ends(range(count), *window))


def _with_ends(first: int, last: int, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:  # embeddings are given in their place
        return args, kwargs
    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    skipped = (mask.sum(1, keepdim=True) - (first + last)).clamp(min=0)
    place = torch.arange(ids.shape[1], device=ids.device)[: first + last].unsqueeze(0)
    places = place + (place >= first).long() * skipped
    read = {"input_ids": ids.gather(1, places), "attention_mask": mask.gather(1, places)}
    return (), kwargs | read
