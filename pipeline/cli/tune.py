"""The command `tune`."""

from __future__ import annotations

import glob
import json
import sys
from typing import Annotated

import typer

from paredown.compress.config import Finetune, Tune
from paredown.compress.data import dataset
from paredown.compress.data.dataset import label_names_of, read_rows
from paredown.compress.models.loading import open_checkpoint
from paredown.tasks.base import Feature

from ..steps.tune import sentence, study_key, tune_checkpoint
from .common import (
    BatchSize,
    Epochs,
    LabelColumn,
    MaxLength,
    OutputDir,
    Seed,
    Source,
    TaskOption,
    TextColumn,
    Train,
    kept_apart,
    out,
    task_for,
    writing,
)
from .validation import checked

app = typer.Typer()


@app.command()
def tune(
    checkpoint: Source,
    train: Train,
    validation: Annotated[str, typer.Option(help="Labelled rows to compare the best settings with the given ones.")],
    minutes: Annotated[float, typer.Option(help="Time limit of all trials together, in minutes.")],
    output_dir: OutputDir,
    trials: Annotated[int, typer.Option(min=1, help="Maximum number of trials.")] = 40,
    peft: Annotated[list[str] | None, typer.Option(help="Kinds of adapters to try (default: none and lora).")] = None,
    adversarial: Annotated[bool, typer.Option("--adversarial", help="Also try adversarial training.")] = False,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of the first trial.")] = 1e-4,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Hyperparameter search for fine-tuning; run it again to resume. tune.json has the trials and importances."""
    kind = task_for(task, Feature.TUNE, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint).for_task(kind)
    labels = source.labels if source.has_head(kind) else label_names_of(kind, train)
    rows, held = (read_rows(kind, path, names=labels) for path in (train, validation))
    held = kept_apart(rows, held)[0] or held
    dataset.require_two_classes(rows, labels)
    if adversarial:
        kind.require(Feature.ADVERSARIAL, "--adversarial")
    start = checked(Finetune, {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size})
    settings = checked(
        Tune, {"minutes": minutes, "trials": trials, "peft": peft, "adversarial": adversarial, "finetune": start}
    )
    key = study_key(source, labels, rows, settings, max_length=max_length, seed=seed)
    study = output_dir.with_name(f"{output_dir.name}.study-{key}.log")
    others = output_dir.absolute().parent.glob(f"{glob.escape(output_dir.name)}.study*.log")
    other = next((path for path in others if path.name != study.name), None)
    if other is not None and not study.exists():
        line = "is of other data, another checkpoint or other settings; a new study starts"
        print(f"{output_dir.with_name(other.name)}: {line}", file=sys.stderr)
    with writing(output_dir, "tune") as (target, report):
        found = tune_checkpoint(
            source, kind, labels, rows, held, settings, target, study, max_length=max_length, seed=seed, report=report
        )
        (target / "tune.json").write_text(json.dumps(found, indent=2) + "\n")
    out.print(f"{output_dir}: {sentence(found)}", soft_wrap=True)
    study.unlink()
