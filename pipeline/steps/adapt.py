"""The steps before compression (fine-tuning, search, augmentation, new rows); their result is the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from paredown.compress.config import Augment, Finetune, Tune
from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import without
from paredown.compress.models.loading import load, open_checkpoint
from paredown.export.hardware import all_cores
from paredown.runtime.errors import InputError, nearest
from paredown.runtime.manifest import sha256_of

from ..estimates import training
from ..job import Job, Step, rows_digest
from ..progress import Report
from ..recipe.schema import Adapt, Arrivals
from ..store import Done
from . import continual, stages, tune
from .augment import write_augmented
from .step_keys import code_of

ROWS = "rows.jsonl"  # what augment adds


def adapt_steps(job: Job) -> list[Step]:
    """The recipe's `adapt`, one step of the run each; empty where it has none."""
    steps: list[Step] = []
    labels, so_far = job.checkpoint.labels, job
    for number, entry in enumerate(job.recipe.adapt):
        stage, settings = entry.stage
        inputs = {
            "stage": f"adapt-{stage}",
            "settings": settings.model_dump(),
            "seed": job.recipe.seed,
            "max_length": job.recipe.max_length,
            "checkpoint": job.checkpoint.digest,
            "train": rows_digest(job.train),
            "validation": rows_digest(job.validation),
            "after": {steps[-1].name: steps[-1].key} if steps else {},
            **job.trained_on,
            "processes": job.recipe.training_processes,
            **code_of("compress"),
        }
        rows = len(job.train)
        if isinstance(settings, Arrivals):
            so_far, new = _read(settings, so_far, labels)
            if new.labels != labels and len(job.teachers) > 1:
                raise InputError(
                    f"adapt: update brings the label '{new.labels[len(labels)]}', which the further teachers do not "
                    "know; leave `teachers` out, or update them first: paredown update"
                )
            inputs["new"] = [rows_digest(part) for part in (new.train, new.validation, new.test)]
            inputs["held"] = rows_digest(so_far.validation)
            so_far = _grown(so_far, new)
            labels, rows = new.labels, round(len(new.train) * (1 + settings.replay))
        if isinstance(settings, Finetune) and isinstance(settings.class_weights, dict):
            unknown = next((name for name in settings.class_weights if name not in labels), None)
            if unknown is not None:
                raise InputError(f"adapt: class_weights: no label '{unknown}'; {nearest(unknown, labels)}")
        if isinstance(settings, Augment):
            inputs["given"] = [_digest(path) for path in (settings.synonyms, settings.masked_model, *settings.through)]
        if isinstance(settings, Tune):
            seconds = 60 * settings.minutes + training(job, 2 * settings.finetune.epochs * rows)
        else:
            seconds = 10.0 if isinstance(settings, Augment) else training(job, settings.epochs * rows)
        steps.append(Step(_name(number, entry), inputs, seconds, partial(_adapt, job, number)))
    return steps


def adapted(job: Job, done: Mapping[str, Done]) -> Job:
    """The job after its `adapt` steps: another checkpoint, more rows, more labels."""
    return _before(job, len(job.recipe.adapt), done)


def _adapt(job: Job, number: int, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    all_cores()
    settings = job.recipe.adapt[number].stage[1]
    job = _before(job, number, done)
    length, source, task = job.recipe.max_length, job.checkpoint, job.task
    if isinstance(settings, Arrivals):
        job, new = _read(settings, job, source.labels)
        found = continual.grow_checkpoint(job.inputs(source), new, settings, out, report)
        return found | {"said": continual.sentence(found)}
    if isinstance(settings, Augment):
        count = write_augmented(job.train, settings, out / ROWS, job.recipe.seed, report)
        return {"rows": count, "said": f"{count} changed copies of {len(job.train)} training rows"}
    if isinstance(settings, Tune):
        inputs = job.inputs(source)
        key = tune.study_key(inputs, settings)
        study = out.parent.parent / "search" / f"{_name(number, job.recipe.adapt[number])}-{key}.log"
        found = tune.tune_checkpoint(inputs, settings, out, study, report)
        return found | {"said": tune.sentence(found)}
    assert isinstance(settings, Finetune)
    before = continual.score(load(source, task), source, task, job.validation, length)
    found = stages.finetune(job.inputs(source), settings, out, report)
    saved = open_checkpoint(out, task)
    after = continual.score(load(saved, task), saved, task, job.validation, length)
    seconds = found["training_s"]
    said = f"{task.metric_name} {before:.2f} -> {after:.2f} on validation, {seconds:.0f} s"
    return {"before": before, "after": after, "training_s": seconds, "said": said}


def _before(job: Job, number: int, done: Mapping[str, Done]) -> Job:
    """The job as the first `number` steps left it."""
    for i, entry in enumerate(job.recipe.adapt[:number]):
        settings, left = entry.stage[1], done[_name(i, entry)].path
        if isinstance(settings, Augment):
            more = read_rows(job.task, str(left / ROWS), names=job.checkpoint.labels)
            judged = [rows for rows in (job.validation, job.test) if rows is not None]
            job = replace(job, train=continual.joined(job.train, without(more, judged)))
            continue
        checkpoint = open_checkpoint(left, job.task)
        if isinstance(settings, Arrivals):
            job, new = _read(settings, job, job.checkpoint.labels)
            job = _grown(job, new)
        job = replace(job, checkpoint=checkpoint, teachers=(checkpoint, *job.teachers[1:]))
    return job


def _read(settings: Arrivals, job: Job, labels: tuple[str, ...]) -> tuple[Job, continual.NewRows]:
    """The job and the new rows without what stands in two splits; the job's notes say what that was."""
    given = job.recipe.data
    task = job.task.with_columns(given.text, given.label)
    new = continual.read_arrivals(task, labels, settings.new, settings.new_validation, settings.new_test)
    certify = job.certificate_split == "held-out validation"
    held, test, new, notes = continual.new_rows_apart(job.train, job.validation, job.test, new, certify=certify)
    assert held is not None
    if job.certificate_split == "test" and new.test is None:
        notes += (f"{settings.new}: no new_test is given; the certificate is of the old test rows",)
    return replace(job, validation=held, test=test, notes=tuple(dict.fromkeys((*job.notes, *notes)))), new


def _grown(job: Job, new: continual.NewRows) -> Job:
    """The job with new rows among its own."""
    return replace(
        job,
        train=continual.joined(job.train, new.train),
        validation=continual.joined(job.validation, new.validation),
        test=new.test if job.test is None else continual.joined(job.test, new.test),
        certificate_split=job.certificate_split or (None if new.test is None else "test"),
    )


def _digest(source: str | None) -> str | None:
    """sha256 of a file or a checkpoint that a step reads; a hub id is its own name."""
    if source is None or not Path(source).exists():
        return source
    if Path(source).is_dir():
        return open_checkpoint(source).digest
    return sha256_of(Path(source))


def _name(number: int, entry: Adapt) -> str:
    return f"adapt-{number + 1}-{entry.stage[0]}"
