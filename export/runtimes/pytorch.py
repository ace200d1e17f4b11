"""A checkpoint run by PyTorch itself: the baseline that every artefact is compared with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.runtime.preprocessor import reader_file
from paredown.runtime.session import Session
from paredown.tasks.base import Task
from paredown.tasks.registry import task_named

from ..artifact import Artifact, marks_of
from ..onnx.forms import FORMS


def to_pytorch(checkpoint: Checkpoint, task: Task, out: Path, max_length: int) -> Artifact:
    """Copy the checkpoint to `out` as an artefact of the runtime `pytorch`."""
    out.mkdir(parents=True, exist_ok=True)
    encoder = checkpoint.encoder(max_length)
    names = checkpoint.copy_to(out, weights=True)
    encoder.write(out)
    reader = reader_file(task.inputs)
    return Artifact(
        path=out,
        name=out.name,
        task=task.name,
        runtime="pytorch",
        precision="fp32",
        files=tuple(name for name in names if name != reader),
        inputs=task.inputs,
        outputs=(task.output,),
        labels=checkpoint.labels,
        max_length=encoder.max_length,
        pad_id=checkpoint.pad_id,
        source=checkpoint.digest,
        details=marks_of(encoder),
        generation=FORMS[task.graph].generation(checkpoint, ("model.safetensors",)),
    ).write()


def open_pytorch(path: Path, task: str, threads: int, generation: dict | None = None) -> Session:
    """The checkpoint directory as a session, float32, `threads` intra-op threads for the whole process."""
    from paredown.compress.models.loading import load

    kind = task_named(task)
    checkpoint = open_checkpoint(path, kind)
    if generation:
        checkpoint = replace(checkpoint, max_new_tokens=generation["max_new_tokens"])
    model = load(checkpoint, kind)
    import torch

    from paredown.compress.models.inference import forward

    torch.set_num_threads(threads)
    return partial(forward, model)
