"""The verb `augment`, and what the recipe's step of that name writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from paredown.compress.config import Augment
from paredown.compress.data.dataset import Rows
from paredown.runtime.errors import InputError
from paredown.tasks.parsing import columns_of
from paredown.tasks.registry import Task

from ..progress import Report, Reporter
from ..store import write_atomic
from .common import LabelColumn, Seed, TaskOption, TextColumn, about_words, out, task_named
from .validation import checked

app = typer.Typer()


@app.command()
def augment(
    train: Annotated[str, typer.Option(help="rows to change: .csv, .jsonl, .parquet or a datasets name")],
    output: Annotated[Path, typer.Option(help=".jsonl to write: the rows as they were, then the changed ones")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="typos, deletion, swap, synonyms, masked, back_translation (default: the first three)"),
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="changed copies of every row")] = 1,
    share: Annotated[float, typer.Option(help="share of a row's words that a change touches")] = 0.1,
    synonyms: Annotated[str | None, typer.Option(help="file with a group of words a line, with commas")] = None,
    masked_model: Annotated[str | None, typer.Option(help="masked-language model whose words fill gaps")] = None,
    through: Annotated[list[str] | None, typer.Option(help="seq2seq checkpoints, there and back (give two)")] = None,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Changed copies of training rows, the same for a seed; give it training rows only."""
    if output.exists() or output.suffix != ".jsonl":
        raise InputError(f"--output {output}: a new file that ends in .jsonl is expected")
    kinds = task_named(task, text=text_column, label=label_column)
    about_words(kinds, "augment")
    if kinds.vector:
        raise InputError(f"--task {task}: augment changes rows of one text, and these are pairs")
    if kinds.per_token:
        raise InputError(
            f"--task {task}: augment changes, moves and leaves out words, and their tags or answers with them"
        )
    settings = checked(
        Augment,
        {
            "kinds": kind, "copies": copies, "share": share, "synonyms": synonyms, "masked_model": masked_model,
            "through": through,
        },
    )  # fmt: skip
    labels = _labels(train, kinds)
    rows = kinds.read(train, names=labels, labelled=bool(labels))
    with Reporter(1).step("augment") as report:
        count = write_augmented(rows, labels, settings, output, seed, report, whole=True)
    out.print(f"{output}: {len(rows)} rows and {count} changed copies", soft_wrap=True)


def write_augmented(
    rows: Rows, labels: tuple[str, ...], settings: Augment, path: Path, seed: int, report: Report, whole: bool = False
) -> int:
    """Write the changed copies (after the rows themselves, with `whole`) as JSON lines; returns how many there are."""
    from paredown.compress.training.augmentation import augment as changed_copies

    made = changed_copies(rows.texts, settings, seed=seed, progress=report)
    if not made:
        raise InputError(f"{rows.source}: no row came out changed; look at `kinds` and `share`")
    entries = [*enumerate(rows.texts), *made] if whole else made
    lines = []
    for i, text in entries:
        label = {} if rows.labels is None else _label_of(rows.labels[i], labels)
        lines.append(json.dumps({**columns_of(text), **label}, ensure_ascii=False))
    write_atomic(path, "\n".join(lines) + "\n")
    return len(made)


def _label_of(label: np.ndarray, names: tuple[str, ...]) -> dict:
    """A row's label, all that it has, or its number, under names that `read` finds again."""
    if label.dtype == np.float64:
        return {"score": float(label)}
    if label.ndim:
        return {"labels": [names[i] for i in np.flatnonzero(label)]}
    return {"label": names[int(label)]}


def _labels(source: str, task: Task) -> tuple[str, ...]:
    """Label names of the rows; empty for unlabelled text."""
    try:
        return task.label_names(source)
    except InputError as error:
        if "no label column" in str(error):
            return ()
        raise
