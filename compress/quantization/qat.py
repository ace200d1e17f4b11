"""Quantisation-aware training: the forward pass rounds as INT8 will.

Weights: symmetric, per output channel. Activations: per tensor, from each batch's own range, as dynamic INT8 does at
run time. Gradients pass straight through the rounding (Jacob et al. 2017, arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from ..models.structure import blocks


@contextmanager
def fake_quantized(model: PreTrainedModel, weight_bits: int = 7) -> Iterator[None]:
    """Inside the block, every linear of the model's layers rounds as INT8 would; afterwards it is a float model again.

    `weight_bits`: 7 where the CPU has no VNNI or AMX (`reduce_range`); right for 8 bits too.
    """
    layers = [module for module in blocks(model).modules() if isinstance(module, nn.Linear)]
    hooks = []
    try:
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", _RoundWeight(weight_bits), unsafe=True)
            hooks.append(layer.register_forward_pre_hook(lambda _, given: (_round_activation(given[0]), *given[1:])))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class _RoundWeight(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        scale = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / self.top
        return _straight_through(weight, (weight / scale).round().clamp(-self.top, self.top) * scale)


def _round_activation(x: torch.Tensor) -> torch.Tensor:
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-8)
    zero = (-low / scale).round()
    return _straight_through(x, ((x / scale + zero).round().clamp(0, 255) - zero) * scale)


def _straight_through(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return x + (rounded - x).detach()
