"""Published importance criteria (torch-pruning's), to compare the default with.

taylor: |weight x gradient| over a group (Molchanov et al. 2019, arXiv 1906.10771). magnitude: squared L2 norm of the
weights of a group (Li et al. 2017, arXiv 1608.08710). A group is what goes together: the rows and columns of all weight
matrices that belong to a head, a neuron or a channel. Both are divided by their mean over the layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch_pruning.dependency import Dependency, Group, Node
from transformers import PreTrainedModel

from paredown.runtime.preprocessor import Batch

from ..models.output_kinds import answers, kind_of, tensors
from ..models.structure import blocks, family, has, head_size, heads_per_group, linear

CRITERIA = {
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
}


def scorer(name: str) -> torch_pruning.importance.Importance:
    """torch-pruning's criterion of that name, a key of CRITERIA."""
    return CRITERIA[name]()


def accumulate_gradients(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Leave in every weight the gradient of the cross-entropy to the model's own answers, which needs no labels; of
    numbers, that of their sum."""
    model.eval()
    model.zero_grad(set_to_none=True)
    for batch in batches:
        with torch.enable_grad():
            given = tensors(batch)
            lines = answers(model(**given).logits, given.get("attention_mask"), kind_of(model))
            loss = lines.sum() if lines.shape[-1] == 1 else -lines.log_softmax(-1).amax(-1).sum()
            (loss / len(batches)).backward()


def importance_of_units(model: PreTrainedModel, batches: Sequence[Batch], name: str) -> list[np.ndarray]:
    """Importance of every head (or group of heads that share keys and values) and every neuron, (units,) float64, in
    the order of `structure.sublayers`."""
    criterion, parts, size = scorer(name), family(model), head_size(model) * heads_per_group(model)
    accumulate_gradients(model, batches)
    found = []
    for block in blocks(model):
        heads = [path for path in parts.heads_in if has(block, path)]
        up = [path for path in (parts.up, parts.gate) if path is not None]
        for into, times, out, unit in (
            (heads, parts.projections, parts.attention_out, size),
            (up, parts.gates, parts.down, 1),
        ):
            group = _group([linear(block, path) for path in into], times, linear(block, out), unit)
            channels = criterion(group).double().numpy()
            found.append(channels.reshape(-1, unit).sum(1))
    model.zero_grad(set_to_none=True)
    return found


def _group(into: Sequence[nn.Linear], times: int, out: nn.Linear, unit: int) -> Group:
    """The rows of the layers `into` (`times` of each, one after another) and the columns of `out`, `unit` of them for
    each unit. Keys and values that the heads of a unit share have fewer rows, which count for its first columns."""
    width = out.in_features
    group = Group()

    def add(layer: nn.Linear, function, first: int, rows: int) -> None:
        node, own = Node(layer, None), rows * unit // width
        group.add_dep(Dependency(function, function, node, node), list(range(first, first + rows)))
        group[-1].root_idxs = [row // own * unit + row % own for row in range(rows)]

    for layer in into:
        rows = layer.out_features // times
        for i in range(times):
            add(layer, torch_pruning.prune_linear_out_channels, i * rows, rows)
    add(out, torch_pruning.prune_linear_in_channels, 0, width)
    return group
