"""Hyperparameter search for fine-tuning: Optuna proposes, a fifth of the training rows judges.

Trials that fall behind the median of the others at a third or two thirds of their way are stopped. The study lies in a
file: a killed search goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from paredown.runtime.errors import InputError, StepError
from paredown.tasks.base import NO_LABEL
from paredown.tasks.multi_label import labels_right
from paredown.tasks.question_answering import same_ends
from paredown.tasks.rows import some_of
from paredown.tasks.scores import points

from ..config import Adapter, Adversary, Finetune, Tune
from ..models.inference import teacher_scores
from ..models.output_kinds import OutputKind, kind_of
from ..types import Progress, TrainingData
from .losses import one_a_line
from .studies import reasons, seed_sampler, study_at
from .trainer import finetune

HELD_OUT = 0.2  # of the training rows
EVALUATIONS = 3  # on the held-out rows in a trial; the first ones may end it
ADAPTER_RATE = 10.0  # adapters like a higher learning rate


@dataclass(frozen=True)
class Tuned:
    """The best settings, and what is known about the search."""

    best: Finetune
    default: bool  # nothing that was tried beat the settings it started from
    trials: list[dict]  # {number, state, metric, settings, seconds}, a failed one's reason; metric: held-out, points
    importance: dict[str, float]  # share of each knob in the spread of the metric, 0..1; empty with few trials


def tune(
    start: Callable[[], PreTrainedModel],
    data: TrainingData,
    settings: Tune,
    study_file: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tuned:
    """Search for settings to fine-tune `start()` with, on labelled rows."""
    ids, labels = data.ids, data.labels
    assert labels is not None
    order = some_of(len(ids), len(ids))
    held, learned = np.split(order, [max(1, round(HELD_OUT * len(ids)))])
    study = _study(study_file)
    first = _knobs(settings.finetune)
    study.enqueue_trial(first, skip_if_exists=True)
    pick = partial(_picked, data)
    weighs = not isinstance(labels, np.ndarray) or (labels.ndim == 1 and labels.dtype != np.float64)

    def objective(trial: Any) -> float:
        began = time.monotonic()
        found = _suggested(trial, settings, weighs)
        watch = _Watch(trial, pick(held))
        trial.set_user_attr("settings", found.model_dump(mode="json", exclude_defaults=True))
        try:
            model = finetune(start(), pick(learned), found, seed=seed, callbacks=[watch])
        except (StepError, InputError) as error:
            trial.set_user_attr("reason", str(error))
            raise
        trial.set_user_attr("seconds", time.monotonic() - began)
        return watch.metric(model)

    while (spent := _spent(study)) < 60 * settings.minutes and len(_over(study)) < settings.trials:
        if progress:
            progress(min(0.99, spent / (60 * settings.minutes)), f"trial {len(_over(study)) + 1}")
        seed_sampler(study, seed)
        study.optimize(objective, n_trials=1, catch=(StepError, InputError))
    done = [t for t in study.trials if t.state.name == "COMPLETE"]
    if not done:
        why = "; ".join(reasons(study)) or "all were stopped"
        raise StepError(f"tune: no trial came to an end: {why}; mend `finetune`, where the search starts")
    best = max(done, key=lambda t: (t.value, -t.number))
    return Tuned(
        best=_suggested(best, settings, weighs),
        default=best.params == first,
        trials=[
            {
                "number": t.number, "state": t.state.name.lower(), "metric": t.value,
                "settings": t.user_attrs.get("settings", {}), "seconds": _seconds(t),
                **{key: t.user_attrs[key] for key in ("reason",) if key in t.user_attrs},
            }
            for t in _over(study)
        ],
        importance=_importance(study, done),
    )  # fmt: skip


def _knobs(start: Finetune) -> dict:
    """The first trial: the settings as they were given."""
    return {
        "rate": 1.0,
        "batch_size": start.batch_size,
        "epochs": start.epochs,
        "schedule": start.schedule,
        "peft": start.peft.kind if start.peft else "none",
        "class_weights": _weights_of(start),
        "adversarial": start.adversarial.kind if start.adversarial else "none",
    }


def _suggested(trial: Any, settings: Tune, weighs: bool) -> Finetune:
    """The settings of a trial that runs, or of one that is over (it gives the values that it had). `weighs`: labels may
    have weights, because a row has one."""
    start, first = settings.finetune, _knobs(settings.finetune)
    trial.suggest_float("rate", 0.1, 10.0, log=True)
    for name, others in (
        ("batch_size", [16, 32, 64]),
        ("epochs", [1.0, 2.0, 3.0, 5.0]),
        ("schedule", ["linear", "cosine", "constant"]),
        ("peft", settings.peft),
        ("class_weights", ["none", "balanced"] if weighs else []),
        ("adversarial", ["none", "fgm"] if settings.adversarial else []),
    ):
        trial.suggest_categorical(name, [first[name], *(o for o in others if o != first[name])])
    knobs = trial.params
    adapted, was = knobs["peft"] != "none", start.peft is not None
    rate = start.learning_rate * knobs["rate"] * ADAPTER_RATE ** (int(adapted) - int(was))
    adapter = (start.peft or Adapter()).model_copy(update={"kind": knobs["peft"]}) if adapted else None
    weights = start.class_weights if knobs["class_weights"] == first["class_weights"] else None
    given_adversary = start.adversarial if knobs["adversarial"] == first["adversarial"] else None
    return start.model_copy(
        update={
            "learning_rate": rate,
            "batch_size": knobs["batch_size"],
            "epochs": knobs["epochs"],
            "schedule": knobs["schedule"],
            "peft": adapter,
            "class_weights": "balanced" if knobs["class_weights"] == "balanced" else weights,
            "adversarial": Adversary(kind="fgm")
            if knobs["adversarial"] == "fgm" and not given_adversary
            else given_adversary,
        }
    )


def _weights_of(start: Finetune) -> str:
    return "none" if start.class_weights is None else "balanced" if start.class_weights == "balanced" else "given"


class _Watch(TrainerCallback):
    """Tells the study how a trial does on the held-out rows, and ends it when it falls behind."""

    def __init__(self, trial: Any, held_out: TrainingData) -> None:
        assert held_out.labels is not None
        self.trial, self.ids, self.labels, self.evaluations = trial, held_out.ids, held_out.labels, 0

    def metric(self, model: PreTrainedModel) -> float:
        """Accuracy on the held-out rows, or their words, in points; F1 where a row may have several labels; of
        answers, the rows with both ends right; of numbers, the square of the correlation, which does not depend on the
        unit that they are trained in."""
        gold, scores = one_a_line(self.labels), teacher_scores(model, self.ids)
        if kind_of(model) is OutputKind.MULTI_LABEL:
            return points(labels_right(scores, gold))
        if kind_of(model) is OutputKind.REGRESSION:
            correlation = np.corrcoef(scores[:, 0], gold)[0, 1] if scores.std() and gold.std() else 0.0
            return float(100 * max(0.0, correlation) ** 2)  # the other way round is nothing learned
        if kind_of(model) is OutputKind.SPAN:
            marks = np.split(gold, np.cumsum([len(row) for row in self.ids])[:-1])
            cut_off = np.array([bool((row == NO_LABEL).any()) for row in marks])
            return float(100 * same_ends(scores, gold, [len(row) for row in self.ids])[~cut_off].mean())
        return float(100 * (scores.argmax(-1) == gold)[gold != NO_LABEL].mean())

    def on_step_end(self, args, state, control, **kwargs):
        import optuna

        due = int(EVALUATIONS * state.global_step / max(1, state.max_steps))
        if due <= self.evaluations or due >= EVALUATIONS:  # the last evaluation is the trial's own value
            return
        self.evaluations, model = due, kwargs["model"]
        device = model.device
        model.to("cpu").eval()
        value = self.metric(model)
        model.to(device).train()
        self.trial.report(value, due)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _study(path: Path) -> Any:
    study = study_at(path, "tune", direction="maximize")
    import optuna

    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    return study


def _over(study: Any) -> list[Any]:
    return [t for t in study.trials if t.state.is_finished()]


def _seconds(trial: Any) -> float:
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def _spent(study: Any) -> float:
    return sum(map(_seconds, _over(study)))


def _importance(study: Any, done: list[Any]) -> dict[str, float]:
    import optuna

    if len(done) < 4 or len({t.value for t in done}) < 2:
        return {}
    found = optuna.importance.get_param_importances(study)
    return {name: round(float(value), 4) for name, value in found.items()}


def _picked(data: TrainingData, rows: np.ndarray) -> TrainingData:
    labels = data.labels
    assert labels is not None
    picked = labels[rows] if isinstance(labels, np.ndarray) else [labels[i] for i in rows]
    return TrainingData([data.ids[i] for i in rows], picked)
