"""Hyperparameter search of fine-tuning: train the best settings and the given ones, and keep the better model."""

from __future__ import annotations

from pathlib import Path

from paredown.benchmarks.statistics.metric_intervals import mcnemar_p, paired_drop
from paredown.compress.config import Finetune, Tune
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load, save, with_new_head
from paredown.tasks.base import Task
from paredown.tasks.rows import Rows
from paredown.tasks.scores import points

from ..progress import Report
from ..store import key_of


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
    from paredown.compress.models.inference import teacher_scores
    from paredown.compress.training.hyperparameter_search import tune
    from paredown.compress.training.trainer import finetune
    from paredown.compress.types import TrainingData

    def start():
        return load(source, task) if source.has_head(task) else with_new_head(source, task, labels, seed)

    encoder = source.encoder(max_length)
    ids, judged = dataset.encode(encoder, train), encoder.ids(validation.texts)
    learned, looks = task.training_targets(train, encoder), (judged, task.training_targets(validation, encoder))
    data = TrainingData(ids, learned, validation=looks)
    found = tune(start, data, settings, study, seed=seed, progress=lambda s, text: report(0.8 * s, text))
    result = {
        "default_won": found.default,
        "best": found.best.model_dump(mode="json", exclude_defaults=True),
        "importance": found.importance,
        "trials": found.trials,
    }

    def trained(chosen: Finetune, words: str):
        report(0.8, words)
        model = finetune(start(), data, chosen, seed=seed)
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
    """What a search may continue: the same space on the same rows, from the same checkpoint."""
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
