"""Options and helpers that the commands of single stages share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field
from rich.console import Console

from paredown.compress.config import PROCESSES, Settings
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named

from ..progress import suggest
from ..spelling import option

if TYPE_CHECKING:
    from ..single_stage import Made, StageData

out = Console(markup=False)

Source = Annotated[str, typer.Argument(help="Checkpoint: directory or hub id.")]
OutputDir = Annotated[Path, typer.Option(help="Directory to write; must not exist.")]
MaxLength = Annotated[int, typer.Option(min=4, help="Maximum input length, in tokens.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Maximum number of generated tokens, saved in generation_config.json."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random number generators.")]
TrainingProcesses = Annotated[int, typer.Option(min=1, max=64, help=f"{PROCESSES[0].upper()}{PROCESSES[1:]}.")]
TaskOption = Annotated[str, typer.Option(help="Task of the model.")]
NEW_TASK = "Task of the model (default: text-classification)."
CheckpointTask = Annotated[
    str | None, typer.Option(help="Task of the model (default: what the checkpoint is made for).")
]
TextColumn = Annotated[str | None, typer.Option(help="Name of the text column (default: detected).")]
LabelColumn = Annotated[str | None, typer.Option(help="Name of the label column (default: detected).")]
Everything = Annotated[
    bool, typer.Option("--all", help="Show every candidate, and what other prices and limits would select.")
]

SharedStore = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Share the steps with other machines through object storage: s3://BUCKET/PREFIX, gs://, az:// or file://.",
    ),
]


class ComparedRows(Settings):
    """The rows that several models are compared on."""

    data: str = Field(description="labelled rows")
    text_column: str | None = Field(default=None, description="name of the text column (default: detected)")
    label_column: str | None = Field(default=None, description="name of the label column (default: detected)")
    task: str | None = Field(default=None, description="task of the models (default: what the first one is made for)")
    max_length: int = Field(default=128, description="maximum input length in tokens, for models that do not state one")

    def task_with(self, model: str, *features: Feature) -> Task:
        """The task, by default that of a model, its rows in the columns that are named. InputError as `task_for`."""
        from ..model_checks import task_of

        name = self.task or task_of(model, "text-classification").name
        return task_for(name, *features, text=self.text_column, label=self.label_column)


def typed(text: str) -> str:
    """A text of the command line, in UTF-8 whatever the terminal's locale says."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def task_for(name: str, *features: Feature, text: str | None = None, label: str | None = None) -> Task:
    """The task of this name, its rows in the columns that are named. InputError where it does not support one of the
    features, which the command needs."""
    task = task_named(name, "--task")
    for feature in features:
        task.require(feature, f"--task {name}")
    return task.with_columns(text, label)


def suggest_compress(checkpoint: Path, data: StageData) -> None:
    """What comes after training, with the rows that it had; the task is taken from the checkpoint."""
    validation = data.validation or "VALIDATION"
    columns = _given(data, "text_column", "label_column")
    suggest("paredown", "compress", checkpoint, "--train", data.train, "--validation", validation, *columns)


def suggest_export(checkpoint: Path, data: StageData) -> None:
    """What comes after a compression step."""
    given = _given(data, "train", "task", "max_length", "text_column", "label_column")
    suggest("paredown", "export", checkpoint, *given, "--output-dir", f"{checkpoint}-onnx")


def suggest_bench(artifact: Path, checkpoint: str, data: StageData) -> None:
    """What comes after an export."""
    given = _given(data, "task", "max_length", "text_column", "label_column")
    suggest("paredown", "bench", artifact, checkpoint, "--data", "TEST", *given)


def _given(data: StageData, *names: str) -> list[object]:
    """Options of these settings, where they are not the defaults."""
    values = {name: getattr(data, name) for name in names}
    fields = type(data).model_fields
    return [part for name, value in values.items() if value != fields[name].default for part in (option(name), value)]


def say(made: Made, more: str = "") -> None:
    shown = "" if made.metric is None else f": {made.task.metric_name} {made.metric:.2f} on validation"
    out.print(f"{made.path}{shown}{more}", soft_wrap=True)
