"""Searches for pruned models worth training: many are pruned and compared cheaply, few are trained.

A trial is pruning without any training, with the time that the latency table predicts and its distance to the teacher
on rows that it was not solved on. Optuna's study proposes the trials (two objectives, both to be small) and keeps them
in a file, so that a killed search goes on where it was. What could reach the frontier is trained as far as the minutes
go.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paredown.compress.config import Prune, Static
from paredown.compress.pruning.latency_allocation import LatencyTable, Layers, least_ms
from paredown.compress.training.studies import reasons, seed_sampler, study_at
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import batches_of
from paredown.tasks.base import Feature, Task
from paredown.tasks.rows import some_of

from ..job import SCORES, Job, table_name
from ..progress import Report
from ..recipe.schema import Model, Search, Step
from ..store import Done
from .compress import read_table

if TYPE_CHECKING:
    import optuna
    from transformers import PreTrainedModel

FOUND = "found.json"
PROXY_SHARE = 0.3  # of the minutes goes into trials, at most; all of them where that makes too few
FEW_TRIALS = 4
STATIC_SHARE = 1 / 25  # of the unpruned model's time an epoch, a static student's
NO_TIME = "no time left to train it; give more minutes"
MOST_TRIALS = 24
MOST_PROPOSALS = 4 * MOST_TRIALS  # some were made before
LEAST_SPEEDUP = 1.01  # that a trial asks for
HELD_OUT = 256  # training rows that evaluate a trial and that no pruning is fitted on
STEPS_OF_EPOCHS = (3.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Trial:
    """Pruning, its predicted time, and how far its answers are from the teacher's before any training."""

    number: int
    settings: Prune
    ms: float
    speedup: float
    kl: float
    agreement: float  # share of the held-out rows, 0..1

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        kind = f"{self.settings.layers} layers" if self.settings.layers else f"pruned to {self.settings.speedup:.2f}x"
        return f"trial {self.number} ({kind})"


def search(job: Job, settings: Search, study: str, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Write the models to train to found.json; the result says why each of the others was dropped.

    `study`: name of the file, beside the step store, that outlives a kill.
    """
    from paredown.compress.models.loading import load
    from paredown.compress.pruning.prune import shape_of

    kept = _study(out.parent.parent / "search" / study)
    began = time.monotonic() - _seconds(kept)  # what was spent before a kill is spent
    model = load(job.checkpoint, job.task)
    table = read_table(done[table_name(settings.target)].path)
    full = shape_of(model)
    trials = _trials(job, settings, Unpruned(model, full, table), kept, began, report)
    if not trials:
        raise InputError(f"search: no trial came to an end: {'; '.join(reasons(kept))}")
    chosen, dropped = _worth_training(trials, settings, _commonest(job))
    scored_s = done[SCORES].seconds * job.learned / (job.learned + len(job.validation))
    epoch_s = {t.number: 3.6 * scored_s * t.ms / table.predict(full) for t in chosen}
    static_s = 3.6 * scored_s * STATIC_SHARE * Static().epochs
    left = 60 * settings.minutes - (time.monotonic() - began)
    whole = job.task.supports(Feature.STATIC)
    static = whole and static_s <= left
    chosen, epochs, late = _affordable(chosen, epoch_s, left - static_s if static else left)
    if whole and not static:
        late["static"] = NO_TIME
    models = _models(chosen, epochs, job.task, static)
    (out / FOUND).write_text(
        json.dumps([model.model_dump(mode="json", exclude_none=True) for model in models], indent=2)
    )
    return {
        "trials": len(trials) + len(_failed(kept)),
        "trained": [
            f"{t.label}: predicted {t.speedup:.1f}x, {f'{epochs:g} epochs' if epochs else 'not trained: no time left'}"
            for t in chosen
        ],
        "dropped": {**_failed(kept), **dropped, **late},
    }


def found_models(done: Done) -> list[Model]:
    """The models that a finished search wants trained."""
    return [Model.model_validate(entry) for entry in json.loads((done.path / FOUND).read_text())]


def with_models(job: Job, models: list[Model]) -> Job:
    """The job with the search's models beside the recipe's own."""
    return replace(job, recipe=job.recipe.model_copy(update={"models": [*job.recipe.models, *models], "search": None}))


@dataclass(frozen=True)
class Unpruned:
    """The model that is pruned in every trial."""

    model: PreTrainedModel
    layers: Layers
    table: LatencyTable


def _trials(
    job: Job, settings: Search, unpruned: Unpruned, study: optuna.Study, began: float, report: Report
) -> list[Trial]:
    import optuna

    from paredown.compress.pruning.importance import agreement, kl_to, log_probabilities
    from paredown.compress.pruning.prune import Latency, options, prune, shape_of, weigh

    model, full, table = unpruned.model, unpruned.layers, unpruned.table
    ids, _ = job.inputs(job.checkpoint).all_rows()
    picked = some_of(len(job.train), 512 + HELD_OUT)
    held_out, rows = (
        [ids[i] for i in part] for part in (picked[:HELD_OUT], picked[HELD_OUT:] if len(picked) > HELD_OUT else picked)
    )
    batches, judging = batches_of(rows, job.checkpoint.pad_id), batches_of(held_out, job.checkpoint.pad_id)
    wanted = [log_probabilities(model, batch) for batch in judging]
    report(0.0, "what heads and neurons are worth")
    weighed = weigh(model, batches, Prune())
    top = table.predict(full) / least_ms(table, *options(model, Prune()))
    kinds = _kinds(top, len(full))

    def proposed(trial: optuna.Trial) -> Prune:
        if trial.suggest_categorical("kind", kinds) == "layers":
            return Prune(layers=trial.suggest_int("layers", 1, len(full) - 1))
        low, high = max(LEAST_SPEEDUP, min(1.2, 0.9 * top)), 0.95 * top
        speedup = round(trial.suggest_float("speedup", low, high, log=True), 2)
        return Prune(speedup=speedup, target=settings.target)

    def look(trial: optuna.Trial) -> tuple[float, float]:
        cut = proposed(trial)
        shown = cut.model_dump(mode="json", exclude_defaults=True)
        if any(t.user_attrs.get("settings") == shown for t in study.trials if t.number != trial.number):
            raise optuna.TrialPruned
        trial.set_user_attr("settings", shown)
        smaller = copy.deepcopy(model)
        try:
            prune(smaller, batches, cut, latency=Latency(table), weighed=weighed)
            kl = kl_to(smaller, judging, wanted)
            if not np.isfinite(kl):
                raise StepError("the outputs of the pruned model are not finite")
        except (StepError, InputError) as error:
            trial.set_user_attr("reason", str(error))
            raise
        ours = [log_probabilities(smaller, batch) for batch in judging]
        trial.set_user_attr("agreement", agreement(ours, wanted))
        return table.predict(shape_of(smaller)), kl

    while (tried := _tried(study)) < MOST_TRIALS and len(study.trials) < MOST_PROPOSALS:
        share = PROXY_SHARE if tried >= FEW_TRIALS else 1.0
        if time.monotonic() - began >= 60 * share * settings.minutes:
            break
        report(tried / MOST_TRIALS, f"trial {tried + 1}")
        seed_sampler(study, job.recipe.seed)
        study.optimize(look, n_trials=1, catch=(StepError, InputError))
    if not _tried(study):
        raise InputError(
            f"search: minutes: {settings.minutes:g} were over before the first trial, after "
            f"{(time.monotonic() - began) / 60:.2g}; give more, or name the models yourself"
        )
    whole = table.predict(full)
    return [
        Trial(
            t.number,
            Prune.model_validate(t.user_attrs["settings"]),
            t.values[0],
            whole / t.values[0],
            t.values[1],
            t.user_attrs["agreement"],
        )
        for t in study.trials
        if t.values is not None
    ]


def _kinds(top: float, layers: int) -> list[str]:
    """What can be searched over, when pruning heads and neurons makes a model of so many layers `top` times as fast.

    Raises InputError when that is nothing.
    """
    kinds = ["time"] * (0.95 * top > LEAST_SPEEDUP) + ["layers"] * (layers > 1)
    if not kinds:
        raise InputError(
            f"search: pruning can make the checkpoint {top:.2f} times as fast at most, which is too little to search "
            "for; name the models yourself, a static student or a cascade among them"
        )
    return kinds


def _tried(study: optuna.Study) -> int:
    """Trials that were begun; a proposal that was made before is none."""
    return sum("settings" in trial.user_attrs for trial in study.trials)


def _study(path: Path) -> optuna.Study:
    return study_at(path, "search", directions=["minimize", "minimize"])


def _failed(study: optuna.Study) -> dict[str, str]:
    """Why trials came to no result, by their label."""
    return {f"trial {t.number}": t.user_attrs["reason"] for t in study.trials if "reason" in t.user_attrs}


def _seconds(study: optuna.Study) -> float:
    """What the trials of a study took."""
    return sum(trial.duration.total_seconds() for trial in study.trials if trial.duration)


def _worth_training(trials: list[Trial], settings: Search, commonest: float) -> tuple[list[Trial], dict[str, str]]:
    """Those that nothing beats in both predictions, fastest first; why each of the others was dropped."""
    chosen, dropped = [], {}
    for t in sorted(trials, key=lambda t: (t.ms, t.kl)):
        better = next((o for o in chosen if o.kl <= t.kl), None)
        if settings.speedup is not None and t.speedup < settings.speedup:
            dropped[t.label] = f"predicted {t.speedup:.1f}x, the target is {settings.speedup:g}x"
        elif t.agreement <= commonest:
            dropped[t.label] = (
                f"nothing to recover: {t.agreement:.0%} of the answers are the teacher's, the commonest label "
                f"alone gives {commonest:.0%}"
            )
        elif better is not None:
            dropped[t.label] = (
                f"{better.label} is predicted faster ({better.speedup:.1f}x, this {t.speedup:.1f}x) and nearer to the "
                f"teacher (KL {better.kl:.3f}, this {t.kl:.3f})"
            )
        else:
            chosen.append(t)
    if not chosen:
        raise InputError("search: no pruned model is worth training; ask for less speed or give more minutes")
    return chosen, dropped


def _affordable(
    chosen: list[Trial], epoch_s: dict[int, float], left: float
) -> tuple[list[Trial], float, dict[str, str]]:
    """As many as can be trained in the seconds left, spread over the speeds, for as many epochs as fit.

    `chosen`: fastest first, the nearest to the teacher last.
    """
    for count in range(min(3, len(chosen)), 0, -1):
        picked = [chosen[i] for i in sorted({round(x) for x in np.linspace(0, len(chosen) - 1, count)})]
        for epochs in STEPS_OF_EPOCHS:
            if epochs >= (1.0 if count > 1 else 0.5) and epochs * sum(epoch_s[t.number] for t in picked) <= left:
                return picked, epochs, _late(chosen, picked)
    return chosen[-1:], 0.0, _late(chosen, chosen[-1:])  # no time to train: the one that needs it least


def _late(chosen: list[Trial], picked: list[Trial]) -> dict[str, str]:
    return {t.label: NO_TIME for t in chosen if t not in picked}


def _models(chosen: list[Trial], epochs: float, task: Task, static: bool) -> list[Model]:
    """Each pruned model trained and trimmed; with `static`, a static student and the cascades of both, where the task
    supports them."""
    trim = [Step.model_validate({"trim": {}})] if task.supports(Feature.TRIM) else []
    models = [Model(name="static", steps=[Step.model_validate({"static": {}}), *trim])] if static else []
    for t in chosen:
        cut = t.settings.model_dump(mode="json", exclude_defaults=True)
        if epochs:
            cut["recover"] = {"epochs": epochs}
        name = f"found-{t.number}"
        models.append(Model(name=name, steps=[Step.model_validate({"prune": cut}), *trim]))
        if task.supports(Feature.CASCADE) and static:
            cascade = {"first": "static", "then": name}
            models.append(Model.model_validate({"name": f"{name}-cascade", "cascade": cascade}))
    return models


def _commonest(job: Job) -> float:
    """Share of the commonest label among the training rows; 0 where there are no classes."""
    return job.task.commonest_share(job.train)
