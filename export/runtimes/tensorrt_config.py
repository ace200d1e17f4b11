"""Settings of a TensorRT engine, and facts of the parsed network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paredown.compress.config import Settings

BATCH_SIZES = (1, 8)
Bucket = Annotated[int, Field(ge=1)]
Capability = Literal[75, 80, 86, 89, 120, 121]


class Engine(Settings):
    """What TensorRT engines are built for. Each length bucket with each batch size is one optimisation profile."""

    lengths: list[Bucket] | None = Field(
        default=None,
        description="length buckets, tokens, ascending (default: the recipe's lengths, else max_length alone). Each "
        "profile is tuned for its largest shape, and costs build time and size (MiniLM-L6: 2 to 4 s and 4 to 9 MB)",
    )
    batch_sizes: list[Bucket] | None = Field(
        default=None, description="rows a call, ascending (default: 1 and latency.batch_size); more are run in parts"
    )
    compute_capabilities: list[Capability] = Field(
        default=[80, 86, 89, 120],
        min_length=1,
        description="GPUs that a tensorrt_rtx engine is for, 89 for 8.9; tensorrt builds for the GPU that it is on",
    )

    @model_validator(mode="after")
    def _ascending(self) -> Engine:
        for key in ("lengths", "batch_sizes", "compute_capabilities"):
            values = getattr(self, key)
            if values is not None and (not values or values != sorted(set(values))):
                raise ValueError(f"{key}: numbers in ascending order are expected, each once, not {values}")
        return self

    def profiles(self, max_length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Least and largest (rows, tokens) of each optimisation profile; together they take every shape, each once."""
        lengths = [length for length in self.lengths or () if length < max_length] + [max_length]
        return [
            ((low_rows + 1, low_length + 1), (rows, length))
            for low_rows, rows in _steps(self.batch_sizes or BATCH_SIZES)
            for low_length, length in _steps(lengths)
        ]


def _steps(ends: Iterable[int]) -> list[tuple[int, int]]:
    """Each end with the one before it, from 0."""
    ends = list(ends)
    return list(zip([0, *ends], ends, strict=False))


@dataclass(frozen=True)
class Layer:
    """A layer of the parsed network; types are TensorRT's names: FLOAT, HALF, BF16, INT8, INT64, ..."""

    name: str
    type: str  # MATRIX_MULTIPLY, NORMALIZATION, ...
    inputs: tuple[str, ...]  # what is multiplied: INT8 where a DEQUANTIZE lies before it, reshaped or not
    outputs: tuple[str, ...]


def layers_of(network: Any) -> list[Layer]:
    """The layers of an INetworkDefinition, in its order."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    maker = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}

    def type_of(tensor: Any) -> str:
        made_by = maker.get(tensor.name)
        while made_by is not None and made_by.type.name in ("SHUFFLE", "UNSQUEEZE", "SQUEEZE", "IDENTITY"):
            made_by = maker.get(made_by.get_input(0).name)
        if made_by is not None and made_by.type.name == "DEQUANTIZE":
            return made_by.get_input(0).dtype.name
        return tensor.dtype.name

    found = []
    for layer in layers:
        inputs = [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]
        product = layer.type.name == "MATRIX_MULTIPLY"
        found.append(
            Layer(
                name=layer.name,
                type=layer.type.name,
                inputs=tuple(type_of(tensor) if product else tensor.dtype.name for tensor in inputs),
                outputs=tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs)),
            )
        )
    return found


def summary(layers: list[Layer]) -> dict:
    """Counts for the artefact's details: layers by type and precision (their first input's), products in INT8."""
    counts = Counter(f"{layer.type} {(layer.inputs or layer.outputs or ('',))[0]}".strip() for layer in layers)
    products = [layer for layer in layers if layer.type == "MATRIX_MULTIPLY"]
    int8 = sum(set(layer.inputs) == {"INT8"} for layer in products)
    return {
        "layers": dict(sorted(counts.items())),
        "products": len(products),
        "int8_products": int8,
        "int8_share": int8 / len(products) if products else 0.0,
    }
