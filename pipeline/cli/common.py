"""Options and helpers that the commands of single stages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import apart, repeats
from paredown.compress.models.loading import Checkpoint, load
from paredown.runtime.errors import StepError
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named
from paredown.tasks.rows import Rows

from ..progress import Report, Reporter, tell
from ..store import new_directory

out = Console(markup=False)

Source = Annotated[str, typer.Argument(help="Checkpoint: directory or hub id.")]
Train = Annotated[str, typer.Option(help="Labelled rows: .csv, .jsonl, .parquet or a datasets name.")]
Validation = Annotated[str | None, typer.Option(help="Labelled rows for the metric.")]
Unlabeled = Annotated[str | None, typer.Option(help="Further text without labels.")]
OutputDir = Annotated[Path, typer.Option(help="Directory to write; must not exist.")]
Epochs = Annotated[float, typer.Option(help="Number of epochs.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
BatchSize = Annotated[int, typer.Option(help="Batch size.")]
MaxLength = Annotated[int, typer.Option(min=4, help="Maximum input length, in tokens.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Maximum number of generated tokens, saved in generation_config.json."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random number generators.")]
Adversarial = Annotated[
    Literal["fgm", "pgd", "freelb"] | None, typer.Option(help="Adversarial training method: fgm, pgd or freelb.")
]
TaskOption = Annotated[str, typer.Option(help="Task of the model.")]
TextColumn = Annotated[str | None, typer.Option(help="Name of the text column (default: detected).")]
LabelColumn = Annotated[str | None, typer.Option(help="Name of the label column (default: detected).")]


@contextmanager
def writing(output_dir: Path, stage: str) -> Iterator[tuple[Path, Report]]:
    with new_directory(output_dir) as target, Reporter(1).step(stage) as report:
        try:
            yield target, report
        except StepError as error:
            raise StepError(f"{stage}: {error}") from error


def typed(text: str) -> str:
    """A text of the command line, in UTF-8 whatever the terminal's locale says."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def adversarial_settings(kind: str | None, task: Task) -> dict | None:
    if kind is None:
        return None
    task.require(Feature.ADVERSARIAL, "--adversarial")
    return {"kind": kind}


def task_for(name: str, *features: Feature, text: str | None = None, label: str | None = None) -> Task:
    """The task of this name, its rows in the columns that are named. InputError where it does not support one of the
    features, which the command needs."""
    task = task_named(name, "--task")
    for feature in features:
        task.require(feature, f"--task {name}")
    return task.with_columns(text, label)


def answering(checkpoint: Checkpoint, task: Task, max_new_tokens: int | None) -> Checkpoint:
    """The checkpoint, its texts so many tokens long at most; InputError for a task that has none."""
    if max_new_tokens:
        task.require(Feature.MAX_NEW_TOKENS, "--max-new-tokens")
    return replace(checkpoint.for_task(task), max_new_tokens=max_new_tokens)


def optional(source: str | None, task: Task, names: tuple[str, ...]) -> Rows | None:
    return None if source is None else read_rows(task, source, names=names)


def kept_apart(train: Rows, validation: Rows | None, unlabeled: Rows | None = None) -> tuple[Rows | None, Rows | None]:
    """Validation without the rows that are also learned from, unlabelled rows without those of validation; stderr says
    how many these were. InputError where validation shares more than `splits.apart` allows."""
    kept = apart([train], [validation], unlabeled)
    tell([*repeats(train, validation), *kept.notes])
    return kept.judged[0], kept.unlabeled


def metric(saved: Checkpoint, task: Task, rows: Rows | None, max_length: int) -> float | None:
    from paredown.compress.models.inference import forward

    if rows is None:
        return None
    encoder = saved.encoder(max_length)
    outputs = run_rows(partial(forward, load(saved, task)), encoder.ids(rows.texts), saved.pad_id, task.output)
    return task.metric(outputs, task.gold(rows, encoder))


def say(output_dir: Path, task: Task, metric: float | None, more: str = "") -> None:
    shown = "" if metric is None else f": {task.metric_name} {metric:.2f} on validation"
    out.print(f"{output_dir}{shown}{more}", soft_wrap=True)
