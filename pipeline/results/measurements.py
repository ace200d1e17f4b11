"""measurements.json: collected from the steps of a run, and read again."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paredown.benchmarks.measurements import (
    MEASUREMENTS_SCHEMA,
    CandidateMeasurement,
    Flip,
    Machine,
    Made,
    Measurements,
    Origin,
    RowCounts,
)
from paredown.benchmarks.measuring.latency import CONTROL, Timing
from paredown.benchmarks.statistics.calibration import calibration_error
from paredown.benchmarks.statistics.metric_intervals import worst_flips
from paredown.compress.config import Prune
from paredown.export.bundle.archive import MACHINES
from paredown.runtime.answers import softmax
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Preprocessor

from ..engine import Results
from ..failures import Failure, failures_of
from ..job import (
    ORIGIN,
    RECOVER,
    SCORES,
    Candidate,
    Job,
    Step,
    chain_of,
    evaluation_name,
    further_name,
    graph_name,
    has_scores,
    parts_of,
    rows_digest,
    sitting_name,
    sources_of,
    table_name,
)
from ..recipe.schema import Model
from ..steps.attribution import agreement_of
from ..steps.measure import PROFILE, limits, measured, why_slower
from ..store import Done

FLIPS = 20  # rows


def measurements_of(
    job: Job, steps: list[Step], done: Mapping[str, Done], failed: Mapping[str, Failure], run_dir: Path
) -> Measurements:
    """Everything that was measured, raw samples included: the content of measurements.json.

    Of a candidate that stands on a step in `failed` only what it would have been, and why it is not.
    """
    found = measured(job, done)
    timings, looked = found.timings, done[PROFILE].result
    by_name = {
        "why_slower": why_slower(job.candidates, done, timings, found.noisy),
        "profile": limits(done, timings, found.noisy),
        **{name: looked[name] for name in ("sweep", "new_tokens_per_s")},
    }
    candidates, texts = [], job.validation.texts
    encoder, most, gold = job.checkpoint.encoder(), job.task.reference_rows, job.task.row_labels(job.validation)
    lost = failures_of(job, failed)
    sittings = _sittings(job, done)
    for candidate in job.candidates:
        common = {
            "name": candidate.name,
            "model": candidate.model.name,
            "runtime": candidate.target.runtime,
            "precision": candidate.target.precision,
            "steps": _steps_of(candidate.model),
        }
        if candidate.name in lost:
            candidates.append(CandidateMeasurement(**common, failed=str(lost[candidate.name])))
            continue
        evaluated = done[evaluation_name(candidate)]
        export = done[candidate.step]
        chain = list(chain_of(candidate.model))
        further = done.get(further_name(candidate))
        fields = {
            **common,
            "artifact": export.path.relative_to(run_dir).as_posix(),
            "size_mb": export.result["size_mb"],
            "details": export.result["details"],
            "compression_s": sum(done[name].seconds for name in _made_by(job, candidate)),
            "reference": candidate.target in job.compared_with,
            "parameters": _parameters(job, candidate, done),
            "made": _made(chain, done),
            **evaluated.result,
            **({} if further is None else further.result),
            **_answers_of(evaluated, done[evaluation_name(job.candidates[0])], job, encoder),
            "attribution_agreement": agreement_of(job, candidate, done),
            **_timing_of(candidate, timings),
            **{name: values.get(candidate.name) for name, values in by_name.items()},
        }
        candidates.append(CandidateMeasurement(**fields))
    return Measurements(
        version=MEASUREMENTS_SCHEMA,
        name=job.recipe.name,
        task=job.recipe.task,
        metric=job.task.metric_name,
        labels=list(job.checkpoint.labels),
        machine=Machine(**job.machine),
        rows=RowCounts(
            train=len(job.train.starts),
            unlabeled=len(job.unlabeled.starts) if job.unlabeled else 0,
            validation=len(job.validation.starts),
            test=len(job.test.starts) if job.test else 0,
        ),
        data=_sources(job),
        data_digests=dict(job.data_digests),
        notes=list(job.notes),
        certificate_split=job.certificate_split,
        golden_texts=[encoder.small(text) for text in texts[:8]],
        reference_texts=[encoder.small(text) for text in texts[:: 1 + (len(texts) - 1) // most]],
        latency=job.recipe.latency,
        prices=job.recipe.cost,
        choose=job.recipe.choose,
        gold_validation=None if gold is None else gold.tolist(),
        keys=_keys(job),
        test_digest=rows_digest(job.test),
        conditions=found.conditions,
        **{key: looked[key] for key in ("tokenizer_ms", "tokens_median")},
        compression_s=sum(d.seconds for d in done.values()),
        measured_at=max((sitting.at for sitting in sittings), default=""),
        commit=commit_of(Path.cwd()),
        control=timings[CONTROL],
        baseline=job.candidates[0].name,
        checkpoint=str(job.checkpoint.path),
        origin=Origin(path=done[ORIGIN].path.relative_to(run_dir).as_posix(), **done[ORIGIN].result),
        candidates=candidates,
    )


def _sittings(job: Job, done: Mapping[str, Done]) -> list[Done]:
    return [done[name] for i in range(job.recipe.latency.processes) if (name := sitting_name(i)) in done]


def hosts_of(job: Job, measured: Results, *before: Results) -> dict[str, int]:
    """How many steps each machine did, those that failed too, that of the sittings first. `before`: the results of
    `adapt` and of the search. Models may share a step, which counts once."""
    hosts: dict[Path | str, str] = {step.path: step.host for step in _sittings(job, measured.done)}
    for results in (measured, *before):
        hosts |= {step.path: step.host for step in results.done.values()}
        hosts |= {failure.path: failure.host for failure in results.failed.values()}
    return {host: count for host, count in Counter(hosts.values()).items() if host}


def commit_of(directory: Path) -> str | None:
    """The git commit that a directory is at, with a "+" where tracked files differ; None outside of a repository, or
    without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(directory), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _parameters(job: Job, candidate: Candidate, done: Mapping[str, Done]) -> int | None:
    """Of a model; None of a cascade, whose models have their own."""
    chain = list(chain_of(candidate.model))
    if chain:
        return done[chain[-1]].result["parameters"]
    return None if candidate.model.cascade is not None else job.checkpoint.parameters


def _timing_of(candidate: Candidate, timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Its samples; why there are none where its process ended or hung while it was measured."""
    timing = timings.get(candidate.name)
    if timing is None:
        return {"timing": None}
    if timing.cannot_run:
        return {"timing": None, "cannot_run": timing.cannot_run}
    return {"timing": timing}


def _sources(job: Job) -> dict[str, str]:
    """Where the rows of each split come from; of rows held out of validation, that they are."""
    found = sources_of(job.recipe)
    return found if job.test is None else {**found, "test": found.get("test", job.test.source)}


def _answers_of(evaluated: Done, baseline: Done, job: Job, encoder: Preprocessor) -> dict[str, Any]:
    """What a candidate said about each validation row, how far its confidence was off, and its worst flips.

    Nothing of words, whose answers are many a row and of which few begin a span, nor of rows with several labels.
    """
    if "cannot_run" in evaluated.result:
        return {}
    gold, texts, labels = job.task.row_labels(job.validation), job.validation.texts, job.checkpoint.labels
    if gold is None:
        return {"predicted_validation": None, "calibration_error": None, "flips": []}
    logits, before = (np.load(step.path / "validation.npy") for step in (evaluated, baseline))
    said, said_before = logits.argmax(axis=-1), before.argmax(axis=-1)
    sure = softmax(logits).max(axis=-1)
    flips = [
        Flip(
            text=job.task.excerpt(texts[i], encoder),
            gold=labels[gold[i]],
            now=labels[said[i]],
            confidence=float(sure[i]),
        )
        for i in worst_flips(said_before == gold, said == gold, sure, FLIPS)
    ]
    return {
        "predicted_validation": said.tolist(),
        "calibration_error": calibration_error(sure, said == gold),
        "flips": flips,
    }


def _keys(job: Job) -> dict[str, list[str]]:
    """How the validation rows fall into groups: by label (of whole texts), by length in thirds, by `data.groups`; pairs
    by their first text."""
    rows, labels = job.validation, job.checkpoint.labels
    begins = rows.begins.tolist()
    gold, encoder = job.task.row_labels(rows), job.checkpoint.encoder(job.recipe.max_length)
    keys = {} if gold is None else {"label": [labels[label] for label in gold]}
    if rows.groups is not None:
        keys["group"] = [rows.groups[i] for i in begins]
    if encoder.shape:  # images are all of one size
        return keys
    texts = [rows.texts[i] for i in begins]
    lengths = np.array([len(ids) for ids in encoder.ids(texts)])
    low, high = (int(x) for x in np.percentile(lengths, [100 / 3, 200 / 3]))
    names = (f"up to {low} tokens", f"{low + 1} to {high} tokens", f"more than {high} tokens")
    return keys | {"length": [names[int(n > low) + int(n > high)] for n in lengths]}


def _steps_of(model: Model) -> list[dict[str, Any]]:
    if model.cascade is not None:
        return [{"stage": "cascade", **model.cascade.model_dump()}]
    return [{"stage": step.stage[0], **step.stage[1].model_dump(exclude_defaults=True)} for step in model.steps]


def _made(chain: list[str], done: Mapping[str, Done]) -> dict[str, Made]:
    """What each step of the recipe's model found out; training after pruning belongs to the pruning."""
    found: dict[str, dict[str, Any]] = {}
    for name in chain:
        step = name.removesuffix(RECOVER)
        found[step] = found.get(step, {}) | done[name].result
    return {step: Made(**result) for step, result in found.items()}


def _shared(job: Job, model: Model) -> list[str]:
    """Steps that several models stand on, counted in full for each: the teacher's scores, the latency table."""
    stages = chain_of(model).values()
    names = [SCORES] if any(has_scores(job, settings) for settings in stages) else []
    return names + [table_name(s.target) for s in stages if isinstance(s, Prune) and s.timed]


def _made_by(job: Job, candidate: Candidate) -> set[str]:
    """Names of the steps that a candidate took, those of a cascade's models included."""
    if candidate.model.cascade is None:
        return {candidate.step, graph_name(candidate.model), *chain_of(candidate.model), *_shared(job, candidate.model)}
    return {candidate.step}.union(*(_made_by(job, part) for part in parts_of(job, candidate)))


def read_measurements(run_dir: Path) -> Measurements:
    """measurements.json of a finished run. InputError where it is missing, damaged or of another schema."""
    path = run_dir / "measurements.json"
    try:
        data = json.loads(path.read_text())
        if data["schema"] != MEASUREMENTS_SCHEMA:
            again = f"this paredown reads {MEASUREMENTS_SCHEMA}: run the recipe again"
            raise InputError(f"{path}: schema {data['schema']}; {again}")
        found = Measurements.model_validate(data)
        timed = [entry.timing for entry in found.candidates if entry.timing]
        if found.entry(found.baseline).timing is None or not all(all(timing.turns.values()) for timing in timed):
            raise ValueError("no samples")
    except (FileNotFoundError, NotADirectoryError):
        those = ", ".join(str(each.parent) for each in sorted(run_dir.glob(f"{MACHINES}/*/measurements.json")))
        if those:
            raise InputError(f"{run_dir}: a run on several machines; give that of one: {those}") from None
        raise InputError(f"{path}: no such file; a run directory is what `paredown run` has made") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; run the recipe again, finished steps are kept") from None
    return found
