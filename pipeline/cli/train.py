"""The verbs that make or change a teacher: what comes before compression."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from paredown.compress.config import Adapter, Finetune, Update
from paredown.compress.data import dataset as data_module
from paredown.compress.data.dataset import label_names_of, read_rows
from paredown.compress.models.loading import load, open_checkpoint, save, with_new_head
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature

from ..progress import tell
from ..steps.continual import grow_checkpoint, new_rows_apart, read_arrivals, sentence
from .common import (
    Adversarial,
    BatchSize,
    Epochs,
    LabelColumn,
    MaxLength,
    MaxNewTokens,
    OutputDir,
    Seed,
    Source,
    TaskOption,
    TextColumn,
    Train,
    Validation,
    answering,
    kept_apart,
    metric,
    optional,
    out,
    pushes,
    say,
    task_for,
    writing,
)
from .validation import checked

app = typer.Typer()


@app.command()
def finetune(
    checkpoint: Source,
    train: Train,
    output_dir: OutputDir,
    validation: Validation = None,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[float | None, typer.Option(help="peak rate (default: 1e-4, adapters: 1e-3)")] = None,
    batch_size: BatchSize = 32,
    freeze_embeddings: Annotated[bool, typer.Option(help="a quarter less time a step")] = False,
    peft: Annotated[
        str | None,
        typer.Option(help="train adapters, merged at the end: lora, dora, adalora, ia3, loha, ..."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="of the adapters (default: 8)")] = None,
    class_weights: Annotated[Literal["balanced"] | None, typer.Option(help="rare labels count as much")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="stop after so many looks at validation")] = None,
    schedule: Annotated[Literal["linear", "cosine", "constant"], typer.Option(help="of the learning rate")] = "linear",
    adversarial: Adversarial = None,
    max_length: MaxLength = 128,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Train a checkpoint on labelled rows, in full or with adapters; a base model gets a new head."""
    from paredown.compress.training.trainer import finetune as train_model

    kind = task_for(task, text=text_column, label=label_column)
    source = answering(open_checkpoint(checkpoint), kind, max_new_tokens)
    has_head = source.has_head(kind)
    names = source.labels if has_head else label_names_of(kind, train)
    rows = read_rows(kind, train, names=names)
    data_module.require_two_classes(rows, names)
    held_out, _ = kept_apart(rows, optional(validation, kind, names))
    kind = kind.for_rows(rows, held_out)
    if patience and held_out is None:
        raise InputError("--patience stops on validation: give --validation F")
    if rank and not peft:
        raise InputError("--rank is of adapters: give --peft lora, for example")
    settings = checked(
        Finetune,
        {
            "epochs": epochs, "learning_rate": learning_rate or (1e-3 if peft else 1e-4), "batch_size": batch_size,
            "freeze_embeddings": freeze_embeddings, "class_weights": class_weights, "patience": patience,
            "schedule": schedule, "adversarial": pushes(adversarial, kind),
            "peft": checked(Adapter, {"kind": peft, "rank": rank}) if peft else None,
        },
    )  # fmt: skip
    encoder = source.encoder(max_length)
    ids, labels = data_module.encode(encoder, rows), kind.training_targets(rows, encoder)
    judged = None if held_out is None else (encoder.ids(held_out.texts), kind.training_targets(held_out, encoder))
    with writing(output_dir, "finetune") as (target, report):
        model = load(source, kind) if has_head else with_new_head(source, kind, names, seed)
        train_model(model, ids, labels, settings, validation=judged, seed=seed, progress=report)
        saved = save(model, source, target)
        value = metric(saved, kind, held_out, max_length)
    say(output_dir, kind.for_rows(held_out), value)


@app.command()
def update(
    checkpoint: Source,
    train: Annotated[str, typer.Option(help="the labelled rows that it was trained on; some are seen again")],
    new: Annotated[str, typer.Option(help="labelled rows that came later, also with new labels")],
    output_dir: OutputDir,
    validation: Annotated[str | None, typer.Option(help="old labelled rows to measure forgetting on")] = None,
    new_validation: Annotated[str | None, typer.Option(help="new rows to judge on (default: a fifth of --new)")] = None,
    replay: Annotated[float, typer.Option(min=0, help="old rows that are seen again for every new one")] = 1.0,
    lwf: Annotated[float, typer.Option(min=0, help="weight of staying with the old answers")] = 1.0,
    ewc: Annotated[float, typer.Option(min=0, help="weight of staying near the weights that matter")] = 0.0,
    retrain: Annotated[float, typer.Option(min=0, help="epochs of a model on all rows, to compare with")] = 0.0,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = 1e-4,
    batch_size: BatchSize = 32,
    patience: Annotated[int | None, typer.Option(min=1, help="stop after so many looks at validation")] = None,
    adversarial: Adversarial = None,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Teach a checkpoint new rows, and new labels, without forgetting the old ones; update.json says at what price."""
    kind = task_for(task, Feature.UPDATE, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint, kind)
    arrivals = read_arrivals(kind, source.labels, new, new_validation)
    old, held = read_rows(kind, train, names=source.labels), optional(validation, kind, source.labels)
    held, _, arrivals, notes = new_rows_apart(old, held, None, arrivals)
    tell(notes)
    settings = checked(
        Update,
        {
            "replay": replay, "lwf": lwf, "ewc": ewc, "retrain": retrain, "epochs": epochs, "batch_size": batch_size,
            "learning_rate": learning_rate, "patience": patience, "adversarial": pushes(adversarial, kind),
        },
    )  # fmt: skip
    with writing(output_dir, "update") as (target, report):
        found = grow_checkpoint(
            source, kind, old, held, arrivals, settings, target, max_length=max_length, seed=seed, report=report
        )
        (target / "update.json").write_text(json.dumps(found, indent=2) + "\n")
    out.print(f"{output_dir}: {sentence(found)}", soft_wrap=True)
