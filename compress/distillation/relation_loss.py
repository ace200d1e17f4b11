"""The relation loss of MiniLMv2 (arXiv 2012.15828): attention relations of the last layer, for any student width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from ..distributed.group import over_all
from ..models.structure import blocks, family

RELATION_HEADS = 12


@contextmanager
def relations(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collects queries, keys and values of the last layer, (rows, tokens, width) each, while the model runs."""
    parts, last = family(model), blocks(model)[-1]
    found: list[torch.Tensor] = []

    def keep(module: object, inputs: object, output: torch.Tensor) -> None:
        found.extend(output.chunk(parts.projections, dim=-1))

    hooks = [attrgetter(path)(last).register_forward_hook(keep) for path in parts.heads_in[:3]]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def relation_loss(ours: list[torch.Tensor], theirs: list[torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
    """Mean KL, over queries, keys, values, heads and real tokens, of softmax(x x^T / sqrt(d)): teacher to student.
    No mask: all tokens are real."""
    if mask is None:
        mask = torch.ones(ours[0].shape[:2], device=ours[0].device)
    total = torch.zeros((), device=mask.device)
    for mine, want in zip(ours, theirs, strict=True):
        total = total + functional.kl_div(
            _relation(mine, mask), _relation(want, mask), reduction="none", log_target=True
        ).sum(-1).mul(mask[:, None, :]).sum() / over_all(mask.sum() * _heads(mine))
    return total / len(ours)


def _relation(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows, tokens, width = x.shape
    heads = _heads(x)
    split = x.float()[..., : width // heads * heads].reshape(rows, tokens, heads, -1).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / split.shape[-1] ** 0.5
    scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e4)
    return functional.log_softmax(scores, dim=-1)


def _heads(x: torch.Tensor) -> int:
    return min(RELATION_HEADS, x.shape[-1])
