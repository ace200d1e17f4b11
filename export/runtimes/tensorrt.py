"""TensorRT for data-centre GPUs: an engine is built on the GPU that it is for."""

from __future__ import annotations

from functools import partial

from paredown.runtime.session import ENGINES, Session, require_engine_runtime
from paredown.tasks.base import Task

from ..artifact import Artifact
from .base import ExportJob, RuntimeSpec
from .common import open_as_bundles_do, why_unavailable

SPEC = RuntimeSpec(
    name="tensorrt",
    module=ENGINES["tensorrt"],
    extra="gpu",
    packages=("tensorrt", "cuda-bindings"),
    precisions={"single": ("fp32", "fp16", "bf16", "int8-static")},
    gpu=True,
    builds_on_gpu=True,
    engine=True,
    export_format="tensorrt",
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building, partial(require_engine_runtime, SPEC.name))


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`. StepError has everything that the parser or the builder reported."""
    from .tensorrt_engine import export_engine

    return export_engine(job, SPEC)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)
