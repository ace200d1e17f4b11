"""Checkpoint to artefact: one runtime and precision, compared with the checkpoint it came from."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from ..compress import data as data_module
from ..compress.checkpoint import Checkpoint, load, open_checkpoint
from ..compress.encoder import collate, run_rows
from ..compress.errors import InputError, nearest
from ..compress.tasks import Task
from ..export.artifact import PRECISIONS, Artifact
from ..export.engine import require
from ..export.machine import cores
from ..export.session import ENGINES, CannotRunHere
from .stages import MaxLength, OutputDir, Source, TaskOption, out, task_named, writing

app = typer.Typer()


@app.command()
def quantize(
    checkpoint: Source,
    output_dir: OutputDir,
    method: Annotated[Literal["dynamic", "static"], typer.Option(help="ranges at run time, or calibrated")] = "dynamic",
    runtime: Annotated[Literal["onnxruntime", "openvino"], typer.Option(help="what will run it")] = "onnxruntime",
    train: Annotated[str | None, typer.Option(help="rows to calibrate and judge on; labels are not needed")] = None,
    rows: Annotated[int, typer.Option(min=1, help="static: how many of them")] = 300,
    max_length: MaxLength = 128,
    task: TaskOption = "text-classification",
) -> None:
    """INT8: the checkpoint's config and tokenizer with an INT8 model beside them."""
    if runtime == "openvino" and method == "dynamic":
        raise InputError("--method dynamic is for onnxruntime; openvino takes --method static")
    _export_to(checkpoint, output_dir, runtime, f"int8-{method}", train, rows, max_length, task)


@app.command()
def export(
    checkpoint: Source,
    output_dir: OutputDir,
    to: Annotated[
        str, typer.Option(help="onnx, ort (ONNX Runtime for phones), openvino, tensorrt, tensorrt-rtx")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 (openvino, tensorrt), int8-dynamic (onnx), int8-static")
    ] = "fp32",
    train: Annotated[str | None, typer.Option(help="int8: rows to calibrate and judge on")] = None,
    rows: Annotated[int, typer.Option(min=1, help="int8-static: how many of them")] = 300,
    max_length: MaxLength = 128,
    task: TaskOption = "text-classification",
) -> None:
    """Checkpoint to an artefact: the model, its tokenizer, config.json and artifact.json."""
    formats = {
        "onnx": "onnxruntime", "ort": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt",
        "tensorrt-rtx": "tensorrt_rtx",
    }  # fmt: skip
    if to not in formats:
        raise InputError(f"--to {to}: {nearest(to, formats)}")
    runtime = formats[to]
    _export_to(checkpoint, output_dir, runtime, precision, train, rows, max_length, task, mobile=to == "ort")


def _export_to(
    checkpoint: str,
    output_dir: Path,
    runtime: str,
    precision: str,
    train: str | None,
    count: int,
    max_length: int,
    task: str,
    *,
    mobile: bool = False,
) -> None:
    from ..export.exporters import EXPORTERS
    from ..export.onnx_file import for_mobile
    from ..export.to_onnx import plain_onnx

    kind = task_named(task)
    if runtime in ENGINES:
        require(runtime)
    if precision not in PRECISIONS[runtime]:
        raise InputError(f"--precision {precision}: {runtime} runs {', '.join(PRECISIONS[runtime])}")
    source = open_checkpoint(checkpoint, kind)
    batches = []
    if precision == "int8-static" and train is None:
        raise InputError("int8-static is calibrated on rows: give --train F")
    if precision.startswith("int8") and train is not None:
        texts = data_module.read(train, labelled=False).sample(count)
        batches = [collate([row], source.pad_id) for row in data_module.encode(source.encoder(max_length), texts)]
    with writing(output_dir, "export") as (target, _), tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        plain = plain_onnx(source, kind, Path(scratch) / "plain.onnx")
        artifact = EXPORTERS[runtime](plain, source, kind, target, max_length, precision, batches)
        if mobile:
            artifact = for_mobile(artifact)
        checked = _parity(source, kind, artifact, plain)
        size = artifact.size_mb()
    out.print(f"{output_dir}: {runtime} {precision}, {size:.1f} MB; {checked}", soft_wrap=True)


def _parity(source: Checkpoint, task: Task, artifact: Artifact, plain: Path) -> str:
    """Compare with the checkpoint on random tokens: exact precisions must pass the gate, others are reported."""
    from ..compress.inference import forward
    from ..export.parity import TOLERANCES, compare, departure, gate

    random = np.random.default_rng(0)
    known = artifact.encoder().tokenizer.get_vocab_size()
    lengths = random.integers(4, min(48, artifact.max_length) + 1, size=32)
    rows = [random.integers(min(1000, known // 2), known, size=n).tolist() for n in lengths]
    try:
        session = artifact.open(cores())
    except CannotRunHere as reason:
        return f"not compared with the checkpoint: {reason}"
    theirs = run_rows(partial(forward, load(source, task)), rows, source.pad_id, task.output)
    ours = run_rows(session, rows, source.pad_id, task.output)
    parity = compare(ours, theirs, theirs.argmax(-1), task.metric)
    if artifact.precision == "fp32":
        where = partial(departure, plain, artifact, artifact.encoder().pad(rows[:8]))
        gate(parity, TOLERANCES["fp32"], artifact.name, "fp32", where)
    return f"logits differ from the checkpoint's by {parity.max_difference:.2g} at most on random tokens"
