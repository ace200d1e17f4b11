"""Latency and throughput: settings, samples and their summaries.

repetitions.py takes the samples. Scenario names follow MLPerf Inference: single-stream is one row a call, offline is a
batch of rows of similar length, server is single rows that arrive at random. Parallel is offline in several processes
at once, which share the cores. Single-stream is measured with the number of threads that is faster, all or those of
one of these processes: a small model's operators are too short to be divided.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..statistics.time_intervals import by_process, factors, half_width

Progress = Callable[[float, str], None]
SINGLE, OFFLINE, PARALLEL = "single_stream", "offline", "parallel"
FEWER = "single_stream_fewer_threads"  # until all sittings have shown which is faster
MOST_INSTANCES = 4  # processes of an artefact at once, each with its own copy of the model
CONTROL = "(control: the first again)"


class Sweep(BaseModel):
    """Further shapes to time every artefact in, a few seconds each; empty lists: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, description="rows per call")
    threads: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, description="CPU threads, one row a call")
    lengths: list[Annotated[int, Field(ge=2)]] = Field(
        default_factory=list, description="upper ends of length buckets, tokens, ascending; one row a call"
    )

    @property
    def asked(self) -> bool:
        """Whether there is anything to time."""
        return bool(self.batch_sizes or self.threads or self.lengths)


class LatencySettings(BaseModel):
    """How long and how often to measure."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="CPU threads of each session (default: all; for one row a call fewer, where that is faster)",
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(
        default=8, description="rows a call in the throughput (offline) scenario"
    )
    instances: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=f"processes of an artefact that serve at once, in the parallel scenario, and share the cores; 1: "
        f"not measured (default: as many as there are cores for, at most {MOST_INSTANCES})",
    )
    processes: Annotated[int, Field(ge=1)] = Field(
        default=6,
        description="fresh processes of each artefact, each in a sitting of its own; the unit of every interval, so "
        "one alone has no interval to trust, and with two it is wide",
    )
    rounds: Annotated[int, Field(ge=2)] = Field(
        default=2, description="turns of every artefact in one process, random order"
    )
    min_seconds: Annotated[float, Field(gt=0)] = Field(
        default=3.0, description="seconds of calls per artefact and scenario, at least, in all processes together"
    )
    min_repeats: Annotated[int, Field(ge=1)] = Field(
        default=100, description="calls per artefact and scenario, at least, in all processes together"
    )
    wait_s: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="seconds to wait, before each sitting, until other processes use at most half a core",
    )
    sweep: Sweep = Field(default_factory=Sweep, description="batch sizes, threads and lengths to time besides")

    def parallel(self, cores: int) -> tuple[int, int]:
        """Instances and threads of each in the parallel scenario, on a machine with so many cores."""
        count = self.instances or max(1, min(MOST_INSTANCES, cores // (self.threads or 1)))
        return count, self.threads or max(1, cores // count)

    def fewer(self, cores: int) -> int | None:
        """Threads that single-stream is tried with beside all of them; None: no other number."""
        each = self.parallel(cores)[1]
        return each if each < (self.threads or cores) else None

    @model_validator(mode="before")
    @classmethod
    def _fixed_number(cls, given: Any) -> Any:
        """A recipe of an older version loads; its key does nothing, and a line says so."""
        if not isinstance(given, dict) or "extra_processes" not in given:
            return given
        print(
            "warning: latency.extra_processes has no effect: the number of processes is fixed before measuring "
            "(latency.processes); remove the key",
            file=sys.stderr,
        )
        return {key: value for key, value in given.items() if key != "extra_processes"}


@dataclass(frozen=True)
class Scenario:
    """`rows` rows a call, drawn from those numbered in `among` (None: from all), in `instances` processes at once that
    have their share of the cores each; 0: in one that has all of them."""

    name: str
    rows: int = 1
    among: tuple[int, ...] | None = None
    instances: int = 0


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
    def from_samples(
        turns: Sequence[Sequence[float]], processes: Sequence[int] | None = None, unit: str = "ms"
    ) -> Measurement:
        """Summarise samples grouped in turns; `processes`: the process of each turn.

        The interval is Student's t over the processes' log medians, around the median of all samples; with one process
        over the turns' (see intervals.by_process).
        """
        flat = np.concatenate([np.asarray(turn, dtype=float) for turn in turns])
        p50, p95, p99 = (float(value) for value in np.percentile(flat, [50, 95, 99]))
        lo, hi = factors(float(half_width(np.log(by_process(turns, processes)))))
        return Measurement(unit, len(flat), p50, p50 * lo, p50 * hi, p50, p95, p99, float(flat.mean()))

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
    threads: int | None = None  # of single-stream, where fewer were faster; None: as in the settings

    def summary(self, scenario: str) -> Measurement:
        return Measurement.from_samples(self.turns[scenario], self.processes)

    def fails(self, reason: str) -> None:
        """It cannot run here, or its process ended: what was measured before does not count."""
        self.cannot_run, self.processes, self.joules = reason, [], {}
        self.turns = {scenario: [] for scenario in self.turns}


@dataclass(frozen=True)
class Throughput:
    """Rows a second of a serving configuration: instances, threads of each, and rows a call."""

    scenario: str
    instances: int
    threads: int
    batch_size: int
    call: Measurement  # milliseconds
    per_s: float


def best_throughput(timing: Timing, settings: LatencySettings, cores: int, p95_ms: float | None = None) -> Throughput:
    """The serving configuration with the most rows a second of those whose p95 of a call is within `p95_ms`;
    single-stream where none is. `cores`: of the machine that measured."""
    instances, threads = settings.parallel(cores)
    own, size = settings.threads or cores, settings.batch_size
    shapes = {SINGLE: (1, timing.threads or own, 1), OFFLINE: (1, own, size), PARALLEL: (instances, threads, size)}
    found = []
    for scenario, (count, each, rows) in shapes.items():
        if len(timing.turns.get(scenario, ())) == len(timing.turns[SINGLE]) > 0:  # else one of the instances has ended
            call = timing.summary(scenario)
            found.append(Throughput(scenario, count, each, rows, call, 1e3 * count * rows / call.mean))
    kept = [option for option in found if p95_ms is None or option.call.p95 <= p95_ms]
    return max(kept, key=lambda option: option.per_s) if kept else found[0]


def first_able(timings: Mapping[str, Timing]) -> str | None:
    """What the others are compared with: the first that can run here, as far as is known; None where none can."""
    return next((name for name, timing in timings.items() if name != CONTROL and not timing.cannot_run), None)


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
