"""The search for small models: shapes and their training together, within a time limit.

Pruning is gradual, as in ZipLM (arXiv 2302.04089): each model is pruned from the one before it, to the shape that the
latency table's dynamic program selects, and trained by distillation before the next one. What a model loses is
estimated from the labels and from its answers' distance to the teacher's (`expected_drops`). Pruning goes on for a
while past the models that lose too much alone: they may stand in front of slower ones (finalists.py). Then the step
from the fastest good model is made smaller, and models are trained further. Where time is left then, Optuna proposes
speed-ups and training settings (proposals.py). A static student comes first, for cascades. Every trial is an entry of
`models` in a recipe, and its steps are steps of the run: what the search has trained is there when its models are
exported and measured, when it is given more minutes, and after a kill.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from paredown.benchmarks.statistics.metric_intervals import drop_upper, paired_drop
from paredown.benchmarks.statistics.shrinkage import expected_drops
from paredown.compress.config import Distill, Prune, Recover, Static, Trim, Truncate
from paredown.compress.models.architectures import CONVOLUTIONAL
from paredown.compress.pruning.latency_allocation import LatencyTable, least_ms
from paredown.export.artifact import read_artifact
from paredown.export.hardware import has_int8_isa
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature

from .engine import Plans, Results
from .finalists import Chain, Judgement, chains, finalists
from .job import BASE_TARGET, SCORES, Candidate, Job, Step, chain_of, evaluation_name, table_name
from .plan import prunable, search_steps, trial_steps, vocabulary_steps, window_steps
from .progress import Report
from .proposals import Proposal, Proposals
from .recipe.schema import BASELINE, Cascade, Model, Search, Target
from .recipe.schema import Step as Stage
from .steps.compress import read_table
from .steps.evaluate import answers_of, confidence_of
from .steps.step_keys import code_of, digest_of
from .store import Done

SEARCH = "search"  # the step
UPDATES = 1600  # optimiser steps of a pruned model's training, at least, where there are two labels
LONGER, LONGER_SHARE = 2.0, 0.35  # times as many where the time allows, and how much of it the first one may take then
MOST_EPOCHS = 10.0
RATE = 2e-4  # learning rate of that training: docs/compression.md has what 3e-5 lost
FIRST_SPEEDUP, FACTOR, LEAST_FACTOR = 2.0, 1.5, 1.08  # of the first pruning, of each further one; where it ends
TRAININGS = 3  # of one shape
HOPELESS = 1.0  # points above max_drop that no further training makes up for, and where pruning ends
EQUAL = 0.3  # points that two models' losses may differ by chance alone: the search continues with the faster one
IMPROVED = 0.9  # of the distance to the teacher may be left after a further training, for another one
PATIENCE = 4  # proposals of Optuna, one after another, that lead to nothing better
FIRST_SHARE = 0.6  # of the time, at most, for the first pruned model
TRAINING_COST = 3.2  # of a row in training, in the time that its score took: 3.2 of 26 tokens, 6 of 300
STATIC_EPOCHS, STATIC_ROWS = 10, 250_000  # of the static student, at most; rows of all epochs together
LEAST_STATIC = 0.2  # of these epochs, at least
STATIC_COST = 1 / 20  # of an epoch of the static student, in epochs of the checkpoint
LEAST_TRAINING, FIRST_LEAST = 0.3, 0.1  # of the epochs that a pruned model, and the first one, should have at least
STATIC_SHARE = 0.15  # of the time, at most, for the static student
PRUNING_ROWS = 384  # for importance scores: training follows, and the default takes three times as long
PRUNING_S = 30.0  # importance scores and least squares, at least, until one was timed
PRUNING_COST = 10  # of these, in epochs of PRUNING_ROWS
FREQUENT, TRIM_SHARE = (2000, 8000, 16000), 0.35  # tokens that are kept whatever the texts have; of max_drop
WINDOWS = (64, 128, 256)  # tokens that are read of longer texts
LEAST_SHORTER = 1.3  # times fewer tokens, at least, for a window to be tried
TRYING_SHARE = 0.3  # of the time, at most, for a further window, or a larger vocabulary, to be tried
HEADS = (0.25, 0.5, 0.75)  # shares of a window that are at the beginning of a text
MOST_CHANNELS = 10.0  # times less to compute, of a convolutional network whose channels are pruned

FOUND = "found.json"
CODE = ("pipeline/search.py", "pipeline/finalists.py", "pipeline/proposals.py")  # what finds, beside the statistics


@dataclass(frozen=True)
class Trial:
    """A trained model. Drops are points of validation against the checkpoint; `speedup` is predicted."""

    model: Model
    speedup: float
    drop: float
    error: float  # standard error of the drop
    upper: float  # one-sided bound of the drop, at the confidence of the selection
    right: np.ndarray  # as `Task.correct` has the validation rows
    distances: np.ndarray  # `Task.regrets` of its outputs, (rows,)
    sure: np.ndarray | None  # its confidence in each row, where the task has cascades
    trainings: int = 1

    @property
    def distance(self) -> float:
        return float(self.distances.mean())

    @property
    def of_user(self) -> bool:
        """A smaller pretrained student that the user named."""
        return self.model.steps[0].distill is not None


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
        "int8": job.recipe.int8.model_dump(),
        "calibration_rows": job.recipe.calibration_rows,
        "parity": vars(job.recipe.tolerance(settings.target.precision)),
        "int8_isa": has_int8_isa(job.machine),
        "after": {step.name: step.key for step in search_steps(job, settings)},
        "code": {**{name: digest_of(name) for name in CODE}, **code_of("compress", "benchmarks/statistics")["code"]},
    }
    return Step(SEARCH, inputs, 60 * settings.minutes, partial(_keep, found))


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


def explore(job: Job, settings: Search, execute: Callable[[Plans], Results], found: Found) -> None:
    """Search within the time limit, and fill `found`. `execute` does steps of the run, or finds them in its store."""
    from paredown.compress.models.loading import load
    from paredown.compress.pruning.prune import options, shape_of

    start = execute(partial(search_steps, settings=settings))
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
    execute: Callable[[Plans], Results]
    table: LatencyTable | None
    full_ms: float
    top: float
    seconds: dict[str, float] = field(default_factory=dict)  # by directory of the step
    epoch_s: float = math.inf  # an epoch of training the checkpoint itself
    pruning_s: float = field(default_factory=lambda: PRUNING_S)
    found: Found = field(default_factory=Found)
    trials: list[Trial] = field(default_factory=list)
    longer: float = 0.0  # times UPDATES; 0: not yet known
    trim: Trim | None = None  # how the vocabulary of every model is trimmed; None: it is not
    base: Trial | None = None  # what pruning starts from, where it is not the checkpoint: one that reads less
    stuck: set[float] = field(default_factory=set)  # speed-ups of shapes that further training did not bring nearer
    outputs: dict[str, Sequence[np.ndarray]] = field(default_factory=dict)  # as teacher_outputs, of each model
    teacher_outputs: Sequence[np.ndarray] = ()  # `Task.comparable` of its logits on validation
    teacher_right: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

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
            self.pruning_s = max(self.pruning_s, PRUNING_COST * PRUNING_ROWS * self.epoch_s / self.job.learned)

    def explore(self) -> Found:
        """Train models until the time is over, or nothing is left to try."""
        self._trim()
        self._static()
        self._shorten()
        for number, student in enumerate(self.settings.students, start=1):
            settings = Distill(student=student, epochs=self._epochs(), hidden_weight=0)
            self._try(Model(name=self._name(f"student-{number}"), steps=[Stage(distill=settings)]), 1.0)
        if self.top > 1:
            self._descend()
            self._propose()
        self._select()
        return self.found

    def _epochs(self) -> float:
        """Epochs of a pruned model's training: enough optimiser steps for the labels, whatever the number of rows."""
        labels = max(2, len(self.job.checkpoint.labels))
        updates = max(1.0, self.longer) * UPDATES * (1 + math.log10(labels / 2))
        return round(min(MOST_EPOCHS, max(1.0, updates * Recover().batch_size / self.job.learned)), 1)

    def _static(self) -> None:
        """The static student, where the task has one and the time is enough."""
        if not self.job.task.supports(Feature.STATIC):
            return
        most = min(STATIC_EPOCHS, STATIC_ROWS / self.job.learned)
        epochs = round(min(most, STATIC_SHARE * self.left / (STATIC_COST * self.epoch_s)), 1)
        if epochs < LEAST_STATIC * most:
            self.found.dropped["static"] = "no time to train it; give more minutes"
            return
        many = len(self.job.checkpoint.labels) > 10
        settings = Static(
            width=128, pairs=8192, convolution=3, max_pooling=True, epochs=epochs, learning_rate=2e-3 if many else 1e-3
        )
        base = self.table.base_ms / 2 if self.table is not None else 0.0
        self._try(
            Model(name=self._name("static"), steps=[Stage(static=settings)]), min(50.0, self.full_ms / max(base, 1e-9))
        )

    def _trim(self) -> None:
        """The smallest vocabulary that costs at most TRIM_SHARE of `max_drop`: the mean of what the labels say and of
        what the checkpoint's own answers do. All tokens stay where none does, or the time is short."""
        if not self.job.task.supports(Feature.TRIM):
            return
        for frequent in FREQUENT:
            settings = Trim(frequent=frequent)
            try:
                results = self.execute(partial(vocabulary_steps, settings=settings))
            except InputError:  # a tokenizer that cannot be trimmed: all tokens stay
                return
            self.spend(results.done)
            if not results.failed:
                found = results.last.result
                if (found["drop"] + 100 * found["distance"]) / 2 <= TRIM_SHARE * self.max_drop:
                    self.trim = settings
                    return
            if self.left < 60 * self.settings.minutes * (1 - TRYING_SHARE):
                return

    def _shorten(self) -> None:
        """Of long texts, read the first and the last tokens: the smallest window that is expected to lose half of
        `max_drop`, and of its tokens the share at the beginning that is nearest to the checkpoint's answers."""
        if not self.job.task.supports(Feature.TRUNCATE):
            return
        checkpoint, before = self.job.checkpoint, self.left
        ids = checkpoint.read(checkpoint.encoder(self.job.recipe.max_length).ids(self.job.validation.texts))
        lengths = np.array([len(row) for row in ids])
        for window in WINDOWS:
            shorter = lengths.sum() / np.minimum(lengths, window).sum()
            late = before - self.left > TRYING_SHARE * before
            if shorter < LEAST_SHORTER or late or self.base is not None:
                return
            trial = self._truncated(window, shorter)
            if trial is not None and self._expected(trial) <= self.max_drop / 2:
                self.base = trial

    def _truncated(self, window: int, shorter: float) -> Trial | None:
        """The checkpoint where it reads a window of `shorter` times fewer tokens."""
        ends = [(round(window * share), window - round(window * share)) for share in HEADS]
        results = self.execute(partial(window_steps, ends=ends))
        if results.failed:
            return None
        self.spend(results.done)
        first, last = ends[int(np.argmin(results.last.result["distances"]))]
        settings = Truncate(first=first, last=last)
        model = Model(name=self._name(f"truncated-{first}-{last}"), steps=[Stage(truncate=settings)])
        return self._try(model, shorter)

    def _descend(self) -> None:
        """Prune and train until the time is over or nothing is left to try."""
        while (wanted := self._next()) is not None:
            before, speedup, further = wanted
            model = self._pruned(before, speedup, further)
            if model is None or any(trial.model.steps == model.steps for trial in self.trials):
                return  # no time is left, or of the shapes that there are none lies between
            trial = self._try(model, speedup, before.trainings + 1 if before and further else 1)
            if trial is None:
                return
            if before and further and trial.distance > IMPROVED * before.distance:
                self.stuck.add(trial.speedup)

    def _propose(self) -> None:
        """What Optuna proposes from all trials, until the time is over or PATIENCE of them lead to nothing better."""
        shapes = self._shapes()
        least = LEAST_FACTOR * (self.base.speedup if self.base else 1.0)
        if not shapes or shapes[-1].speedup <= least:
            return
        proposals, worse = Proposals(least, shapes[-1].speedup, self.job.recipe.seed), 0
        for trial in self.trials:
            training = list(chain_of(trial.model).values())[-1]
            if isinstance(training, Recover):
                made = Proposal(trial.speedup, training.learning_rate, training.epochs / self._epochs())
                proposals.add(made, trial.distance)
        while worse < PATIENCE:
            number, wanted = proposals.ask()
            shapes = self._shapes()
            same = next((s for s in shapes if 1 / LEAST_FACTOR < wanted.speedup / s.speedup < LEAST_FACTOR), None)
            slower = [s for s in shapes if s.speedup < wanted.speedup]
            before = same or (slower[-1] if slower else self.base)
            speedup = same.speedup if same else wanted.speedup
            best = min((s.distance for s in shapes if s.speedup >= speedup), default=math.inf)
            model = self._pruned(before, speedup, same is not None, wanted)
            trial = self._try(model, speedup, same.trainings + 1 if same else 1) if model else None
            if trial is None:
                return
            proposals.tell(number, trial.speedup, trial.distance)
            worse = 0 if trial.distance <= IMPROVED * best else worse + 1
        self.found.next += f"; {worse} proposals of Optuna, one after another, led to nothing better"

    def _next(self) -> tuple[Trial | None, float, bool] | None:
        """What to do next: the trial that is gone on from, the predicted speed-up, and whether it is only trained
        further; None where nothing is left.

        Deeper, until a model loses HOPELESS points too much (without cascades: too much); then once more training of
        the one that is nearest to good, of equals (EQUAL) the fastest, for it serves in cascades as well; then between
        the fastest good model and the next one; then further training of the nearest and the good one.
        """
        shapes = self._shapes()
        lost = {shape.speedup: self._expected(shape) for shape in shapes}
        good = next((s for s in reversed(shapes) if lost[s.speedup] <= self.max_drop), None)
        start = self.base.speedup if self.base else 1.0
        now, deepest = good.speedup if good else start, shapes[-1] if shapes else None
        faster = [s for s in shapes if s.speedup > now]
        least = min((lost[s.speedup] for s in faster), default=0.0)
        near = next((s for s in reversed(faster) if lost[s.speedup] <= least + EQUAL), None)
        bad = faster[0] if faster else None
        room = HOPELESS if self.job.task.supports(Feature.CASCADE) else 0.0
        if deepest is None or lost[deepest.speedup] <= self.max_drop + room:
            wanted = deepest.speedup * FACTOR if deepest else max(self.settings.speedup or 0, start * FIRST_SPEEDUP)
            wanted = min(wanted, 0.95 * self.top * start)
            if self._worth_pruning(deepest.speedup if deepest else start, wanted):
                return deepest or self.base, wanted, False
        further = [
            shape
            for shape in (near, good)
            if shape and shape.trainings < TRAININGS and shape.speedup not in self.stuck
            if lost[shape.speedup] <= self.max_drop + HOPELESS
        ]
        again = bool(further) and further[0] is near and further[0].trainings == 1
        if bad is not None and not again and self._worth_pruning(now, wanted := math.sqrt(now * bad.speedup)):
            return good or self.base, wanted, False
        if further:
            self.found.next = f"training {further[0].model.name} further"
            return further[0], further[0].speedup, True
        why = f"{bad.model.name} loses too much" if bad else f"pruning reaches {self.top * start:.1f}x at most"
        self.found.next = f"little: the fastest good model is {now:.1f}x (predicted), and {why}"
        return None

    def _worth_pruning(self, before: float, wanted: float) -> bool:
        """Whether pruning from one predicted speed-up to another is a step, and fast enough for the recipe."""
        self.found.next = f"pruning to {wanted:.1f}x (predicted)"
        return wanted / before >= LEAST_FACTOR and wanted >= (self.settings.speedup or 0)

    def _shapes(self) -> list[Trial]:
        """Of each pruned shape the trial that is nearest to the teacher, the fastest last."""
        nearest: dict[float, Trial] = {}
        for trial in self.trials:
            known = nearest.get(trial.speedup)
            if any(step.prune for step in trial.model.steps) and (known is None or trial.distance <= known.distance):
                nearest[trial.speedup] = trial
        return [nearest[speedup] for speedup in sorted(nearest)]

    def _expected(self, trial: Trial) -> float:
        """Points that a trial is expected to lose, by its labels, its distance, and those of all trials."""
        others = [other for other in self.trials if other.model.name != trial.model.name]
        return self._judged([*others, trial])[-1]

    @staticmethod
    def _judged(trials: Sequence[Trial]) -> list[float]:
        columns = ([getattr(trial, name) for trial in trials] for name in ("drop", "error", "distance"))
        return [float(lost) for lost in expected_drops(*map(np.array, columns))]

    @property
    def max_drop(self) -> float:
        return self.job.recipe.choose.max_drop

    def _share(self, speedup: float) -> float:
        """Training time of a model with this predicted speed-up, as a share of the checkpoint's: that of its layers."""
        base = self.table.base_ms if self.table is not None else 0.0
        return max(0.03, (self.full_ms / speedup - base) / max(self.full_ms - base, 1e-9))

    def _pruned(
        self, before: Trial | None, wanted: float, further: bool, proposal: Proposal | None = None
    ) -> Model | None:
        """`before` pruned to a predicted speed-up and trained, or only trained further; None where no time is left for
        that. `proposal`: how it is trained, where that is not the search's own."""
        if not self.longer:
            taken = self._epochs() * self.epoch_s * self._share(wanted)
            self.longer = min(LONGER, max(1.0, LONGER_SHARE * self.left / taken))
        rate, times = (proposal.learning_rate, proposal.epochs) if proposal else (RATE, 1.0)
        epochs, epoch_s = max(0.1, round(times * self._epochs(), 1)), self.epoch_s * self._share(wanted)
        shorter = self.base.speedup if self.base else 1.0  # rows of as many times fewer tokens
        fixed = 0.0 if further else self.pruning_s / shorter
        first = before is None or before is self.base
        limit = FIRST_SHARE * self.left if first else self.left
        if fixed + epochs * epoch_s > limit:
            fits = (limit - fixed) / epoch_s
            if fits < (FIRST_LEAST if first else LEAST_TRAINING) * epochs:
                return None
            epochs = max(0.1, math.floor(10 * fits) / 10)
        training = Recover(epochs=epochs, learning_rate=rate)
        if further:
            stage = Stage(recover=training)
        else:
            pruning = self._pruning(wanted / (before.speedup if before else 1.0), first)
            stage = Stage(prune=pruning.model_copy(update={"recover": training}))
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
        judged = self._trimmed(model)  # what would be measured
        try:
            results = self.execute(partial(trial_steps, model=judged, targets=self._targets))
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
                shorter = self.base.speedup if self.base and model.steps[:1] == self.base.model.steps else 1.0
                speedup = self.full_ms / promised * shorter if promised else speedup
                self.pruning_s = new[name].seconds * shorter if name in new else self.pruning_s
        outputs, right, sure = self._evaluated(judged, results.done)
        if not self.teacher_outputs:
            self.teacher_outputs, self.teacher_right, _ = self._evaluated(Model(name=BASELINE), results.done)
        self.outputs[model.name] = outputs
        trial = Trial(model, speedup, *self._lost(right), right, self._distances(outputs), sure, trainings)
        self.trials.append(trial)
        return trial

    def _lost(self, right: np.ndarray) -> tuple[float, float, float]:
        """The drop against the checkpoint in points, its standard error, and its bound."""
        drop, error = paired_drop(self.teacher_right, right)
        level = self.job.recipe.choose.confidence
        return drop, error, drop_upper(self.teacher_right, right, level) if level else drop

    def _distances(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """`Task.regrets` of the outputs."""
        return self.job.task.regrets(outputs, self.teacher_outputs)

    def _evaluated(
        self, model: Model, done: Mapping[str, Done]
    ) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray | None]:
        """`Task.comparable` of the logits on validation, what is right in each row, and, where the task has cascades,
        how sure the model is: in the target of the predicted latency, or in PyTorch where that was not evaluated or
        cannot run here."""
        candidates = (Candidate(model, target) for target in (*self._targets, BASE_TARGET))
        names = {evaluation_name(candidate): candidate for candidate in candidates}
        name = next(name for name in names if name in done and "cannot_run" not in done[name].result)
        outputs, task = answers_of(names[name], done), self.job.task
        gold = task.gold(self.job.validation, read_artifact(done[names[name].step].path).encoder())
        sure = confidence_of(self.job, names[name], done) if task.supports(Feature.CASCADE) else None
        return task.comparable(outputs, gold), task.correct(outputs, gold), sure

    @property
    def _targets(self) -> list[Target]:
        """Where a trial is evaluated, beside PyTorch: as it is timed, where the recipe has that target."""
        timed = self.settings.target
        wanted = Target(runtime=timed.runtime, precision=timed.precision)
        return [target for target in self.job.recipe.targets if target == wanted]

    def _select(self) -> None:
        """The models that are exported and measured, alone and in cascades."""
        trimmed = self._trimmed(Model(name=self._name("trimmed")))
        whole = next((model for model in self.job.models if model.steps == trimmed.steps), trimmed)
        if not self.trials:
            self.found.models = [trimmed] if whole is trimmed and trimmed.steps else []
            return
        names = [trial.model.name for trial in self.trials]
        models = [Chain((t.model.name,), self.full_ms / t.speedup, t.right, t.distances) for t in self.trials]
        models.append(self._whole(whole))
        sure = {t.model.name: t.sure for t in self.trials if t.sure is not None}
        regrets = cache(lambda name, then: self.job.task.regrets(self.outputs[name], self.outputs[then]))
        found = chains(models, sure, regrets, self.max_drop)
        picked = finalists(found, self._judge, self.max_drop)
        expected = dict(zip(names, self._judged(self.trials), strict=True))
        used = {name for chain in picked for name in chain.names}
        used |= {t.model.name for t in self.trials if t.of_user and expected[t.model.name] <= self.max_drop}
        kept = [self._trimmed(trial.model) for trial in self.trials if trial.model.name in used]
        if whole is trimmed and whole.name in used:
            kept.append(trimmed)
        for chain in picked:
            add_cascades(kept, chain)
        self.found.models = kept
        for name, trial in zip(names, self.trials, strict=True):
            if name in used:
                self.found.trained.append(describe(trial, expected[name]))
            else:
                self.found.dropped[name] = self._why(trial, expected[name], picked)

    def _whole(self, trimmed: Model) -> Chain:
        """The checkpoint with its vocabulary trimmed, as a last model."""
        model = trimmed if trimmed.steps else Model(name=BASELINE)
        results = self.execute(partial(trial_steps, model=model, targets=self._targets))
        outputs, right, _ = self._evaluated(Model(name=BASELINE) if results.failed else model, results.done)
        self.outputs[trimmed.name] = outputs
        return Chain((trimmed.name,), self.full_ms, right, self._distances(outputs))

    def _trimmed(self, model: Model) -> Model:
        """The model with its vocabulary trimmed, where that costs little."""
        trim = [Stage(trim=self.trim)] if self.trim else []
        return model.model_copy(update={"steps": [*model.steps, *trim]})

    def _judge(self, chain: Chain) -> Judgement:
        drop, error, upper = self._lost(chain.right)
        trial = Trial(Model(name="chain"), 1.0, drop, error, upper, chain.right, chain.distances, None)
        return Judgement(drop, upper, self._expected(trial))

    def _why(self, trial: Trial, expected: float, picked: Mapping[Chain, Judgement]) -> str:
        if expected > self.max_drop:
            return f"{losses(trial, expected)}; max_drop is {self.max_drop:g}"
        fastest = next(iter(picked))
        times = self.full_ms / fastest.ms
        return f"{' then '.join(fastest.names)} is predicted faster ({times:.1f}x, this {trial.speedup:.1f}x)"


def add_cascades(models: list[Model], chain: Chain) -> None:
    """Add the cascades of a chain to models, the inner one first, each once; one of the same models with other
    thresholds gets a number."""
    *front, last = chain.names
    for first in reversed(front):
        cascade = Cascade(first=first, then=last, max_drop=chain.max_drop)
        last = next((model.name for model in models if model.cascade == cascade), "")
        if not last:
            taken, plain = {model.name for model in models}, f"{first}-then-{cascade.then}"
            numbered = itertools.chain([plain], (f"{plain}-{i}" for i in itertools.count(2)))
            last = next(name for name in numbered if name not in taken)
            models.append(Model(name=last, cascade=cascade))


def losses(trial: Trial, expected: float) -> str:
    """What a trial loses, in words."""
    return f"loses {trial.drop:.2f} points of validation, {expected:.2f} are expected by how far it is from the teacher"


def describe(trial: Trial, expected: float) -> str:
    """One sentence on a trial that is measured."""
    return f"{trial.model.name}: predicted {trial.speedup:.1f}x, {losses(trial, expected)}"
