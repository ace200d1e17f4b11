"""A task's recipe, data and trained checkpoint: what tests from a recipe to its bundle begin with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import paredown

from paredown.compress.config import Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import Checkpoint, load, save, with_new_head
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.tasks.base import Task


@dataclass(frozen=True)
class Project:
    """A test module's `PROJECT`, which the fixtures `home` and `ran` make.

    `data(path)` writes the files that the recipe names; after it `teacher(path)` writes its checkpoint.
    """

    recipe: str
    data: Callable[[Path], object]
    teacher: Callable[[Path], object]

    def write(self, path: Path) -> None:
        self.data(path)
        self.teacher(path)
        (path / "recipe.yaml").write_text(self.recipe)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """`columns`: those that are written; None: all."""
    lines = [row if columns is None else {name: row[name] for name in columns} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Lists as cells with semicolons."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([";".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows)


def write_splits(
    path: Path,
    made: Mapping[str, Sequence[Mapping[str, object]]],
    as_csv: Sequence[str] = (),
    without_labels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """NAME.jsonl of every part, or NAME.csv. `without_labels`: the columns of parts that are not written in full."""
    for name, rows in made.items():
        if name in as_csv:
            write_csv(path / f"{name}.csv", rows)
        else:
            write_jsonl(path / f"{name}.jsonl", rows, (without_labels or {}).get(name))


def trained(
    source: Checkpoint, task: Task, train: Path, out: Path, labels: Sequence[str] = (), **settings: float
) -> Checkpoint:
    """Fine-tune a checkpoint on the rows of a file, embeddings too. `labels`: of a new head."""
    rows, encoder = read_rows(task, str(train), names=labels or source.labels), source.encoder(32)
    model = with_new_head(source, task, tuple(labels), 0) if labels else load(source, task)
    made = finetune(
        model, TrainingData(encoder.ids(rows.texts), task.training_targets(rows, encoder)),
        Finetune(freeze_embeddings=False, **settings), seed=0,  # type: ignore[arg-type]
    )  # fmt: skip
    return save(made, source, out)


def finetuned(path: Path, task: Task, *options: object) -> str:
    """The output of the command `finetune`, which makes `teacher` of `base` with train.jsonl and validation.csv."""
    data = ("--task", task.name, "--train", "train.jsonl", "--validation", "validation.csv")
    done = paredown("finetune", "base", *data, *options, "--no-freeze-embeddings", "--output-dir", "teacher", cwd=path)
    assert done.returncode == 0, done.stderr
    return done.stdout
