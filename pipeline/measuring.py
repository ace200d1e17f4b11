"""The step that measures: every candidate timed in one interleaved run, swept, profiled."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..benchmarks import latency
from ..benchmarks.floor import floor_ms, machine_rates, work_of
from ..benchmarks.intervals import ratio
from ..benchmarks.profile import PROFILED, Profile, profile, why_int8_is_slower, why_not_faster
from ..benchmarks.sweep import sweep
from ..compress.decode import Decoder
from ..compress.encoder import PIXELS
from ..export.artifact import read_artifact
from ..export.machine import cores
from .job import Candidate, Job, evaluation_name
from .progress import Report
from .store import Done

PROMPTS = 4  # halves of validation rows that decoders go on with


def measure(job: Job, candidates: list[Candidate], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Time every candidate that runs here, all in one interleaved run, and say where the time goes."""
    candidates = [c for c in candidates if evaluation_name(c) in done]  # the others failed
    artifacts = {c.name: done[c.step].path for c in candidates if "cannot_run" not in done[evaluation_name(c)].result}
    encoder = job.checkpoint.encoder(job.recipe.max_length)
    ids = encoder.ids(job.validation.texts)
    rows = {name: read_artifact(path).encoder().ids(job.validation.texts) for name, path in artifacts.items()}
    settings, seed = job.recipe.latency, job.recipe.seed
    threads = settings.threads or cores()
    measured = latency.measure(artifacts, rows, settings, seed=seed, progress=report)
    timings = measured.timings
    (out / "timings.json").write_text(json.dumps({name: vars(timing) for name, timing in timings.items()}))
    swept = sweep(artifacts, rows, settings, seed=seed, progress=report)
    seen = _profiles(candidates, artifacts, rows, timings, threads, report)
    return {
        "conditions": measured.conditions,
        "sweep": swept,
        "why_slower": _why_slower(candidates, seen, timings),
        "profile": _why_not_faster(candidates, seen, artifacts, rows, timings, threads),
        "new_tokens_per_s": _new_tokens_per_s(artifacts, rows, threads) if job.task.goes_on else {},
        "tokenizer_ms": latency.tokenizer_ms(encoder.ids, job.validation.texts),
        "tokens_median": float(np.median([len(row) for row in ids])) if job.task.reads_text else None,
    }


def _new_tokens_per_s(artifacts: dict[str, Path], rows: dict, threads: int) -> dict[str, float]:
    """How fast each decoder goes on with one text at a time: new tokens a second, what the prompt takes included.

    Each in its turn and not side by side: a figure to look at, which no pick rests on.
    """
    found = {}
    for name, path in artifacts.items():
        session = read_artifact(path).open(threads)
        if not isinstance(session, Decoder):
            continue  # PyTorch's own, which scores only
        prompts = [row[: 1 + len(row) // 2] for row in rows[name][:PROMPTS]]
        session.continued(prompts[:1], 2)
        began = time.perf_counter()
        written = sum(int((session.continued([prompt]) >= 0).sum()) for prompt in prompts)
        found[name] = written / (time.perf_counter() - began)
    return found


def _profiles(
    candidates: list[Candidate], artifacts: dict[str, Path], rows: dict, timings: dict, threads: int, report: Report
) -> dict[str, Profile]:
    """Where the time of every artefact of a CPU runtime goes."""
    found = {}
    for c in candidates:
        if c.name in artifacts and c.target.runtime in PROFILED and not timings[c.name].cannot_run:
            report(1.0, f"where the time goes in {c.name}")
            found[c.name] = profile(read_artifact(artifacts[c.name]), rows[c.name], threads)
    return found


def _why_slower(candidates: list[Candidate], seen: dict[str, Profile], timings: dict) -> dict[str, str]:
    """For every INT8 artefact that is slower than the same model in float: the reason that its profile gives."""
    found = {}
    for c in candidates:
        plain = f"{c.model.name}/{c.target.runtime}/fp32"
        if c.model.cascade is not None or not c.target.precision.startswith("int8"):
            continue  # cascades differ in how many rows their first model answers
        if c.name in seen and plain in seen:
            ours, theirs = timings[c.name], timings[plain]
            slower, lo, _ = ratio(ours.turns[latency.SINGLE], theirs.turns[latency.SINGLE], ours.processes)
            if lo > 1:
                found[c.name] = why_int8_is_slower(seen[c.name], slower)
    return found


def _why_not_faster(
    candidates: list[Candidate],
    seen: dict[str, Profile],
    artifacts: dict[str, Path],
    rows: dict,
    timings: dict,
    threads: int,
) -> dict[str, str]:
    """For every artefact that was profiled one paragraph on what keeps it from being faster."""
    found, rates = {}, machine_rates(threads, seconds=0.3)
    for c in candidates:
        if c.name not in seen:
            continue
        artifact, floor = read_artifact(artifacts[c.name]), None
        if c.target.runtime == "onnxruntime" and PIXELS not in artifact.inputs:  # an image's products are of no token
            always, sometimes = work_of(artifact.path / artifact.files[0])
            lengths = [len(row) for row in rows[c.name]]
            unsure = 1 - artifact.details["cascade"]["answered_by_first"] if c.model.cascade is not None else 0.0
            floor = floor_ms(always, lengths, rates) + unsure * floor_ms(sometimes, lengths, rates)
        found[c.name] = why_not_faster(seen[c.name], timings[c.name].summary(latency.SINGLE).mean, floor)
    return found
