"""One sitting: every artefact in a fresh process, timed in turns.

All of them take turns in a random order in each round, on the same rows at their natural length, so that what the
machine does to a round is done to all. repetitions.py makes a measurement of several.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paredown.export.hardware import cores

from .latency import CONTROL, FEWER, OFFLINE, PARALLEL, SINGLE, LatencySettings, Progress, Scenario, Timing, first_able
from .system_monitor import QUIET, Busy, cpu_seconds, load_average, quiet, used_by_others
from .worker import Worker, WorkerDied

ROWS_PER_ROUND = 12
APART = 2**0.5 - 1  # what passes of one sitting begin apart: none of them begins where another did
MUCH_SLOWER = 1.3  # times as long with fewer threads, in every turn so far: it is not timed so again
PASSES = 20  # of different rows in a turn; one that is faster than all of them begins again


@dataclass(frozen=True)
class Workload:
    """What is timed, by name: directories of artefacts, and rows of the same texts for each.

    `rows`: token ids as the artefact's own tokenizer gives them, or pixels (1, channels, height, width).
    """

    artifacts: Mapping[str, Path]
    rows: Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Protocol:
    """How it is timed."""

    settings: LatencySettings
    seed: int = 0
    scenarios: Sequence[Scenario] = ()  # none: single-stream, and offline and parallel at `settings.batch_size`
    control: bool = True  # time the first artefact that can run here again, in the first scenario, as CONTROL
    check_load: bool = True  # measure the load before (and wait `settings.wait_s` for an idle machine) and during

    @property
    def timed(self) -> Sequence[Scenario]:
        """The scenarios, the usual ones where none were given."""
        if self.scenarios:
            return self.scenarios
        instances, size = self.settings.parallel(cores())[0], self.settings.batch_size
        parallel = [Scenario(PARALLEL, size, instances=instances)] if instances > 1 else []
        return [Scenario(SINGLE), Scenario(OFFLINE, size), *parallel]


@dataclass(frozen=True)
class Sitting:
    """One fresh process of every artefact, timed in turns; and what the machine did meanwhile."""

    timings: dict[str, Timing]
    began: float  # seconds since 1970
    seconds: float
    busy_before: float | None  # cores that other processes used just before
    busy_during: float | None
    load_before: float | None
    cpu_seconds: tuple[float, float]  # of all CPUs meanwhile, and those of them that other guests took
    fewer: int | None = None  # threads that single-stream was timed with beside all of them

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sitting:
        """Back from `to_json`."""
        timings = {name: Timing(**timing) for name, timing in data["timings"].items()}
        return Sitting(**{**data, "timings": timings, "cpu_seconds": tuple(data["cpu_seconds"])})


def sit(
    workload: Workload,
    protocol: Protocol,
    *,
    before: Sequence[Sitting] = (),
    progress: Progress | None = None,
) -> Sitting:
    """One sitting: a fresh process of every artefact, `settings.rounds` turns of each in random order.

    Rows keep their natural length in single-stream; in batches they are of similar length, as the server and `predict`
    have them, and padded to the longest. Single-stream is timed with all threads and with fewer (FEWER); `merged` keeps
    the faster. `before`: the sittings before it; what one of them could not measure is not measured again. An artefact
    whose process ends or hangs is `cannot_run`; StepError when it is the first one, which the others are compared with.
    """
    artifacts, rows = workload.artifacts, workload.rows
    report = progress or (lambda share, text: None)
    timings = {name: Timing({kind.name: [] for kind in protocol.timed}) for name in artifacts}
    for name, reason in failed(before).items():
        timings[name].cannot_run = reason
    if protocol.control and first_able(timings) is not None:
        timings[CONTROL] = Timing({kind.name: [] for kind in protocol.timed})
    busy_before = _busy_before(protocol.settings, report) if protocol.check_load else None
    began, load, seconds_before, busy, clock = time.time(), load_average(), cpu_seconds(), Busy.now(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        written: dict[int, Path] = {}
        for name in artifacts:  # most artefacts share a tokenizer, and their rows
            key = id(rows[name])
            written[key] = written.get(key) or _written(rows[name], Path(scratch) / str(len(written)))
        opened = {name: (artifacts[name], written[id(rows[name])]) for name in artifacts}
        lengths = [len(row) for row in next(iter(rows.values()))]
        _take_turns(opened, timings, protocol, lengths, before, report)
    after = cpu_seconds()
    return Sitting(
        timings,
        began,
        time.monotonic() - clock,
        busy_before,
        used_by_others(busy, Busy.now()) if protocol.check_load else None,
        load,
        (after[0] - seconds_before[0], after[1] - seconds_before[1]),
        protocol.settings.fewer(cores()),
    )


def failed(sittings: Sequence[Sitting]) -> dict[str, str]:
    """Artefacts that one of the sittings could not measure, with the first reason."""
    found: dict[str, str] = {}
    for sitting in sittings:
        for name, timing in sitting.timings.items():
            if timing.cannot_run and name != CONTROL:
                found.setdefault(name, timing.cannot_run)
    return found


def _busy_before(settings: LatencySettings, report: Progress) -> float | None:
    """What others use of the machine now, once it is quiet or `wait_s` is over; a line on stderr where it is much."""
    busy = quiet(settings.wait_s, lambda text: report(0.0, text))
    if busy is not None and busy > QUIET:
        waited = f" after {settings.wait_s:g} s of waiting" if settings.wait_s else " (latency.wait_s waits for quiet)"
        print(f"warning: other processes use {busy:.1f} cores while latency is measured{waited}", file=sys.stderr)
    return busy


def _written(rows: Sequence[Sequence[int]], path: Path) -> Path:
    """Rows for a worker: token ids in JSON; pixels, each (1, channels, height, width), as one array."""
    if isinstance(rows[0], np.ndarray):
        np.save(path, np.concatenate(rows))
        return path.with_suffix(".npy")
    path.write_text(json.dumps([list(row) for row in rows]))
    return path


def _take_turns(
    artifacts: Mapping[str, tuple[Path, Path]],
    timings: Mapping[str, Timing],
    protocol: Protocol,
    lengths: Sequence[int],
    before: Sequence[Sitting],
    report: Progress,
) -> None:
    """A fresh process for every artefact, `rounds` turns of each in random order, added to `timings`.

    `artifacts`: the directory and the file of rows of each. `lengths`: of the rows. `before`: earlier sittings.
    """
    process = len(before)
    settings, order = protocol.settings, random.Random(f"{protocol.seed}/{process}")
    turns = settings.processes * settings.rounds
    seconds = settings.min_seconds / turns
    workers: dict[str, Worker] = {}
    each = settings.parallel(cores())[1]
    kinds = {name: _asked(protocol, name, first_able(timings), before) for name in timings}

    def dead(name: str, death: WorkerDied) -> None:
        if name in (CONTROL, first_able(timings)):
            raise death
        timings[name].fails(death.reason)
        workers.pop(name).stop()

    able = [name for name in timings if not timings[name].cannot_run]
    with _ended(workers):
        for i, name in enumerate(able):
            report(0.0, f"opening {name}")
            for ahead in able[i : i + 2]:  # the next one starts while this one opens
                if ahead not in workers:
                    opens = (ahead if ahead != CONTROL else first_able(timings)) or able[0]
                    instances = max(kind.instances for kind in kinds[ahead])
                    workers[ahead] = Worker(ahead, *artifacts[opens], settings.threads, (instances, each))
            try:
                _opened(timings[name], workers[name].receive())
            except WorkerDied as death:
                dead(name, death)
            else:
                if timings[name].cannot_run:
                    workers.pop(name).stop()
        began, done, total = time.monotonic(), 0, settings.rounds * len(workers)
        start = random.Random(protocol.seed).random() + process / settings.processes
        passes = {
            kind.name: _passes(kind, lengths, settings.min_repeats, turns, order, start) for kind in protocol.timed
        }
        passes[FEWER] = passes.get(SINGLE, [])
        for turn in range(settings.rounds):
            for name in order.sample(list(workers), len(workers)):
                try:
                    answers = {
                        kind.name: workers[name].ask(
                            {"passes": passes[kind.name], "seconds": seconds, "instances": kind.instances}
                        )
                        for kind in kinds[name]
                    }
                    _add(timings[name], answers, process)
                except WorkerDied as death:
                    dead(name, death)
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                report(done / total, f"round {turn + 1} of {settings.rounds}, {left:.0f} s left")


def _asked(protocol: Protocol, name: str, first: str | None, before: Sequence[Sitting]) -> list[Scenario]:
    """What is asked of an artefact in each turn: the scenarios, of the control the first one; single-stream also with
    fewer threads, where the settings leave them open and it was not much slower so in every turn `before`; of the
    control where what it controls, the `first`, was not."""
    asked: list[Scenario] = []
    for scenario in protocol.timed[: 1 if name == CONTROL else None]:
        asked.append(scenario)
        if scenario.name == SINGLE and protocol.settings.fewer(cores()):
            turns = _turns_of((first or name) if name == CONTROL else name, before)
            if not turns or any(np.mean(few) < MUCH_SLOWER * np.mean(all_cores) for few, all_cores in turns):
                asked.append(replace(scenario, name=FEWER, instances=1))
    return asked


def _turns_of(name: str, before: Sequence[Sitting]) -> list[tuple[Sequence[float], Sequence[float]]]:
    """An artefact's turns of single-stream in earlier sittings, with fewer threads and with all."""
    timings = [sitting.timings[name] for sitting in before if name in sitting.timings]
    return [turns for t in timings for turns in zip(t.turns.get(FEWER, ()), t.turns.get(SINGLE, ()), strict=False)]


@contextlib.contextmanager
def _ended(workers: Mapping[str, Worker]) -> Iterator[None]:
    """No process is left after the block; after an interrupt, or another error, nobody waits for what they do."""
    try:
        yield
    except BaseException:
        for worker in workers.values():
            worker.process.kill()
        raise
    finally:
        for worker in workers.values():
            worker.stop()


def _add(timing: Timing, answers: Mapping[str, dict], process: int) -> None:
    """One turn's samples, by scenario."""
    for scenario, answer in answers.items():
        if not answer["ms"]:  # instances, of a runtime that has none
            continue
        timing.turns.setdefault(scenario, []).append(answer["ms"])
        timing.memory_mb = max(timing.memory_mb, answer["memory_mb"])
        if "gpu_memory_mb" in answer:
            timing.gpu_memory_mb = max(timing.gpu_memory_mb or 0.0, answer["gpu_memory_mb"])
        if "joules" in answer:
            timing.joules.setdefault(scenario, []).append(answer["joules"])
    timing.processes.append(process)


def _opened(timing: Timing, answer: dict) -> None:
    timing.cannot_run = answer.get("cannot_run")
    if not timing.cannot_run:
        timing.load_s = max(timing.load_s, answer["load_s"])
        timing.first_call_ms = min(answer["first_call_ms"], timing.first_call_ms or answer["first_call_ms"])
        timing.cold_start_s = min(answer["cold_start_s"], timing.cold_start_s or answer["cold_start_s"])


def _passes(
    scenario: Scenario, lengths: Sequence[int], min_repeats: int, turns: int, order: random.Random, start: float
) -> list[list[list[int]]]:
    """Which rows each call of a turn has, pass by pass, in random order.

    Each pass is a systematic sample of all rows in the order of their lengths, the first from `start` on: so that
    artefacts which make more passes have read rows of the same lengths, and sittings too. Enough calls that the first
    passes of all turns together make min_repeats of them.
    """
    calls = max(ROWS_PER_ROUND, -(-min_repeats // turns))
    if scenario.rows > 1 and scenario.name != SINGLE:
        calls = max(1, max(2, -(-min_repeats // (turns * 4))) // max(1, scenario.instances))
    among = sorted(scenario.among or range(len(lengths)), key=lambda i: lengths[i])
    if scenario.rows == 1:
        pool = [[i] for i in among]
    elif scenario.name == SINGLE or len(among) < scenario.rows:
        pool = [[order.choice(among) for _ in range(scenario.rows)] for _ in range(calls * PASSES)]
    else:
        pool = [among[i : i + scenario.rows] for i in range(0, len(among) - scenario.rows + 1, scenario.rows)]
    passes = []
    for number in range(PASSES):
        shift = (start + number * APART) % 1
        one = [pool[int((part + shift) / calls * len(pool))] for part in range(calls)]
        passes.append(order.sample(one, calls))
    return passes
