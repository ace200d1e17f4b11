"""`paredown bench`: artefacts side by side, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from paredown.export.artifact import Artifact
from paredown.export.hardware import cores, machine

from ..statistics.metric_intervals import drop_upper_95, mcnemar_p, negative_flips, paired_drop
from ..statistics.time_intervals import Statistic, as_wide, carried, ratio
from .interleaved import Protocol, Sitting, Workload, sit
from .latency import SINGLE, LatencySettings, Progress, Timing, best_throughput, first_able, joules_a_row
from .records import BENCH_SCHEMA, BenchEntry, BenchResult, Conditions, SweepPoint
from .repetitions import merged, spread
from .sweep import sweep

Steps = Callable[[str], AbstractContextManager[Progress]]  # announces one part of the work


@dataclass(frozen=True)
class Score:
    """With labels, an artefact's metric in points and which rows were right."""

    metric: float | None
    correct: np.ndarray | None  # (rows,) bool
    tokenizer_ms: float  # median of one row


@dataclass(frozen=True)
class Entrant:
    """An artefact, the path that the user gave for it, and what scores it."""

    given: str
    artifact: Artifact
    score: Callable[[], Score]


def silent(name: str) -> AbstractContextManager[Progress]:
    """Steps that nobody hears of."""
    return nullcontext(lambda share, text: None)


def bench(
    entrants: Sequence[Entrant],
    rows: Sequence[Sequence[Sequence[int]]],
    settings: LatencySettings,
    *,
    metric_name: str,
    seed: int = 0,
    steps: Steps = silent,
) -> BenchResult:
    """Time each artefact on its own token-id rows of the same texts.

    The artefacts are scored, and the sweep is made, between the sittings. Ratios are latency against the reference, the
    first one that can run here; in a noisy run each is the end of its interval that is nearest to 1. Drops in points
    against the same, paired row by row. `reference` is the path that the user gave for it, None where none can run.
    """
    paths = {f"{i}: {entrant.given}": entrant.artifact.path for i, entrant in enumerate(entrants)}
    workload = Workload(paths, dict(zip(paths, rows, strict=True)))
    sittings: list[Sitting] = []
    scores: dict[str, Score] = {}
    swept: dict[str, list[SweepPoint]] = {}

    def score(name: str, entrant: Entrant) -> None:
        with steps(f"score {entrant.given}"):
            scores[name] = entrant.score()

    def sweep_all() -> None:
        if settings.sweep.asked:
            with steps("sweep") as report:
                swept.update(sweep(workload, settings, seed=seed, before=sittings, progress=report))

    work = [lambda n=name, e=entrant: score(n, e) for name, entrant in zip(paths, entrants, strict=True)]
    for number, between in enumerate(spread([*work, sweep_all], settings.processes)):
        with steps(f"measure {number + 1} of {settings.processes}") as report:
            sittings.append(sit(workload, Protocol(settings, seed), before=sittings, progress=report))
        for part in between:
            part()
    measured = merged(sittings)
    able = first_able(measured.timings)
    entries = []
    for name, entrant in zip(paths, entrants, strict=True):
        own = scores[name]
        common = {
            "path": entrant.given,
            "runtime": entrant.artifact.runtime,
            "precision": entrant.artifact.precision,
            "metric": own.metric,
            "metric_name": metric_name,
            "size_mb": entrant.artifact.size_mb(),
            "tokenizer_ms": own.tokenizer_ms,
            **(_drops(own, scores[able]) if able else {}),
        }
        timing = measured.timings[name]
        if timing.cannot_run or able is None:
            entries.append(BenchEntry(**common, cannot_run=timing.cannot_run))
        else:
            times = _times(timing, measured.timings[able], measured.conditions, settings)
            entries.append(BenchEntry(**common, **times, sweep=swept.get(name, [])))
    return BenchResult(
        version=BENCH_SCHEMA,
        machine=machine(),
        reference=entrants[list(paths).index(able)].given if able else None,
        noisy=measured.noisy,
        control=measured.conditions.control,
        conditions=measured.conditions,
        artifacts=entries,
        settings=settings.model_dump(),
        notes=[],
    )


def _times(timing: Timing, reference: Timing, conditions: Conditions, settings: LatencySettings) -> dict[str, Any]:
    """The fields of `BenchEntry` that come from its samples."""
    single, best = timing.summary(SINGLE), best_throughput(timing, settings, cores())
    return {
        "p50_ms": single.p50,
        "p95_ms": single.p95,
        "p99_ms": single.p99,
        "mean_ms": single.mean,
        "single_stream_threads": timing.threads or settings.threads,
        "n": single.n,
        **_ratio(timing, reference, "ratio", "median", conditions),
        **_ratio(timing, reference, "ratio_mean", "mean", conditions),
        **_ratio(timing, reference, "ratio_p95", "p95", conditions),
        "throughput_per_s": best.per_s,
        "instances": best.instances,
        "threads": best.threads,
        "batch_size": best.batch_size,
        "memory_mb": timing.memory_mb,
        "gpu_memory_mb": timing.gpu_memory_mb,
        "load_s": timing.load_s,
        "first_call_ms": timing.first_call_ms,
        "cold_start_s": timing.cold_start_s,
        "energy_j": joules_a_row(timing),
    }


def _ratio(ours: Timing, theirs: Timing, key: str, statistic: Statistic, conditions: Conditions) -> dict[str, Any]:
    """A ratio of single-stream times as the run carries it, and its interval."""
    point, lo, hi = ratio(ours.turns[SINGLE], theirs.turns[SINGLE], theirs.processes, statistic)
    lo, hi = as_wide(point, lo, hi, conditions.control and conditions.control.ratio_ci)
    return {key: carried(point, lo, hi, conditions.noisy), f"{key}_ci": (lo, hi)}


def _drops(entry: Score, first: Score) -> dict[str, Any]:
    if entry.correct is None or first.correct is None:
        return {}
    drop, _ = paired_drop(first.correct, entry.correct)
    return {
        "drop": drop,
        "drop_upper_95": drop_upper_95(first.correct, entry.correct),
        "mcnemar_p": mcnemar_p(first.correct, entry.correct),
        "negative_flips": negative_flips(first.correct, entry.correct),
    }
