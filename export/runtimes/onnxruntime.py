"""ONNX Runtime on the CPU: attention fused and the fused count asserted; INT8 dynamic, static or of the weights."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from paredown.runtime.session import Session
from paredown.tasks.base import Task

from ..artifact import WEIGHTS_ONLY, Artifact, multiplies_int8
from ..hardware import has_int8_isa
from .base import ExportJob, RuntimeSpec
from .common import finish_artifact, open_as_bundles_do, why_unavailable, write_graphs

SPEC = RuntimeSpec(
    name="onnxruntime",
    module="onnxruntime",
    extra="cpu",
    packages=("onnxruntime",),
    precisions={
        "single": ("fp32", "fp16", "int8-dynamic", "int8-static"),
        "seq2seq": ("fp32", "int8-dynamic"),
        "causal_lm": ("fp32", *WEIGHTS_ONLY),  # the cache and every token's activations stay in float
    },
    cascade=True,
    plain_int8="int8-dynamic",
    export_format="onnx",
    hub_library="onnx",
    triton_backend="onnxruntime",
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building)


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`. StepError also when attention was not fused."""
    return export_for(job, SPEC)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)


def export_for(job: ExportJob, spec: RuntimeSpec) -> Artifact:
    """An ONNX artefact for ONNX Runtime or one of its execution providers."""
    from ..onnx.trace import OPSET

    job.out.mkdir(parents=True, exist_ok=True)
    reduce_range = not has_int8_isa()
    names, found = write_graphs(job, lambda part, name: _write(part, job.out / f"{name}.onnx", reduce_range, spec.gpu))
    details = {"opset": OPSET, **found}
    if multiplies_int8(job.precision):
        details |= {"weights": "S8 per channel", "activations": "U8", "reduce_range": reduce_range}
    return finish_artifact(job, spec, tuple(f"{name}.onnx" for name in names), details)


def _write(job: ExportJob, target: Path, reduce_range: bool, gpu: bool) -> dict:
    """One graph in its precision, written to `target`; returns what was found, for the artefact's details."""
    from paredown.compress.quantization import int8, weight_only

    from ..onnx.fusion import fuse, half
    from ..onnx.metadata import finish

    details: dict = {}
    rows = int8.Calibration(job.calibration, job.task, job.evaluator)
    with tempfile.TemporaryDirectory() as scratch:
        if job.precision == "int8-static":  # QDQ goes around MatMul, which a fused Attention would hide
            details |= int8.static(job.graph, target, rows, reduce_range=reduce_range)
        else:
            fused = Path(scratch) / "fused.onnx"
            details["fused"] = fuse(job.graph, fused, job.checkpoint, gpu=gpu)
            if job.precision == "int8-dynamic":
                details |= int8.dynamic(fused, target, rows, reduce_range=reduce_range)
            elif job.precision == "fp16":
                half(fused, target)
            elif job.precision in WEIGHTS_ONLY:
                details |= weight_only.onnx_weights(fused, target, WEIGHTS_ONLY[job.precision])
            else:
                shutil.copyfile(fused, target)
    checkpoint = job.checkpoint
    finish(target, task=job.task.name, labels=checkpoint.labels, source=checkpoint.digest, precision=job.precision)
    return details
