"""Sweeps batch sizes, threads and lengths; one process each, so medians without intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .interleaved import Protocol, Sitting, Workload, sit
from .latency import LatencySettings, Progress, Scenario, Timing
from .records import SweepPoint

SECONDS, ROUNDS = 0.6, 3  # of calls per artefact and shape


def sweep(
    workload: Workload,
    settings: LatencySettings,
    *,
    seed: int = 0,
    before: Sequence[Sitting] = (),
    progress: Progress | None = None,
) -> dict[str, list[SweepPoint]]:
    """For each artefact its points.

    `tokens` is the bucket ("33 to 64") of a length, None elsewhere. Empty when `settings.sweep` asks for nothing, and
    for those that a sitting `before` could not measure.
    """
    asked = settings.sweep
    lengths = [len(row) for row in next(iter(workload.rows.values()))]
    shapes: dict[Scenario, tuple[int, str | None]] = {
        Scenario(f"batch {size}", size): (size, None) for size in asked.batch_sizes
    }
    for low, high in zip([0, *asked.lengths], asked.lengths, strict=False):
        among = tuple(i for i, length in enumerate(lengths) if low < length <= high)
        if among:
            shapes[Scenario(f"tokens {high}", 1, among)] = (1, f"{low + 1} to {high}")
    found: dict[str, list[SweepPoint]] = {name: [] for name in workload.artifacts}
    rounds = [(settings.threads, shapes)] if shapes else []
    rounds += [(threads, {Scenario("one row"): (1, None)}) for threads in asked.threads]
    for number, (threads, wanted) in enumerate(rounds):
        short = settings.model_copy(
            update={"threads": threads, "processes": 1, "rounds": ROUNDS, "min_seconds": SECONDS, "min_repeats": 24}
        )
        report = progress and (lambda share, text, n=number: progress((n + share) / len(rounds), text))
        protocol = Protocol(short, seed, list(wanted), control=False, check_load=False)
        sitting = sit(workload, protocol, before=before, progress=report)
        for name, timing in sitting.timings.items():
            if not timing.cannot_run:
                found[name] += [_point(timing, scenario, threads, *shape) for scenario, shape in wanted.items()]
    return found


def _point(timing: Timing, scenario: Scenario, threads: int | None, batch_size: int, tokens: str | None) -> SweepPoint:
    samples = np.concatenate(timing.turns[scenario.name])
    return SweepPoint(
        batch_size=batch_size,
        threads=threads,
        tokens=tokens,
        p50_ms=float(np.median(samples)),
        p99_ms=float(np.percentile(samples, 99)),
        throughput_per_s=float(1e3 * batch_size / samples.mean()),
    )
