"""The trials of a search: trained models, each judged as it would be shipped, and which of them are measured.

What a model loses is estimated from the labels and from its answers' distance to the teacher's (`expected_drops`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

from paredown.benchmarks.statistics.metric_intervals import drop_upper, paired_drop
from paredown.benchmarks.statistics.shrinkage import expected_drops
from paredown.compress.config import Prune, Recover, Trim
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.export.artifact import read_artifact
from paredown.tasks.base import Feature

from .engine import Execution, Planned, Plans, Results, Underway
from .finalists import Chain, Judgement, chains, finalists
from .job import BASE_TARGET, SCORES, Candidate, Job, chain_of, evaluation_name
from .plan import trial_steps
from .recipe.schema import BASELINE, Cascade, Model, Search, Target
from .recipe.schema import Step as Stage
from .steps.evaluate import answers_of, confidence_of
from .store import Done

TRAINING_COST = 3.2  # of a row in training, in the time that its score took: 3.2 of 26 tokens, 6 of 300
PRUNING_ROWS = 384  # for importance scores: training follows, and the default takes three times as long
PRUNING_S = 30.0  # importance scores and least squares, at least, until one was timed
PRUNING_COST = 10  # of these, in epochs of PRUNING_ROWS


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


@dataclass
class Trials:
    """The trials of one search so far, and the time that they took, in this run or before a kill.

    `table`: None where latency cannot be predicted. `full_ms`: the checkpoint's predicted latency. `top`: the
    speed-up that pruning can reach, 1 where the architecture cannot be pruned.
    """

    job: Job
    settings: Search
    execution: Execution
    table: LatencyTable | None
    full_ms: float
    top: float
    now: float = 0.0  # seconds since the search began
    seconds: dict[str, float] = field(default_factory=dict)  # that steps took, by directory of the step
    epoch_s: float = math.inf  # an epoch of training the checkpoint itself
    pruning_s: float = field(default_factory=lambda: PRUNING_S)
    found: Found = field(default_factory=Found)
    trials: list[Trial] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of all that were begun
    trim: Trim | None = None  # how the vocabulary of every model is trimmed; None: it is not
    base: Trial | None = None  # what pruning starts from, where it is not the checkpoint: one that reads less
    outputs: dict[str, Sequence[np.ndarray]] = field(default_factory=dict)  # as teacher_outputs, of each model
    teacher_outputs: Sequence[np.ndarray] = ()  # `Task.comparable` of its logits on validation
    teacher_right: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def left(self) -> float:
        """Seconds that are left of the time limit."""
        return 60 * self.settings.minutes - self.now

    @property
    def max_drop(self) -> float:
        return self.job.recipe.choose.max_drop

    def execute(self, plans: Plans) -> Results:
        """Do steps of the run, or find them in its store. The trials in flight continue meanwhile."""
        return self.execution.results(self.start(plans))

    def start(self, plans: Plans) -> Underway:
        """Have steps done beside those that are being done. Raises InputError where they cannot be planned."""
        self.execution.reporter.limit(self.left)
        return self.execution.add(Planned.of(self.job, plans))

    def spend(self, done: Mapping[str, Done], began: float | None = None) -> None:
        """Count steps against the time limit, each once; `began`: when they were started, where it is not now."""
        new = {str(step.path): step.seconds for step in done.values() if str(step.path) not in self.seconds}
        self.seconds |= new
        self.now = max(self.now, (self.now if began is None else began) + sum(new.values()))

    def first_guess(self, done: Mapping[str, Done]) -> None:
        """How long training and pruning take, from how long the teacher's scores did, until a model was trained."""
        rows = self.job.learned + len(self.job.validation)
        scored = next(step.seconds for name, step in done.items() if name == SCORES)
        self.epoch_s = TRAINING_COST * scored * self.job.learned / rows
        self.pruning_s = max(self.pruning_s, PRUNING_COST * PRUNING_ROWS * self.epoch_s / self.job.learned)

    def name_of(self, name: str) -> str:
        """The name, with a number where a model of the recipe or an earlier trial has it."""
        taken = {model.name for model in self.job.models} | self.names
        number = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}-{n}") not in taken)
        return name if number == 1 else f"{name}-{number}"

    def shapes(self) -> list[Trial]:
        """Of each pruned shape the trial that is nearest to the teacher, the fastest last."""
        nearest: dict[float, Trial] = {}
        for trial in self.trials:
            known = nearest.get(trial.speedup)
            if any(step.prune for step in trial.model.steps) and (known is None or trial.distance <= known.distance):
                nearest[trial.speedup] = trial
        return [nearest[speedup] for speedup in sorted(nearest)]

    def expected(self, trial: Trial) -> float:
        """Points that a trial is expected to lose, by its labels, its distance, and those of all trials."""
        others = [other for other in self.trials if other.model.name != trial.model.name]
        return self._judged([*others, trial])[-1]

    @staticmethod
    def _judged(trials: Sequence[Trial]) -> list[float]:
        columns = ([getattr(trial, name) for trial in trials] for name in ("drop", "error", "distance"))
        return [float(lost) for lost in expected_drops(*map(np.array, columns))]

    def share(self, speedup: float) -> float:
        """Training time of a model with this predicted speed-up, as a share of the checkpoint's: that of its layers."""
        base = self.table.base_ms if self.table is not None else 0.0
        return max(0.03, (self.full_ms / speedup - base) / max(self.full_ms - base, 1e-9))

    def add(self, model: Model, speedup: float, trainings: int, done: Mapping[str, Done], began: float) -> Trial:
        """Judge a trained model by the steps of its plan; `began`: when these were started."""
        new = {name: step for name, step in done.items() if str(step.path) not in self.seconds}
        self.spend(done, began)
        for name, settings in chain_of(model).items():
            if name in new and isinstance(settings, Recover):
                self.epoch_s = new[name].seconds / settings.epochs / self.share(speedup)
            if isinstance(settings, Prune):
                promised = done[name].result.get("promised_ms")
                shorter = self.base.speedup if self.base and model.steps[:1] == self.base.model.steps else 1.0
                speedup = self.full_ms / promised * shorter if promised else speedup
                self.pruning_s = new[name].seconds * shorter if name in new else self.pruning_s
        outputs, right, sure = self._evaluated(self.trimmed(model), done)
        if not self.teacher_outputs:
            self.teacher_outputs, self.teacher_right, _ = self._evaluated(Model(name=BASELINE), done)
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
        candidates = (Candidate(model, target) for target in (*self.targets, BASE_TARGET))
        names = {evaluation_name(candidate): candidate for candidate in candidates}
        name = next(name for name in names if name in done and "cannot_run" not in done[name].result)
        outputs, task = answers_of(names[name], done), self.job.task
        gold = task.gold(self.job.validation, read_artifact(done[names[name].step].path).encoder())
        sure = confidence_of(self.job, names[name], done) if task.supports(Feature.CASCADE) else None
        return task.comparable(outputs, gold), task.correct(outputs, gold), sure

    @property
    def targets(self) -> list[Target]:
        """Where a trial is evaluated, beside PyTorch: as it is timed, where the recipe has that target."""
        timed = self.settings.target
        wanted = Target(runtime=timed.runtime, precision=timed.precision)
        return [target for target in self.job.recipe.targets if target == wanted]

    def select(self) -> None:
        """The models that are exported and measured, alone and in cascades."""
        trimmed = self.trimmed(Model(name=self.name_of("trimmed")))
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
        kept = [self.trimmed(trial.model) for trial in self.trials if trial.model.name in used]
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
        results = self.execute(partial(trial_steps, model=model, targets=self.targets))
        outputs, right, _ = self._evaluated(Model(name=BASELINE) if results.failed else model, results.done)
        self.outputs[trimmed.name] = outputs
        return Chain((trimmed.name,), self.full_ms, right, self._distances(outputs))

    def trimmed(self, model: Model) -> Model:
        """The model with its vocabulary trimmed, where that costs little."""
        trim = [Stage(trim=self.trim)] if self.trim else []
        return model.model_copy(update={"steps": [*model.steps, *trim]})

    def _judge(self, chain: Chain) -> Judgement:
        drop, error, upper = self._lost(chain.right)
        trial = Trial(Model(name="chain"), 1.0, drop, error, upper, chain.right, chain.distances, None)
        return Judgement(drop, upper, self.expected(trial))

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
