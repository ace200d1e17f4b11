"""Checkpoint to a plain ONNX graph, which every runtime's artefact starts from: dynamic batch size and length.

The TorchScript exporter with eager attention is the one whose graph ONNX Runtime's optimizer fuses (6 of 6 layers of
MiniLM; 0 of 6 from SDPA or from the dynamo exporter).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paredown.compress.models.architectures import STATIC, UNPRUNABLE, supported
from paredown.compress.models.loading import Checkpoint, load
from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

from .causal_lm import decoder_onnx
from .seq2seq import trace
from .trace import traced

if TYPE_CHECKING:
    import torch


TRACERS = {"seq2seq": trace, "causal_lm": decoder_onnx}  # by Task.graph; others are one plain graph


def plain_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> Path:
    """Write the checkpoint as an unfused ONNX file, which every runtime's artefact starts from; returns `target`.

    Text: inputs (batch, length) int64, both sizes dynamic. Images: (batch, channels, height, width) float32, of the
    preprocessor's size. Output `task.output` float32, (batch, labels), or (batch, length, labels). Of a model that
    writes, `seq2seq.trace` writes two files; of one that continues texts, `causal_lm.decoder_onnx`. Raises InputError
    for an architecture that is not known, before it is loaded.
    """
    if task.graph in TRACERS:
        TRACERS[task.graph](checkpoint, task, target)
        return target
    kind, known = checkpoint.config.get("model_type", ""), (*supported(decoders=False), *UNPRUNABLE)
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

    example, axes = torch.ones(2, 16, dtype=torch.long), {0: "batch", 1: "length"}  # 1 would become a constant
    if task.reads_images:
        example, axes = torch.zeros(2, *checkpoint.encoder().shape), {0: "batch"}
    dynamic = {**dict.fromkeys(task.inputs, axes), task.output: axes if task.per_token else {0: "batch"}}
    traced(Positional(), (example,) * len(task.inputs), target, list(task.inputs), [task.output], dynamic)
    return target
