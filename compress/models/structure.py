"""The structure of an encoder whose layers were pruned unevenly: reading, writing and rebuilding it.

transformers can describe one head count and one width for all layers; a pruned model has its own in each layer.
`structure.json` beside the checkpoint holds the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from paredown.runtime.errors import InputError

from .architectures import FAMILIES, Family

FORMAT = 1


@dataclass(frozen=True)
class Layer:
    """One block: its attention heads and the width of its feed-forward part."""

    heads: int
    ffn: int


@dataclass(frozen=True)
class Structure:
    """Every block's shape, first to last, and the size of one head."""

    head_size: int
    layers: tuple[Layer, ...]

    def to_json(self) -> dict:
        return {"format": FORMAT, "head_size": self.head_size, "layers": [asdict(layer) for layer in self.layers]}

    @staticmethod
    def from_json(data: object, where: str) -> Structure:
        """Read what `to_json` wrote; raises InputError that names `where`."""
        try:
            assert isinstance(data, dict)
            if data["format"] != FORMAT:
                raise InputError(f"{where}: format {data['format']!r}; this paredown reads format {FORMAT}")
            layers = tuple(Layer(heads=int(x["heads"]), ffn=int(x["ffn"])) for x in data["layers"])
            structure = Structure(int(data["head_size"]), layers)
        except (AssertionError, KeyError, TypeError, ValueError):
            raise InputError(f"{where}: not a structure file of paredown; take it from the checkpoint again") from None
        if any(layer.heads < 1 or layer.ffn < 1 for layer in layers) or structure.head_size < 1:
            raise InputError(f"{where}: every layer needs at least one head and one neuron")
        return structure


def family(model: PreTrainedModel) -> Family:
    """The family record of a model; InputError names the supported ones when it is not among them."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise InputError(f"pruning is not supported for '{kind}'; supported: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's blocks, first to last."""
    return cast(nn.ModuleList, attrgetter(family(model).blocks)(model.base_model))


def linear(block: nn.Module, path: str) -> nn.Linear:
    """The linear layer at `path` below a block."""
    return cast(nn.Linear, attrgetter(path)(block))


def inputs_of(block: nn.Module, path: str) -> int:
    """How many inputs the linear layer at `path` has; of GPT-2's Conv1D too, whose matrix is transposed."""
    layer = linear(block, path)
    return layer.in_features if isinstance(layer, nn.Linear) else layer.weight.shape[0]  # type: ignore[unreachable]


@contextmanager
def linear_layers(model: PreTrainedModel) -> Iterator[None]:
    """While the block runs, every Conv1D (GPT-2's layer, whose matrix is transposed) of `model` is a linear layer."""
    _replace(model, Conv1D, _linear_of)
    try:
        yield
    finally:
        if family(model).transposed:
            for block in blocks(model):
                _replace(block, nn.Linear, _conv1d_of)


def _replace(module: nn.Module, kind: type[nn.Module], by: Callable) -> None:
    """Replace all parts of a class by what `by` makes of them, in place."""
    for name, part in list(module.named_modules()):
        if isinstance(part, kind):
            module.set_submodule(name, by(part))


def _linear_of(layer: Conv1D) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    made = nn.Linear(inputs, outputs, device="meta")
    made.weight, made.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias
    return made


def _conv1d_of(layer: nn.Linear) -> Conv1D:
    made = Conv1D(layer.out_features, layer.in_features)
    made.weight, made.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias
    return made


def head_size(model: PreTrainedModel) -> int:
    """Width of one attention head; pruning never changes it."""
    key, config = family(model).head_size_key, model.config
    return (getattr(config, key, None) if key else None) or config.hidden_size // config.num_attention_heads


def heads_per_group(model: PreTrainedModel) -> int:
    """How many attention heads share keys and values and are pruned together; 1 where each has its own."""
    config = model.config
    if not family(model).shared_in:
        return 1
    return config.num_attention_heads // (config.num_key_value_heads or config.num_attention_heads)


def heads_of_groups(groups: np.ndarray, per_group: int) -> np.ndarray:
    """The numbers of the heads in these groups, (groups x per_group,) int64."""
    return (groups[:, None] * per_group + np.arange(per_group)).ravel()


def structure_of(model: PreTrainedModel) -> Structure:
    """The shape a model has now, read from its weights."""
    parts, size = family(model), head_size(model)
    layers = [Layer(inputs_of(b, parts.attention_out) // size, inputs_of(b, parts.down)) for b in blocks(model)]
    return Structure(size, tuple(layers))


def described_by_config(model: PreTrainedModel) -> bool:
    """True when config.json alone rebuilds the model, so that plain `from_pretrained` loads it."""
    heads, width = model.config.num_attention_heads, getattr(model.config, family(model).width_key)
    width = width or 4 * model.config.hidden_size  # GPT-2's, where its config does not say
    return all(layer == Layer(heads, width) for layer in structure_of(model).layers)


def describe_by_config(model: PreTrainedModel) -> None:
    """Write an even shape into the config, so that plain `from_pretrained` loads it; InputError when it cannot."""
    parts, layers = family(model), structure_of(model).layers
    if len(set(layers)) != 1:
        raise InputError("the layers have different shapes, which config.json cannot describe")
    heads, size, config = layers[0].heads, head_size(model), model.config
    if heads != config.num_attention_heads:
        if parts.head_size_key is None:
            raise InputError(
                f"even: config.json of '{config.model_type}' has no head size, so all "
                f"{config.num_attention_heads} heads must stay; use ffn or layers"
            )
        if config.hidden_size % heads:
            raise InputError(f"even: {heads} heads do not divide the hidden size {config.hidden_size}")
        setattr(config, parts.head_size_key, size)
        config.num_attention_heads = heads
    setattr(config, parts.width_key, layers[0].ffn)


def reshape(model: PreTrainedModel, structure: Structure) -> None:
    """Give a freshly built model the shapes of `structure`, in place; the new weights are to be loaded next."""
    found = blocks(model)
    if len(found) != len(structure.layers):
        raise InputError(f"structure.json describes {len(structure.layers)} layers, config.json {len(found)}")
    now = structure_of(model)
    if now.head_size != structure.head_size:
        raise InputError(f"structure.json has heads of {structure.head_size}, config.json of {now.head_size}")
    for was, layer in zip(now.layers, structure.layers, strict=True):
        if layer.heads > was.heads or layer.ffn > was.ffn:
            raise InputError("structure.json describes a layer that is larger than config.json's")
        if family(model).shared_in and layer.heads != was.heads:
            raise InputError(f"structure.json has {layer.heads} heads in a layer, config.json {was.heads}")
    with linear_layers(model):
        cut(model, [np.arange(x.heads) for x in structure.layers], [np.arange(x.ffn) for x in structure.layers])


def cut(model: PreTrainedModel, heads: Sequence[np.ndarray], neurons: Sequence[np.ndarray]) -> None:
    """Remove every head and feed-forward neuron that is not listed (numbers per layer), in place; the layers of the
    model are linear ones (`linear_layers`).

    Heads that share keys and values go in complete groups, as many in each layer, and the config describes the result;
    InputError for others.
    """
    parts, size, per_group = family(model), head_size(model), heads_per_group(model)
    if parts.shared_in:
        _require_groups(model, heads, per_group)
    for block, keep_heads, keep_neurons in zip(blocks(model), heads, neurons, strict=True):
        count = inputs_of(block, parts.attention_out) // size
        if len(keep_heads) != count:
            if not parts.prunes_heads and not parts.shared_in:
                raise InputError(f"head pruning is not supported for '{model.config.model_type}'; use ffn or layers")
            channels = heads_of_groups(keep_heads, size)
            shared = heads_of_groups(keep_heads[::per_group] // per_group, size)
            for path in parts.heads_in:
                if has(block, path):
                    outputs = shared if path in parts.shared_in else channels
                    _keep(block, path, _repeated(outputs, parts.projections, count * size), 0)
            _keep(block, parts.attention_out, channels, 1)
            for path in parts.head_counts:
                owner, _, name = path.rpartition(".")
                setattr(attrgetter(owner)(block), name, len(keep_heads))
        width = inputs_of(block, parts.down)
        if len(keep_neurons) != width:
            for path in filter(None, (parts.up, parts.gate)):
                _keep(block, path, _repeated(keep_neurons, parts.gates, width), 0)
            _keep(block, parts.down, keep_neurons, 1)
    if parts.shared_in and len(heads[0]) != model.config.num_attention_heads:
        setattr(model.config, parts.head_size_key or "head_dim", size)
        model.config.num_attention_heads = len(heads[0])
        model.config.num_key_value_heads = len(heads[0]) // per_group


def _require_groups(model: PreTrainedModel, heads: Sequence[np.ndarray], per_group: int) -> None:
    """InputError where these heads are not complete groups, as many in each layer, or config.json cannot hold them."""
    kind, hidden = model.config.model_type, model.config.hidden_size
    complete = all(np.array_equal(heads_of_groups(own[::per_group] // per_group, per_group), own) for own in heads)
    if not complete or len({len(own) for own in heads}) != 1 or not len(heads[0]):
        raise InputError(f"heads of a '{kind}' model are pruned in groups of {per_group}, as many in every layer")
    if hidden % len(heads[0]):
        raise InputError(f"heads: {len(heads[0])} heads do not divide the hidden size {hidden}")


def keep_blocks(model: PreTrainedModel, keep: list[int]) -> None:
    """Drop every block whose number is not in `keep` (ascending, from 0), in place."""
    found = blocks(model)
    bad = [k for k in keep if not 0 <= k < len(found)]
    if bad or not keep or sorted(set(keep)) != list(keep):
        raise InputError(f"layers: {keep} is not an ascending choice of the layers 0..{len(found) - 1}")
    if family(model).first_stays and keep[0] != 0:
        raise InputError(f"layers: the first layer of a '{model.config.model_type}' model has to stay, {keep} drops it")
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False) and len(keep) < len(found):
        raise InputError("layers: the attention of this model is scaled by the number of its layer; all have to stay")
    kept = [found[k] for k in keep]
    for number, block in enumerate(kept):
        for part in block.modules():  # a decoder's attention has a place in the cache
            if hasattr(part, "layer_idx"):
                vars(part)["layer_idx"] = number
    while len(found):
        del found[-1]
    found.extend(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[k] for k in keep]
    model.config.num_hidden_layers = len(kept)


def widen(model: PreTrainedModel) -> None:
    """Give every block the widest attention and feed-forward part that a block of this model has, in place.

    For models that are timed, not asked: one that was pruned unevenly has layers that take any of its shapes then.
    """
    parts, layers = family(model), structure_of(model).layers
    if len(set(layers)) == 1:
        return
    found, size = blocks(model), head_size(model)
    widest = [max(range(len(layers)), key=lambda i: key(layers[i])) for key in (attrgetter("heads"), attrgetter("ffn"))]
    ffn = (parts.up, parts.gate, parts.down)
    for paths, source in zip(((*parts.heads_in, parts.attention_out), ffn), widest, strict=True):
        for path in filter(None, paths):
            if has(found[source], path):
                wide = linear(found[source], path)
                for block in found:
                    parent, _, name = path.rpartition(".")
                    setattr(attrgetter(parent)(block), name, copy.deepcopy(wide))
    heads = linear(found[0], parts.attention_out).in_features // size
    for block in found:
        for path in parts.head_counts:
            owner, _, name = path.rpartition(".")
            setattr(attrgetter(owner)(block), name, heads)


def sublayers(model: PreTrainedModel) -> Iterator[tuple[nn.Linear, nn.Module, int]]:
    """Bottom-up, two for each block: the output projection, its layer norm, and the width of a unit at its input: of a
    head, or of the heads that share keys and values."""
    parts, size = family(model), head_size(model) * heads_per_group(model)
    for block in blocks(model):
        yield linear(block, parts.attention_out), attrgetter(parts.attention_norm)(block), size
        yield linear(block, parts.down), attrgetter(parts.ffn_norm)(block), 1


def has(block: nn.Module, path: str) -> bool:
    """True when the block has a layer at `path`."""
    return hasattr(attrgetter(path.rpartition(".")[0])(block), path.rpartition(".")[2])


def _repeated(channels: np.ndarray, times: int, stride: int) -> np.ndarray:
    return (np.arange(times)[:, None] * stride + channels).ravel()


def _keep(block: nn.Module, path: str, channels: np.ndarray, dimension: int) -> None:
    """Replace a linear by one with only these outputs (dimension 0) or inputs (1)."""
    old, index = linear(block, path), torch.as_tensor(channels)
    weight = old.weight.detach().index_select(dimension, index)
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=old.bias is not None, dtype=weight.dtype)
    new.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    if old.bias is not None:
        bias = old.bias.detach()
        new.bias = nn.Parameter(bias[index] if dimension == 0 else bias.clone())
    parent, _, name = path.rpartition(".")
    setattr(attrgetter(parent)(block), name, new)
