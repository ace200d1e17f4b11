"""The step that measures: every candidate timed in one interleaved run, swept, profiled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..benchmarks import latency
from ..benchmarks.floor import floor_ms, machine_rates, work_of
from ..benchmarks.intervals import ratio
from ..benchmarks.profile import profile, why_int8_is_slower, why_not_faster
from ..benchmarks.sweep import sweep
from ..export.artifact import ON_GPU, read_artifact
from ..export.machine import cores
from .job import Candidate, Job, evaluation_name
from .progress import Report
from .store import Done


def measure(job: Job, candidates: list[Candidate], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Time every candidate that runs here, all in one interleaved run, and say where the time goes."""
    artifacts = {c.name: done[c.step].path for c in candidates if "cannot_run" not in done[evaluation_name(c)].result}
    encoder = job.checkpoint.encoder(job.recipe.max_length)
    ids = encoder.ids(job.validation.texts)
    rows = {name: read_artifact(path).encoder().ids(job.validation.texts) for name, path in artifacts.items()}
    settings, seed = job.recipe.latency, job.recipe.seed
    threads = settings.threads or cores()
    measured = latency.measure(artifacts, rows, settings, seed=seed, progress=report)
    timings = measured.timings
    (out / "timings.json").write_text(json.dumps({name: vars(timing) for name, timing in timings.items()}))
    return {
        "conditions": measured.conditions,
        "sweep": sweep(artifacts, rows, settings, seed=seed, progress=report),
        # of a model that writes, a profile of one call of one of its graphs would say little
        "why_slower": {} if job.task.writes else _why_slower(candidates, artifacts, rows, timings, threads),
        "profile": {} if job.task.writes else _profiles(candidates, artifacts, rows, timings, threads, report),
        "tokenizer_ms": latency.tokenizer_ms(encoder.ids, job.validation.texts),
        "tokens_median": float(np.median([len(row) for row in ids])),
    }


def _why_slower(
    candidates: list[Candidate], artifacts: dict[str, Path], rows: dict, timings: dict, threads: int
) -> dict[str, str]:
    """For every INT8 artefact that is slower than the same model in float: the reason that its profile gives."""
    found = {}
    for c in candidates:
        plain = f"{c.model.name}/{c.target.runtime}/fp32"
        if c.model.cascade is not None or not c.target.precision.startswith("int8"):
            continue  # cascades differ in how many rows their first model answers
        if c.target.runtime in ON_GPU or c.name not in artifacts or plain not in artifacts:
            continue  # profiles are of CPU runtimes
        ours, theirs = timings[c.name], timings[plain]
        slower, lo, _ = ratio(ours.turns[latency.SINGLE], theirs.turns[latency.SINGLE], ours.processes)
        if lo > 1:
            seen = profile(read_artifact(artifacts[c.name]), rows[c.name], threads)
            found[c.name] = why_int8_is_slower(seen, slower)
    return found


def _profiles(
    candidates: list[Candidate], artifacts: dict[str, Path], rows: dict, timings: dict, threads: int, report: Report
) -> dict[str, str]:
    """For every artefact of a CPU runtime one paragraph on what keeps it from being faster."""
    found, rates = {}, machine_rates(threads, seconds=0.3)
    for c in candidates:
        if c.name not in artifacts or c.target.runtime not in ("onnxruntime", "openvino") or timings[c.name].cannot_run:
            continue
        report(1.0, f"where the time goes in {c.name}")
        artifact, floor = read_artifact(artifacts[c.name]), None
        if c.target.runtime == "onnxruntime" and c.model.cascade is None:  # a cascade does not do all of it each time
            always, _ = work_of(artifact.path / artifact.files[0])
            floor = floor_ms(always, [len(row) for row in rows[c.name]], rates)
        seen = profile(artifact, rows[c.name], threads)
        found[c.name] = why_not_faster(seen, timings[c.name].summary(latency.SINGLE).mean, floor)
    return found
