"""The verb `tune`, and the recipe's step of that name: search, train the best and the given, keep the better one."""

from __future__ import annotations

import glob
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from paredown.benchmarks.statistics import mcnemar_p, paired_drop
from paredown.compress.config import Finetune, Tune
from paredown.compress.data import dataset as data_module
from paredown.compress.data.dataset import Rows
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save, with_new_head
from paredown.runtime.errors import InputError
from paredown.tasks.classification import points
from paredown.tasks.registry import Task

from ..progress import Report
from ..store import key_of
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
    about_words,
    kept_apart,
    out,
    task_named,
    writing,
)
from .validation import checked

app = typer.Typer()


def tune_checkpoint(
    source: Checkpoint,
    task: Task,
    labels: tuple[str, ...],
    train: Rows,
    validation: Rows,
    settings: Tune,
    target: Path,
    study: Path,
    *,
    max_length: int,
    seed: int,
    report: Report,
) -> dict:
    """Write the better of two checkpoints to `target`: trained as given, and with the best settings that were found.

    Trials see training rows alone; the two are compared on validation, paired, and a tie goes to the given settings.
    """
    from paredown.compress.distillation.distill import teacher_scores
    from paredown.compress.training.hyperparameter_search import tune
    from paredown.compress.training.trainer import finetune

    def start():
        return load(source, task) if source.has_head(task) else with_new_head(source, task, labels, seed)

    encoder = source.encoder(max_length)
    ids, judged = data_module.encode(encoder, train), encoder.ids(validation.texts)
    learned, looks = task.taught(train, encoder), (judged, task.taught(validation, encoder))
    found = tune(start, ids, learned, settings, study, seed=seed, progress=lambda s, text: report(0.8 * s, text))
    result = {
        "default_won": found.default,
        "best": found.best.model_dump(mode="json", exclude_defaults=True),
        "importance": found.importance,
        "trials": found.trials,
    }

    def trained(chosen: Finetune, words: str):
        report(0.8, words)
        model = finetune(start(), ids, learned, chosen, validation=looks, seed=seed)
        return model, task.correct(teacher_scores(model, judged), task.gold(validation, encoder))

    model, given = trained(settings.finetune, "training as given")
    result |= {"metric_given": points(given), "kept": "given"}
    if not found.default:
        other, best = trained(found.best, "training the best")
        drop = paired_drop(given, best)[0]
        result |= {"metric_best": points(best), "mcnemar_p": mcnemar_p(given, best)}
        if drop < 0:
            model, result["kept"] = other, "best"
    save(model, source, target)
    return result


def study_key(
    source: Checkpoint, labels: tuple[str, ...], train: Rows, settings: Tune, *, max_length: int, seed: int
) -> str:
    """What a search may go on with: the same space on the same rows, from the same checkpoint."""
    space = settings.model_dump(exclude={"minutes", "trials"})
    inputs = {"space": space, "rows": train.digest, "labels": labels, "checkpoint": source.digest}
    return key_of({**inputs, "max_length": max_length, "seed": seed})[:16]


def sentence(found: dict) -> str:
    """Whether the search paid, in one line."""
    given, trials = f"{found['metric_given']:.2f}", len(found["trials"])
    worth = ", ".join(f"{name} {value:.0%}" for name, value in found["importance"].items())
    knobs = f"; what each knob is worth: {worth}" if worth else ""
    if found["default_won"]:
        return f"{trials} trials, none better than the given settings ({given}){knobs}"
    change = (
        f"{given} as given, {found['metric_best']:.2f} with the best of {trials} trials (p = {found['mcnemar_p']:.2g})"
    )
    return f"{change}; kept: {'the best' if found['kept'] == 'best' else 'as given, the search did not beat it'}{knobs}"


@app.command()
def tune(
    checkpoint: Source,
    train: Train,
    validation: Annotated[str, typer.Option(help="labelled rows that the best is held against the given on")],
    minutes: Annotated[float, typer.Option(help="for trials together")],
    output_dir: OutputDir,
    trials: Annotated[int, typer.Option(min=1, help="at most")] = 40,
    peft: Annotated[list[str] | None, typer.Option(help="kinds of adapters to try (default: none, lora)")] = None,
    adversarial: Annotated[bool, typer.Option("--adversarial", help="also try pushes of the embeddings")] = False,
    epochs: Epochs = 3.0,
    learning_rate: Annotated[float, typer.Option(help="peak rate that the search starts from")] = 1e-4,
    batch_size: BatchSize = 32,
    max_length: MaxLength = 128,
    seed: Seed = 13,
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Search for fine-tuning settings; run it again to go on. tune.json has trials and what each knob is worth."""
    kind = task_named(task, text=text_column, label=label_column)
    source = open_checkpoint(checkpoint).for_task(kind)
    if kind.vector:
        raise InputError(f"--task {task}: tune holds rows of one text out, and these are pairs; finetune is")
    if kind.goes_on:
        raise InputError(f"tune: not for {task}; try a few learning rates with finetune --patience")
    labels = source.labels if source.has_head(kind) else kind.label_names(train)
    rows, held = (kind.read(path, names=labels) for path in (train, validation))
    held = kept_apart(rows, held)[0] or held
    data_module.require_two_classes(rows, labels)
    if adversarial:
        about_words(kind, "--adversarial")
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
