"""Searches without training: an engine whose steps take the time that a formula says, and models that lose as much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from paredown.compress.config import Prune, Recover, Static, Truncate
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.pipeline.engine import Execution, Lost, Planned
from paredown.pipeline.explorer import Explorer
from paredown.pipeline.job import Job, Step, chain_of
from paredown.pipeline.progress import Reporter
from paredown.pipeline.recipe.schema import Model, Search
from paredown.pipeline.store import Done, Failed, Store
from paredown.pipeline.trial_order import TrialOrder
from paredown.runtime.errors import StepError

ROWS = 2000
TABLE = LatencyTable("onnxruntime", "int8-dynamic", 1, 1.0, {12: 0.5}, {1536: 1.0})
Ending = tuple[Step, Done | Failed | Lost, bool]


class Timed:
    """An engine of `places`, and its workers. What ends next is what has least to do, or what `chosen` gives of the
    names of the steps that are being done."""

    def __init__(self, places: int, chosen: Callable[[list[str]], str] | None = None) -> None:
        self.places, self.chosen = places, chosen
        self.time, self.most = 0.0, 0  # now; how many steps were done at a time
        self.results: dict[str, Done] = {}  # of all steps, by key
        self.running: dict[str, tuple[Step, float]] = {}  # steps and when they end, by name
        self.started: list[str] = []
        self.failing = self.losing = ""  # trials whose names begin so
        self.trimming: dict[int, float] = {}  # distance by the number of frequent tokens

    def workers(self, store: Store, reporter: Reporter) -> AbstractContextManager[Timed]:
        return nullcontext(self)

    def add(self, planned: Planned) -> None:
        pruned = 1.0
        for step in planned.steps:
            settings = step.inputs.get("settings", {})
            pruned *= settings.get("speedup") or 1.0
            epochs, share = settings.get("epochs", 0), 0.05 if "pairs" in settings else 0.6 * share_of(pruned)
            found = {
                "distances": [0.1, 0.2, 0.3],
                "distance": self.trimming.get(settings.get("frequent"), 0.0),
                "drop": 0.0,
            }
            self.results[step.key] = Done(Path(step.key), found, 60.0 * epochs * share if epochs else 1.0)

    def choose(self, ready: Sequence[Step]) -> Step | None:
        return ready[0] if ready and len(self.running) < self.places else None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        self.started.append(step.name)
        self.running[step.name] = step, self.time + self.results[step.key].seconds
        self.most = max(self.most, len(self.running))

    def wait(self) -> Iterable[Ending]:
        name = self.chosen([*self.running]) if self.chosen else min(self.running, key=lambda n: self.running[n][1])
        step, end = self.running.pop(name)
        self.time = max(self.time, end)
        if self.failing and name.startswith(self.failing):
            yield step, Failed("", "the loss is not finite"), True
        elif self.losing and name.startswith(self.losing):
            yield step, Lost("the machine is gone", StepError("the machine is gone; run it again")), True
        else:
            yield step, self.results[step.key], True


class Simulated(Explorer):
    """A search whose models lose what a formula says: more with the speed-up, less with every training."""

    hardness = 0.6  # points lost at twice the speed, after one training

    def __init__(self, job: Job, minutes: float, engine: Timed | None = None, order: TrialOrder | None = None) -> None:
        self.engine = engine or Timed(1)
        execution = Execution(self.engine, Store(Path("simulated")), Reporter(0))
        super().__init__(
            job, Search(minutes=minutes), execution, TABLE, full_ms=10.0, top=8.0, epoch_s=60.0,
            places=self.engine.places, order=order or TrialOrder(), clock=lambda: self.engine.time,
        )  # fmt: skip

    def _evaluated(self, model: Model, done: Mapping[str, Done]) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]:
        speedup, trainings, static = 1.0, 0, False
        for settings in chain_of(model).values():
            speedup *= settings.speedup or 1.0 if isinstance(settings, Prune) else 1.0
            trainings += isinstance(settings, Recover)
            static |= isinstance(settings, Static)
        pruned = sum(isinstance(s, Prune) for s in chain_of(model).values())
        lost = self._loses(speedup) * 0.8 ** (trainings - pruned)
        ends = next((s for s in chain_of(model).values() if isinstance(s, Truncate)), None)
        if ends is not None:
            lost += self.max_drop * 3 / (ends.first + ends.last)
        wrong = round(ROWS * (0.1 + (5.0 if static else lost) / 100))
        right = np.ones(ROWS, dtype=bool)
        right[:wrong] = False
        outputs = np.where(right[:, None], [4.0, 0.0], [0.0, 0.1])
        return list(outputs), right, self.job.task.confidence(outputs, [])

    def _loses(self, speedup: float) -> float:
        """Points that a model of this speed-up loses after one training of each pruning."""
        return self.hardness * (speedup - 1) ** 2

    def _distances(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        return (np.stack(outputs)[:, 0] < 1).astype(float)


class Plateau(Simulated):
    """Models of 1.9 to 4 times lose the same, a little too much; faster ones fail."""

    def _loses(self, speedup: float) -> float:
        return 0.2 if speedup < 1.9 else 1.4 if speedup < 4 else 9.0


def share_of(speedup: float) -> float:
    """`Trials.share` with this table and 10 ms."""
    return max(0.03, (10.0 / speedup - TABLE.base_ms) / (10.0 - TABLE.base_ms))
