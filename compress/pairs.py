"""Rows of two texts: a model that tells them apart by token types finds the types out itself.

Every call of a model here has `input_ids` and `attention_mask` and nothing else; so has every exported graph. Token
types follow from the ids (all that stands behind the first separator is the second text), and are made inside.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .encoder import Encoder
from .errors import InputError


def tell_types(model: PreTrainedModel, encoder: Encoder) -> None:
    """Let `model`, in place, give the second text's tokens the type that its tokenizer gives them.

    Nothing is done where model or tokenizer knows but one type. InputError for a tokenizer that separates the two texts
    in a way that we do not know.
    """
    takes = inspect.signature(model.base_model.forward).parameters
    kinds = getattr(model.config, "type_vocab_size", 0) or 0
    example = encoder.tokenizer.encode("a", "b")
    if "token_type_ids" not in takes or kinds < 2 or not any(example.type_ids):
        return
    separator = example.ids[example.type_ids.index(1) - 1]
    if types_of(torch.tensor([example.ids]), separator)[0].tolist() != example.type_ids:
        raise InputError(
            f"tokenizer.json: two texts get the types {example.type_ids}; 0 up to the first separator and 1 behind it "
            "are expected"
        )
    model.base_model.register_forward_pre_hook(partial(_with_types, separator), with_kwargs=True)


def types_of(ids: torch.Tensor, separator: int) -> torch.Tensor:
    """(rows, length) int64: 0 up to the first separator, 1 behind it."""
    found = (ids == separator).long()
    return (found.cumsum(1) - found).clamp(max=1)


def _with_types(separator: int, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    ids = args[0] if args else kwargs["input_ids"]
    return args, kwargs | {"token_type_ids": types_of(ids, separator)}
