"""Channel pruning of convolutional image classifiers (ResNet, ConvNeXT), through torch-pruning's dependency graph.

The residual stream of a stage, and the channels inside each of its blocks, are groups of coupled channels. Every stage
keeps the same share, so that config.json describes the pruned model and plain transformers loads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Batch

from ..config import Prune
from ..models.output_kinds import answers, kind_of, tensors
from .importance import random_log_likelihood, watching
from .published_importance import accumulate_gradients, scorer

STAGE = re.compile(r"\.stages\.(\d+)\.")


def prune_channels(model: PreTrainedModel, batches: Sequence[Batch], settings: Prune) -> list[int]:
    """Prune a share of the channels of every stage, in place; returns the width of each stage.

    `batches`: pixels of training rows, (rows, channels, height, width) float32. With `resolve`, the statistics of batch
    norms are estimated again on these rows (as EagleEye does, arXiv 2007.02491). Raises InputError where config.json
    cannot describe the result.
    """
    before = [int(size) for size in model.config.hidden_sizes]
    after = [kept(size, settings) for size in before]
    scales = [(p, 0) for name, p in model.named_parameters() if name.endswith("layer_scale_parameter")]
    graph = torch_pruning.DependencyGraph().build_dependency(
        model,
        example_inputs=tensors(batches[0]),
        unwrapped_parameters=cast(Any, scales),  # its annotation says dict
    )
    groups = _groups(graph, model)
    scores = _scores(graph, groups, model, batches, settings)
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    for group, score in zip(groups, scores, strict=True):
        stage = _stage(graph, group, names)
        width = kept(len(score), settings) if stage is None else len(score) * after[stage] // before[stage]
        if stage is None:
            model.config.embedding_size = width
        root, least = group[0].dep, score.argsort(kind="stable")[: len(score) - width].tolist()
        if least:
            graph.get_pruning_group(root.target.module, root.handler, least).prune()
    if model.config.model_type == "resnet" and not any(_stage(graph, group, names) is None for group in groups):
        model.config.embedding_size = after[0]  # one stream with the first stage
    model.config.hidden_sizes = after
    _require_described(model, settings)
    if settings.resolve:
        estimate_batch_norms(model, batches)
    return after


def kept(size: int, settings: Prune) -> int:
    """Channels to keep of `size`: the share, as a multiple of `multiple`, at least one multiple."""
    multiple = min(settings.multiple, size)
    return min(size, max(multiple, round(settings.channels * size / multiple) * multiple))


def estimate_batch_norms(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Estimate mean and variance of every batch norm on these rows, in place: averages over the batches of two rows or
    more."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    several = [batch for batch in batches if len(batch["pixel_values"]) > 1]
    if not norms or not several:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        with torch.no_grad():
            for batch in several:
                model(**tensors(batch))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _groups(graph: torch_pruning.DependencyGraph, model: PreTrainedModel) -> list[torch_pruning.Group]:
    """All groups of coupled channels; the outputs of the classifier are none."""
    inside = set(model.base_model.modules())
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    found = graph.get_all_groups(ignored_layers=head, root_module_types=[nn.Conv2d, nn.Linear])
    return list(found)


def _stage(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group, names: dict[nn.Module, str]) -> int | None:
    """The stage whose layers give the channels of a group; None: the embedding, on its own."""
    for dep, _ in group.items:
        module = dep.target.module
        if isinstance(module, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(dep.handler):
            found = STAGE.search(f".{names[module]}.")
            if found:
                return int(found[1])
    return None


def _scores(
    graph: torch_pruning.DependencyGraph,
    groups: Sequence[torch_pruning.Group],
    model: PreTrainedModel,
    batches: Sequence[Batch],
    settings: Prune,
) -> list[np.ndarray]:
    """Importance of each channel of each group, (channels,) float64."""
    if settings.importance == "fisher":
        return _fisher(graph, groups, model, batches)
    criterion = scorer(settings.importance)
    accumulate_gradients(model, batches)
    return [criterion(group).double().numpy() for group in groups]


def _fisher(
    graph: torch_pruning.DependencyGraph,
    groups: Sequence[torch_pruning.Group],
    model: PreTrainedModel,
    batches: Sequence[Batch],
    seed: int = 0,
) -> list[np.ndarray]:
    """Fisher information of a mask on each channel, where the layers that read it do so (`importance.observe`)."""
    readers = [
        [
            (dep.target.module, list(idxs), list(group[i].root_idxs))
            for i, (dep, idxs) in enumerate(group.items)
            if isinstance(dep.target.module, nn.Conv2d | nn.Linear) and not graph.is_out_channel_pruning_fn(dep.handler)
        ]
        for group in groups
    ]
    modules = list({module: None for found in readers for module, _, _ in found})
    inputs: list[torch.Tensor] = [torch.empty(0)] * len(modules)

    def keep(i: int, given: torch.Tensor, output: object) -> None:
        inputs[i] = given

    found = [np.zeros(len(group[0].idxs)) for group in groups]
    signs = torch.Generator().manual_seed(seed)
    model.eval()
    for batch in batches:
        with watching(modules, keep), torch.enable_grad():
            lines = answers(model(**tensors(batch)).logits, None, kind_of(model))
            gradients = torch.autograd.grad(random_log_likelihood(lines, signs), inputs)
        masks = {}
        for module, x, gradient in zip(modules, inputs, gradients, strict=True):
            product = (x * gradient).detach()
            product = product if isinstance(module, nn.Linear) else product.movedim(1, -1)
            masks[module] = product.reshape(len(product), -1, product.shape[-1]).sum(1).double().numpy()
        for score, reading in zip(found, readers, strict=True):
            total = np.zeros((len(lines), len(score)))
            for module, own, root in reading:
                total[:, root] += masks[module][:, own]
            score += np.square(total).sum(0)
    return found


def _require_described(model: PreTrainedModel, settings: Prune) -> None:
    """InputError where the model that config.json describes has other shapes than this one."""
    with torch.device("meta"):
        described = type(model)(model.config).state_dict()
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if ours != {name: tensor.shape for name, tensor in described.items()}:
        raise InputError(
            f"channels: {settings.channels:g} with multiple {settings.multiple} leaves widths that config.json of "
            f"'{model.config.model_type}' cannot describe; give another share or a smaller multiple"
        )
