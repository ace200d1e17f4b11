"""What a search tries, and when: as many trials at a time as there are places for trainings.

The order is that of docs/compression.md: static students, windows of long texts, students that the user named, gradual
pruning, proposals of Optuna. A trial in flight counts as tried: none is begun that would do the same, and what stands
on its result waits for it. With one place each trial knows all those before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from paredown.compress.config import Distill, Prune, Recover, Static, Trim, Truncate
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature

from .engine import Underway
from .job import chain_of
from .plan import trial_steps, vocabulary_steps, window_steps
from .proposals import Proposal, Proposals
from .recipe.schema import Model
from .recipe.schema import Step as Stage
from .trial_order import Ended, TrialOrder
from .trials import PRUNING_ROWS, Found, Trial, Trials

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
STATIC_EPOCHS, STATIC_ROWS = 10, 250_000  # of the static student, at most; rows of all epochs together
LEAST_STATIC = 0.2  # of these epochs, at least
STATIC_COST, CONVOLUTION_COST = 1 / 20, 0.2  # of its epoch, in epochs of the checkpoint; more with each further layer
CONVOLUTION_MS = 0.015  # times the checkpoint's latency, of each further layer: 0.055 of 3.75 ms (docs/compression.md)
LEAST_TRAINING, FIRST_LEAST = 0.3, 0.1  # of the epochs that a pruned model, and the first one, should have at least
STATICS = {3: 0.15, 1: 0.05}  # layers of convolution of a static student: share of the time, at most, that it takes
FREQUENT, TRIM_SHARE = (2000, 8000, 16000), 0.35  # tokens that are kept whatever the texts have; of max_drop
WINDOWS = (64, 128, 256)  # tokens that are read of longer texts
LEAST_SHORTER = 1.3  # times fewer tokens, at least, for a window to be tried
TRYING_SHARE = 0.3  # of the time, at most, for a further window, or a larger vocabulary, to be tried
HEADS = (0.25, 0.5, 0.75)  # shares of a window that are at the beginning of a text


@dataclass(eq=False)
class Wanted:
    """A trial that is to be done; `speedup` is predicted."""

    model: Model
    speedup: float
    before: Trial | None = None  # that it is made from
    further: bool = False  # it is that one, trained further
    number: int | None = None  # of Optuna's proposal
    began: float = 0.0  # seconds of the search
    ended: bool = False
    trial: Trial | None = None  # what it came to; None where it failed

    @property
    def prunes(self) -> bool:
        return any(step.prune for step in self.model.steps)

    @property
    def trainings(self) -> int:
        """Of its shape, this one among them."""
        return self.before.trainings + 1 if self.before and self.further else 1


Option = tuple[Trial | None, float, bool]  # made from this one, to a predicted speed-up, or that one trained further
Source = Iterator[Wanted | None]  # None: what comes next depends on trials that are in flight


@dataclass
class Explorer(Trials):
    """One search."""

    places: int = 1  # trials at a time
    order: TrialOrder = field(default_factory=TrialOrder)
    running: dict[Wanted, Underway] = field(default_factory=dict)
    longer: float = 0.0  # times UPDATES; 0: not yet known
    stuck: set[float] = field(default_factory=set)  # speed-ups of shapes that further training did not bring nearer
    proposals: Proposals | None = None
    worse: int = 0  # of these, one after another, that led to nothing better
    clock: Callable[[], float] = time.monotonic
    mark: tuple[float, float] | None = None  # the search's time at the last end of a trial, and the clock's

    def explore(self) -> Found:
        """Train models until the time is over, or nothing is left to try."""
        self.mark = self.now, self.clock()
        self._trim()
        source = self._source()
        while True:
            self._fill(source)
            if not self.running:
                break
            self._end_one()
        self.select()
        return self.found

    def _fill(self, source: Source) -> None:
        """Begin trials until no place is free, or nothing can be begun now."""
        places = self.order.next.places if self.order.next else self.places
        while len(self.running) < places and (wanted := next(source, None)) is not None:
            wanted.began = self.now
            self.names.add(wanted.model.name)
            plans = partial(trial_steps, model=self.trimmed(wanted.model), targets=self.targets)
            try:
                self.running[wanted] = self.start(plans)
            except InputError as error:  # a speed-up that this shape cannot reach, for example
                self._fail(wanted, str(error))

    def _end_one(self) -> None:
        """Take the trial that ends next: in an earlier run, or now."""
        said, running = self.order.next, self.running
        known = next((w for w in running if said is not None and w.model.name == said.trial), None)
        plan = self.execution.until(*([running[known]] if known else running.values()))
        wanted = next(w for w in running if running[w] is plan)
        del running[wanted]
        if plan.lost is not None or plan.results.failed:
            self.spend(plan.results.done, wanted.began)
            reason = plan.lost.reason if plan.lost else str(next(iter(plan.results.failed.values())))
            self._fail(wanted, reason)
        else:
            self._judge_trained(wanted, plan)
        if known is not None and said is not None:
            self.now = said.seconds
        elif self.places > 1 and self.mark is not None:  # where trials wait for each other, it takes longer
            self.now = max(self.now, self.mark[0] + self.clock() - self.mark[1])
        self.mark = self.now, self.clock()
        self.order.add(Ended(wanted.model.name, said.places if said else self.places, self.now))

    def _judge_trained(self, wanted: Wanted, plan: Underway) -> None:
        """What a trial came to, for those after it."""
        best = min((s.distance for s in self.shapes() if s.speedup >= wanted.speedup), default=math.inf)
        done = plan.results.done
        trial = self.add(wanted.model, wanted.speedup, wanted.trainings, done, wanted.began)
        wanted.ended, wanted.trial = True, trial
        if wanted.number is not None and self.proposals is not None:
            self.proposals.tell(wanted.number, trial.speedup, trial.distance)
            self.worse = 0 if trial.distance <= IMPROVED * best else self.worse + 1
        elif wanted.before and wanted.further and trial.distance > IMPROVED * wanted.before.distance:
            self.stuck.add(trial.speedup)

    def _fail(self, wanted: Wanted, reason: str) -> None:
        """A trial without a result: the others go on."""
        wanted.ended = True
        self.found.dropped[wanted.model.name] = reason
        if wanted.number is not None and self.proposals is not None:
            self.proposals.fail(wanted.number)
            self.worse += 1

    def _source(self) -> Source:
        """The trials, one after another, as what is known then wants them."""
        yield from self._static()
        yield from self._shorten()
        for number, student in enumerate(self.settings.students, start=1):
            settings = Distill(student=student, epochs=self._epochs(), hidden_weight=0)
            yield Wanted(Model(name=self.name_of(f"student-{number}"), steps=[Stage(distill=settings)]), 1.0)
        if self.top > 1:
            yield from self._descend()
            yield from self._propose()

    def _epochs(self) -> float:
        """Epochs of a pruned model's training: enough optimiser steps for the labels, whatever the number of rows."""
        labels = max(2, len(self.job.checkpoint.labels))
        updates = max(1.0, self.longer) * UPDATES * (1 + math.log10(labels / 2))
        return round(min(MOST_EPOCHS, max(1.0, updates * Recover().batch_size / self.job.learned)), 1)

    def _static(self) -> Source:
        """Static students, where the task has them and the time is enough: one with three layers of convolution, which
        answers more rows, and one with a single layer, which is faster, where its whole training fits."""
        if not self.job.task.supports(Feature.STATIC):
            return
        most = min(STATIC_EPOCHS, STATIC_ROWS / self.job.learned)
        rate = 2e-3 if len(self.job.checkpoint.labels) > 10 else 1e-3
        base = self.table.base_ms / 2 if self.table is not None else 0.0
        for layers, share in STATICS.items():
            epoch_s = STATIC_COST * (1 + CONVOLUTION_COST * (layers - 1)) * self.epoch_s
            epochs = round(min(most, share * self.left / epoch_s), 1)
            if epochs < LEAST_STATIC * most:
                self.found.dropped.setdefault("static", "no time to train it; give more minutes")
                return
            if layers == 1 and epochs < round(most, 1):
                return
            settings = Static(
                width=128, pairs=8192, convolution=3, convolution_layers=layers, max_pooling=True, epochs=epochs,
                learning_rate=rate,
            )  # fmt: skip
            model = Model(name=self.name_of("static"), steps=[Stage(static=settings)])
            ms = base + CONVOLUTION_MS * (layers - 1) * self.full_ms
            yield Wanted(model, min(50.0, self.full_ms / max(ms, 1e-9)))

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

    def _shorten(self) -> Source:
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
            trial = yield from self._truncated(window, shorter)
            if trial is not None and self.expected(trial) <= self.max_drop / 2:
                self.base = trial

    def _truncated(self, window: int, shorter: float) -> Generator[Wanted | None, None, Trial | None]:
        """The checkpoint where it reads a window of `shorter` times fewer tokens."""
        ends = [(round(window * share), window - round(window * share)) for share in HEADS]
        results = self.execute(partial(window_steps, ends=ends))
        if results.failed:
            return None
        self.spend(results.done)
        first, last = ends[int(np.argmin(results.last.result["distances"]))]
        settings = Truncate(first=first, last=last)
        model = Model(name=self.name_of(f"truncated-{first}-{last}"), steps=[Stage(truncate=settings)])
        wanted = Wanted(model, shorter)
        yield wanted
        while not wanted.ended:
            yield None
        return wanted.trial

    def _descend(self) -> Source:
        """Prune and train until the time is over, nothing is left to try, or a trial has failed."""
        tried: list[Wanted] = []
        while not any(wanted.ended and wanted.trial is None for wanted in tried):
            option = self._next()
            model = self._pruned(*option) if option else None
            if option is None or model is None or self._tried(model):
                # no time is left, or of the shapes that there are none lies between
                if not any(wanted.prunes for wanted in self.running):
                    return
                yield None
                continue
            before, speedup, further = option
            tried.append(Wanted(model, speedup, before, further))
            yield tried[-1]

    def _tried(self, model: Model) -> bool:
        """Whether another trial has the same steps."""
        others = (*(trial.model for trial in self.trials), *(wanted.model for wanted in self.running))
        return any(other.steps == model.steps for other in others)

    def _propose(self) -> Source:
        """What Optuna proposes from all trials, until the time is over or PATIENCE of them lead to nothing better."""
        while any(wanted.prunes for wanted in self.running):  # they say how far it reaches
            yield None
        shapes = self.shapes()
        least = LEAST_FACTOR * (self.base.speedup if self.base else 1.0)
        if not shapes or shapes[-1].speedup <= least:
            return
        self.proposals = Proposals(least, shapes[-1].speedup, self.job.recipe.seed)
        for trial in self.trials:
            training = list(chain_of(trial.model).values())[-1]
            if isinstance(training, Recover):
                made = Proposal(trial.speedup, training.learning_rate, training.epochs / self._epochs())
                self.proposals.add(made, trial.distance)
        while self.worse < PATIENCE or any(wanted.number is not None for wanted in self.running):
            if self.worse >= PATIENCE:
                yield None
                continue
            number, wanted = self.proposals.ask()
            shapes = self.shapes()
            same = next((s for s in shapes if 1 / LEAST_FACTOR < wanted.speedup / s.speedup < LEAST_FACTOR), None)
            slower = [s for s in shapes if s.speedup < wanted.speedup]
            before = same or (slower[-1] if slower else self.base)
            speedup = same.speedup if same else wanted.speedup
            model = self._pruned(before, speedup, same is not None, wanted)
            if model is None:
                return
            yield Wanted(model, speedup, before, same is not None, number)
        self.found.next += f"; {self.worse} proposals of Optuna, one after another, led to nothing better"

    def _next(self) -> Option | None:
        """What to do next; None where nothing is left, or all that is left is in flight."""
        return next((option for option in self._options() if not self._in_flight(option)), None)

    def _in_flight(self, option: Option) -> bool:
        """Whether a trial in flight trains this shape, or prunes to one between the same two finished ones."""
        before, wanted, further = option
        speeds = [shape.speedup for shape in self.shapes()]
        below = max((speed for speed in speeds if speed <= wanted), default=0.0)
        above = min((speed for speed in speeds if speed > wanted), default=math.inf)
        return any(
            running.before is before if further else below < running.speedup < above
            for running in self.running
            if running.prunes and running.further is further
        )

    def _options(self) -> Iterator[Option]:
        """What could be done next, the first one first.

        Deeper, until a model loses HOPELESS points too much (without cascades: too much); then once more training of
        the one that is nearest to good, of equals (EQUAL) the fastest, for it serves in cascades as well; then between
        the fastest good model and the next one; then further training of the nearest and the good one.
        """
        shapes = self.shapes()
        lost = {shape.speedup: self.expected(shape) for shape in shapes}
        good = next((s for s in reversed(shapes) if lost[s.speedup] <= self.max_drop), None)
        start = self.base.speedup if self.base else 1.0
        now, deepest = good.speedup if good else start, shapes[-1] if shapes else None
        faster = [s for s in shapes if s.speedup > now]
        least = min((lost[s.speedup] for s in faster), default=0.0)
        near = next((s for s in reversed(faster) if lost[s.speedup] <= least + EQUAL), None)
        bad = faster[0] if faster else None
        margin = HOPELESS if self.job.task.supports(Feature.CASCADE) else 0.0
        if deepest is None or lost[deepest.speedup] <= self.max_drop + margin:
            wanted = deepest.speedup * FACTOR if deepest else max(self.settings.speedup or 0, start * FIRST_SPEEDUP)
            wanted = min(wanted, 0.95 * self.top * start)
            if self._worth_pruning(deepest.speedup if deepest else start, wanted):
                yield deepest or self.base, wanted, False
        further = [
            shape
            for shape in (near, good)
            if shape and shape.trainings < TRAININGS and shape.speedup not in self.stuck
            if lost[shape.speedup] <= self.max_drop + HOPELESS
        ]
        again = bool(further) and further[0] is near and further[0].trainings == 1
        if again:
            self.found.next = f"training {further[0].model.name} further"
            yield further[0], further[0].speedup, True
        if bad is not None and self._worth_pruning(now, wanted := math.sqrt(now * bad.speedup)):
            yield good or self.base, wanted, False
        for shape in further[again:]:
            self.found.next = f"training {shape.model.name} further"
            yield shape, shape.speedup, True
        why = f"{bad.model.name} loses too much" if bad else f"pruning reaches {self.top * start:.1f}x at most"
        self.found.next = f"little: the fastest good model is {now:.1f}x (predicted), and {why}"

    def _worth_pruning(self, before: float, wanted: float) -> bool:
        """Whether pruning from one predicted speed-up to another is a step, and fast enough for the recipe."""
        self.found.next = f"pruning to {wanted:.1f}x (predicted)"
        return wanted / before >= LEAST_FACTOR and wanted >= (self.settings.speedup or 0)

    def _pruned(
        self, before: Trial | None, wanted: float, further: bool, proposal: Proposal | None = None
    ) -> Model | None:
        """`before` pruned to a predicted speed-up and trained, or only trained further; None where no time is left for
        that. `proposal`: how it is trained, where that is not the search's own."""
        if not self.longer:
            taken = self._epochs() * self.epoch_s * self.share(wanted)
            self.longer = min(LONGER, max(1.0, LONGER_SHARE * self.left / taken))
        rate, times = (proposal.learning_rate, proposal.epochs) if proposal else (RATE, 1.0)
        epochs, epoch_s = max(0.1, round(times * self._epochs(), 1)), self.epoch_s * self.share(wanted)
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
        return Model(name=self.name_of(f"pruned-{wanted:.1f}x"), steps=steps)

    def _pruning(self, factor: float, first: bool) -> Prune:
        """To a predicted latency; where that cannot be predicted, to the share of channels with as many times less to
        compute, which is quadratic in their number."""
        if self.table is None:
            return Prune(channels=round(max(0.05, factor**-0.5), 3), rows=PRUNING_ROWS)
        return Prune(
            speedup=round(max(1.01, factor), 3), target=self.settings.target, time_shape=False, rows=PRUNING_ROWS,
            multiple=32 if first else 1,
        )  # fmt: skip
