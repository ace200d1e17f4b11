"""Structured pruning in three separate ideas: what hangs together, what it is worth, and the cut.

Groups: torch-pruning's dependency graph. Worth: the sum over training rows of (dL/dmask)^2, Kwon et al. 2022
(arXiv 2204.09656). Layers go by the loss that is measured without them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch_pruning
from torch import nn
from transformers import PreTrainedModel

from .encoder import by_length, collate
from .errors import InputError
from .settings import Prune
from .structure import blocks, family, head_size, keep_blocks, linear
from .train import Progress


def prune(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    labels: np.ndarray,
    settings: Prune,
    *,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Cut `model` in place and return it; `ids` and `labels` (rows,) int64 are training rows. No training here.

    Layers first, then heads and neurons by their worth in what is left.
    """
    report = progress or (lambda share, text: None)
    report(0.0, "measuring importance")
    if settings.layers is not None:
        keep_blocks(model, layers_to_keep(model, ids, labels, settings.layers))
    if settings.heads < 1 or settings.ffn < 1:
        heads, neurons = importance(model, ids, labels)
        cut(model, keep_best(heads, settings.heads, 1), keep_best(neurons, settings.ffn, settings.multiple))
    report(1.0, "cut")
    return model.eval()


def importance(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], labels: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Worth of every head and of every feed-forward neuron: two lists, one float64 array per layer.

    A mask of ones (rows, units) multiplies each unit's output; its gradient is per row, so the square is too.
    """
    parts, size = family(model), head_size(model)
    masks: list[torch.Tensor] = []
    hooks = []

    def masked(module: nn.Module, inputs: tuple[torch.Tensor, ...], width: int) -> tuple[torch.Tensor]:
        (x,) = inputs
        mask = torch.ones(x.shape[0], x.shape[-1] // width, requires_grad=True)
        masks.append(mask)
        return (x * mask.repeat_interleave(width, dim=1).unsqueeze(1),)

    model.eval()
    worth: list[np.ndarray] | None = None
    try:
        for block in blocks(model):
            for path, width in ((parts.attention_out, size), (parts.down, 1)):
                hooks.append(linear(block, path).register_forward_pre_hook(partial(masked, width=width)))
        for batch in by_length(ids, 32):
            masks.clear()
            total = _loss(model, ids, labels, batch, "sum")
            squares = [g.double().square().sum(0).numpy() for g in torch.autograd.grad(total, masks)]
            worth = squares if worth is None else [a + b for a, b in zip(worth, squares, strict=True)]
    finally:
        for hook in hooks:
            hook.remove()
    if worth is None:
        raise InputError("pruning needs training rows to measure importance on")
    return worth[0::2], worth[1::2]


def layers_to_keep(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], labels: np.ndarray, layers: int | list[int]
) -> list[int]:
    """Which layers stay: the list as given, or `layers` of them, dropping each time the one that is missed least."""
    depth = len(blocks(model))
    if isinstance(layers, list):
        return layers
    if not 1 <= layers <= depth:
        raise InputError(f"layers: {layers} is not between 1 and the model's {depth}")
    kept = list(range(depth))
    while len(kept) > layers:
        losses = [_loss_without(model, [k for k in kept if k != drop], ids, labels) for drop in kept]
        kept.pop(int(np.argmin(losses)))
    return kept


def keep_best(worth: list[np.ndarray], share: float, multiple: int) -> list[np.ndarray]:
    """Unit numbers to keep in each layer: the best `share` of all, widths rounded to `multiple`, at least one each."""
    if share >= 1:
        return [np.arange(len(layer)) for layer in worth]
    everything = np.sort(np.concatenate(worth))
    threshold = everything[len(everything) - max(1, round(share * len(everything)))]
    kept = []
    for layer in worth:
        count = round(int((layer >= threshold).sum()) / multiple) * multiple
        count = min(max(count, min(multiple, len(layer))), len(layer))
        kept.append(np.sort(np.argsort(-layer, kind="stable")[:count]))
    return kept


def cut(model: PreTrainedModel, heads: list[np.ndarray], neurons: list[np.ndarray]) -> None:
    """Remove every head and neuron that is not listed (numbers per layer), in place."""
    parts, size = family(model), head_size(model)
    attention = model.config._attn_implementation or "eager"
    model.set_attn_implementation("eager")  # the graph is traced through the plain formula
    example = {name: torch.ones(1, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    for block, keep_heads, keep_neurons in zip(blocks(model), heads, neurons, strict=True):
        query, up = linear(block, parts.query), linear(block, parts.up)
        gone_heads = np.setdiff1d(np.arange(query.out_features // size), keep_heads)
        channels = (gone_heads[:, None] * size + np.arange(size)).ravel()
        gone_neurons = np.setdiff1d(np.arange(up.out_features), keep_neurons)
        for layer, gone in ((query, channels), (up, gone_neurons)):
            if len(gone):
                graph.get_pruning_group(layer, torch_pruning.prune_linear_out_channels, gone.tolist()).prune()
    model.set_attn_implementation(attention)
    model.zero_grad(set_to_none=True)


def _loss(model, ids, labels: np.ndarray, batch: np.ndarray, reduction: str) -> torch.Tensor:
    inputs = collate([ids[i] for i in batch], int(model.config.pad_token_id or 0))
    logits = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    return nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]), reduction=reduction)


def _loss_without(model: PreTrainedModel, kept: list[int], ids, labels: np.ndarray) -> float:
    trial = copy.deepcopy(model)
    keep_blocks(trial, kept)
    with torch.inference_mode():
        return sum(float(_loss(trial, ids, labels, batch, "sum")) for batch in by_length(ids, 32))
