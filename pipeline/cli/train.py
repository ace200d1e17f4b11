"""The commands `finetune` and `update`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from paredown.compress.config import Adapter, Finetune, Update
from paredown.compress.data import dataset
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
    adversarial_settings,
    answering,
    kept_apart,
    metric,
    optional,
    out,
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
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate (default: 1e-4, adapters: 1e-3).")] = None,
    batch_size: BatchSize = 32,
    freeze_embeddings: Annotated[
        bool, typer.Option(help="Do not train the embeddings; a step takes a quarter less time.")
    ] = False,
    peft: Annotated[
        str | None,
        typer.Option(help="Train adapters and merge them at the end: lora, dora, adalora, ia3, loha, lokr or oft."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapters (default: 8).")] = None,
    class_weights: Annotated[
        Literal["balanced"] | None,
        typer.Option(help="Class weights of the loss; balanced: every label has the same total weight."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Early-stopping patience, in evaluations on validation rows.")
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "constant"], typer.Option(help="Schedule of the learning rate.")
    ] = "linear",
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
    from paredown.compress.types import TrainingData

    kind = task_for(task, text=text_column, label=label_column)
    source = answering(open_checkpoint(checkpoint), kind, max_new_tokens)
    has_head = source.has_head(kind)
    names = source.labels if has_head else label_names_of(kind, train)
    rows = read_rows(kind, train, names=names)
    dataset.require_two_classes(rows, names)
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
            "schedule": schedule, "adversarial": adversarial_settings(adversarial, kind),
            "peft": checked(Adapter, {"kind": peft, "rank": rank}) if peft else None,
        },
    )  # fmt: skip
    encoder = source.encoder(max_length)
    judged = None if held_out is None else (encoder.ids(held_out.texts), kind.training_targets(held_out, encoder))
    learned = TrainingData(dataset.encode(encoder, rows), kind.training_targets(rows, encoder), validation=judged)
    with writing(output_dir, "finetune") as (target, report):
        model = load(source, kind) if has_head else with_new_head(source, kind, names, seed)
        train_model(model, learned, settings, seed=seed, progress=report)
        saved = save(model, source, target)
        value = metric(saved, kind, held_out, max_length)
    say(output_dir, kind.for_rows(held_out), value)


@app.command()
def update(
    checkpoint: Source,
    train: Annotated[str, typer.Option(help="Labelled rows of the earlier training; a share of them is replayed.")],
    new: Annotated[str, typer.Option(help="New labelled rows; new labels are allowed.")],
    output_dir: OutputDir,
    validation: Annotated[
        str | None, typer.Option(help="Old labelled rows, for the measurement of forgetting.")
    ] = None,
    new_validation: Annotated[
        str | None, typer.Option(help="New labelled rows for evaluation (default: a fifth of --new).")
    ] = None,
    replay: Annotated[float, typer.Option(min=0, help="Replayed old rows for each new row.")] = 1.0,
    lwf: Annotated[
        float,
        typer.Option(
            min=0, help="Weight of the distillation loss against the old model (learning without forgetting)."
        ),
    ] = 1.0,
    ewc: Annotated[float, typer.Option(min=0, help="Weight of elastic weight consolidation (EWC).")] = 0.0,
    retrain: Annotated[
        float, typer.Option(min=0, help="Epochs of a reference model trained on all rows (0: none).")
    ] = 0.0,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    batch_size: BatchSize = 32,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Early-stopping patience, in evaluations on validation rows.")
    ] = None,
    adversarial: Adversarial = None,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Continual learning: train on new rows and labels without forgetting; update.json has the metrics and the cost."""
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
            "learning_rate": learning_rate, "patience": patience,
            "adversarial": adversarial_settings(adversarial, kind),
        },
    )  # fmt: skip
    with writing(output_dir, "update") as (target, report):
        found = grow_checkpoint(
            source, kind, old, held, arrivals, settings, target, max_length=max_length, seed=seed, report=report
        )
        (target / "update.json").write_text(json.dumps(found, indent=2) + "\n")
    out.print(f"{output_dir}: {sentence(found)}", soft_wrap=True)
