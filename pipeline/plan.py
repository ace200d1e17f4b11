"""Plans the steps of a run; each is a function of what its key names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.benchmarks.measuring.repetitions import spread
from paredown.compress.config import Distill, Prune, Stage, Timed, Trim
from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.compress.models.model_card import hub_name, origin_files
from paredown.export.artifact import multiplies_int8
from paredown.export.hardware import fingerprint, has_int8_isa
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.manifest import sha256_of
from paredown.tasks.base import Feature

from . import estimates
from .job import (
    BASE_TARGET,
    ORIGIN,
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
)
from .model_checks import with_depth
from .progress import Report
from .recipe.schema import BASELINE, Model, Search, Target
from .steps.attribution import attribute
from .steps.compress import (
    cascade,
    check_reachable,
    checkpoint_after,
    compress,
    export,
    measure_table,
    score,
    vocabulary,
    windows,
)
from .steps.evaluate import evaluate
from .steps.measure_steps import further_step, profile_step, sitting_step
from .steps.step_keys import code_of, digest_of
from .store import Done

if TYPE_CHECKING:
    from .steps.latency_table import Cut
# what a stage does, for people who watch
DOING = {
    "finetune": "fine-tuning",
    "prune": "pruning",
    "recover": "training after pruning",
    "distill": "distillation",
    "static": "training a static student",
    "trim": "trimming the vocabulary",
    "truncate": "truncation",
}


def plan(job: Job) -> list[Step]:
    """All steps in the order in which they run; each one's key holds the keys of those before it.

    What no other step waits for comes between the sittings that measure. A recipe's `search` comes before:
    `search_steps`.
    """
    steps: dict[str, Step] = {}
    candidates = job.candidates
    between: list[Step] = []
    for step in _table_steps(job):  # first: a time that cannot be reached waits for nothing
        _add(steps, step)
    if any(has_scores(job, settings) for model in job.models for settings in chain_of(model).values()):
        _add(steps, _scores_step(job))
    _add(steps, _origin_step(job))
    for model in job.models:
        if model.cascade is None:
            end = _model_steps(job, model, steps)
            _add(steps, _graph_step(job, model, end, steps))
            if job.recipe.explain_rows:
                between.append(_attribution_step(job, model, end, steps, between))
            _add_evaluations(job, model, [c.target for c in candidates if c.model == model], end, steps)
    for candidate in candidates:
        if candidate.model.cascade is not None:
            _add(steps, _cascade_step(job, candidate, steps))
            _add(steps, _evaluate_step(job, candidate, parts_of(job, candidate)[1], steps))
    if job.test is not None or job.recipe.robustness_rows:
        between += [further_step(job, candidate, steps) for candidate in candidates]
    first = sitting_step(job, candidates, 0, steps)
    between.append(profile_step(job, candidates, steps, first))
    for number, work in enumerate(spread(between, job.recipe.latency.processes, lambda step: step.seconds)):
        _add(steps, sitting_step(job, candidates, number, steps) if number else first)
        for step in work:
            _add(steps, step)
    return list(steps.values())


def prunable(job: Job) -> bool:
    """Whether the checkpoint can be pruned to a time."""
    known = FAMILIES.get(job.checkpoint.config.get("model_type", ""))
    return known is not None and job.task.supports(Feature.PRUNE)


def search_steps(job: Job, settings: Search) -> list[Step]:
    """The steps before a search: the latency table, the teacher's outputs and its evaluation."""
    steps: dict[str, Step] = {}
    if prunable(job):
        _add(steps, table := _table_step(job, settings.target))
        if settings.speedup is not None:
            wanted = Prune(speedup=settings.speedup, target=settings.target)
            _add(steps, _reachable_step(job, settings.target, [[(wanted, job.checkpoint.depth)]], table))
    _add(steps, _scores_step(job))
    _add_evaluations(job, Model(name=BASELINE), [], None, steps)
    return list(steps.values())


def window_steps(job: Job, ends: Sequence[tuple[int, int]]) -> list[Step]:
    """The step that compares what the checkpoint answers where it reads only these ends of a row, and those that it
    stands on."""
    what = {"stage": "windows", "ends": [list(pair) for pair in ends]}
    return _comparison(job, f"window-{sum(ends[0])}", what, len(ends), partial(windows, job, ends))


def vocabulary_steps(job: Job, settings: Trim) -> list[Step]:
    """The step that compares what the checkpoint answers with a trimmed vocabulary, and those that it stands on."""
    texts = {"train": rows_digest(job.train), "unlabeled": rows_digest(job.unlabeled)}
    what = {"stage": "vocabulary", "settings": settings.model_dump(), **texts}
    return _comparison(job, f"vocabulary-{settings.frequent}", what, 1, partial(vocabulary, job, settings))


def _comparison(
    job: Job, name: str, what: dict, times: int, work: Callable[[Path, Mapping[str, Done], Report], dict]
) -> list[Step]:
    """A step that holds answers of the checkpoint against those that it gives as it is; `times`: it answers
    validation."""
    steps: dict[str, Step] = {}
    _add_evaluations(job, Model(name=BASELINE), [], None, steps)
    whole = Candidate(Model(name=BASELINE), BASE_TARGET)
    inputs = {
        **what,
        "max_length": job.recipe.max_length,
        "validation": rows_digest(job.validation),
        "checkpoint": job.checkpoint.digest,
        **job.trained_on,
        "after": {name: steps[name].key for name in (whole.step, evaluation_name(whole))},
        **code_of("compress"),
    }
    _add(steps, Step(name, inputs, estimates.scoring(job, times * len(job.validation)), work))
    return list(steps.values())


def trial_steps(job: Job, model: Model, targets: Sequence[Target] = ()) -> list[Step]:
    """The steps that train a model and evaluate it in PyTorch and in `targets`, as they are in the plan of a run."""
    steps: dict[str, Step] = {}
    for settings in chain_of(model).values():
        if isinstance(settings, Prune) and settings.timed:
            _add(steps, _table_step(job, settings.target))
    _add(steps, _scores_step(job))
    _add_evaluations(job, Model(name=BASELINE), [], None, steps)
    end = _model_steps(job, model, steps)
    if targets:
        _add(steps, _graph_step(job, model, end, steps))
    _add_evaluations(job, model, targets, end, steps)
    return list(steps.values())


def _add_evaluations(
    job: Job, model: Model, targets: Sequence[Target], end: str | None, steps: dict[str, Step]
) -> None:
    """Add export and evaluation of a model: in PyTorch, the reference of the others, and in `targets`. `end`: the last
    step of its chain."""
    reference = Candidate(model, BASE_TARGET)
    for candidate in [reference, *(Candidate(model, target) for target in targets if target != BASE_TARGET)]:
        _add(steps, _export_step(job, candidate, end, steps))
        _add(steps, _evaluate_step(job, candidate, reference, steps))


def _model_steps(job: Job, model: Model, steps: dict[str, Step]) -> str | None:
    """Add the model's chain; returns the name of its last step, None for the original checkpoint."""
    before: str | None = None
    share = estimates.compute_left(model, job.checkpoint.depth)
    for name, settings in chain_of(model).items():
        inputs = {
            "stage": type(settings).__name__.lower(),
            "settings": settings.model_dump(),
            "seed": job.recipe.seed,
            "max_length": job.recipe.max_length,
            "train": rows_digest(job.rows_for(settings)),
            "validation": rows_digest(job.validation),
            "unlabeled": rows_digest(job.unlabeled),
            "student": _digest_of(settings),
            **job.trained_on,
            "processes": job.recipe.training_processes,
            **_after(job, steps, before),
            "scores": steps[SCORES].key if has_scores(job, settings) else None,
            "table": steps[table_name(settings.target)].key if isinstance(settings, Prune) and settings.timed else None,
            **code_of("compress"),
        }
        work = partial(compress, job, settings, before)
        title = f"{model.name}: {DOING[inputs['stage']]}"
        _add(steps, Step(name, inputs, estimates.stage(job, settings, share), work, title=title))
        before = name
    return before


def _scores_step(job: Job) -> Step:
    inputs = {
        "stage": "scores",
        "max_length": job.recipe.max_length,
        "train": rows_digest(job.lessons),
        "validation": rows_digest(job.validation),
        "unlabeled": rows_digest(job.unlabeled),
        **job.trained_on,
        "processes": job.recipe.training_processes,
        "teachers": [teacher.digest for teacher in job.teachers],
        **code_of("compress"),
    }
    seconds = estimates.scoring(job, (job.learned + len(job.validation)) * len(job.teachers))
    return Step(SCORES, inputs, seconds, partial(score, job), title="the teacher's answers, to learn from")


def _origin_step(job: Job) -> Step:
    """Licence, notices and card of the recipe's checkpoint, its name and the digests of its weights, kept where the run
    is: it may be moved or deleted afterwards. The names and digests of other checkpoints that models are made from."""
    origin = open_checkpoint(job.recipe.checkpoint) if job.recipe.adapt else job.checkpoint
    students = {
        settings.student
        for model in job.models
        for settings in chain_of(model).values()
        if isinstance(settings, Distill) and settings.student is not None
    }
    others = {other.digest: other for other in (*job.teachers[1:], *map(open_checkpoint, sorted(students)))}
    files = origin_files(origin.path)
    inputs = {
        "stage": "origin",
        "files": {path.name: sha256_of(path) for path in files},
        "checkpoint": [origin.digest, *hub_name(origin.path)],
        "others": {digest: hub_name(other.path) for digest, other in others.items()},
    }

    def work(out: Path, done: Mapping[str, Done], report: Report) -> dict:
        for path in files:
            shutil.copyfile(path, out / path.name)
        return {
            **_source(origin),
            "files": [path.name for path in files],
            "architecture": origin.architecture,
            "others": {digest: _source(other) for digest, other in others.items()},
        }

    return Step(ORIGIN, inputs, 0.1, work, title="licence and model card of the checkpoint")


def _source(checkpoint: Checkpoint) -> dict:
    """What identifies a checkpoint, as measurements.json has it (`CheckpointSource`)."""
    name, commit = hub_name(checkpoint.path)
    return {"name": name, "commit": commit, "weights": {path.name: sha256_of(path) for path in checkpoint.weights}}


def _cascade_step(job: Job, candidate: Candidate, steps: dict[str, Step]) -> Step:
    assert candidate.model.cascade is not None
    parts = parts_of(job, candidate)
    inputs = {
        "stage": "cascade",
        "max_drop": candidate.model.cascade.max_drop,
        "validation": rows_digest(job.validation),
        "after": {name: steps[name].key for part in parts for name in (part.step, evaluation_name(part))},
        **code_of("export", "benchmarks/statistics"),
    }
    title = f"{candidate.model.name}: threshold of the cascade"
    return Step(candidate.step, inputs, 0.5, partial(cascade, job, candidate), title=title)


def _table_steps(job: Job) -> list[Step]:
    """One latency table for each target that pruning is timed in, before anything is trained.

    Times that cannot be reached are found out here, as far as that can be known: pruning may leave any width to the
    next step.
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
    steps = []
    for target, those in chains.items():
        steps += [table := _table_step(job, target), _reachable_step(job, target, those, table)]
    return steps


def _reachable_step(job: Job, target: Timed, chains: list[list[Cut]], table: Step) -> Step:
    """Checks the prunings of all models against the latency table, which does not depend on them."""
    inputs = {
        "stage": "reachable",
        "cuts": [
            [[cut.speedup, cut.latency_ms, cut.even, cut.multiple, depth] for cut, depth in cuts] for cuts in chains
        ],
        "after": {table.name: table.key},
    }
    work = partial(check_reachable, job, target, chains)
    return Step(f"{table.name}-check", inputs, 1.0, work, title="checking that the times can be reached")


def _table_step(job: Job, target: Timed) -> Step:
    inputs = {
        "stage": "table",
        "target": target.model_dump(),
        "max_length": job.recipe.max_length,
        "lengths": job.recipe.lengths,
        "train": rows_digest(job.train),
        "machine": fingerprint(job.machine),
        "checkpoint": job.checkpoint.digest,
        **code_of("compress", "export", "benchmarks"),
    }
    title = f"timing parts of the model in {target.runtime} {target.precision}"
    return Step(table_name(target), inputs, estimates.LATENCY_TABLE_S, partial(measure_table, job, target), title=title)


def _graph_step(job: Job, model: Model, before: str | None, steps: dict[str, Step]) -> Step:
    """The checkpoint as one plain ONNX graph, which every runtime's artefact starts from."""
    inputs = {"stage": "graph", "task": job.task.name, **_after(job, steps, before), **code_of("compress", "export")}

    def work(out: Path, done: Mapping[str, Done], report: Report) -> None:
        from paredown.export.onnx.exporter import plain_onnx

        report(0.0, "tracing")
        plain_onnx(checkpoint_after(job, before, done), job.task, out / "plain.onnx")

    return Step(graph_name(model), inputs, 1.5, work, title=f"{model.name}: ONNX graph")


def _attribution_step(job: Job, model: Model, before: str | None, steps: dict[str, Step], earlier: list[Step]) -> Step:
    """`earlier`: attributions of other models, the teacher's first."""
    source = _after(job, steps, before)
    teacher = {} if model.name == BASELINE else {earlier[0].name: earlier[0].key}
    inputs = {
        "stage": "attributions",
        "rows": job.recipe.explain_rows,
        "max_length": job.recipe.max_length,
        "validation": rows_digest(job.validation),
        **job.trained_on,
        **source,
        "after": source.get("after", {}) | teacher,
        "attributing": digest_of("pipeline/steps/attribution.py"),
        **code_of("compress"),
    }
    seconds, work = 1.2 * job.recipe.explain_rows, partial(attribute, job, model, before)
    return Step(attribution_name(model.name), inputs, seconds, work, title=f"{model.name}: token attributions")


def _export_step(job: Job, candidate: Candidate, before: str | None, steps: dict[str, Step]) -> Step:
    target = candidate.target
    spec = RUNTIMES[target.runtime].SPEC
    int8 = multiplies_int8(target.precision)
    inputs = {
        "stage": "export",
        "runtime": target.runtime,
        "precision": target.precision,
        "max_length": job.recipe.max_length,
        "lengths": job.recipe.lengths,
        "calibration": [rows_digest(job.train), job.recipe.calibration_rows] if int8 else None,
        "int8": job.recipe.int8.model_dump() if int8 else None,
        "int8_isa": has_int8_isa(job.machine) if int8 else None,
        "engine": [job.engine.model_dump(), job.machine["gpus"]] if spec.engine else None,
        "graph": None if not spec.in_bundles else steps[graph_name(candidate.model)].key,
        **_after(job, steps, before),
        **code_of("compress", "export"),
    }
    title = f"{candidate.model.name}: export to {target.runtime} {target.precision}"
    seconds = estimates.exporting(job, candidate)
    return Step(candidate.step, inputs, seconds, partial(export, job, candidate, before), title=title)


def _evaluate_step(job: Job, candidate: Candidate, reference: Candidate, steps: dict[str, Step]) -> Step:
    after = {candidate.step: steps[candidate.step].key}
    if candidate != reference:  # a cascade's own step stands on the evaluations of both its models
        after[evaluation_name(reference)] = steps[evaluation_name(reference)].key
    tolerance = job.recipe.tolerance(candidate.target.precision)
    inputs = {
        "stage": "evaluate",
        "validation": rows_digest(job.validation),
        "tolerance": None if candidate == reference else vars(tolerance),
        "machine": fingerprint(job.machine),
        "after": after,
        "scoring": [digest_of(f"pipeline/steps/{name}.py") for name in ("evaluate", "parity")],
        **code_of("compress", "export"),
    }
    seconds = estimates.answering(job, len(job.validation), candidate)
    title = f"{candidate.model.name}: {job.task.metric_name} in {candidate.target.runtime} {candidate.target.precision}"
    return Step(evaluation_name(candidate), inputs, seconds, partial(evaluate, job, candidate, reference), title=title)


def _after(job: Job, steps: dict[str, Step], before: str | None) -> dict:
    return {"after": {before: steps[before].key}} if before else {"checkpoint": job.checkpoint.digest}


def _digest_of(settings: Stage) -> str | None:
    student = settings.student if isinstance(settings, Distill) else None
    return open_checkpoint(student).digest if student else None


def _add(steps: dict[str, Step], step: Step) -> None:
    steps[step.name] = step
