"""Tiny checkpoints whose answers hang on their input: those of untrained ones are all near zero."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import make_checkpoint, task_of
from safetensors.torch import load_file, save_file

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES


def loud(path: Path) -> None:
    """Add noise to the weights of a checkpoint."""
    noise, file = torch.Generator().manual_seed(0), path / "model.safetensors"
    weights = {
        name: weight + 0.2 * torch.randn(weight.shape, generator=noise) if weight.is_floating_point() else weight
        for name, weight in load_file(file).items()
    }
    save_file(weights, file, {"format": "pt"})


def loud_checkpoint(path: Path, kind: str) -> Checkpoint:
    """One of a family, with two layers."""
    make_checkpoint(path, kind, 2)
    loud(path)
    return open_checkpoint(path, task_of(kind))


def onnx_of(checkpoint: Checkpoint, folder: Path, kind: str) -> Path:
    """The model file of its fp32 artefact for ONNX Runtime."""
    task = task_of(kind)
    plain = plain_onnx(checkpoint, task, folder / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, task, folder / "made", 32))
    return artifact.path / artifact.files[0]
