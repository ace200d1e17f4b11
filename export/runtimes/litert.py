"""LiteRT on the CPU, for phones and embedded devices: a .tflite model in fp32 or with dynamic INT8.

A model has a signature for each of its lengths, with shared weights, and takes `batch_size` rows (default: one). It is
converted by litert-torch in an environment of its own (`make litert`), which PAREDOWN_LITERT_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

from paredown.runtime.errors import InputError, StepError
from paredown.runtime.session import Session
from paredown.tasks.base import Task

from ..artifact import Artifact
from ..hardware import importable
from .base import ExportJob, RuntimeSpec
from .common import conversion, finish_artifact, open_as_bundles_do, why_unavailable

MODEL = "model.tflite"
HAS_CONVERTER = "import importlib.metadata as m; m.version('litert-torch')"
PYTHON = "PAREDOWN_LITERT_PYTHON"  # environment variable: the Python that has litert-torch
SPEC = RuntimeSpec(
    name="litert",
    module="ai_edge_litert",
    extra="litert",
    packages=("ai-edge-litert",),
    precisions={"single": ("fp32", "int8-dynamic")},
    on_device=True,
    imports=("ai_edge_litert.interpreter",),
    export_format="litert",
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    reason = why_unavailable(SPEC, building)
    if reason is None and building and not _converts(converter()):
        named = f"; {converter()} has none" if PYTHON in os.environ else ""
        return (
            f"litert needs litert-torch to convert models{named}: make litert, and set {PYTHON}=build/litert/bin/python"
        )
    return reason


def converter() -> str:
    """The Python that converts: the one that PAREDOWN_LITERT_PYTHON names, or this one."""
    return os.environ.get(PYTHON) or sys.executable


@cache
def _converts(python: str) -> bool:
    """Whether a Python has litert-torch; asked once, before hours of training."""
    if python == sys.executable:
        return importable("litert_torch")
    try:
        return subprocess.run([python, "-c", HAS_CONVERTER], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`. INT8 is that of the weights of matrix products; activations are quantised at run time."""
    from ..onnx.single import example_inputs, positional
    from ..onnx.static_shapes import buckets
    from ..onnx.trace import quiet

    reason = available(building=True)
    if reason is not None:
        raise InputError(reason)
    import torch

    encoder, rows = job.checkpoint.encoder(job.max_length), job.batch_size or 1
    axes = job.task.input_axes
    lengths = buckets(job.lengths, encoder.max_length) if "length" in axes.values() else ()
    job.out.mkdir(parents=True, exist_ok=True)
    module, programs = positional(job.checkpoint, job.task), {}
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        for length in lengths or (0,):
            examples = example_inputs(job.task, encoder, rows, length)
            file = Path(scratch) / f"length_{length}.pt2"
            with quiet(), warnings.catch_warnings(), conversion(job, "torch.export"):
                warnings.simplefilter("ignore")
                torch.export.save(torch.export.export(module, examples, strict=False), file)
            programs[file.stem] = str(file)
        _convert(job, programs, Path(scratch) / "job.json")
    artifact = finish_artifact(job, SPEC, (MODEL,), {})
    return replace(artifact, lengths=lengths, batch_size=rows).write()


def _convert(job: ExportJob, programs: dict[str, str], written: Path) -> None:
    """The programs as one model. StepError with the last line of what the converter said."""
    wanted = {
        "programs": programs,
        "inputs": job.task.inputs,
        "output": job.task.output,
        "target": str(job.out.absolute() / MODEL),
        "int8": job.precision == "int8-dynamic",
    }
    written.write_text(json.dumps(wanted))
    script = Path(__file__).with_name("litert_convert.py")
    command = [converter(), "-P", str(script), str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (job.out / MODEL).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise StepError(f"litert-torch cannot convert this model: {said[-1][:300] if said else done.returncode}")
