"""One stage alone: a checkpoint directory in, a checkpoint (or artefact) directory out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.console import Console

from ..compress import data as data_module
from ..compress.checkpoint import Checkpoint, load, open_checkpoint, save, with_new_head
from ..compress.data import Rows
from ..compress.encoder import collate, run_rows
from ..compress.errors import InputError, nearest
from ..compress.settings import Distill, Finetune, Heal, Prune
from ..compress.tasks import TASKS, Task
from ..export.artifact import PRECISIONS, Artifact
from ..export.machine import cores
from ..export.session import CannotRunHere
from .options import checked
from .progress import Report, Reporter
from .store import new_directory

app = typer.Typer()
out = Console(markup=False)

Source = Annotated[str, typer.Argument(help="checkpoint: directory or hub id")]
Train = Annotated[str, typer.Option(help="labelled rows: .csv, .jsonl, .parquet or a datasets name")]
Validation = Annotated[str | None, typer.Option(help="labelled rows to report the metric on")]
Unlabeled = Annotated[str | None, typer.Option(help="further text without labels")]
OutputDir = Annotated[Path, typer.Option(help="directory to write; must not exist")]
Epochs = Annotated[float, typer.Option(help="passes over the rows")]
Rate = Annotated[float, typer.Option(help="peak learning rate")]
BatchSize = Annotated[int, typer.Option(help="rows per optimiser step")]
MaxLength = Annotated[int, typer.Option(min=4, help="longest input, tokens")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of every random choice")]
TaskOption = Annotated[str, typer.Option(help="what the model does")]


@app.command()
def finetune(
    checkpoint: Source,
    train: Train,
    output_dir: OutputDir,
    validation: Validation = None,
    epochs: Epochs = 3.0,
    learning_rate: Rate = 1e-4,
    batch_size: BatchSize = 32,
    freeze_embeddings: Annotated[bool, typer.Option(help="a quarter less time a step")] = False,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
) -> None:
    """Train a checkpoint on labelled rows; a base model gets a new head."""
    from ..compress.train import finetune as train_model

    kind = _task(task)
    source = open_checkpoint(checkpoint)
    has_head = (source.config.get("architectures") or [""])[0].endswith(kind.head)
    names = source.labels if has_head else data_module.label_names(train)
    rows = data_module.read(train, names=names)
    data_module.require_two_classes(rows, names)
    held_out = _optional(validation, names)
    settings = checked(
        Finetune,
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "freeze_embeddings": freeze_embeddings,
        },
    )
    ids = data_module.encode(source.encoder(max_length), rows)
    with _writing(output_dir, "finetune") as (target, report):
        model = load(source, kind) if has_head else with_new_head(source, kind, names, seed)
        train_model(model, ids, rows.gold, settings, seed=seed, progress=report)
        saved = save(model, source, target)
        metric = _metric(saved, kind, held_out, max_length)
    _say(output_dir, kind, metric)


@app.command()
def prune(
    checkpoint: Source,
    train: Train,
    output_dir: OutputDir,
    validation: Validation = None,
    unlabeled: Unlabeled = None,
    heads: Annotated[float, typer.Option(help="share of attention heads to keep, 0..1")] = 0.7,
    ffn: Annotated[float, typer.Option(help="share of feed-forward neurons to keep, 0..1")] = 0.6,
    layers: Annotated[str | None, typer.Option(help="layers to keep: a number, or a list such as 0,2,5")] = None,
    recover_epochs: Annotated[float, typer.Option(min=0, help="training after the cut (0: none)")] = 0.0,
    learning_rate: Rate = 2e-4,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
) -> None:
    """Cut whole heads, feed-forward neurons and layers, the least important first."""
    from ..compress.distill import heal
    from ..compress.prune import prune as cut

    kind = _task(task)
    source = open_checkpoint(checkpoint, kind)
    rows = data_module.read(train, names=source.labels)
    held_out = _optional(validation, source.labels)
    settings = checked(Prune, {"heads": heads, "ffn": ffn, "layers": _layers(layers)})
    ids = data_module.encode(source.encoder(max_length), rows)
    with _writing(output_dir, "prune") as (target, report):
        model = load(source, kind)
        cut(model, ids[: settings.rows], rows.gold[: settings.rows], settings, progress=report)
        if recover_epochs:
            recover = checked(
                Heal, {"epochs": recover_epochs, "learning_rate": learning_rate, "batch_size": batch_size}
            )
            everything = ids + _more(source, unlabeled, max_length)
            heal(model, load(source, kind), everything, recover, seed=seed, progress=report)
        saved = save(model, source, target)
        metric = _metric(saved, kind, held_out, max_length)
    _say(output_dir, kind, metric)


@app.command()
def distill(
    checkpoint: Source,
    train: Annotated[str, typer.Option(help="rows to learn on; labels are not needed")],
    output_dir: OutputDir,
    validation: Validation = None,
    unlabeled: Unlabeled = None,
    layers: Annotated[str, typer.Option(help="a number of the teacher's layers, or a list such as 0,2,5")] = "3",
    epochs: Epochs = 3.0,
    learning_rate: Rate = 2e-4,
    batch_size: BatchSize = 32,
    temperature: Annotated[float, typer.Option(help="of the logit loss")] = 2.0,
    hidden_weight: Annotated[float, typer.Option(help="weight of the hidden-state loss")] = 1.0,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
) -> None:
    """Make a student from some of the teacher's layers and teach it the teacher's answers."""
    from ..compress.distill import distill as teach

    kind = _task(task)
    source = open_checkpoint(checkpoint, kind)
    rows = data_module.read(train, labelled=False)
    held_out = _optional(validation, source.labels)
    settings = checked(
        Distill,
        {
            "layers": _layers(layers), "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
            "temperature": temperature, "hidden_weight": hidden_weight,
        },
    )  # fmt: skip
    ids = data_module.encode(source.encoder(max_length), rows) + _more(source, unlabeled, max_length)
    with _writing(output_dir, "distill") as (target, report):
        student = teach(load(source, kind), ids, settings, seed=seed, progress=report)
        saved = save(student, source, target)
        metric = _metric(saved, kind, held_out, max_length)
    _say(output_dir, kind, metric)


@app.command()
def quantize(
    checkpoint: Source,
    output_dir: OutputDir,
    method: Annotated[Literal["dynamic", "static"], typer.Option(help="ranges at run time, or calibrated")] = "dynamic",
    runtime: Annotated[Literal["onnxruntime", "openvino"], typer.Option(help="what will run it")] = "onnxruntime",
    train: Annotated[str | None, typer.Option(help="static: rows to calibrate on; labels are not needed")] = None,
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
    to: Annotated[str, typer.Option(help="the format: onnx or openvino")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, bf16 (openvino), int8-dynamic (onnx), int8-static")] = "fp32",
    train: Annotated[str | None, typer.Option(help="int8-static: rows to calibrate on")] = None,
    rows: Annotated[int, typer.Option(min=1, help="int8-static: how many of them")] = 300,
    max_length: MaxLength = 128,
    task: TaskOption = "text-classification",
) -> None:
    """Checkpoint to an artefact: the model, its tokenizer, config.json and artifact.json."""
    formats = {"onnx": "onnxruntime", "openvino": "openvino"}
    if to not in formats:
        later = "TensorRT engines are not made by this version; " if to.startswith("tensorrt") else ""
        raise InputError(f"--to {to}: {later}{nearest(to, formats)}")
    runtime = formats[to]
    _export_to(checkpoint, output_dir, runtime, precision, train, rows, max_length, task)


def _export_to(
    checkpoint: str,
    output_dir: Path,
    runtime: str,
    precision: str,
    train: str | None,
    count: int,
    max_length: int,
    task: str,
) -> None:
    from ..export.to_onnx import plain_onnx, to_onnx
    from ..export.to_openvino import to_openvino

    kind = _task(task)
    if precision not in PRECISIONS[runtime]:
        raise InputError(f"--precision {precision}: {runtime} runs {', '.join(PRECISIONS[runtime])}")
    source = open_checkpoint(checkpoint, kind)
    batches = []
    if precision == "int8-static":
        if train is None:
            raise InputError("int8-static is calibrated on rows: give --train F")
        texts = data_module.read(train, labelled=False).first(count)
        batches = [collate([row], source.pad_id) for row in data_module.encode(source.encoder(max_length), texts)]
    exporter = {"onnxruntime": to_onnx, "openvino": to_openvino}[runtime]
    with _writing(output_dir, "export") as (target, _), tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        plain = plain_onnx(source, kind, Path(scratch) / "plain.onnx")
        artifact = exporter(plain, source, kind, target, max_length, precision, batches)
        checked = _parity(source, kind, artifact)
        size = artifact.size_mb()
    out.print(f"{output_dir}: {runtime} {precision}, {size:.1f} MB; {checked}", soft_wrap=True)


def _parity(source: Checkpoint, task: Task, artifact: Artifact) -> str:
    """Compare with the checkpoint on random tokens: exact precisions must pass the gate, others are reported."""
    from ..compress.train import forward
    from ..export.parity import TOLERANCES, compare, gate

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
        gate(parity, TOLERANCES["fp32"], artifact.name, "fp32")
    return f"logits differ from the checkpoint's by {parity.max_difference:.2g} at most on random tokens"


@contextmanager
def _writing(output_dir: Path, stage: str) -> Iterator[tuple[Path, Report]]:
    with new_directory(output_dir) as target, Reporter(1).step(stage) as report:
        yield target, report


def _task(name: str) -> Task:
    if name not in TASKS:
        raise InputError(f"--task {name}: {nearest(name, TASKS)}")
    return TASKS[name]


def _optional(source: str | None, names: tuple[str, ...]) -> Rows | None:
    return None if source is None else data_module.read(source, names=names)


def _more(source: Checkpoint, unlabeled: str | None, max_length: int) -> list[list[int]]:
    if unlabeled is None:
        return []
    return data_module.encode(source.encoder(max_length), data_module.read(unlabeled, labelled=False))


def _layers(given: str | None) -> int | list[int] | None:
    if given is None:
        return None
    try:
        return int(given) if "," not in given else [int(part) for part in given.split(",")]
    except ValueError:
        raise InputError(f"--layers {given}: a number such as 3, or a list such as 0,2,5") from None


def _metric(saved: Checkpoint, task: Task, rows: Rows | None, max_length: int) -> float | None:
    from ..compress.train import forward

    if rows is None:
        return None
    ids = saved.encoder(max_length).ids(rows.texts)
    return task.metric(run_rows(partial(forward, load(saved, task)), ids, saved.pad_id, task.output), rows.gold)


def _say(output_dir: Path, task: Task, metric: float | None) -> None:
    shown = "" if metric is None else f": {task.metric_name} {metric:.2f} on validation"
    out.print(f"{output_dir}{shown}", soft_wrap=True)
