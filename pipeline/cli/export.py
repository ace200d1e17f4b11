"""The commands `export` and `quantize`: a checkpoint as the model of one runtime and precision."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from paredown.benchmarks.measurements import Details
from paredown.benchmarks.report.text import int8_lines
from paredown.compress.config import Int8
from paredown.compress.data import dataset
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.export.artifact import Artifact
from paredown.export.hardware import cores
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.runtime.errors import InputError, nearest
from paredown.runtime.preprocessor import collate, run_rows
from paredown.runtime.session import CannotRunHere
from paredown.tasks.base import Feature, Task
from paredown.tasks.rows import Rows

from .common import (
    LabelColumn,
    MaxLength,
    MaxNewTokens,
    OutputDir,
    Source,
    TaskOption,
    TextColumn,
    answering,
    out,
    task_for,
    writing,
)
from .validation import checked

JUDGED = 200  # rows of --train that an artefact is compared with its checkpoint on

app = typer.Typer()


@app.command()
def quantize(
    checkpoint: Source,
    output_dir: OutputDir,
    method: Annotated[
        Literal["dynamic", "static"],
        typer.Option(help="Quantisation of activations: dynamic (ranges at run time) or static (calibrated)."),
    ] = "dynamic",
    runtime: Annotated[
        Literal["onnxruntime", "openvino"], typer.Option(help="Runtime of the quantised model.")
    ] = "onnxruntime",
    train: Annotated[
        str | None,
        typer.Option(
            help="Rows for calibration and evaluation: by the metric if they have labels, else by KL divergence."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of these rows.")] = 300,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Maximum loss of the metric in points; above it, matrix products stay in float (default: 0.5)."
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            help="Maximum KL divergence to the float model for rows without labels, in nats per row (default: 0.01)."
        ),
    ] = None,
    max_length: MaxLength = 128,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Post-training quantisation to INT8: writes the model with its config and tokenizer."""
    if runtime == "openvino" and method == "dynamic":
        raise InputError("--method dynamic is for onnxruntime; openvino takes --method static")
    given = {"max_drop": max_drop, "max_kl": max_kl}
    if train is None and any(value is not None for value in given.values()):
        raise InputError("--max-drop, --max-kl: what INT8 costs is measured on rows: give --train F")
    limits = checked(Int8, given)
    kind = task_for(task, text=text_column, label=label_column)
    _export_to(checkpoint, output_dir, runtime, f"int8-{method}", train, rows, max_length, kind, limits=limits)


@app.command()
def export(
    checkpoint: Source,
    output_dir: OutputDir,
    to: Annotated[
        str, typer.Option(help="Format: onnx, ort (ONNX Runtime Mobile), openvino, tensorrt or tensorrt-rtx.")
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            help="Precision: fp32, fp16, bf16 (openvino, tensorrt), int8-dynamic (onnx) or int8-static; "
            "for text-generation also int8-weight or int4-weight."
        ),
    ] = "fp32",
    train: Annotated[
        str | None, typer.Option(help="Rows for INT8 calibration and for the parity check; labels are not needed.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of these rows, for INT8.")] = 300,
    max_length: MaxLength = 128,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="Input lengths that calls are padded to, such as 16,32,64; --max-length alone is fixed in the model."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Fixed batch size in the model (onnx, openvino).")
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(help="Batch sizes of the engine's profiles (tensorrt, tensorrt-rtx; default: 1,8).")
    ] = None,
    compute_capabilities: Annotated[
        str | None,
        typer.Option(help="Compute capabilities of the engine's GPUs (tensorrt-rtx; default: 80,86,89,120)."),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Export a checkpoint to an artefact: the model, its tokenizer, config.json and artifact.json."""
    formats = {r.SPEC.export_format: name for name, r in RUNTIMES.items() if r.SPEC.export_format}
    formats["ort"] = formats["onnx"]
    if to not in formats:
        raise InputError(f"--to {to}: {nearest(to, formats)}")
    runtime = formats[to]
    sizes = tuple(_numbers("--lengths", lengths, max_length))
    given = {
        "batch_sizes": _numbers("--batch-sizes", batch_sizes),
        "compute_capabilities": _numbers("--compute-capabilities", compute_capabilities),
    }
    engine = {key: numbers for key, numbers in given.items() if numbers}
    if engine and not RUNTIMES[runtime].SPEC.engine:
        raise InputError("--batch-sizes, --compute-capabilities: for --to tensorrt and tensorrt-rtx")
    kind = task_for(task, text=text_column, label=label_column)
    _export_to(
        checkpoint, output_dir, runtime, precision, train, rows, max_length, kind, sizes, batch_size,
        mobile=to == "ort", engine=engine, max_new_tokens=max_new_tokens,
    )  # fmt: skip


def _export_to(
    checkpoint: str,
    output_dir: Path,
    runtime: str,
    precision: str,
    train: str | None,
    count: int,
    max_length: int,
    kind: Task,
    lengths: tuple[int, ...] = (),
    batch_size: int | None = None,
    *,
    mobile: bool = False,
    engine: dict[str, list[int]] | None = None,
    max_new_tokens: int | None = None,
    limits: Int8 | None = None,
) -> None:
    from paredown.export.onnx.exporter import plain_onnx
    from paredown.export.onnx.metadata import for_mobile
    from paredown.export.onnx.static_shapes import shaped

    spec, building = RUNTIMES[runtime].SPEC, None
    if spec.gpu:
        kind.require(Feature.GPU, f"--to {runtime}")
    if spec.engine:
        reason = RUNTIMES[runtime].available(building=True)
        if reason is not None:
            raise InputError(reason)
        building = checked(Engine, {"lengths": lengths or None, **(engine or {})})
        if batch_size:
            raise InputError("--batch-size: an engine takes any up to its largest, of --batch-sizes; leave it out")
    if lengths or batch_size:
        kind.require(Feature.FIXED_SHAPES, "--lengths, --batch-size")
    if mobile:
        kind.require(Feature.MOBILE, "--to ort")
    if precision not in (known := RUNTIMES[runtime].precisions(kind)):
        raise InputError(f"--precision {precision}: for {kind.name}, {runtime} runs {', '.join(known) or 'nothing'}")
    source = answering(open_checkpoint(checkpoint, kind), kind, max_new_tokens)
    batches, judged, judge = [], None, None
    if precision == "int8-static" and train is None:
        raise InputError("int8-static is calibrated on rows: give --train F")
    if train is not None:
        int8, encoder = precision in ("int8-dynamic", "int8-static"), source.encoder(max_length)
        texts = _labelled_if_possible(kind, train, source) if int8 else read_rows(kind, train, labelled=False)
        judged = dataset.encode(encoder, texts.sample(JUDGED))
        if int8:
            texts = texts.sample(count)
            kind = kind.for_rows(texts if texts.labels is not None and len(texts.begins) else None)
            batches = [collate([row], source.pad_id) for row in dataset.encode(encoder, texts)]
            judge = Int8Evaluator(limits or Int8(), texts, encoder)
    with writing(output_dir, "export") as (target, _), tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        plain = plain_onnx(source, kind, Path(scratch) / "plain.onnx")
        job = ExportJob(plain, source, kind, target, max_length, precision, batches, judge, building)
        artifact = RUNTIMES[runtime].export(job)
        if not spec.engine and (lengths or batch_size):
            artifact = shaped(artifact, lengths, batch_size)
        if mobile:
            artifact = for_mobile(artifact)
        parity = _parity(source, kind, artifact, plain, judged)
        size = artifact.size_mb()
    costs = "".join(f"; {line}" for line in int8_lines(Details.model_validate(artifact.details)))
    out.print(f"{output_dir}: {runtime} {precision}, {size:.1f} MB; {parity}{costs}", soft_wrap=True)


def _labelled_if_possible(task: Task, source: str, checkpoint: Checkpoint) -> Rows:
    """Rows with labels, where there are any that the checkpoint knows: INT8 can be judged without."""
    try:
        return read_rows(task, source, names=checkpoint.labels, labelled=None)
    except InputError:
        return read_rows(task, source, labelled=False)


def _numbers(option: str, given: str | None, most: int | None = None) -> list[int]:
    """Positive numbers with commas between them, ascending; none where the option was not given."""
    if given is None:
        return []
    try:
        found = [int(part) for part in given.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or found[0] < 1 or found[-1] > (most or found[-1]):
        limit = f", at most --max-length {most}" if most else ""
        raise InputError(f"{option} {given}: numbers such as 16,32,64, ascending{limit}")
    return found


def _parity(source: Checkpoint, task: Task, artifact: Artifact, plain: Path, judged: list[list[int]] | None) -> str:
    """Compare with the checkpoint, answers and logits, on token ids of rows; without rows on random tokens.

    Rounding turns near ties, of which random tokens have many: there, answers count for fp32 alone.
    """
    from paredown.compress.models.inference import forward
    from paredown.export.checks.parity import (
        Expected,
        compare,
        departure,
        gate,
        longest_row,
        stand_in,
        takes_longest,
        tolerance_of,
    )

    rows = judged or artifact.encoder().random_rows(32, source.config.get("vocab_size"))
    said = ""
    try:
        session = open_artifact(artifact, cores())
    except CannotRunHere as reason:
        session = stand_in(artifact, cores())
        if session is None:
            return f"not compared with the checkpoint: {reason}"
        said = f"{reason}; of its ONNX graph on this CPU, "
    reference, encoder = partial(forward, load(source, task)), artifact.encoder()
    theirs = run_rows(reference, rows, source.pad_id, task.output)
    ours = run_rows(session, rows, source.pad_id, task.output)
    parity = compare(ours, theirs, None, task, list(map(len, rows)))  # nobody knows what is right
    limits = tolerance_of(task, artifact.precision)
    if judged is None and artifact.precision != "fp32":
        limits = replace(limits, min_agreement=0.0)
    where = partial(departure, plain, artifact, artifact.encoder().pad(rows[:8]))
    gate(parity, limits, artifact.name, artifact.precision, where)
    row, unit = longest_row(encoder, (), second=task.reads_pairs), task.unit(theirs)
    wanted = takes_longest(reference, row, encoder, task, str(source.path))
    expected = None if wanted is None else Expected(wanted, limits, unit)
    takes_longest(session, row, encoder, task, artifact.name, expected)
    where = (
        f"random {encoder.unit}" if judged is None else f"{len(rows)} rows, {parity.agreement:.1%} of the answers agree"
    )
    return said + task.describe_parity(parity.agreement, parity.max_difference, len(rows), where)
