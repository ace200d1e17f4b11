"""The search for small models: shapes and their training together, within a time limit.

Pruning is gradual, as in ZipLM (arXiv 2302.04089): each model is pruned from the one before it, to the shape that the
latency table's dynamic program selects, and trained by distillation before the next one. What a model loses is
estimated from the labels and from its answers' distance to the teacher's (trials.py). Pruning goes on for a while past
the models that lose too much alone: they may stand in front of slower ones (finalists.py). Then the step from the
fastest good model is made smaller, and models are trained further. Where time is left then, Optuna proposes speed-ups
and training settings (proposals.py). A static student comes first, for cascades. What is tried when: explorer.py. Every
trial is an entry of `models` in a recipe, and its steps are steps of the run: what the search has trained is there when
its models are exported and measured, when it is given more minutes, and after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from paredown.compress.config import Prune
from paredown.compress.models.architectures import CONVOLUTIONAL
from paredown.compress.pruning.latency_allocation import least_ms
from paredown.export.hardware import has_int8_isa

from .engine import Execution, Planned
from .explorer import Explorer
from .job import Job, Step, table_name
from .plan import prunable, search_steps
from .progress import Report
from .recipe.schema import Model, Search
from .steps.compress import read_table
from .steps.step_keys import code_of, digest_of
from .store import Done
from .trial_order import TrialOrder
from .trials import Found

SEARCH = "search"  # the step
MOST_CHANNELS = 10.0  # times less to compute, of a convolutional network whose channels are pruned

FOUND = "found.json"
MODULES = ("search", "explorer", "trials", "finalists", "proposals")
CODE = tuple(f"pipeline/{name}.py" for name in MODULES)  # what finds, beside the statistics


def search_step(job: Job, settings: Search, found: Found) -> Step:
    """The step that keeps what a search found, so that a finished one is not repeated. It reads `found` when it is
    done."""
    inputs = {
        "stage": "search",
        "settings": settings.model_dump(),
        "max_drop": job.recipe.choose.max_drop,
        "confidence": job.recipe.choose.confidence,
        "seed": job.recipe.seed,
        "int8": job.recipe.int8.model_dump(),
        "calibration_rows": job.recipe.calibration_rows,
        "parity": vars(job.recipe.tolerance(settings.target.precision)),
        "int8_isa": has_int8_isa(job.machine),
        "after": {step.name: step.key for step in search_steps(job, settings)},
        "code": {**{name: digest_of(name) for name in CODE}, **code_of("compress", "benchmarks/statistics")["code"]},
    }
    return Step(SEARCH, inputs, 60 * settings.minutes, partial(_keep, found))


def _keep(found: Found, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    models = [model.model_dump(mode="json", exclude_none=True) for model in found.models]
    (out / FOUND).write_text(json.dumps(models, indent=2) + "\n", encoding="utf-8")
    return found.to_json()


def found_models(done: Done) -> list[Model]:
    """The models that a finished search selected for measuring."""
    return [Model.model_validate(entry) for entry in json.loads((done.path / FOUND).read_text(encoding="utf-8"))]


def with_models(job: Job, models: list[Model]) -> Job:
    """The job with the search's models beside the recipe's own."""
    return replace(job, recipe=job.recipe.model_copy(update={"models": [*job.recipe.models, *models], "search": None}))


def explore(
    job: Job, settings: Search, execution: Execution, found: Found, places: int = 1, order: TrialOrder | None = None
) -> None:
    """Search within the time limit, and fill `found`. `execution` does steps of the run, or finds them in its store;
    `places`: trials at a time; `order`: in which those of the same search ended before a kill."""
    from paredown.compress.models.loading import load
    from paredown.compress.pruning.prune import options, shape_of

    execution.reporter.limit(60 * settings.minutes)
    start = execution.results(execution.add(Planned.of(job, partial(search_steps, settings=settings))))
    if start.failed:
        found.dropped["search"] = str(next(iter(start.failed.values())))
        return
    table, top, full_ms = None, 1.0, 1.0
    if job.checkpoint.config.get("model_type") in CONVOLUTIONAL:
        top = MOST_CHANNELS
    elif prunable(job):
        table = read_table(start.done[table_name(settings.target)].path)
        model = load(job.checkpoint, job.task)
        full_ms = table.predict(shape_of(model))
        top = full_ms / least_ms(table, *options(model, Prune()))
    explorer = Explorer(
        job, settings, execution, table, full_ms, top, found=found, places=places, order=order or TrialOrder()
    )
    explorer.spend(start.done)
    explorer.first_guess(start.done)
    explorer.explore()
