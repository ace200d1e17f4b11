"""The steps that make models and artefacts: each fills its directory from those of the steps before it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paredown.compress.config import DistillationTraining, Finetune, Prune, Stage, Timed, Trim, Truncate
from paredown.compress.models.checkpoint import read_ends
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.export.artifact import read_artifact
from paredown.export.hardware import all_cores
from paredown.runtime.preprocessor import Preprocessor

from ..job import BASE_TARGET, SCORES, Candidate, Job, evaluation_name, graph_name, has_scores, parts_of, table_name
from ..progress import Report
from ..recipe.schema import BASELINE, Model
from ..store import Done
from . import stages
from .evaluate import answers_of, confidence_of

if TYPE_CHECKING:
    from .latency_table import Cut

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
    inputs = job.inputs(checkpoint_after(job, before, done), job.rows_for(settings)).for_stage(settings)
    if isinstance(settings, Finetune):
        return stages.finetune(inputs, settings, out, report)
    if isinstance(settings, Prune):
        table = read_table(done[table_name(settings.target)].path) if settings.timed else None
        return stages.prune(inputs, settings, out, report, table)
    if isinstance(settings, DistillationTraining):  # the teacher is the original checkpoint
        scores = done[SCORES].path if has_scores(job, settings) else None
        return stages.distill(inputs, settings, job.checkpoint, out, report, scores)
    if isinstance(settings, Truncate):
        return stages.truncate(inputs, settings, out, report)
    return stages.trim(inputs, settings, out, report)


def score(job: Job, out: Path, done: Mapping[str, Done], report: Report) -> None:
    """Mean logits of all teachers, once for all students."""
    stages.score(job.inputs(job.checkpoint, job.lessons), job.teachers, out, report)


def measure_table(job: Job, target: Timed, out: Path, done: Mapping[str, Done], report: Report) -> None:
    """The latency table of a target."""
    table = stages.stopwatch(job.inputs(job.checkpoint), target).table(report)
    (out / TABLE).write_text(json.dumps(table.to_json(), indent=2) + "\n")


def check_reachable(
    job: Job, target: Timed, chains: list[list[Cut]], out: Path, done: Mapping[str, Done], report: Report
) -> None:
    """InputError when a pruning in one of the chains asks for a time that cannot be reached."""
    watch, table = stages.stopwatch(job.inputs(job.checkpoint), target), read_table(done[table_name(target)].path)
    for cuts in chains:
        watch.check(table, cuts)


def read_table(path: Path) -> LatencyTable:
    return LatencyTable.from_json(json.loads((path / TABLE).read_text()))


def windows(job: Job, ends: Sequence[tuple[int, int]], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """How far the checkpoint is from itself where it reads only the first and the last tokens of a row: the mean of
    `Task.regrets` on validation for each of `ends`."""
    from paredown.compress.models.inference import teacher_scores

    all_cores()
    encoder = job.checkpoint.encoder(job.recipe.max_length)
    model, ids, found = load(job.checkpoint, job.task), job.checkpoint.read(encoder.ids(job.validation.texts)), []
    for number, (first, last) in enumerate(ends):
        report(number / len(ends), f"the first {first} and the last {last} tokens")
        outputs = teacher_scores(model, [read_ends(row, first, last) for row in ids])
        found.append(_distance(job, outputs, encoder, done))
    return {"distances": found}


def vocabulary(job: Job, settings: Trim, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """What a trimmed vocabulary costs the checkpoint on validation: points of the metric, and the mean of
    `Task.regrets`."""
    from paredown.compress.models.inference import teacher_scores

    with tempfile.TemporaryDirectory(dir=out) as scratch:
        stages.trim(job.inputs(job.checkpoint), settings, Path(scratch) / "trimmed", report)
        trimmed = open_checkpoint(Path(scratch) / "trimmed", job.task)
        encoder = trimmed.encoder(job.recipe.max_length)
        report(0.5, "scoring validation")
        outputs = teacher_scores(load(trimmed, job.task), trimmed.read(encoder.ids(job.validation.texts)))
    whole = done[evaluation_name(Candidate(Model(name=BASELINE), BASE_TARGET))].result["metric_validation"]
    drop = whole - job.task.metric(outputs, job.task.gold(job.validation, encoder))
    return {"drop": drop, "distance": _distance(job, outputs, encoder, done)}


def _distance(job: Job, outputs: np.ndarray, encoder: Preprocessor, done: Mapping[str, Done]) -> float:
    """The mean of `Task.regrets` on validation, by what the checkpoint answers."""
    baseline = Candidate(Model(name=BASELINE), BASE_TARGET)
    whole, own = answers_of(baseline, done), read_artifact(done[baseline.step].path).encoder()
    ours, theirs = (
        job.task.comparable(values, job.task.gold(job.validation, tokenizer))
        for values, tokenizer in ((outputs, encoder), (whole, own))
    )
    return float(job.task.regrets(ours, theirs).mean())


def cascade(job: Job, candidate: Candidate, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Two exported models as one, with the threshold that validation gives. The second may be a cascade itself."""
    from paredown.benchmarks.statistics.thresholds import threshold_for
    from paredown.export.onnx.cascade import join
    from paredown.tasks.scores import points

    assert candidate.model.cascade is not None
    report(0.0, "joining")
    first, then = parts_of(job, candidate)
    answers, confident = [answers_of(part, done) for part in (first, then)], confidence_of(job, first, done)
    gold = job.task.gold(job.validation, read_artifact(done[first.step].path).encoder())
    quick, slow = (job.task.correct(outputs, gold) for outputs in answers)
    regrets = job.task.regrets(*(job.task.comparable(outputs, gold) for outputs in answers))
    threshold = threshold_for(confident, quick, slow, regrets, candidate.model.cascade.max_drop)
    sure = confident >= threshold
    right = quick[sure]
    asked = [~sure, *(~sure & rows for rows in _asked(job, then, done))]
    artifact = join(
        read_artifact(done[first.step].path),
        read_artifact(done[then.step].path),
        threshold,
        out,
        asked=[float(rows.mean()) for rows in asked],
        first_metric=points(right) if len(right) else None,
    )
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def _asked(job: Job, candidate: Candidate, done: Mapping[str, Done]) -> list[np.ndarray]:
    """Which validation rows each further model of a cascade would be asked about, (rows,) bool; none of one model."""
    if candidate.model.cascade is None:
        return []
    first, then = parts_of(job, candidate)
    threshold = read_artifact(done[candidate.step].path).details["cascade"]["threshold"]
    unsure = confidence_of(job, first, done) < threshold
    return [unsure, *(unsure & rows for rows in _asked(job, then, done))]


def export(
    job: Job, candidate: Candidate, before: str | None, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    """A candidate's artefact, from the plain graph of its model."""
    report(0.0, "exporting")
    runtime, precision = candidate.target.runtime, candidate.target.precision
    wanted = stages.ExportFormat(
        runtime, precision, job.recipe.max_length, tuple(job.recipe.lengths), engine=job.engine, int8=job.recipe.int8
    )
    rows = job.train.sample(job.recipe.calibration_rows)
    graph = done.get(graph_name(candidate.model))  # none of PyTorch
    plain = graph.path / "plain.onnx" if graph else None
    artifact = stages.export(checkpoint_after(job, before, done), job.task, plain, wanted, out, rows)
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def checkpoint_after(job: Job, before: str | None, done: Mapping[str, Done]) -> Checkpoint:
    return job.checkpoint if before is None else open_checkpoint(done[before].path, job.task)
