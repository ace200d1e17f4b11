"""ONNX Runtime's TensorRT execution provider: the graph that engines are built from; it builds one on its first run."""

from __future__ import annotations

from functools import partial

from paredown.runtime.session import PROVIDERS, Session, require_provider
from paredown.tasks.base import Task

from ..artifact import Artifact
from .base import ExportJob, RuntimeSpec
from .common import ONNX_FILE, finish_artifact, open_as_bundles_do, why_unavailable

SPEC = RuntimeSpec(
    name="onnxruntime-tensorrt",
    module="onnxruntime",
    extra="gpu",
    packages=("onnxruntime-gpu", "tensorrt"),
    precisions={"single": ("fp32", "fp16", "int8-static")},
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
    from ..onnx.metadata import finish
    from .tensorrt_engine import typed_graph

    job.out.mkdir(parents=True, exist_ok=True)
    target, checkpoint = job.out / ONNX_FILE, job.checkpoint
    details = typed_graph(job, target)
    finish(target, task=job.task.name, labels=checkpoint.labels, source=checkpoint.digest, precision=job.precision)
    return finish_artifact(job, SPEC, (ONNX_FILE,), details)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)
