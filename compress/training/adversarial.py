"""Adversarial training: perturbations of the word embeddings along the loss gradient.

FGM: Miyato et al. 2017, arXiv 1605.07725. PGD: Madry et al. 2018, arXiv 1706.06083. FreeLB: Zhu et al. 2020,
arXiv 1909.11764. Sizes are shares of the norm of a row's embeddings, so that one number fits every architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import MARK, PIXELS

from ..config import Adversary
from ..types import Loss


def hardened(loss: Loss, model: PreTrainedModel, settings: Adversary) -> Loss:
    """`loss` with the loss under the perturbation added (freelb: the mean of the loss along the perturbations)."""
    if model.main_input_name == PIXELS:
        raise InputError("adversarial: perturbs word embeddings and is not supported for images; leave it out")
    words = model.get_input_embeddings()
    size = settings.epsilon

    def under(net: nn.Module, batch: dict[str, torch.Tensor], delta: torch.Tensor) -> torch.Tensor:
        with _perturbed(words, delta):
            return loss(net, batch)

    def total(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            plain = words(batch["input_ids"] % MARK).float()
        mask = batch["attention_mask"][..., None].to(plain.dtype)
        radius = size * (plain * mask).flatten(1).norm(dim=1)
        steps = 1 if settings.kind == "fgm" else settings.steps
        stride = radius if steps == 1 else 1.5 * radius / steps
        delta = torch.zeros_like(plain)
        if settings.kind == "freelb":
            delta = _within((torch.rand_like(plain) * 2 - 1) * mask, radius / 2, always=True)
        losses = []
        for step in range(steps):
            delta = delta.detach().requires_grad_(True)
            value = under(net, batch, delta)
            if step == 0 or settings.kind == "freelb":
                losses.append(value)
            (slope,) = torch.autograd.grad(value, delta, retain_graph=bool(losses) and losses[-1] is value)
            ahead = _within(slope.float() * mask, stride, always=True)
            delta = _within(delta.detach() + ahead, radius)
        if settings.kind == "freelb":
            return settings.weight * torch.stack(losses).mean()
        return losses[0] + settings.weight * under(net, batch, delta.detach())

    return total


def _within(delta: torch.Tensor, radius: torch.Tensor, *, always: bool = False) -> torch.Tensor:
    """Each row (rows, tokens, width) scaled to at most `radius` (rows,); `always`: to exactly that."""
    norm = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
    scale = radius / norm
    return delta * (scale if always else scale.clamp_max(1.0))[:, None, None]


@contextmanager
def _perturbed(words: nn.Module, delta: torch.Tensor) -> Iterator[None]:
    """The embeddings' output with `delta` added, while the block runs."""

    def add(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + delta.to(output.dtype)

    hook = words.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
