"""Latency and throughput, measured so that a difference can be believed on a noisy machine.

Every artefact has its own fresh process; all of them take turns in a random order in each round, on the same rows at
their natural length; figures are compared within a round. Scenario names follow MLPerf Inference: single-stream is
one row a call, offline is a batch, server is single rows that arrive at random.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .conditions import cpu_ticks, load_average, steal_share
from .intervals import interval, medians, ratio, resample
from .worker import Worker

Progress = Callable[[float, str], None]
SINGLE, OFFLINE = "single_stream", "offline"
ROWS_PER_ROUND = 12
CONTROL = "(control: the first again)"


class Sweep(BaseModel):
    """Further shapes to time every artefact in, a few seconds each; empty lists: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, description="rows a call")
    threads: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, description="CPU threads, one row a call")
    lengths: list[Annotated[int, Field(ge=2)]] = Field(
        default_factory=list, description="upper ends of length buckets, tokens, ascending; one row a call"
    )


class LatencySettings(BaseModel):
    """How long and how often to measure."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="CPU threads of each session (default: all)"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=8, description="rows a call in the throughput (offline) scenario"
    )
    processes: Annotated[int, Field(ge=1)] = Field(
        default=2, description="fresh processes for each artefact, one after another"
    )
    extra_processes: Annotated[int, Field(ge=0)] = Field(
        default=2, description="further ones, one by one, while the A/A control does not contain 1"
    )
    rounds: Annotated[int, Field(ge=2)] = Field(
        default=6, description="turns of every artefact in one process, random order"
    )
    min_seconds: Annotated[float, Field(gt=0)] = Field(
        default=3.0, description="seconds of calls per artefact and scenario, at least"
    )
    min_repeats: Annotated[int, Field(ge=1)] = Field(
        default=100, description="calls per artefact and scenario, at least"
    )
    sweep: Sweep = Field(default_factory=Sweep, description="batch sizes, threads and lengths to time besides")


@dataclass(frozen=True)
class Scenario:
    """`rows` rows a call, drawn from those numbered in `among` (None: from all)."""

    name: str
    rows: int = 1
    among: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Measurement:
    """A figure with its samples' summary, in `unit`; lo and hi are the 95 % interval of the median."""

    unit: str
    n: int
    median: float
    lo: float
    hi: float
    p50: float
    p95: float
    p99: float
    mean: float

    @staticmethod
    def from_samples(turns: Sequence[Sequence[float]], unit: str = "ms") -> Measurement:
        """Summarise samples grouped in turns; the interval resamples whole turns (their calls hang together)."""
        flat = np.concatenate([np.asarray(turn, dtype=float) for turn in turns])
        p50, p95, p99 = np.percentile(flat, [50, 95, 99])
        picks = resample(len(turns), None, np.random.default_rng(0))
        lo, hi = interval(medians(turns, picks), len(turns))
        return Measurement(
            unit, len(flat), float(p50), float(lo), float(hi), float(p50), float(p95), float(p99), float(flat.mean())
        )

    def to_json(self) -> dict:
        return asdict(self)


@dataclass
class Timing:
    """Raw samples of one artefact: scenario -> turns (in the same order for every artefact) -> milliseconds."""

    turns: dict[str, list[list[float]]]
    load_s: float = 0.0
    memory_mb: float = 0.0
    gpu_memory_mb: float | None = None  # after a turn, the most of all turns; of a runtime on a GPU, by NVML
    cannot_run: str | None = None
    processes: list[int] = field(default_factory=list)  # the process of each turn
    joules: dict[str, list[float]] = field(default_factory=dict)  # scenario -> J a call, turn by turn; RAPL, NVML
    first_call_ms: float | None = None
    cold_start_s: float | None = None  # from a new process to its first answer, while the next one opens

    def summary(self, scenario: str) -> Measurement:
        return Measurement.from_samples(self.turns[scenario])


@dataclass(frozen=True)
class Measured:
    """One run: what was timed, and under which conditions (JSON)."""

    timings: dict[str, Timing]
    conditions: dict


def measure(
    artifacts: Mapping[str, Path],
    rows: Mapping[str, Sequence[Sequence[int]]],
    settings: LatencySettings,
    *,
    seed: int = 0,
    scenarios: Sequence[Scenario] | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Time every artefact directory on its token-id rows; the first that can run here also a second time, as CONTROL.

    `rows`: the same texts for every artefact, as its own tokenizer cuts them. They keep their natural length in
    single-stream and are padded to the longest of the batch in offline. While the interval of the control does not
    contain 1, up to `extra_processes` more are measured. Raises StepError with the end of its output when a worker
    dies.
    """
    report = progress or (lambda share, text: None)
    order = random.Random(seed)
    kinds = scenarios or (Scenario(SINGLE), Scenario(OFFLINE, settings.batch_size))
    timings = {name: Timing({kind.name: [] for kind in kinds}) for name in (*artifacts, CONTROL)}
    ticks, load, began = cpu_ticks(), load_average(), time.monotonic()
    process = 0
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        files = {name: _written(rows[name], Path(scratch) / str(i)) for i, name in enumerate(artifacts)}
        while process < settings.processes or (
            process < settings.processes + settings.extra_processes and not _steady(timings, kinds[0].name)
        ):
            opened = {name: (artifacts[name], files[name]) for name in artifacts}
            part = max(settings.processes, process + 1)
            _one_process(
                opened, timings, kinds, len(next(iter(rows.values()))), settings, process, order,
                lambda share, text, done=process, of=part: report((done + share) / of, text),
            )  # fmt: skip
            process += 1
    found = None
    if first_able(timings) is not None:
        point, lo, hi = _control(timings, kinds[0].name)
        found = {"ratio": point, "ratio_ci": [lo, hi]}
    return Measured(
        timings,
        {
            "control": found,
            "processes": process,
            "processes_asked": settings.processes,
            "steal_share": steal_share(ticks, cpu_ticks()),
            "load_before": load,
            "seconds": time.monotonic() - began,
        },
    )


def _written(rows: Sequence[Sequence[int]], path: Path) -> Path:
    """Rows for a worker: token ids in JSON; pixels, each (1, channels, height, width), as one array."""
    if isinstance(rows[0], np.ndarray):
        np.save(path, np.concatenate(rows))
        return path.with_suffix(".npy")
    path.write_text(json.dumps([list(row) for row in rows]))
    return path


def _one_process(
    artifacts: Mapping[str, tuple[Path, Path]],
    timings: Mapping[str, Timing],
    scenarios: Sequence[Scenario],
    rows: int,
    settings: LatencySettings,
    process: int,
    order: random.Random,
    report: Progress,
) -> None:
    """A fresh process for every artefact, `rounds` turns of each in random order, added to `timings`."""
    turns = settings.processes * settings.rounds
    seconds = settings.min_seconds / turns
    workers: dict[str, Worker] = {}
    able = [name for name in timings if not timings[name].cannot_run]
    try:
        for i, name in enumerate(able):
            report(0.0, f"opening {name}")
            for ahead in able[i : i + 2]:  # the next one starts while this one opens
                if ahead not in workers:
                    opens = (ahead if ahead != CONTROL else first_able(timings)) or ahead
                    workers[ahead] = Worker(ahead, *artifacts[opens], settings.threads)
            _opened(timings[name], workers[name].receive())
            if timings[name].cannot_run:
                workers.pop(name).stop()
        began, done, total = time.monotonic(), 0, settings.rounds * len(workers)
        for turn in range(settings.rounds):
            batches = {kind.name: _batches(kind, rows, settings.min_repeats, turns, order) for kind in scenarios}
            for name in order.sample(list(workers), len(workers)):
                for kind in scenarios:
                    answer = workers[name].ask({"batches": batches[kind.name], "seconds": seconds})
                    timings[name].turns[kind.name].append(answer["ms"])
                    timings[name].memory_mb = max(timings[name].memory_mb, answer["memory_mb"])
                    if "gpu_memory_mb" in answer:
                        timings[name].gpu_memory_mb = max(timings[name].gpu_memory_mb or 0.0, answer["gpu_memory_mb"])
                    if "joules" in answer:
                        timings[name].joules.setdefault(kind.name, []).append(answer["joules"])
                timings[name].processes.append(process)
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                more = max(0, settings.processes - process - 1)
                left += more * (time.monotonic() - began) / done * total
                what = "" if process < settings.processes else "the control does not contain 1: measuring longer, "
                report(done / total, f"{what}round {turn + 1} of {settings.rounds}, {left:.0f} s left")
    except BaseException:  # an interrupt too: whoever waits for it gets no answers any more
        for worker in workers.values():
            worker.process.kill()
        raise
    finally:
        for worker in workers.values():
            worker.stop()


def _opened(timing: Timing, answer: dict) -> None:
    timing.cannot_run = answer.get("cannot_run")
    if not timing.cannot_run:
        timing.load_s = max(timing.load_s, answer["load_s"])
        timing.first_call_ms = min(answer["first_call_ms"], timing.first_call_ms or answer["first_call_ms"])
        timing.cold_start_s = min(answer["cold_start_s"], timing.cold_start_s or answer["cold_start_s"])


def first_able(timings: Mapping[str, Timing]) -> str | None:
    """What the others are compared with: the first that can run here, as far as is known; None where none can."""
    return next((name for name, timing in timings.items() if name != CONTROL and not timing.cannot_run), None)


def _control(timings: Mapping[str, Timing], scenario: str) -> tuple[float, float, float]:
    again, once = timings[CONTROL], timings[first_able(timings) or CONTROL]
    return ratio(again.turns[scenario], once.turns[scenario], once.processes)


def _steady(timings: Mapping[str, Timing], scenario: str) -> bool:
    """True when what is timed against itself is as fast as itself."""
    if first_able(timings) is None:
        return True
    _, lo, hi = _control(timings, scenario)
    return lo <= 1 <= hi


def _batches(scenario: Scenario, rows: int, min_repeats: int, turns: int, order: random.Random) -> list[list[int]]:
    """Which rows each call of one turn has: enough calls that the turns together make min_repeats of them."""
    calls = max(ROWS_PER_ROUND, -(-min_repeats // turns))
    if scenario.rows > 1 and scenario.name != SINGLE:
        calls = max(2, -(-min_repeats // (turns * 4)))
    among = scenario.among or range(rows)
    return [[among[order.randrange(len(among))] for _ in range(scenario.rows)] for _ in range(calls)]


def joules_a_row(timing: Timing) -> float | None:
    """Energy of one row in single-stream, of the whole CPU package (and GPU); None where it cannot be read."""
    joules = timing.joules.get(SINGLE)
    return float(np.mean(joules)) if joules else None


def tokenizer_ms(encode: Callable[[list[str]], object], texts: Sequence[str]) -> float:
    """Median milliseconds that the tokenizer takes for one text, which no model time contains."""
    samples = []
    for text in list(texts)[:200]:
        start = time.perf_counter()
        encode([text])
        samples.append((time.perf_counter() - start) * 1e3)
    return float(np.median(samples))


def server_rate(samples: Sequence[float] | np.ndarray, p99_ms: float, arrivals: int = 20_000) -> float:
    """MLPerf's server scenario: requests a second, arriving at random (Poisson), at which the p99 is still `p99_ms`.

    A replay, not a load test: single-stream `samples` (ms) are served one after another from one queue, whose waits
    follow Lindley's recursion. 0 when the calls alone take longer.
    """
    rng = np.random.default_rng(0)
    service, gaps = rng.choice(np.asarray(samples, dtype=float), arrivals), rng.exponential(1.0, arrivals)

    def kept(per_ms: float) -> bool:
        sums = np.concatenate([[0.0], np.cumsum(service[:-1] - gaps[1:] / per_ms)])
        waits = sums - np.minimum.accumulate(sums)
        return float(np.percentile(waits + service, 99)) <= p99_ms

    low, high = 0.0, 1 / float(service.mean())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    return 1e3 * low if low > 1e-6 else 0.0
