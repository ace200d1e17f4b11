"""Latency and throughput, measured so that a difference can be believed on a noisy machine.

Every artefact has its own fresh process; all of them take turns in a random order in each round, on the same rows at
their natural length; figures are compared within a round. Scenario names follow MLPerf Inference: single-stream is
one row a call, offline is a batch.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..export.errors import StepError
from ..export.machine import cores

Progress = Callable[[float, str], None]
SINGLE, OFFLINE = "single_stream", "offline"
ROWS_PER_ROUND = 12
CONTROL = "(control: the first again)"


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
    rounds: Annotated[int, Field(ge=2)] = Field(
        default=6, description="turns of every artefact in one process, random order"
    )
    min_seconds: Annotated[float, Field(gt=0)] = Field(
        default=3.0, description="seconds of calls per artefact and scenario, at least"
    )
    min_repeats: Annotated[int, Field(ge=1)] = Field(
        default=100, description="calls per artefact and scenario, at least"
    )


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
        medians = _resampled_medians(turns, np.random.default_rng(0))
        lo, hi = np.percentile(medians, [2.5, 97.5])
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
    cannot_run: str | None = None

    def summary(self, scenario: str) -> Measurement:
        return Measurement.from_samples(self.turns[scenario])


def ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median of ours / median of theirs, with a 95 % interval by resampling turns, the same ones on both sides."""
    point = float(np.median(np.concatenate(ours)) / np.median(np.concatenate(theirs)))
    a = _resampled_medians(ours, np.random.default_rng(0))
    b = _resampled_medians(theirs, np.random.default_rng(0))
    lo, hi = np.percentile(a / b, [2.5, 97.5])
    return point, float(lo), float(hi)


def measure(
    artifacts: Mapping[str, Path],
    rows: Mapping[str, Sequence[Sequence[int]]],
    settings: LatencySettings,
    *,
    seed: int = 0,
    scenarios: Sequence[str] = (SINGLE, OFFLINE),
    single_rows: int = 1,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time every artefact directory on its token-id rows; the first is also timed a second time, under CONTROL.

    `rows`: the same texts for every artefact, as its own tokenizer cuts them. They keep their natural length in
    single-stream and are padded to the longest of the batch in offline. `single_rows`: rows a call in single-stream.
    Raises StepError with the end of its output when a worker dies.
    """
    report = progress or (lambda share, text: None)
    order = random.Random(seed)
    names = [*artifacts, CONTROL]
    first = next(iter(artifacts))
    timings = {name: Timing({scenario: [] for scenario in scenarios}) for name in names}
    turns = settings.processes * settings.rounds
    plan = _plan(len(rows[first]), settings, turns, single_rows, order)
    seconds = settings.min_seconds / turns
    done = 0
    total = turns * len(names)
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        files = {name: Path(scratch) / f"{i}.json" for i, name in enumerate(artifacts)}
        for name, file in files.items():
            file.write_text(json.dumps([list(row) for row in rows[name]]))
        for process in range(settings.processes):
            workers: dict[str, _Worker] = {}
            try:
                able = [name for name in names if not timings[name].cannot_run]
                for i, name in enumerate(able):
                    report(done / total, f"opening {name}")
                    for ahead in able[i : i + 2]:  # the next one starts while this one opens
                        if ahead not in workers:
                            name_of = first if ahead == CONTROL else ahead
                            workers[ahead] = _Worker(ahead, artifacts[name_of], files[name_of], settings.threads)
                    answer = workers[name].receive()
                    timings[name].cannot_run = answer.get("cannot_run")
                    if timings[name].cannot_run:
                        workers.pop(name).stop()
                    else:
                        timings[name].load_s = max(timings[name].load_s, answer["load_s"])
                began, before = time.monotonic(), done
                for turn in range(settings.rounds):
                    batches = plan[process * settings.rounds + turn]
                    for name in order.sample(list(workers), len(workers)):
                        for scenario in scenarios:
                            answer = workers[name].ask({"batches": batches[scenario], "seconds": seconds})
                            timings[name].turns[scenario].append(answer["ms"])
                            timings[name].memory_mb = max(timings[name].memory_mb, answer["memory_mb"])
                        done += 1
                        left = (time.monotonic() - began) / (done - before) * (total - done)
                        report(done / total, f"round {turn + 1} of {settings.rounds}, {left:.0f} s left")
            finally:
                for worker in workers.values():
                    worker.stop()
    return timings


def tokenizer_ms(encode: Callable[[list[str]], object], texts: Sequence[str]) -> float:
    """Median milliseconds that the tokenizer takes for one text, which no model time contains."""
    samples = []
    for text in list(texts)[:200]:
        start = time.perf_counter()
        encode([text])
        samples.append((time.perf_counter() - start) * 1e3)
    return float(np.median(samples))


def _plan(
    rows: int, settings: LatencySettings, turns: int, single_rows: int, order: random.Random
) -> list[dict[str, list[list[int]]]]:
    """Which rows each turn calls with: enough of them that the turns together make min_repeats calls."""
    calls = max(ROWS_PER_ROUND, -(-settings.min_repeats // turns))
    plan = []
    for _ in range(turns):
        single = [[order.randrange(rows) for _ in range(single_rows)] for _ in range(calls)]
        offline_calls = max(2, -(-settings.min_repeats // (turns * 4)))
        offline = [[order.randrange(rows) for _ in range(settings.batch_size)] for _ in range(offline_calls)]
        plan.append({SINGLE: single, OFFLINE: offline})
    return plan


def _resampled_medians(turns: Sequence[Sequence[float]], random_state: np.random.Generator) -> np.ndarray:
    arrays = [np.asarray(turn, dtype=float) for turn in turns]
    picks = random_state.integers(0, len(arrays), size=(1000, len(arrays)))
    return np.array([np.median(np.concatenate([arrays[i] for i in pick])) for pick in picks])


class _Worker:
    def __init__(self, name: str, artifact: Path, rows: Path, threads: int | None) -> None:
        self.name = name
        count = threads or cores()
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in stop()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "paredown.benchmarks.worker"],  # -P: import nothing from where we are
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(count), "PYTHONWARNINGS": "ignore"},
        )
        self.send({"artifact": str(artifact), "rows": str(rows), "threads": count})

    def send(self, message: dict) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def receive(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._died()
        return json.loads(line)

    def ask(self, message: dict) -> dict:
        self.send(message)
        return self.receive()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()

    def _died(self) -> None:
        code = self.process.wait()
        self.stderr.seek(0)
        tail = " | ".join(self.stderr.read().strip().splitlines()[-3:])
        raise StepError(f"{self.name}: its process ended with {code} while it was measured: {tail or 'no output'}")
