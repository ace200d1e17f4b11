"""The measuring steps: sittings in which every candidate is timed, and a profile."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from paredown.benchmarks.measuring import latency
from paredown.benchmarks.measuring.interleaved import Protocol, Sitting, Workload, sit
from paredown.benchmarks.measuring.latency import Timing
from paredown.benchmarks.measuring.profile import PROFILED, Profile, profile, why_int8_is_slower, why_not_faster
from paredown.benchmarks.measuring.repetitions import Measured, merged
from paredown.benchmarks.measuring.roofline import machine_rates, model_floor_ms
from paredown.benchmarks.measuring.sweep import sweep
from paredown.benchmarks.report.text import times
from paredown.benchmarks.statistics.time_intervals import ratio
from paredown.export.artifact import read_artifact
from paredown.export.hardware import cores
from paredown.export.opening import open_artifact
from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.manifest import sha256_of
from paredown.runtime.preprocessor import PIXELS, reader_file

from ..job import Candidate, Job, evaluation_name, models_of, sitting_name
from ..progress import Report
from ..store import Done

FILE = "timings.json"
PROFILE = "profile"  # the step's name
PROMPTS = 4  # halves of validation rows that decoders continue


def measure(
    job: Job, candidates: list[Candidate], number: int, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    """One sitting: a fresh process of every candidate that runs here, timed in turns. `number`: from 0."""
    artifacts = _able(candidates, done)
    before = [_sitting(done, i) for i in range(number)]
    protocol = Protocol(job.recipe.latency, job.recipe.seed)
    workload = Workload(artifacts, _rows(job, artifacts))
    sitting = sit(workload, protocol, before=before, progress=report)
    (out / FILE).write_text(json.dumps(sitting.to_json()))
    return {key: value for key, value in sitting.to_json().items() if key != "timings"}


def measured(job: Job, done: Mapping[str, Done]) -> Measured:
    """All sittings of a run as one."""
    return merged([_sitting(done, number) for number in range(job.recipe.latency.processes)])


def profiled(job: Job, candidates: list[Candidate], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """What is measured beside the comparison: where the time goes, further shapes, how fast decoders write, the
    tokenizer."""
    artifacts = _able(candidates, done)
    encoder, texts = job.checkpoint.encoder(job.recipe.max_length), job.validation.texts
    rows, settings = _rows(job, artifacts), job.recipe.latency
    threads = settings.threads or cores()
    swept = sweep(Workload(artifacts, rows), settings, seed=job.recipe.seed, progress=report)
    best = {name: timing.threads or threads for name, timing in merged([_sitting(done, 0)]).timings.items()}
    seen = _profiles(candidates, artifacts, rows, best, report)
    return {
        "sweep": {name: [point.model_dump() for point in points] for name, points in swept.items()},
        "seen": {name: asdict(found) for name, found in seen.items()},
        "floor_ms": _floors(job, candidates, seen, artifacts, rows, best),
        "new_tokens_per_s": _new_tokens_per_s(artifacts, rows, threads),
        "tokenizer_ms": latency.tokenizer_ms(encoder.ids, texts),
        "tokens_median": None if encoder.shape else float(np.median([len(row) for row in encoder.ids(texts)])),
    }


def why_slower(
    candidates: list[Candidate], done: Mapping[str, Done], timings: Mapping[str, Timing], noisy: bool
) -> dict[str, str]:
    """For every INT8 artefact that is slower than the same model in float: the reason that its profile gives."""
    found, seen = {}, _seen(done)
    for c in candidates:
        plain = f"{c.model.name}/{c.target.runtime}/fp32"
        if c.model.cascade is not None or not c.target.precision.startswith("int8"):
            continue  # cascades differ in how many rows their first model answers
        if _timed(c.name, seen, timings) and _timed(plain, seen, timings):
            ours, theirs = timings[c.name], timings[plain]
            slower, lo, hi = ratio(ours.turns[latency.SINGLE], theirs.turns[latency.SINGLE], ours.processes)
            if lo > 1:
                found[c.name] = why_int8_is_slower(seen[c.name], times(slower, lo, hi, noisy))
    return found


def limits(done: Mapping[str, Done], timings: Mapping[str, Timing], noisy: bool) -> dict[str, str]:
    """For every artefact that was profiled one paragraph on what keeps it from being faster; of a noisy run without
    how many times the floor it takes."""
    seen, floors = _seen(done), {} if noisy else done[PROFILE].result["floor_ms"]
    return {
        name: why_not_faster(found, timings[name].summary(latency.SINGLE).mean, floors.get(name))
        for name, found in seen.items()
        if _timed(name, seen, timings)
    }


def _able(candidates: list[Candidate], done: Mapping[str, Done]) -> dict[str, Path]:
    """Directories of the candidates that were evaluated here, by their names."""
    evaluated = [c for c in candidates if evaluation_name(c) in done]
    return {c.name: done[c.step].path for c in evaluated if "cannot_run" not in done[evaluation_name(c)].result}


def _rows(job: Job, artifacts: Mapping[str, Path]) -> dict[str, list]:
    """The validation rows as each artefact's tokenizer splits them; those that split the same way share one list."""
    known: dict[tuple, list] = {}
    found = {}
    for name, path in artifacts.items():
        artifact = read_artifact(path)
        cuts = sha256_of(path / reader_file(artifact.inputs))
        key = (cuts, artifact.inputs, artifact.max_length, artifact.pad_id)
        if key not in known:
            known[key] = artifact.encoder().ids(job.validation.texts)
        found[name] = known[key]
    return found


def _sitting(done: Mapping[str, Done], number: int) -> Sitting:
    return Sitting.from_json(json.loads((done[sitting_name(number)].path / FILE).read_text()))


def _seen(done: Mapping[str, Done]) -> dict[str, Profile]:
    return {name: Profile(**found) for name, found in done[PROFILE].result["seen"].items()}


def _timed(name: str, seen: Mapping[str, Profile], timings: Mapping[str, Timing]) -> bool:
    return name in seen and name in timings and not timings[name].cannot_run


def _new_tokens_per_s(artifacts: dict[str, Path], rows: dict, threads: int) -> dict[str, float]:
    """How fast each decoder continues one text at a time: new tokens a second, what the prompt takes included.

    Each in its turn and not side by side: for information; no selection rests on it.
    """
    found = {}
    for name, path in artifacts.items():
        artifact = read_artifact(path)
        if not artifact.has_cache:
            continue
        session = open_artifact(artifact, threads)
        if not isinstance(session, Decoder):
            continue  # PyTorch's own, which scores only
        prompts = [row[: 1 + len(row) // 2] for row in rows[name][:PROMPTS]]
        session.continued(prompts[:1], 2)
        began = time.perf_counter()
        written = sum(int((session.continued([prompt]) >= 0).sum()) for prompt in prompts)
        found[name] = written / (time.perf_counter() - began)
    return found


def _profiles(
    candidates: list[Candidate], artifacts: dict[str, Path], rows: dict, threads: Mapping[str, int], report: Report
) -> dict[str, Profile]:
    """Where the time of every artefact of a CPU runtime goes."""
    found = {}
    for c in candidates:
        if c.name in artifacts and c.target.runtime in PROFILED:
            report(1.0, f"where the time goes in {c.name}")
            found[c.name] = profile(read_artifact(artifacts[c.name]), rows[c.name], threads[c.name])
    return found


def _floors(
    job: Job,
    candidates: list[Candidate],
    seen: dict[str, Profile],
    artifacts: dict[str, Path],
    rows: dict,
    threads: Mapping[str, int],
) -> dict[str, float]:
    """Milliseconds that the products of an ONNX graph would take at this machine's best (roofline.py), for what has
    tokens."""
    found, rates = {}, {count: machine_rates(count, seconds=0.3) for count in {threads[name] for name in seen}}
    for c in candidates:
        if c.name not in seen or c.target.runtime != "onnxruntime":
            continue
        artifact = read_artifact(artifacts[c.name])
        if PIXELS in artifact.inputs:  # an image's products are of no token
            continue
        lengths = [len(row) for row in rows[c.name]]
        asked = artifact.details["cascade"]["asked"] if c.model.cascade is not None else []
        whole = job.checkpoint.truncation
        windows = [part.model.window or (sum(whole) if whole else None) for part in models_of(job, c)]
        found[c.name] = model_floor_ms(
            artifact.path / artifact.files[0], lengths, rates[threads[c.name]], asked, windows
        )
    return found
