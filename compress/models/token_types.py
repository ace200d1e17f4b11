"""Token types of pairs: a model that tells two texts apart computes the types itself.

Every call of a model here has `input_ids` and `attention_mask` and nothing else; so has every exported graph. Token
types follow from the ids, and are made inside: the separator that parts the two texts is counted from the end, because
the first text may hold further ones (turns of a dialogue). Where the second one does, `Encoder` marks the right one.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import MARK, Preprocessor, boundary


def tell_types(model: PreTrainedModel, encoder: Preprocessor) -> None:
    """Let `model`, in place, give the second text's tokens the type that its tokenizer gives them.

    Nothing is done where the tokenizer knows but one type. InputError for a tokenizer that separates the two texts in a
    way that we do not know.
    """
    takes = inspect.signature(model.base_model.forward).parameters
    typed = "token_type_ids" in takes and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    example = encoder.tokenizer.encode("a", "b")
    found = boundary(example)
    if found is None:
        return
    separator, after = found
    if typed and types_of(torch.tensor([example.ids]), separator, after)[0].tolist() != example.type_ids:
        raise InputError(
            f"tokenizer.json: two texts get the types {example.type_ids}; 0 up to a separator and 1 behind it are "
            "expected"
        )
    model.base_model.register_forward_pre_hook(partial(_with_types, separator, after, typed), with_kwargs=True)


def take_marks_off(model: PreTrainedModel) -> None:
    """Let `model`, in place, read the rows of one that tells types, though it has none itself."""
    model.base_model.register_forward_pre_hook(partial(_with_types, 0, 0, False), with_kwargs=True)


def types_of(ids: torch.Tensor, separator: int, after: int = 1) -> torch.Tensor:
    """(rows, length) int64: 0 up to the separator between the two texts, 1 behind it. That is the one with MARK, or
    else the one that `after` further ones come behind."""
    marked = (ids >= MARK).long()
    behind = marked.cumsum(1) - marked
    found = (ids == separator).long()
    count = found.cumsum(1)
    by_count = (count - found >= (count[:, -1:] - after).clamp(min=1)).long()
    return torch.where(marked.sum(1, keepdim=True) > 0, behind, by_count)


def _with_types(separator: int, after: int, typed: bool, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:  # embeddings are given in their place
        return args, kwargs
    plain = ids - (ids >= MARK).long() * MARK
    given = kwargs | ({"token_type_ids": types_of(ids, separator, after)} if typed else {})
    return ((plain, *args[1:]), given) if args else (args, given | {"input_ids": plain})
