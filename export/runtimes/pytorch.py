"""A checkpoint run by PyTorch itself: the baseline that every artefact is compared with. No bundle is made of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from paredown.runtime.preprocessor import reader_file
from paredown.runtime.session import Session
from paredown.tasks.base import Task
from paredown.tasks.registry import task_named

from ..artifact import Artifact, marks_of
from .base import ExportJob, RuntimeSpec
from .common import why_unavailable

SPEC = RuntimeSpec(
    name="pytorch",
    module="torch",
    extra="compress",
    packages=(),
    precisions=dict.fromkeys(("single", "seq2seq", "causal_lm"), ("fp32",)),
    imports=("paredown.compress.models.loading", "paredown.compress.models.inference"),
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building)


def export(job: ExportJob) -> Artifact:
    """Copy the checkpoint, float32 weights included, to `job.out`."""
    from ..onnx.forms import FORMS

    checkpoint, task = job.checkpoint, job.task
    job.out.mkdir(parents=True, exist_ok=True)
    encoder = checkpoint.encoder(job.max_length)
    names = checkpoint.copy_to(job.out, weights=True)
    encoder.write(job.out)
    reader = reader_file(task.inputs)
    return Artifact(
        path=job.out,
        name=f"{SPEC.name}-{job.precision}",
        task=task.name,
        runtime=SPEC.name,
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


def open(artifact: Artifact, threads: int) -> Session:
    """The checkpoint as a session, float32, `threads` intra-op threads for the whole process."""
    from paredown.compress.models.loading import load, open_checkpoint

    task = task_named(artifact.task)
    checkpoint = open_checkpoint(artifact.path, task)
    if artifact.generation:
        checkpoint = replace(checkpoint, max_new_tokens=artifact.generation["max_new_tokens"])
    model = load(checkpoint, task)
    import torch

    from paredown.compress.models.inference import forward

    torch.set_num_threads(threads)
    return partial(forward, model)
