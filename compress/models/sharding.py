"""A model whose weights are parted over the GPUs of several processes (FSDP2, torch.distributed.fsdp.fully_shard).

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from ..distributed import group


def sharded(model: PreTrainedModel) -> PreTrainedModel:
    """A copy for inference: of every block, and of the rest, each process holds an equal part, on its GPU or on the
    CPU. All processes have to call it at the same time. `model` keeps its weights, where they are."""
    own = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    spread = copy.deepcopy(model, own)  # the numbers are not copied
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (group.count(),))
    for block in [part for part in spread.modules() if isinstance(part, nn.ModuleList)][::-1]:  # the inner ones first
        for layer in block:
            fully_shard(layer, mesh=mesh)
    fully_shard(cast(nn.Module, spread), mesh=mesh)
    return spread
