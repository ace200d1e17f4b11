"""The command `augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.compress.config import Augment
from paredown.compress.data.dataset import label_names_of, read_rows
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature, Task

from ..progress import Reporter
from ..steps.augment import write_augmented
from .common import LabelColumn, Seed, TaskOption, TextColumn, out, task_for
from .validation import checked

app = typer.Typer()


@app.command()
def augment(
    train: Annotated[str, typer.Option(help="Training rows: .csv, .jsonl, .parquet or a datasets name.")],
    output: Annotated[Path, typer.Option(help="JSONL file to write: the original rows, then the augmented ones.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of augmentation: typos, deletion, swap, synonyms, masked or back_translation "
            "(default: the first three)."
        ),
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="Augmented copies of every row.")] = 1,
    share: Annotated[float, typer.Option(help="Share of the words of a row that are perturbed.")] = 0.1,
    synonyms: Annotated[
        str | None, typer.Option(help="File of synonyms: one group of words on each line, separated by commas.")
    ] = None,
    masked_model: Annotated[str | None, typer.Option(help="Masked-language model that replaces words.")] = None,
    through: Annotated[
        list[str] | None,
        typer.Option(help="Sequence-to-sequence checkpoint for back-translation; give two, one for each direction."),
    ] = None,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Data augmentation: augmented copies of training rows, reproducible by seed; give it training rows only."""
    if output.exists() or output.suffix != ".jsonl":
        raise InputError(f"--output {output}: a new file that ends in .jsonl is expected")
    kinds = task_for(task, Feature.AUGMENT, text=text_column, label=label_column)
    settings = checked(
        Augment,
        {
            "kinds": kind, "copies": copies, "share": share, "synonyms": synonyms, "masked_model": masked_model,
            "through": through,
        },
    )  # fmt: skip
    labels = _labels(train, kinds)
    rows = read_rows(kinds, train, names=labels, labelled=bool(labels))
    with Reporter(1).step("augment") as report:
        count = write_augmented(rows, labels, settings, output, seed, report, whole=True)
    out.print(f"{output}: {len(rows)} rows and {count} changed copies", soft_wrap=True)


def _labels(source: str, task: Task) -> tuple[str, ...]:
    """Label names of the rows; empty for unlabelled text."""
    try:
        return label_names_of(task, source)
    except InputError as error:
        if "no label column" in str(error):
            return ()
        raise
