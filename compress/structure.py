"""The shape of an encoder whose layers have been cut unevenly: read it, write it, rebuild it.

transformers can describe one head count and one width for the whole model; a pruned model has its own in each layer.
`structure.json` beside the checkpoint holds the difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from .errors import InputError
from .families import FAMILIES, Family

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
        raise InputError(f"cannot cut a '{kind}' model; supported: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's blocks, first to last."""
    return cast(nn.ModuleList, attrgetter(family(model).blocks)(model.base_model))


def linear(block: nn.Module, path: str) -> nn.Linear:
    """The linear layer at `path` below a block."""
    return cast(nn.Linear, attrgetter(path)(block))


def head_size(model: PreTrainedModel) -> int:
    """Width of one attention head; cutting never changes it."""
    return model.config.hidden_size // model.config.num_attention_heads


def structure_of(model: PreTrainedModel) -> Structure:
    """The shape a model has now, read from its weights."""
    parts, size = family(model), head_size(model)
    layers = [
        Layer(heads=linear(b, parts.query).out_features // size, ffn=linear(b, parts.up).out_features)
        for b in blocks(model)
    ]
    return Structure(size, tuple(layers))


def described_by_config(model: PreTrainedModel) -> bool:
    """True when config.json alone rebuilds the model, so that plain `from_pretrained` loads it."""
    heads, width = model.config.num_attention_heads, getattr(model.config, family(model).width_key)
    return all(layer == Layer(heads, width) for layer in structure_of(model).layers)


def reshape(model: PreTrainedModel, structure: Structure) -> None:
    """Give a freshly built model the shapes of `structure`, in place; the new weights are to be loaded next."""
    parts = family(model)
    found = blocks(model)
    if len(found) != len(structure.layers):
        raise InputError(f"structure.json describes {len(structure.layers)} layers, config.json {len(found)}")
    for block, layer in zip(found, structure.layers, strict=True):
        inner = layer.heads * structure.head_size
        for path in (parts.query, parts.key, parts.value):
            _replace(block, path, linear(block, path).in_features, inner)
        _replace(block, parts.attention_out, inner, linear(block, parts.attention_out).out_features)
        _replace(block, parts.up, linear(block, parts.up).in_features, layer.ffn)
        _replace(block, parts.down, layer.ffn, linear(block, parts.down).out_features)


def keep_blocks(model: PreTrainedModel, keep: list[int]) -> None:
    """Drop every block whose number is not in `keep` (ascending, from 0), in place."""
    found = blocks(model)
    bad = [k for k in keep if not 0 <= k < len(found)]
    if bad or not keep or sorted(set(keep)) != list(keep):
        raise InputError(f"layers: {keep} is not an ascending choice of the layers 0..{len(found) - 1}")
    kept = [found[k] for k in keep]
    while len(found):
        del found[-1]
    found.extend(kept)
    model.config.num_hidden_layers = len(kept)


def _replace(block: nn.Module, path: str, inputs: int, outputs: int) -> None:
    old = linear(block, path)
    parent, _, name = path.rpartition(".")
    new = nn.Linear(inputs, outputs, bias=old.bias is not None, dtype=old.weight.dtype)
    setattr(attrgetter(parent)(block), name, new)
