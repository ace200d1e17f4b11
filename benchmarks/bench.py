"""`paredown bench`: artefacts side by side, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..export.artifact import Artifact
from ..export.machine import machine
from .intervals import ratio
from .latency import OFFLINE, SINGLE, LatencySettings, Progress, first_able, joules_a_row, measure
from .quality import drop_upper_95, mcnemar_p, negative_flips, paired_drop
from .sweep import sweep


@dataclass(frozen=True)
class Scored:
    """An artefact, the path that the user gave for it; with labels, its metric in points and which rows were right."""

    given: str
    artifact: Artifact
    metric: float | None
    correct: np.ndarray | None  # (rows,) bool
    tokenizer_ms: float  # median of one row


def bench(
    scored: Sequence[Scored],
    rows: Sequence[Sequence[Sequence[int]]],
    settings: LatencySettings,
    *,
    metric_name: str,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Time each artefact on its own token-id rows of the same texts; the content of `--json F`.

    Ratios are latency against the reference, the first one that can run here; drops in points against the same,
    paired row by row. "reference" is the path that the user gave for it, None where none can run.
    """
    paths = {f"{i}: {entry.given}": entry.artifact.path for i, entry in enumerate(scored)}
    by_path = dict(zip(paths, rows, strict=True))
    measured = measure(paths, by_path, settings, seed=seed, progress=progress)
    swept = sweep(paths, by_path, settings, seed=seed, progress=progress)
    timings, names = measured.timings, list(paths)
    able = first_able(timings)
    reference = scored[names.index(able)] if able else None
    entries = []
    for name, entry in zip(names, scored, strict=True):
        timing, artifact = timings[name], entry.artifact
        common = {
            "path": entry.given,
            "runtime": artifact.runtime,
            "precision": artifact.precision,
            "metric": entry.metric,
            "metric_name": metric_name,
            "size_mb": artifact.size_mb(),
            "tokenizer_ms": entry.tokenizer_ms,
            **(_drops(entry, reference) if reference else {}),
        }
        if timing.cannot_run or able is None:
            entries.append({**common, "cannot_run": timing.cannot_run})
            continue
        first = timings[able]
        single, offline = timing.summary(SINGLE), timing.summary(OFFLINE)
        point, lo, hi = ratio(timing.turns[SINGLE], first.turns[SINGLE], first.processes)
        entries.append(
            {
                **common,
                "p50_ms": single.p50,
                "p95_ms": single.p95,
                "p99_ms": single.p99,
                "mean_ms": single.mean,
                "n": single.n,
                "ratio": point,
                "ratio_ci": [lo, hi],
                "ratio_mean": single.mean / first.summary(SINGLE).mean,
                "throughput_per_s": 1e3 * settings.batch_size / offline.mean,
                "batch_size": settings.batch_size,
                "memory_mb": timing.memory_mb,
                "gpu_memory_mb": timing.gpu_memory_mb,
                "load_s": timing.load_s,
                "first_call_ms": timing.first_call_ms,
                "cold_start_s": timing.cold_start_s,
                "energy_j": joules_a_row(timing),
                "sweep": swept[name],
            }
        )
    return {
        "machine": machine(),
        "reference": reference and reference.given,
        "control": measured.conditions["control"],
        "conditions": measured.conditions,
        "artifacts": entries,
        "settings": settings.model_dump(),
    }


def _drops(entry: Scored, first: Scored) -> dict:
    if entry.correct is None or first.correct is None:
        return {}
    drop, _ = paired_drop(first.correct, entry.correct)
    return {
        "drop": drop,
        "drop_upper_95": drop_upper_95(first.correct, entry.correct),
        "mcnemar_p": mcnemar_p(first.correct, entry.correct),
        "negative_flips": negative_flips(first.correct, entry.correct),
    }
