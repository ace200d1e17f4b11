"""Hyperparameter search of fine-tuning: train the best settings and the given ones, and keep the better model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from paredown.benchmarks.statistics.metric_intervals import mcnemar_p, paired_drop
from paredown.compress.config import Finetune, Tune
from paredown.compress.models.loading import save
from paredown.tasks.scores import points

from ..inputs import StageInputs
from ..progress import Report
from ..store import key_of
from .stages import loaded


def tune_checkpoint(inputs: StageInputs, settings: Tune, target: Path, study: Path, report: Report) -> dict:
    """Write the better of two checkpoints to `target`: trained as given, and with the best settings that were found.

    Trials see training rows alone; the two are compared on validation, paired, and a tie goes to the given settings.
    `study`: the log of the trials.
    """
    from paredown.compress.models.inference import teacher_scores
    from paredown.compress.training.hyperparameter_search import tune
    from paredown.compress.training.trainer import finetune

    task, validation, seed = inputs.task, inputs.validation, inputs.seed
    data = inputs.training_data()
    assert validation is not None
    assert data.validation is not None
    held_out, _ = data.validation
    gold = task.gold(validation, inputs.encoder)
    start = partial(loaded, inputs)
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
        return model, task.correct(teacher_scores(model, held_out), gold)

    model, given = trained(settings.finetune, "training as given")
    result |= {"metric_given": points(given), "kept": "given"}
    if not found.default:
        other, best = trained(found.best, "training the best")
        drop = paired_drop(given, best)[0]
        result |= {"metric_best": points(best), "mcnemar_p": mcnemar_p(given, best)}
        if drop < 0:
            model, result["kept"] = other, "best"
    save(model, inputs.checkpoint, target)
    return result


def study_key(inputs: StageInputs, settings: Tune) -> str:
    """What a search may go on with: the same space on the same rows, from the same checkpoint."""
    space = settings.model_dump(exclude={"minutes", "trials"})
    rows = {"rows": inputs.train.digest, "labels": inputs.labels, "checkpoint": inputs.checkpoint.digest}
    return key_of({"space": space, **rows, "max_length": inputs.max_length, "seed": inputs.seed})[:16]


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
