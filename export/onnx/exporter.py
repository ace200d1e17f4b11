"""Checkpoint to a plain ONNX graph, which every runtime's artefact starts from: dynamic batch size and length.

The TorchScript exporter with eager attention is the one whose graph ONNX Runtime's optimizer fuses (6 of 6 layers of
MiniLM; 0 of 6 from SDPA or from the dynamo exporter).
"""

from __future__ import annotations

from pathlib import Path

from paredown.compress.models.loading import Checkpoint
from paredown.tasks.base import Task

from .forms import FORMS


def plain_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> Path:
    """Write the checkpoint as an unfused ONNX file, which every runtime's artefact starts from; returns `target`.

    Text: inputs (batch, length) int64, both sizes dynamic. Images: (batch, channels, height, width) float32, of the
    preprocessor's size. Output `task.output` float32, (batch, labels), or (batch, length, labels). Models that
    generate text: `seq2seq_onnx` (two files), `decoder_onnx`. Raises InputError for an architecture that is not known,
    before it is loaded.
    """
    FORMS[task.graph].trace(checkpoint, task, target)
    return target
