"""The command `augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.compress.config import Augment

from .. import single_stage
from ..progress import suggest
from ..single_stage import StageData
from .common import NEW_TASK, out
from .options import fields, with_options

app = typer.Typer()


@app.command()
@with_options
def augment(
    data: Annotated[
        StageData,
        fields(
            "train",
            "seed",
            "task",
            "text_column",
            "label_column",
            train=...,
            help={"train": "Training rows: .csv, .jsonl, .parquet or a datasets name.", "task": NEW_TASK},
        ),
    ],
    output: Annotated[Path, typer.Option(help="JSONL file to write: the original rows, then the augmented ones.")],
    settings: Annotated[
        Augment,
        fields(
            "kinds",
            "copies",
            "share",
            "synonyms",
            "masked_model",
            "through",
            kinds=None,
            through=None,
            spelled={"kinds": "--kind"},
            help={
                "kinds": "Kind of augmentation: typos, deletion, swap, synonyms, masked or back_translation "
                "(default: the first three).",
                "share": "Share of the words of a row that are perturbed.",
                "synonyms": "File of synonyms: one group of words on each line, separated by commas.",
                "masked_model": "Masked-language model that replaces words.",
                "through": "Sequence-to-sequence checkpoint for back-translation; give two, one for each direction.",
            },
        ),
    ],
) -> None:
    """Data augmentation: augmented copies of training rows, reproducible by seed; give it training rows only."""
    rows, copies = single_stage.augment(data, settings, output)
    out.print(f"{output}: {rows} rows and {copies} changed copies", soft_wrap=True)
    suggest("paredown", "finetune", "CHECKPOINT", "--train", output, "--output-dir", "teacher")
