"""The search for small models: shapes and their training together, within a time limit.

Pruning is gradual, as in ZipLM (arXiv 2302.04089): each model is pruned from the one before it, to the shape that the
latency table's dynamic program selects, and trained by distillation before the next one. A model that loses too much is
trained further; where that does not help, the step from the last good one is made smaller. A static student comes
first, for cascades. Every trial is an entry of `models` in a recipe, and its steps are steps of the run: what the
search has trained is there when its models are exported and measured, when it is given more minutes, and after a kill.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from paredown.benchmarks.statistics.metric_intervals import drop_upper, paired_drop
from paredown.compress.config import Distill, Prune, Recover, Static, Trim
from paredown.compress.models.architectures import CONVOLUTIONAL
from paredown.compress.pruning.latency_allocation import LatencyTable, least_ms
from paredown.export.artifact import read_artifact
from paredown.export.onnx.cascade import sure_share, threshold_for
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature

from .failures import Failure
from .job import BASE_TARGET, SCORES, Candidate, Job, Step, chain_of, evaluation_name, table_name
from .plan import prunable, search_steps, trial_steps
from .progress import Report
from .recipe.schema import BASELINE, Cascade, Model, Search
from .recipe.schema import Step as Stage
from .steps.compress import read_table
from .steps.step_keys import code_of, digest_of
from .store import Done

UPDATES = 1600  # optimiser steps of a pruned model's training, where there are two labels
MOST_EPOCHS = 10.0
RATE = 2e-4  # learning rate of that training: docs/compression.md has what 3e-5 lost
FIRST_SPEEDUP, FACTOR, LEAST_FACTOR = 1.6, 1.4, 1.08  # of the first pruning, of each further one; where it ends
TRAININGS = 3  # of one shape, before a smaller step is tried
HOPELESS = 1.5  # points above max_drop that no further training makes up for
IMPROVED = 0.7  # of what was lost above max_drop may be left, for a third training
FIRST_SHARE = 0.6  # of the time, at most, for the first pruned model
TRAINING_COST = 2.4  # of a row in training, in forward passes of the teacher: 1.6 with AMX, 3.1 without
STATIC_COST, STATIC_WIDE_COST = 1 / 45, 1 / 23  # of an epoch of a static student, in epochs of the checkpoint
LEAST_TRAINING, FIRST_LEAST = 0.3, 0.1  # of the epochs that a pruned model, and the first one, should have at least
STATIC_SHARE = 0.15  # of the time, at most, for the static student
PRUNING_ROWS = 384  # for importance scores: training follows, and the default takes three times as long
PRUNING_S = 30.0  # importance scores and least squares, until one was timed
LEAST_SHARE = 0.05  # of the rows that a static student must answer for a cascade to be measured
CASCADE_DROP = 0.2  # points that a cascade may lose against its second model
MOST_CHANNELS = 10.0  # times less to compute, of a convolutional network whose channels are pruned
FINALISTS = 3  # pruned models that are exported and measured

FOUND = "found.json"


@dataclass(frozen=True)
class Results:
    """What the steps of a plan came to, by name."""

    done: dict[str, Done]
    failed: dict[str, Failure]  # those that stand on a failed one too
    ran: int  # how many were done now, failed ones among them


@dataclass(frozen=True)
class Trial:
    """A trained model. Drops are points of validation against the checkpoint; `speedup` is predicted."""

    model: Model
    speedup: float
    drop: float
    upper: float  # one-sided bound of the drop, at the confidence of the selection
    outputs: np.ndarray  # logits on validation
    trainings: int = 1
    gained: bool = True  # the last of several trainings brought it much nearer to max_drop

    def worth_training(self, max_drop: float) -> bool:
        """Whether a model that loses too much is near enough to be trained further."""
        return self.trainings < TRAININGS and self.gained and self.upper <= max_drop + HOPELESS

    def __str__(self) -> str:
        return (
            f"{self.model.name}: predicted {self.speedup:.1f}x, loses {self.drop:.2f} points ({self.upper:.2f} at most)"
        )


@dataclass
class Found:
    """What a search came to."""

    models: list[Model] = field(default_factory=list)  # to export and measure
    trained: list[str] = field(default_factory=list)  # a sentence on each trial that is measured
    dropped: dict[str, str] = field(default_factory=dict)  # why the others are not
    next: str = ""  # what more minutes would be spent on

    def to_json(self) -> dict:
        """The part of measurements.json about the search."""
        return {
            "trials": len(self.trained) + len(self.dropped),
            "trained": self.trained,
            "dropped": self.dropped,
            "next": self.next,
        }


def search_step(job: Job, settings: Search, found: Found) -> Step:
    """The step that keeps what a search found, so that a finished one is not repeated. It reads `found` when it is
    done."""
    inputs = {
        "stage": "search",
        "settings": settings.model_dump(),
        "max_drop": job.recipe.choose.max_drop,
        "confidence": job.recipe.choose.confidence,
        "seed": job.recipe.seed,
        "after": {step.name: step.key for step in search_steps(job, settings)},
        "code": {"search": digest_of("pipeline/search.py"), **code_of("compress")["code"]},
    }
    return Step("search", inputs, 60 * settings.minutes, partial(_keep, found))


def _keep(found: Found, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    models = [model.model_dump(mode="json", exclude_none=True) for model in found.models]
    (out / FOUND).write_text(json.dumps(models, indent=2) + "\n", encoding="utf-8")
    return found.to_json()


def found_models(done: Done) -> list[Model]:
    """The models that a finished search selected for measuring."""
    return [Model.model_validate(entry) for entry in json.loads((done.path / FOUND).read_text(encoding="utf-8"))]


def with_models(job: Job, models: list[Model]) -> Job:
    """The job with the search's models beside the recipe's own."""
    return replace(job, recipe=job.recipe.model_copy(update={"models": [*job.recipe.models, *models], "search": None}))


def explore(job: Job, settings: Search, execute: Callable[[list[Step]], Results], found: Found) -> None:
    """Search within the time limit, and fill `found`. `execute` does steps of the run, or finds them in its store."""
    from paredown.compress.models.loading import load
    from paredown.compress.pruning.prune import options, shape_of

    start = execute(search_steps(job, settings))
    if start.failed:
        found.dropped["search"] = str(next(iter(start.failed.values())))
        return
    table, top, full_ms = None, 1.0, 1.0
    if job.checkpoint.config.get("model_type") in CONVOLUTIONAL:
        top = MOST_CHANNELS
    elif prunable(job):
        table = read_table(start.done[table_name(settings.target)].path)
        model = load(job.checkpoint, job.task)
        full_ms = table.predict(shape_of(model))
        top = full_ms / least_ms(table, *options(model, Prune()))
    explorer = Explorer(job, settings, execute, table, full_ms, top, found=found)
    explorer.spend(start.done)
    explorer.explore()


@dataclass
class Explorer:
    """One search: its trials so far, and the seconds that their steps took, in this run or before a kill.

    `table`: None where latency cannot be predicted. `full_ms`: the checkpoint's predicted latency. `top`: the
    speed-up that pruning can reach, 1 where the architecture cannot be pruned.
    """

    job: Job
    settings: Search
    execute: Callable[[list[Step]], Results]
    table: LatencyTable | None
    full_ms: float
    top: float
    seconds: dict[str, float] = field(default_factory=dict)  # by directory of the step
    epoch_s: float = math.inf  # an epoch of training the checkpoint itself
    pruning_s: float = PRUNING_S
    found: Found = field(default_factory=Found)
    trials: list[Trial] = field(default_factory=list)
    teacher_outputs: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))  # logits on validation

    @property
    def left(self) -> float:
        """Seconds that are left of the time limit."""
        return 60 * self.settings.minutes - sum(self.seconds.values())

    def spend(self, done: Mapping[str, Done]) -> None:
        """Count steps against the time limit, each once."""
        self.seconds |= {str(step.path): step.seconds for step in done.values()}
        if math.isinf(self.epoch_s):  # a guess, until a model was trained
            rows = self.job.learned + len(self.job.validation)
            scored = next(step.seconds for name, step in done.items() if name == SCORES)
            self.epoch_s = TRAINING_COST * scored * self.job.learned / rows

    def explore(self) -> Found:
        """Train models until the time is over, or nothing is left to try."""
        static = self._static()
        for number, student in enumerate(self.settings.students, start=1):
            settings = Distill(student=student, epochs=self._epochs(), hidden_weight=0)
            self._try(Model(name=self._name(f"student-{number}"), steps=[Stage(distill=settings)]), 1.0)
        if self.top > 1:
            self._descend()
        self._select(static)
        return self.found

    def _epochs(self) -> float:
        """Epochs of a pruned model's training: enough optimiser steps for the labels, whatever the number of rows."""
        labels = max(2, len(self.job.checkpoint.labels))
        updates = UPDATES * (1 + math.log10(labels / 2))
        return round(min(MOST_EPOCHS, max(1.0, updates * Recover().batch_size / self.job.learned)), 1)

    def _static(self) -> Trial | None:
        """The static student, its capacity by the number of labels; None where there is none."""
        if not self.job.task.supports(Feature.STATIC):
            return None
        many = len(self.job.checkpoint.labels) > 10
        cost = self.epoch_s * (STATIC_WIDE_COST if many else STATIC_COST)
        epochs = min(20, int(STATIC_SHARE * self.left / cost))
        if epochs < 2:
            self.found.dropped["static"] = "no time to train it; give more minutes"
            return None
        settings = Static(width=384 if many else 128, pairs=8192, epochs=epochs, learning_rate=2e-3 if many else 1e-3)
        base = self.table.base_ms / 2 if self.table is not None else 0.0
        return self._try(
            Model(name=self._name("static"), steps=[Stage(static=settings)]), min(50.0, self.full_ms / max(base, 1e-9))
        )

    def _descend(self) -> None:
        """Prune and train, further each time, until too much is lost; then train on, and take smaller steps."""
        good: Trial | None = None
        bad: Trial | None = None
        while True:
            now = good.speedup if good else 1.0
            most = self.max_drop
            if bad is not None and bad.worth_training(most):
                before, wanted, trainings = bad, bad.speedup, bad.trainings + 1
                self.found.next = f"training {bad.model.name} further"
            else:
                first = self.settings.speedup or FIRST_SPEEDUP
                factor = math.sqrt(bad.speedup / now) if bad else FACTOR if good else first
                before, wanted, trainings = good, min(now * factor, 0.95 * self.top), 1
                if wanted / now < LEAST_FACTOR or wanted < (self.settings.speedup or 0):
                    why = f"{bad.model.name} loses too much" if bad else f"pruning reaches {self.top:.1f}x at most"
                    self.found.next = f"little: the fastest good model is {now:.1f}x (predicted), and {why}"
                    return
                self.found.next = f"pruning to {wanted:.1f}x (predicted)"
            model = self._pruned(before, None if trainings > 1 else wanted / now, wanted)
            trial = self._try(model, wanted, trainings) if model else None
            if trial is None:
                return
            if trainings > 1 and before and trial.upper - most > IMPROVED * (before.upper - most):
                trial = replace(trial, gained=False)
            if trial.upper <= most:
                good, bad = trial, None if bad is before else bad
            else:
                bad = trial

    @property
    def max_drop(self) -> float:
        return self.job.recipe.choose.max_drop

    def _share(self, speedup: float) -> float:
        """Training time of a model with this predicted speed-up, as a share of the checkpoint's: that of its layers."""
        base = self.table.base_ms if self.table is not None else 0.0
        return max(0.03, (self.full_ms / speedup - base) / max(self.full_ms - base, 1e-9))

    def _pruned(self, before: Trial | None, factor: float | None, wanted: float) -> Model | None:
        """`before` pruned by a factor (None: as it is) and trained; None where no time is left for that."""
        epochs, epoch_s = self._epochs(), self.epoch_s * self._share(wanted)
        fixed = self.pruning_s if factor else 0.0
        limit = self.left if before else FIRST_SHARE * self.left
        if fixed + epochs * epoch_s > limit:
            fits = (limit - fixed) / epoch_s
            if fits < (LEAST_TRAINING if before else FIRST_LEAST) * epochs:
                return None
            epochs = max(0.1, math.floor(10 * fits) / 10)
        training = Recover(epochs=epochs, learning_rate=RATE)
        if factor is None:
            stage = Stage(recover=training)
        else:
            stage = Stage(prune=self._pruning(factor, first=before is None).model_copy(update={"recover": training}))
        steps = [*(before.model.steps if before else []), stage]
        return Model(name=self._name(f"pruned-{wanted:.1f}x"), steps=steps)

    def _pruning(self, factor: float, first: bool) -> Prune:
        """To a predicted latency; where that cannot be predicted, to the share of channels with as many times less to
        compute, which is quadratic in their number."""
        if self.table is None:
            return Prune(channels=round(max(0.05, factor**-0.5), 3), rows=PRUNING_ROWS)
        return Prune(
            speedup=round(max(1.01, factor), 3), target=self.settings.target, time_shape=False, rows=PRUNING_ROWS,
            multiple=32 if first else 1,
        )  # fmt: skip

    def _name(self, name: str) -> str:
        """The name, with a number where a model of the recipe or an earlier trial has it."""
        taken = {model.name for model in (*self.job.models, *(trial.model for trial in self.trials))}
        number = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}-{n}") not in taken)
        return name if number == 1 else f"{name}-{number}"

    def _try(self, model: Model, speedup: float, trainings: int = 1) -> Trial | None:
        """Train and evaluate a model; None where it fails."""
        try:
            results = self.execute(trial_steps(self.job, model))
        except InputError as error:  # a speed-up that this shape cannot reach, for example
            self.found.dropped[model.name] = str(error)
            return None
        if results.failed:
            self.found.dropped[model.name] = str(next(iter(results.failed.values())))
            return None
        new = {name: step for name, step in results.done.items() if str(step.path) not in self.seconds}
        self.spend(results.done)
        for name, settings in chain_of(model).items():
            if name in new and isinstance(settings, Recover):
                self.epoch_s = new[name].seconds / settings.epochs / self._share(speedup)
            if isinstance(settings, Prune):
                promised = results.done[name].result.get("promised_ms")
                speedup = self.full_ms / promised if promised else speedup
                self.pruning_s = new[name].seconds if name in new else self.pruning_s
        outputs, right = self._evaluated(model, results.done)
        self.teacher_outputs, theirs = self._evaluated(Model(name=BASELINE), results.done)
        drop, _ = paired_drop(theirs, right)
        confidence = self.job.recipe.choose.confidence
        upper = drop_upper(theirs, right, confidence) if confidence else drop
        trial = Trial(model, speedup, drop, upper, outputs, trainings)
        self.trials.append(trial)
        return trial

    def _evaluated(self, model: Model, done: Mapping[str, Done]) -> tuple[np.ndarray, np.ndarray]:
        """Logits on validation, and what is right in each row."""
        candidate = Candidate(model, BASE_TARGET)
        outputs = np.load(done[evaluation_name(candidate)].path / "validation.npy")
        encoder = read_artifact(done[candidate.step].path).encoder()
        return outputs, self.job.task.correct(outputs, self.job.task.gold(self.job.validation, encoder))

    def _select(self, static: Trial | None) -> None:
        """The models that are exported and measured: the fastest good ones, and cascades of the static student."""
        others = sorted((t for t in self.trials if t is not static), key=lambda t: -t.speedup)
        good = [t for t in others if t.upper <= self.max_drop]
        near = [t for t in others if t not in good and t.drop <= self.max_drop]
        picked = [*good[: FINALISTS - 1], *near[-1:]] if good else near[:1] or others[-1:]
        for trial in others:
            if trial in picked:
                self.found.trained.append(str(trial))
            else:
                self.found.dropped[trial.model.name] = self._why(trial, good)
        trim = [Stage(trim=Trim())] if self.job.task.supports(Feature.TRIM) else []
        models = [t.model.model_copy(update={"steps": [*t.model.steps, *trim]}) for t in picked]
        if trim and not good and not any(model.steps == trim for model in self.job.models):
            models.append(Model(name=self._name("trimmed"), steps=trim))
        self.found.models = models
        if static is None:
            return
        share = self._sure_share(static, picked)
        if share < LEAST_SHARE:
            self.found.dropped[static.model.name] = (
                f"loses {static.drop:.2f} points, and as the first model of a cascade it answers {share:.0%} of rows"
            )
            return
        self.found.trained.append(f"{static}; first of a cascade, it answers {share:.0%} of the rows")
        first = static.model.model_copy(update={"steps": [*static.model.steps, *trim]})
        cascades = [
            Model(
                name=f"{model.name}-cascade", cascade=Cascade(first=first.name, then=model.name, max_drop=CASCADE_DROP)
            )
            for model in (*models, *(model for model in self.job.recipe.models if model.steps == trim))
        ]
        self.found.models = [first, *models, *cascades]

    def _why(self, trial: Trial, good: list[Trial]) -> str:
        if trial.upper > self.max_drop:
            return f"loses {trial.drop:.2f} points ({trial.upper:.2f} at most), max_drop is {self.max_drop:g}"
        return f"{good[0].model.name} is predicted faster ({good[0].speedup:.1f}x, this {trial.speedup:.1f}x)"

    def _sure_share(self, static: Trial, selected: list[Trial]) -> float:
        """Share of the validation rows, 0..1, that the static student answers before the second model."""
        if not self.job.task.supports(Feature.CASCADE):
            return 0.0
        then, gold = selected[0].outputs if selected else self.teacher_outputs, self.job.validation.gold
        threshold = threshold_for(static.outputs, then, self.job.task.correct, gold, CASCADE_DROP)
        return sure_share(static.outputs, threshold)
