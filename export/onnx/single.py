"""One graph that answers a batch in one call: export of all models that generate no text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paredown.compress.models.architectures import CONVOLUTIONAL, STATIC, supported
from paredown.compress.models.loading import Checkpoint, load
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Preprocessor
from paredown.tasks.base import Task

if TYPE_CHECKING:
    import torch


def single_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> None:
    """Write the graph to `target`: inputs and output as in `plain_onnx`. InputError for an unknown architecture."""
    import torch

    from .trace import traced

    module = positional(checkpoint, task)
    example = torch.from_numpy(task.example_input(checkpoint.encoder()))
    dynamic = {**{name: dict(task.input_axes) for name in task.inputs}, task.output: dict(task.output_axes)}
    traced(module, (example,) * len(task.inputs), target, list(task.inputs), [task.output], dynamic)


def positional(checkpoint: Checkpoint, task: Task) -> torch.nn.Module:
    """The model as exporters trace it: `task.inputs` by position, the one output `task.output`. InputError for an
    unknown architecture, before it is loaded."""
    kind, known = checkpoint.config.get("model_type", ""), (*supported(decoders=False), *CONVOLUTIONAL)
    if kind in supported(decoders=True):
        raise InputError(f"{checkpoint.path}: cannot export a '{kind}' model for {task.name}, only for text-generation")
    if kind not in (*known, STATIC):
        raise InputError(f"{checkpoint.path}: cannot export a '{kind}' model yet; supported: {', '.join(known)}")
    import torch

    model = load(checkpoint, task)
    model.set_attn_implementation("eager")

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return getattr(self.model(**dict(zip(task.inputs, inputs, strict=True))), task.output)

    return Positional().eval()


def example_inputs(task: Task, encoder: Preprocessor, rows: int, length: int) -> tuple[torch.Tensor, ...]:
    """Inputs of `positional` in one shape, each a tensor of its own: torch.export takes one tensor in two places for
    one input. `length`: in tokens; without a meaning for images."""
    import torch

    sizes: dict[str, int] = {"batch": rows, "length": length}
    axes, given = task.input_axes, task.example_input(encoder)
    shape = [sizes[axes[i]] if i in axes else size for i, size in enumerate(given.shape)]
    return tuple(torch.from_numpy(np.full(shape, given.flat[0])) for _ in task.inputs)
