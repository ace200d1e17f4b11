"""ONNX Runtime's CUDA execution provider: the fused graph of the CPU, in float32 or float16."""

from __future__ import annotations

from functools import partial

from paredown.runtime.session import PROVIDERS, Session, require_provider
from paredown.tasks.base import Task

from ..artifact import Artifact
from .base import ExportJob, RuntimeSpec
from .common import open_as_bundles_do, why_unavailable
from .onnxruntime import export_for

SPEC = RuntimeSpec(
    name="onnxruntime-cuda",
    module="onnxruntime",
    extra="gpu",
    packages=("onnxruntime-gpu",),
    precisions={"single": ("fp32", "fp16")},
    gpu=True,
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building, partial(require_provider, PROVIDERS[SPEC.name]))


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`."""
    return export_for(job, SPEC)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)
