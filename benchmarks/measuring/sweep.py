"""Sweeps batch sizes, threads and lengths; one process each, so medians without intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .interleaved import sit
from .latency import LatencySettings, Progress, Scenario, Timing

SECONDS, ROUNDS = 0.6, 3  # of calls per artefact and shape


def sweep(
    artifacts: Mapping[str, Path],
    rows: Mapping[str, Sequence[Sequence[int]]],
    settings: LatencySettings,
    *,
    seed: int = 0,
    failed: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, list[dict]]:
    """For each artefact [{"batch_size", "threads", "tokens", "p50_ms", "p99_ms", "throughput_per_s"}].

    "tokens" is the bucket ("33 to 64") of a length, None elsewhere. Empty when `settings.sweep` asks for nothing, and
    for those that are known to have `failed` (with the reason).
    """
    asked = settings.sweep
    lengths = [len(row) for row in next(iter(rows.values()))]
    shapes: dict[Scenario, tuple[int, str | None]] = {
        Scenario(f"batch {size}", size): (size, None) for size in asked.batch_sizes
    }
    for low, high in zip([0, *asked.lengths], asked.lengths, strict=False):
        among = tuple(i for i, length in enumerate(lengths) if low < length <= high)
        if among:
            shapes[Scenario(f"tokens {high}", 1, among)] = (1, f"{low + 1} to {high}")
    found: dict[str, list[dict]] = {name: [] for name in artifacts}
    rounds = [(settings.threads, shapes)] if shapes else []
    rounds += [(threads, {Scenario("one row"): (1, None)}) for threads in asked.threads]
    for number, (threads, wanted) in enumerate(rounds):
        short = settings.model_copy(
            update={"threads": threads, "processes": 1, "rounds": ROUNDS, "min_seconds": SECONDS, "min_repeats": 24}
        )
        report = progress and (lambda share, text, n=number: progress((n + share) / len(rounds), text))
        sitting = sit(
            artifacts, rows, short, number=number, seed=seed, scenarios=list(wanted), failed=failed, control=False,
            look=False, progress=report,
        )  # fmt: skip
        for name, timing in sitting.timings.items():
            if not timing.cannot_run:
                found[name] += [_entry(timing, scenario, threads, *shape) for scenario, shape in wanted.items()]
    return found


def _entry(timing: Timing, scenario: Scenario, threads: int | None, batch_size: int, tokens: str | None) -> dict:
    samples = np.concatenate(timing.turns[scenario.name])
    return {
        "batch_size": batch_size,
        "threads": threads,
        "tokens": tokens,
        "p50_ms": float(np.median(samples)),
        "p99_ms": float(np.percentile(samples, 99)),
        "throughput_per_s": float(1e3 * batch_size / samples.mean()),
    }
