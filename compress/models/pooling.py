"""Sentence encoders: the last hidden states, pooled and normalised to length 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput


@dataclass
class Vectors(ModelOutput):
    """What a model gives that `embed` has changed."""

    logits: torch.Tensor | None = None  # (rows, width), of length 1
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def embed(model: PreTrainedModel, pooling: str) -> None:
    """Let `model`, in place, give the finished vector as `logits`. `pooling`: "mean" of the real tokens, or "cls", the
    first one. One that gives a vector of its own, as a static student does, has it brought to length 1."""
    if getattr(model, "pooler", None) is not None:  # for other ends: nothing reads it, and not every checkpoint has it
        model.register_module("pooler", None)
    model.forward = partial(_embedded, model.forward, pooling)  # not a hook: adapters call forward itself


def _embedded(forward: Any, pooling: str, *args: Any, **kwargs: Any) -> Vectors:
    out = forward(*args, **kwargs)
    hidden, found = getattr(out, "last_hidden_state", None), getattr(out, "logits", None)
    if hidden is not None:
        found = hidden[:, 0] if pooling == "cls" else _mean(hidden, kwargs["attention_mask"])
    assert found is not None
    return Vectors(
        logits=functional.normalize(found, dim=-1),
        last_hidden_state=hidden,
        hidden_states=out.hidden_states,
        attentions=out.attentions,
    )


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    real = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1).clamp(min=1)
