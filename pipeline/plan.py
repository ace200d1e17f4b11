"""From a job to the steps of the run: each a function of what its key names, sharing nothing in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..compress.checkpoint import open_checkpoint
from ..compress.settings import Distill, Finetune, Heal, Prune, Stage, Static, Timed
from ..export.artifact import WEIGHTS_ONLY
from ..export.machine import RUNTIME_PACKAGES, cores, fingerprint, gpus, has_int8_isa, version
from ..export.session import ENGINES
from .attributing import attribute
from .job import (
    BASE_TARGET,
    SCORES,
    Candidate,
    Job,
    Step,
    attribution_name,
    chain_of,
    evaluation_name,
    graph_name,
    has_scores,
    parts_of,
    rows_digest,
    table_name,
    with_depth,
)
from .measuring import measure
from .progress import Report
from .recipe import BASELINE, Model, Search
from .scoring import evaluate
from .search import PROXY_SHARE, search
from .store import Done
from .work import cascade, checkpoint_after, compress, export, measure_table, score

if TYPE_CHECKING:
    from .latency_table import Cut


def plan(job: Job) -> list[Step]:
    """All steps in the order in which they run; each one's key holds the keys of those before it.

    A recipe's `search` comes before: `search_steps`.
    """
    steps: dict[str, Step] = {}
    candidates = job.candidates
    for step in _table_steps(job):  # first: a time that cannot be reached waits for nothing
        _add(steps, step)
    if any(has_scores(job, settings) for model in job.models for settings in chain_of(model).values()):
        _add(steps, _scores_step(job))
    for model in job.models:
        if model.cascade is None:
            end = _model_steps(job, model, steps)
            _add(steps, _graph_step(job, model, end, steps))
            if job.recipe.explain_rows:
                _add(steps, _attribution_step(job, model, end, steps))
            reference = Candidate(model, BASE_TARGET)
            for candidate in [reference, *(c for c in candidates if c.model == model and c != reference)]:
                _add(steps, _export_step(job, candidate, end, steps))
                _add(steps, _evaluate_step(job, candidate, reference, steps))
    for candidate in candidates:
        if candidate.model.cascade is not None:
            _add(steps, _cascade_step(job, candidate, steps))
            _add(steps, _evaluate_step(job, candidate, parts_of(job, candidate)[1], steps))
    _add(steps, _measure_step(job, candidates, steps))
    return list(steps.values())


def search_steps(job: Job, settings: Search) -> list[Step]:
    """What comes before the plan when the recipe asks for a search; the last one is the search itself."""
    scores = _scores_step(job)
    wanted = Prune(speedup=settings.speedup, target=settings.target)
    table = _table_step(job, settings.target, [[(wanted, job.checkpoint.depth)]] if wanted.timed else [])
    inputs = {
        "stage": "search",
        "settings": settings.model_dump(),
        "seed": job.recipe.seed,
        "max_length": job.recipe.max_length,
        "after": {step.name: step.key for step in (table, scores)},
        "code": {"search": _digest("pipeline/search.py"), **code_of("compress")["code"]},
    }
    work = partial(search, job, settings)
    return [table, scores, Step("search", inputs, 60 * PROXY_SHARE * settings.minutes, work)]


def _model_steps(job: Job, model: Model, steps: dict[str, Step]) -> str | None:
    """Add the model's chain; returns the name of its last step, None for the checkpoint as it came."""
    before: str | None = None
    for name, settings in chain_of(model).items():
        inputs = {
            "stage": type(settings).__name__.lower(),
            "settings": settings.model_dump(),
            "seed": job.recipe.seed,
            "max_length": job.recipe.max_length,
            "train": rows_digest(job.train),
            "validation": rows_digest(job.validation),
            "unlabeled": rows_digest(job.unlabeled),
            "student": _digest_of(settings),
            "threads": cores(),
            **_after(job, steps, before),
            "scores": steps[SCORES].key if has_scores(job, settings) else None,
            "table": steps[table_name(settings.target)].key if isinstance(settings, Prune) and settings.timed else None,
            **code_of("compress"),
        }
        work = partial(compress, job, settings, before)
        _add(steps, Step(name, inputs, _guess(job, settings), work))
        before = name
    return before


def _scores_step(job: Job) -> Step:
    inputs = {
        "stage": "scores",
        "max_length": job.recipe.max_length,
        "train": rows_digest(job.train),
        "validation": rows_digest(job.validation),
        "unlabeled": rows_digest(job.unlabeled),
        "threads": cores(),
        "teachers": [teacher.digest for teacher in job.teachers],
        **code_of("compress"),
    }
    rows = job.learned + len(job.validation)
    seconds = rows * len(job.teachers) / 180
    return Step(SCORES, inputs, seconds, partial(score, job))


def _cascade_step(job: Job, candidate: Candidate, steps: dict[str, Step]) -> Step:
    assert candidate.model.cascade is not None
    parts = parts_of(job, candidate)
    inputs = {
        "stage": "cascade",
        "max_drop": candidate.model.cascade.max_drop,
        "validation": rows_digest(job.validation),
        "after": {name: steps[name].key for part in parts for name in (part.step, evaluation_name(part))},
        **code_of("export"),
    }
    return Step(candidate.step, inputs, 2.0, partial(cascade, job, candidate))


def _table_steps(job: Job) -> list[Step]:
    """One latency table for each target that a cut is timed in, before anything is trained.

    Times that cannot be reached are found out here, as far as that can be known: a cut may leave any width to the next.
    """
    chains: dict[Timed, list[list[Cut]]] = {}
    for model in job.models:
        mine: dict[Timed, list[Cut]] = {}
        narrower: dict = {}
        for _, settings, depth in with_depth(model, job.checkpoint.depth):
            if isinstance(settings, Prune):
                if settings.timed:
                    mine.setdefault(settings.target, []).append((settings.model_copy(update=narrower), depth))
                narrower = {"multiple": 1}
        for target, cuts in mine.items():
            chains.setdefault(target, []).append(cuts)
    return [_table_step(job, target, those) for target, those in chains.items()]


def _table_step(job: Job, target: Timed, chains: list[list[Cut]]) -> Step:
    inputs = {
        "stage": "table",
        "target": target.model_dump(),
        "cuts": [
            [[cut.speedup, cut.latency_ms, cut.even, cut.multiple, depth] for cut, depth in cuts] for cuts in chains
        ],
        "max_length": job.recipe.max_length,
        "lengths": job.recipe.lengths,
        "train": rows_digest(job.train),
        "machine": fingerprint(),
        "checkpoint": job.checkpoint.digest,
        **code_of("compress", "export", "benchmarks"),
    }
    return Step(table_name(target), inputs, 60.0, partial(measure_table, job, target, chains))


def _graph_step(job: Job, model: Model, before: str | None, steps: dict[str, Step]) -> Step:
    """The checkpoint as one plain ONNX graph, which every runtime's artefact starts from."""
    inputs = {"stage": "graph", "task": job.task.name, **_after(job, steps, before), **code_of("compress", "export")}

    def work(out: Path, done: Mapping[str, Done], report: Report) -> None:
        from ..export.to_onnx import plain_onnx

        report(0.0, "tracing")
        plain_onnx(checkpoint_after(job, before, done), job.task, out / "plain.onnx")

    return Step(graph_name(model), inputs, 4.0, work)


def _attribution_step(job: Job, model: Model, before: str | None, steps: dict[str, Step]) -> Step:
    source = _after(job, steps, before)
    teacher = {} if model.name == BASELINE else {attribution_name(BASELINE): steps[attribution_name(BASELINE)].key}
    inputs = {
        "stage": "attributions",
        "rows": job.recipe.explain_rows,
        "max_length": job.recipe.max_length,
        "validation": rows_digest(job.validation),
        **source,
        "after": source.get("after", {}) | teacher,
        "attributing": _digest("pipeline/attributing.py"),
        **code_of("compress"),
    }
    return Step(
        attribution_name(model.name), inputs, 1.2 * job.recipe.explain_rows, partial(attribute, job, model, before)
    )


def _export_step(job: Job, candidate: Candidate, before: str | None, steps: dict[str, Step]) -> Step:
    target = candidate.target
    static = target.precision == "int8-static"
    int8 = target.precision.startswith("int8") and target.precision not in WEIGHTS_ONLY
    inputs = {
        "stage": "export",
        "runtime": target.runtime,
        "precision": target.precision,
        "max_length": job.recipe.max_length,
        "lengths": job.recipe.lengths,
        "calibration": [rows_digest(job.train), job.recipe.calibration_rows] if int8 else None,
        "int8": job.recipe.int8.model_dump() if int8 else None,
        "int8_isa": has_int8_isa() if int8 else None,
        "engine": [job.engine.model_dump(), gpus()] if target.runtime in ENGINES else None,
        "graph": steps[graph_name(candidate.model)].key,
        **_after(job, steps, before),
        **code_of("compress", "export"),
    }
    return Step(candidate.step, inputs, 60.0 if static else 6.0, partial(export, job, candidate, before))


def _evaluate_step(job: Job, candidate: Candidate, reference: Candidate, steps: dict[str, Step]) -> Step:
    after = {candidate.step: steps[candidate.step].key}
    if candidate != reference:  # a cascade's own step stands on the evaluations of both its models
        after[evaluation_name(reference)] = steps[evaluation_name(reference)].key
    tolerance = job.recipe.tolerance(candidate.target.precision)
    inputs = {
        "stage": "evaluate",
        "validation": rows_digest(job.validation),
        "test": rows_digest(job.test),
        "tolerance": None if candidate == reference else vars(tolerance),
        "robustness": job.recipe.robustness_rows,
        "machine": fingerprint(),
        "after": after,
        "scoring": _digest("pipeline/scoring.py"),
        **code_of("compress", "export"),
    }
    rows = len(job.validation) + (len(job.test) if job.test else 0)
    return Step(evaluation_name(candidate), inputs, rows / 250, partial(evaluate, job, candidate, reference))


def _measure_step(job: Job, candidates: list[Candidate], steps: dict[str, Step]) -> Step:
    inputs = {
        "stage": "measure",
        "latency": job.recipe.latency.model_dump(),
        "validation": rows_digest(job.validation),
        "seed": job.recipe.seed,
        "machine": fingerprint(),
        "after": {name: steps[name].key for c in candidates for name in (c.step, evaluation_name(c))},
        "measuring": _digest("pipeline/measuring.py"),
        **code_of("benchmarks"),
    }
    settings = job.recipe.latency
    seconds = len(candidates) * (2 * settings.min_seconds * 1.4 + 2.5 * settings.processes)
    return Step("measure", inputs, seconds, partial(measure, job, candidates))


def _after(job: Job, steps: dict[str, Step], before: str | None) -> dict:
    return {"after": {before: steps[before].key}} if before else {"checkpoint": job.checkpoint.digest}


def _digest_of(settings: Stage) -> str | None:
    student = settings.student if isinstance(settings, Distill) else None
    return open_checkpoint(student).digest if student else None


def _add(steps: dict[str, Step], step: Step) -> None:
    steps[step.name] = step


@cache
def _digest(pattern: str) -> str:
    """sha256 of our own files that match, below the package."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parent.parent.glob(pattern)):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def code_of(*folders: str) -> dict:
    """Versions of what the step runs, and of our own code in the rooms that it uses."""
    versions = {name: version(name) for name in (*RUNTIME_PACKAGES, "torch-pruning", "accelerate", "peft")}
    return {
        "versions": versions,
        "code": {folder: _digest(f"{folder}/*.py") for folder in folders} | {"work": _digest("pipeline/work.py")},
    }


def _guess(job: Job, settings: Stage) -> float:
    """Seconds of a training stage, from 40 rows a second measured for MiniLM-L6 in float32 on 2 cores."""
    if isinstance(settings, Finetune):
        return settings.epochs * len(job.train) / 40
    if not isinstance(settings, Heal):
        return 60.0 if isinstance(settings, Prune) else 5.0
    return 30 + settings.epochs * job.rows_of(settings) / (1500 if isinstance(settings, Static) else 60)
