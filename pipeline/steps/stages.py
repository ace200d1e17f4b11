"""The stages: each is a function of its inputs, its settings, the directory that it fills and a progress callback.

The step of a run, the command and the function of the Python API call the same one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from paredown.compress.config import (
    Distill,
    DistillationTraining,
    Finetune,
    Int8,
    Prune,
    Static,
    Timed,
    Training,
    Trim,
    Truncate,
)
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load, save, with_new_head
from paredown.compress.models.validation import TRUNCATE
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.compress.types import TrainingData
from paredown.export.artifact import Artifact
from paredown.export.hardware import all_cores, training_threads
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import batches_of, collate
from paredown.tasks.base import Task
from paredown.tasks.rows import Rows, some_of

from ..inputs import StageInputs
from ..progress import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .latency_table import Stopwatch

INT8 = ("int8-dynamic", "int8-static")  # precisions whose cost is measured on rows
Work = TypeVar("Work", bound=Callable[..., Any])


def over_processes(stage: Work) -> Work:
    """The stage, done by `inputs.processes` processes at once where that is more than one. Each of them calls the same
    function; the first one writes."""

    @wraps(stage)
    def run(inputs: StageInputs, *args: Any, **kwargs: Any) -> Any:
        from paredown.compress.distributed.group import count
        from paredown.compress.distributed.processes import Processes, spread

        if count() == 1 and "TORCHELASTIC_RUN_ID" in os.environ:
            raise InputError("paredown starts its processes itself: leave torchrun out, and give training_processes")
        if inputs.processes == 1 or count() > 1:
            return stage(inputs, *args, **kwargs)
        given = signature(stage).bind(inputs, *args, **kwargs).arguments
        report = given.pop("report")
        return spread(run, given, Processes(inputs.processes, max(1, training_threads() // inputs.processes)), report)

    return run  # type: ignore[return-value]


@over_processes
def finetune(inputs: StageInputs, settings: Finetune, out: Path, report: Report, *, by_epoch: bool = False) -> dict:
    """Fine-tune on the labelled rows; a checkpoint without a head for the task gets a new one. `by_epoch`: the result
    has `validation_loss`, after each epoch, none without validation rows."""
    from paredown.compress.distributed.group import leads
    from paredown.compress.training.trainer import finetune as train

    all_cores()
    model = loaded(inputs)
    data, clock = inputs.training_data(), _Clock(report)
    losses: list[float] | None = [] if by_epoch else None
    train(model, data, settings, seed=inputs.seed, progress=clock, by_epoch=losses)
    result = clock.result(settings, len(data.ids))
    if leads():
        save(model, inputs.checkpoint, out)
    return result | _size(model) | ({} if losses is None else {"validation_loss": losses})


def prune(inputs: StageInputs, settings: Prune, out: Path, report: Report, table: LatencyTable | None = None) -> dict:
    """Structured pruning, without fine-tuning after it. `table`: needed where the settings have a latency target."""
    from paredown.compress.pruning.prune import Latency
    from paredown.compress.pruning.prune import prune as pruned

    all_cores()
    model = load(inputs.checkpoint, inputs.task)
    ids, _ = inputs.all_rows()
    sample = batches_of([ids[i] for i in some_of(len(inputs.train), settings.rows)], inputs.checkpoint.pad_id)
    share = stopwatch(inputs, settings.target).share if settings.timed and settings.time_shape else None
    latency = None if table is None else Latency(table, share)
    result = pruned(model, sample, settings, latency=latency, progress=report).to_json()
    save(model, inputs.checkpoint, out)
    return result | _size(model)


def trim(inputs: StageInputs, settings: Trim, out: Path, report: Report) -> dict:
    """Reduce the vocabulary. `changed_tokens`: share of the validation tokens that change, None without such rows."""
    from paredown.compress.pruning.vocabulary import changed_share
    from paredown.compress.pruning.vocabulary import trim as trimmed

    all_cores()
    source = inputs.checkpoint
    model, before = load(source, inputs.task), source.plain_tokenizer_text
    texts = [*inputs.texts, *source.prompts]
    tokenizer = trimmed(model, source.path / "tokenizer.json", texts, settings, before)
    judged = inputs.validation
    changed = None if judged is None else changed_share(before, tokenizer, judged.texts)
    save(model, source, out, tokenizer)
    return {"changed_tokens": changed} | _size(model)


def check_window(checkpoint: Checkpoint, settings: Truncate) -> None:
    """InputError where the checkpoint reads less of a row than the settings ask for."""
    before = checkpoint.truncation
    if before is not None and (settings.first > before[0] or settings.last > before[1]):
        raise InputError(
            f"truncate: the checkpoint reads the first {before[0]} and the last {before[1]} tokens already; give fewer"
        )


def truncate(inputs: StageInputs, settings: Truncate, out: Path, report: Report) -> dict:
    """Read less of longer rows. `truncated`: share of the training rows that are longer."""
    from paredown.compress.models.truncation import truncate as truncated

    check_window(inputs.checkpoint, settings)
    report(0.0, "counting tokens")
    model = load(inputs.checkpoint, inputs.task)
    longer = [len(row) > settings.first + settings.last for row in inputs.encoder.ids(inputs.train.texts)]
    truncated(model, settings.first, settings.last)
    save(model, inputs.checkpoint, out)
    return {"truncated": float(np.mean(longer))} | _size(model)


@over_processes
def distill(
    inputs: StageInputs,
    settings: DistillationTraining,
    teacher: Checkpoint,
    out: Path,
    report: Report,
    scores: Path | None = None,
) -> dict:
    """Knowledge distillation from `teacher` into the checkpoint of `inputs`: its layers that the settings name, a
    static student made of it, or as it is (recovery, a student from elsewhere).

    `scores`: directory that `score` has filled; None: the teacher runs in training.
    """
    from paredown.compress.distillation.distill import student_of, train_student
    from paredown.compress.distillation.static_student import initial_student
    from paredown.compress.distributed.group import leads
    from paredown.compress.models.truncation import truncate as truncated

    all_cores()
    task, model = inputs.task, loaded(inputs)
    ids, targets = inputs.all_rows()
    unpruned = load(teacher, task)
    if isinstance(settings, Static):
        model = initial_student(unpruned, settings, inputs.seed)
    elif isinstance(settings, Distill) and settings.student is None:
        model = student_of(model, settings, ids[: len(inputs.train)])
    if teacher.truncation and getattr(model.config, TRUNCATE, None) is None:  # a student reads no more than its teacher
        truncated(model, *teacher.truncation)
        ids = teacher.read(ids)
    clock = _Clock(report)
    first = len(inputs.train) if settings.learn_from == "unlabeled" else 0
    wanted, validation = None, inputs.validation_rows()
    if scores is not None:
        lines = task.output_lines(ids[:first])  # of scores, before the first row
        wanted = np.load(scores / SCORES)[lines:]
        if validation is not None:
            validation = validation[0], np.load(scores / VALIDATION_SCORES)
    data = TrainingData(ids[first:], None if targets is None else targets[first:], wanted, validation)
    train_student(model, unpruned, data, settings, seed=inputs.seed, progress=clock)
    result = clock.result(settings, len(ids) - first)
    if leads():
        save(model, inputs.checkpoint, out)
    return result | _size(model)


SCORES, VALIDATION_SCORES = "scores.npy", "validation.npy"


@over_processes
def score(inputs: StageInputs, teachers: Sequence[Checkpoint], out: Path, report: Report) -> None:
    """Mean logits of all teachers on every row that students learn from, and on validation. A text-to-text teacher
    generates for the rows without a text of their own."""
    from paredown.compress.distillation.distill import mean_scores
    from paredown.compress.distributed.group import leads

    all_cores()
    task = inputs.task
    models = [(load(teacher, task), teacher.encoder(inputs.max_length)) for teacher in teachers]
    own = task.own_targets(len(inputs.train)) if inputs.train.labels is not None else 0
    judged = [] if inputs.validation is None else [(0.9, VALIDATION_SCORES, list(inputs.validation.texts), 0)]
    for share, name, texts, known in ((0.0, SCORES, inputs.texts, own), *judged):
        report(share, f"{len(models)} teacher{'s' * (len(models) > 1)}, {len(texts)} rows")
        rows = [(model, encoder.ids(texts[known:])) for model, encoder in models]
        found = mean_scores(rows) if len(texts) > known else np.zeros((0, 1), dtype=np.int64)
        if leads():
            np.save(out / name, np.concatenate([np.zeros((known, found.shape[1]), found.dtype), found]))


def stopwatch(inputs: StageInputs, target: Timed) -> Stopwatch:
    """What times shapes of the checkpoint on the training rows."""
    from .latency_table import Stopwatch

    ids = inputs.checkpoint.read(dataset.encode(inputs.encoder, inputs.train))
    return Stopwatch(inputs.checkpoint, inputs.task, ids, target, inputs.max_length, inputs.lengths)


@dataclass(frozen=True)
class ExportFormat:
    """What a checkpoint is exported to."""

    runtime: str
    precision: str
    max_length: int
    lengths: tuple[int, ...] = ()  # that calls are padded to
    batch_size: int | None = None  # fixed in the model
    mobile: bool = False  # ONNX Runtime Mobile
    engine: Engine = field(default_factory=Engine)  # of TensorRT
    int8: Int8 = field(default_factory=Int8)


def export(
    source: Checkpoint, task: Task, plain: Path | None, wanted: ExportFormat, out: Path, rows: Rows | None = None
) -> Artifact:
    """Write the artefact of one runtime and precision. `plain`: as in `ExportJob`.
    `rows`: for INT8, calibration and the measurement of what it costs."""
    from paredown.export.onnx.metadata import for_mobile
    from paredown.export.onnx.static_shapes import RUNTIMES_SHAPED, shaped

    runtime, length, precision = RUNTIMES[wanted.runtime], wanted.max_length, wanted.precision
    calibration, evaluator = [], None
    if precision in INT8 and rows is not None:
        encoder = source.encoder(length)
        calibration = [collate([row], source.pad_id) for row in dataset.encode(encoder, rows)]
        evaluator = Int8Evaluator(wanted.int8, rows, encoder)
    job = ExportJob(
        plain, source, task, out, length, precision, calibration, evaluator, wanted.engine, wanted.lengths,
        wanted.batch_size,
    )  # fmt: skip
    artifact = runtime.export(job)
    if (wanted.lengths or wanted.batch_size) and artifact.runtime in RUNTIMES_SHAPED:
        artifact = shaped(artifact, wanted.lengths, wanted.batch_size)
    return for_mobile(artifact) if wanted.mobile else artifact


def loaded(inputs: StageInputs) -> PreTrainedModel:
    """The checkpoint's model; one without a head for the task gets a new one."""
    if inputs.checkpoint.has_head(inputs.task):
        return load(inputs.checkpoint, inputs.task)
    return with_new_head(inputs.checkpoint, inputs.task, inputs.labels, inputs.seed)


class _Clock:
    """Passes progress on, and says how long training took and how many rows a second it saw."""

    def __init__(self, report: Report) -> None:
        self.report, self.share, self.began = report, 0.0, time.monotonic()

    def __call__(self, share: float, text: str) -> None:
        self.share = share  # of the epochs: patience may end them early
        self.report(share, text)

    def result(self, settings: Training, rows: int) -> dict:
        seconds = time.monotonic() - self.began
        return {"training_s": seconds, "rows_per_s": self.share * settings.epochs * rows / seconds}


def _size(model: PreTrainedModel) -> dict:
    return {"parameters": sum(p.numel() for p in model.parameters())}
