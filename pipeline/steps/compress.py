"""The steps that make models and artefacts: each fills its directory from those of the steps before it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paredown.compress.config import (
    Distill,
    DistillationTraining,
    Finetune,
    Prune,
    Stage,
    Static,
    Timed,
    Training,
    Trim,
)
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save, with_new_head
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.export.artifact import read_artifact
from paredown.export.hardware import cores
from paredown.runtime.preprocessor import batches_of, collate
from paredown.tasks.rows import some_of

from ..job import SCORES, Candidate, Job, graph_name, has_scores, parts_of, table_name
from ..progress import Report
from ..store import Done
from .evaluate import answers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .latency_table import Cut, Stopwatch

TABLE = "table.json"


def compress(
    job: Job,
    settings: Stage,
    before: str | None,
    out: Path,
    done: Mapping[str, Done],
    report: Report,
) -> dict:
    """One stage on the checkpoint that the steps before it left."""
    from paredown.compress.distillation.distill import student_of, train_student
    from paredown.compress.distillation.static_student import initial_student
    from paredown.compress.pruning.prune import Latency, prune
    from paredown.compress.pruning.vocabulary import changed_share, trim
    from paredown.compress.training.trainer import finetune
    from paredown.compress.types import TrainingData

    all_cores()
    source, seed = checkpoint_after(job, before, done), job.recipe.seed
    if isinstance(settings, Distill) and settings.student is not None:
        source = open_checkpoint(settings.student).for_task(job.task)
        source = source.generating_like(job.checkpoint)
    model = _student(source, job) if isinstance(settings, Distill) else load(source, job.task)
    result: dict = {}
    tokenizer = None
    ids, labels = all_rows(job, source)
    encoder, mine = source.encoder(job.recipe.max_length), ids[: len(job.train)]
    held_out = encoder.ids(job.validation.texts)
    began, trained = time.monotonic(), 0.0

    def training(share: float, text: str) -> None:
        nonlocal trained
        trained = share  # of the epochs: patience may end them early
        report(share, text)

    if isinstance(settings, Finetune):
        judged = held_out, job.task.training_targets(job.validation, encoder)
        data = TrainingData(mine, labels[: len(mine)], validation=judged)
        finetune(model, data, settings, seed=seed, progress=training)
    if isinstance(settings, Prune):
        latency = None
        if settings.timed:
            table = read_table(done[table_name(settings.target)].path)
            latency = Latency(table, _stopwatch(job, source, settings.target).share)
        sample = batches_of([mine[i] for i in some_of(len(mine), settings.rows)], source.pad_id)
        result = prune(model, sample, settings, latency=latency, progress=report).to_json()
    if isinstance(settings, Trim):
        uncut = source.plain_tokenizer_text
        texts = [*all_texts(job), *source.prompts]
        tokenizer = trim(model, source.path / "tokenizer.json", texts, settings, uncut)
        result["changed_tokens"] = changed_share(uncut, tokenizer, job.validation.texts)
    if isinstance(settings, DistillationTraining):  # the teacher is the original checkpoint
        teacher = load(job.checkpoint, job.task)
        if isinstance(settings, Static):
            model = initial_student(teacher, settings, seed)
        elif isinstance(settings, Distill) and settings.student is None:
            model = student_of(model, settings, mine)
        began = time.monotonic()
        first = len(ids) - job.rows_of(settings)
        lines = job.task.output_lines(ids[:first])  # of scores, before the first row
        if has_scores(job, settings):
            scores, wanted = (np.load(done[SCORES].path / f"{name}.npy") for name in ("scores", "validation"))
            scores = scores[lines:]
        else:
            scores, wanted = None, job.task.training_targets(job.validation, encoder)
        data = TrainingData(ids[first:], labels[first:], scores, (held_out, wanted))
        train_student(model, teacher, data, settings, seed=seed, progress=training)
    if isinstance(settings, Training):
        seconds = time.monotonic() - began
        rows = (
            trained
            * settings.epochs
            * (job.rows_of(settings) if isinstance(settings, DistillationTraining) else len(mine))
        )
        result |= {"training_s": seconds, "rows_per_s": rows / seconds}
    save(model, source, out, tokenizer)
    return result | {"parameters": sum(p.numel() for p in model.parameters())}


def all_cores() -> None:
    """The same number of threads whatever ran before in this process: sums in another order are other weights."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cores()))


def _student(source: Checkpoint, job: Job) -> PreTrainedModel:
    """A checkpoint of the task as it is; one without a head for it gets a fresh one."""
    if source.has_head(job.task):
        return load(source, job.task)
    return with_new_head(source, job.task, job.checkpoint.labels, job.recipe.seed)


def all_texts(job: Job) -> list[str]:
    """The training rows, then the unlabelled ones."""
    return [*job.train.texts, *(job.unlabeled.texts if job.unlabeled is not None else [])]


def all_rows(job: Job, source: Checkpoint) -> tuple[list[list[int]], list[np.ndarray]]:
    """Token ids of `all_texts` as `source` tokenises them, and their labels: of a row, or of its tokens (NO_LABEL, or
    NaN for a number, where there is none)."""
    encoder = source.encoder(job.recipe.max_length)
    ids, labels = encoder.ids(all_texts(job)), list(job.task.training_targets(job.train, encoder))
    return ids, labels + job.task.missing_targets(ids[len(labels) :], len(job.checkpoint.labels))


def score(job: Job, out: Path, done: Mapping[str, Done], report: Report) -> None:
    """Mean logits of all teachers on every row that is learned from, and on validation: once for all students."""
    from paredown.compress.distillation.distill import mean_scores

    all_cores()
    models = [(load(teacher, job.task), teacher.encoder(job.recipe.max_length)) for teacher in job.teachers]
    for share, name, texts in ((0.0, "scores", all_texts(job)), (0.9, "validation", list(job.validation.texts))):
        report(share, f"{len(models)} teacher{'s' * (len(models) > 1)}, {len(texts)} rows")
        known = job.task.own_targets(len(job.train)) if name == "scores" else 0
        told = [(model, encoder.ids(texts[known:])) for model, encoder in models]
        found = mean_scores(told) if len(texts) > known else np.zeros((0, 1), dtype=np.int64)
        np.save(out / f"{name}.npy", np.concatenate([np.zeros((known, found.shape[1]), found.dtype), found]))


def measure_table(
    job: Job, target: Timed, chains: list[list[Cut]], out: Path, done: Mapping[str, Done], report: Report
) -> None:
    """The latency table of a target; InputError when pruning in one of the chains cannot be reached."""
    table = _stopwatch(job, job.checkpoint, target).table(chains, report)
    (out / TABLE).write_text(json.dumps(table.to_json(), indent=2) + "\n")


def _stopwatch(job: Job, checkpoint: Checkpoint, target: Timed) -> Stopwatch:
    """What times shapes of this checkpoint on the training rows."""
    from .latency_table import Stopwatch

    ids = dataset.encode(checkpoint.encoder(job.recipe.max_length), job.train)
    return Stopwatch(checkpoint, job.task, ids, target, job.recipe.max_length, tuple(job.recipe.lengths))


def read_table(path: Path) -> LatencyTable:
    return LatencyTable.from_json(json.loads((path / TABLE).read_text()))


def cascade(job: Job, candidate: Candidate, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Two exported models as one, with the threshold that validation gives."""
    from paredown.export.onnx.cascade import confidence, join, sure_share, threshold_for
    from paredown.tasks.scores import points

    assert candidate.model.cascade is not None
    report(0.0, "joining")
    first, then = parts_of(job, candidate)
    quick, slow = answers_of(first, done), answers_of(then, done)
    gold = job.validation.gold
    threshold = threshold_for(quick, slow, job.task.correct, gold, candidate.model.cascade.max_drop)
    right = job.task.correct(quick, gold)[confidence(quick) >= threshold]
    artifact = join(
        read_artifact(done[first.step].path),
        read_artifact(done[then.step].path),
        threshold,
        out,
        share=sure_share(quick, threshold),
        first_metric=points(right) if len(right) else None,
    )
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def export(
    job: Job, candidate: Candidate, before: str | None, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    from paredown.export.onnx.static_shapes import RUNTIMES_SHAPED, shaped
    from paredown.export.runtimes.base import ExportJob
    from paredown.export.runtimes.registry import RUNTIMES

    source = checkpoint_after(job, before, done)
    length = job.recipe.max_length
    report(0.0, "exporting")
    calibration, evaluator = [], None
    if candidate.target.precision in ("int8-dynamic", "int8-static"):
        rows, encoder = job.train.sample(job.recipe.calibration_rows), source.encoder(length)
        calibration = [collate([row], source.pad_id) for row in dataset.encode(encoder, rows)]
        evaluator = Int8Evaluator(job.recipe.int8, rows, encoder)
    graph = done.get(graph_name(candidate.model))
    plain = graph.path / "plain.onnx" if graph else None
    precision = candidate.target.precision
    wanted = ExportJob(plain, source, job.task, out, length, precision, calibration, evaluator, job.engine)
    artifact = RUNTIMES[candidate.target.runtime].export(wanted)
    if job.recipe.lengths and artifact.runtime in RUNTIMES_SHAPED:
        artifact = shaped(artifact, job.recipe.lengths)
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def checkpoint_after(job: Job, before: str | None, done: Mapping[str, Done]) -> Checkpoint:
    return job.checkpoint if before is None else open_checkpoint(done[before].path, job.task)
