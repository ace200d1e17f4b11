"""Continual learning on new labelled rows: forgetting, and the comparison with training on all rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from paredown.compress.config import Finetune, Update
from paredown.compress.data import dataset
from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import apart, certified, held_out, repeats
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.base import Feature, Task
from paredown.tasks.labels import LabelColumn, canonical, is_number
from paredown.tasks.rows import Rows

from ..inputs import StageInputs
from ..progress import Report

EVERY = 5  # one of so many new rows is held out, where no others are given to judge on


@dataclass(frozen=True)
class NewRows:
    """Rows that came later; `labels` are the checkpoint's own, then the new ones."""

    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows | None


def read_arrivals(
    task: Task, known: tuple[str, ...], new: str, validation: str | None = None, test: str | None = None
) -> NewRows:
    """Read new rows; a fifth of them is held out when no `validation` is given. Raises InputError."""
    more = new_labels(known, dataset.class_names(task, new), new)
    if more:
        task.require(Feature.NEW_LABELS, f"{new}: the label '{more[0]}'")
    labels = (*known, *more)
    read = partial(read_rows, task, names=labels)
    train = read(new)
    if validation is not None:
        return NewRows(labels, train, read(validation), read(test) if test else None)
    kept, held = held_out(train, EVERY)
    if not len(kept):
        raise InputError(f"{new}: one row to learn and one to judge on are needed; give new rows to judge on")
    held = replace(held, source=f"{train.source} (a fifth, held out)")
    return NewRows(labels, kept, held, read(test) if test else None)


def new_labels(known: Sequence[str], found: Sequence[str], source: str) -> list[str]:
    """Those of the labels `found` in new rows that are neither names nor indices of known ones.

    InputError for a number that can be an index and a name.
    """
    column = LabelColumn(known, "label")
    more = [name for name in found if column.named(name) is None]
    indices = [name for name in more if column.index(name) is not None]
    numeric = any(is_number(canonical(name.strip())) for name in (*known, *(n for n in more if n not in indices)))
    if indices and numeric:
        raise InputError(
            f"{source}: '{indices[0]}' is a new label, or the index of '{known[column.index(indices[0]) or 0]}'; names "
            f"of labels here are numbers too ({', '.join([*known, *more][:6])}): write known labels by their names, "
            "and give new ones names that are no numbers"
        )
    return [name for name in more if name not in indices]


def new_rows_apart(
    old: Rows, held: Rows | None, test: Rows | None, new: NewRows, *, certify: bool = False
) -> tuple[Rows | None, Rows | None, NewRows, tuple[str, ...]]:
    """Old validation and test rows and the new rows without those that stand in two splits, and notes on them.

    `certify`: a third of the new validation rows is held out as new test rows, where there are none. InputError where
    more stand in two splits than `splits.apart` allows.
    """
    notes = repeats(new.train, new.validation, new.test)
    kept = apart([old, new.train], [held, new.validation, test, new.test])
    held, validation, test, new_test = kept.judged
    assert validation is not None
    notes += kept.notes
    if certify and new_test is None:
        validation, new_test, note = certified(validation)
        few = f"{validation.source}: too few rows to hold a third out; the certificate is of the old rows"
        notes += (note if new_test is not None else few,)
    return held, test, replace(new, validation=validation, test=new_test), notes


def joined(a: Rows, b: Rows | None) -> Rows:
    """The rows of both; labels count in the same order, `b` may have further ones. Groups: those of `a`, or "new"."""
    if b is None:
        return a
    groups = None if a.groups is None else (*a.groups, *(b.groups or ["new"] * len(b)))
    names = max(a.names, b.names, key=len)
    return Rows(f"{a.source} + {b.source}", (*a.texts, *b.texts), np.concatenate([a.gold, b.gold]), names, groups)


def grow_checkpoint(inputs: StageInputs, new: NewRows, settings: Update, out: Path, report: Report) -> dict:
    """Write the updated checkpoint to `out`; returns metrics in points, seconds, and how many rows were trained on.

    The rows of `inputs` are the old ones. Its validation rows, on which forgetting is measured, and those of `new` are
    never learned from.
    """
    from paredown.compress.training.continual import UpdateData, update

    task, source, old, held = inputs.task, inputs.checkpoint, inputs.train, inputs.validation
    max_length, encoder, read = inputs.max_length, inputs.encoder, inputs.checkpoint.read
    model = load(source, task)
    judged = new.validation if held is None else joined(held, new.validation)
    before = {"old": score(model, source, task, held, max_length)}
    before["new"] = score(model, source, task, new.validation, max_length)
    began = time.monotonic()
    data = UpdateData(
        old=(read(encoder.ids(old.texts)), task.training_targets(old, encoder)),
        new=(read(dataset.encode(encoder, new.train)), task.training_targets(new.train, encoder)),
        labels=new.labels,
        validation=(read(encoder.ids(judged.texts)), task.training_targets(judged, encoder)),
    )
    update(model, data, settings, seed=inputs.seed, progress=report)
    seconds = time.monotonic() - began
    saved = save(model, source, out)
    after = {
        name: score(model, saved, task, rows, max_length) for name, rows in (("old", held), ("new", new.validation))
    }
    rows = settings.epochs * (len(new.train) + min(len(old), round(settings.replay * len(new.train))))
    lost = None if before["old"] is None or after["old"] is None else before["old"] - after["old"]
    found = {
        "labels": len(new.labels),
        "new_labels": list(new.labels[len(source.labels) :]),
        "old_before": before["old"],
        "old_after": after["old"],
        "forgetting": lost,
        "new_before": before["new"],
        "new_after": after["new"],
        "rows": rows,
        "training_s": seconds,
    }
    return found | _retrained(inputs, new, settings, seconds / rows)


def _retrained(inputs: StageInputs, new: NewRows, settings: Update, row_s: float) -> dict:
    """The same checkpoint trained on all rows: measured when `retrain` asks for it, otherwise what it would cost."""
    from paredown.compress.training.continual import grow
    from paredown.compress.training.trainer import finetune
    from paredown.compress.types import TrainingData

    everything = joined(inputs.train, new.train)
    if not settings.retrain:
        return {"retrain": {"estimated": True, "training_s": row_s * settings.epochs * len(everything)}}
    source, task, seed, max_length = inputs.checkpoint, inputs.task, inputs.seed, inputs.max_length
    model = load(source, task)
    grow(model, new.labels, seed)
    plain = Finetune(
        epochs=settings.retrain, learning_rate=settings.learning_rate, batch_size=settings.batch_size,
        freeze_embeddings=settings.freeze_embeddings,
    )  # fmt: skip
    began = time.monotonic()
    encoder = source.encoder(max_length)
    data = TrainingData(source.read(encoder.ids(everything.texts)), task.training_targets(everything, encoder))
    finetune(model, data, plain, seed=seed)
    seconds = time.monotonic() - began
    old, fresh = (score(model, source, task, rows, max_length) for rows in (inputs.validation, new.validation))
    return {"retrain": {"estimated": False, "training_s": seconds, "old_after": old, "new_after": fresh}}


def score(model, source: Checkpoint, task: Task, rows: Rows | None, max_length: int) -> float | None:
    """The metric of a model on the CPU, in points; a label that it has no output for is always wrong."""
    from paredown.compress.models.inference import forward

    if rows is None:
        return None
    encoder = source.encoder(max_length)
    own = () if not source.labels else tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    outputs = run_rows(partial(forward, model), encoder.ids(rows.texts), source.pad_id, task.output)
    return task.metric(outputs, task.gold(replace(rows, names=max(rows.names, own, key=len)), encoder))


def sentence(found: dict) -> str:
    """What an update did, in one line."""
    parts = [f"new rows {found['new_before']:.2f} -> {found['new_after']:.2f}"]
    if found["old_before"] is not None:
        parts.append(f"old rows {found['old_before']:.2f} -> {found['old_after']:.2f}")
        parts.append(f"forgetting {found['forgetting']:.2f} points")
    again = found["retrain"]
    cost = f"{found['training_s']:.0f} s, all rows again "
    if again["estimated"]:
        return "; ".join([*parts, f"{cost}about {again['training_s']:.0f} s"])
    metrics = f"{again['new_after']:.2f} on new rows" + (
        "" if again["old_after"] is None else f", {again['old_after']:.2f} on old ones"
    )
    return "; ".join([*parts, f"{cost}{again['training_s']:.0f} s ({metrics})"])
