"""The run from top to bottom: plan, do what is missing, choose, publish."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..compress.errors import StepError
from .adapt import adapt_steps, adapted
from .decide import STAMP, decide, is_published, publish, withdraw
from .job import Job, Step, prepare
from .measurements import measurements_of
from .plan import plan, search_steps
from .progress import Reporter
from .recipe import Recipe, Search
from .search import found_models, with_models
from .store import Done, Store, disk_error, key_of, lock, write_atomic
from .tracking import track


@dataclass(frozen=True)
class Outcome:
    """A finished run: where it is, what was chosen, and how many steps had to be done."""

    run_dir: Path
    choice: dict
    measurements: dict
    steps: int
    ran: int
    republished: bool
    job: Job  # as its `adapt` steps and its search left it


def run(recipe: Recipe, run_dir: Path, older: Path | None = None) -> Outcome:
    """Do the job of a recipe in `run_dir`; what an earlier run (`older`: or one elsewhere) finished is not done again.

    Raises InputError for bad input, StepError when a step gives no result to be trusted; then there is no bundle.
    """
    run_dir = run_dir.resolve()
    job = prepare(recipe, try_models=False)
    with lock(run_dir):
        try:
            return _run(job, run_dir, older)
        except OSError as error:
            raise disk_error(error, run_dir) from error


def _run(job: Job, run_dir: Path, older: Path | None) -> Outcome:
    store = Store(run_dir / "steps", None if older is None else older.resolve() / "steps")
    store.clean()
    write_atomic(run_dir / "recipe.resolved.yaml", resolved(job.recipe))
    searched, before, changed = None, 0, {}
    if job.recipe.adapt:
        changed, before = _do_all(adapt_steps(job), store, run_dir)
        job = adapted(job, changed)
    if job.recipe.search is not None:
        searched, more = _search(job, job.recipe.search, store, run_dir)
        before += more
        job = with_models(job, found_models(searched))
    steps = plan(job)
    wanted = {"recipe": job.recipe.model_dump(mode="json"), "groups": job.validation.groups}
    final = key_of({"steps": [step.key for step in steps], **wanted})
    fresh = not is_published(run_dir, final)
    if fresh:
        withdraw(run_dir)
        (run_dir / "measurements.json").unlink(missing_ok=True)
    done, ran = _do_all(steps, store, run_dir)
    fresh = fresh or ran > 0
    if fresh:
        measurements = measurements_of(job, steps, done, run_dir)
        measurements["adapt"] = {name: step.result for name, step in changed.items()}
        measurements["search"] = searched.result if searched else None
        write_atomic(run_dir / "measurements.json", json.dumps(measurements) + "\n")  # first: another rule may pick
        choice = decide(measurements, job.recipe.choose)
        publish(run_dir, measurements, choice, f"paredown run {shlex.quote(str(run_dir / 'recipe.resolved.yaml'))}")
        write_atomic(run_dir / STAMP, final)
        track(job.recipe.report_to, choice, job.recipe.name, run_dir)
    measurements = json.loads((run_dir / "measurements.json").read_text())
    choice = json.loads((run_dir / "choice.json").read_text())
    return Outcome(run_dir, choice, measurements, len(steps), before + ran, fresh, job)


def _search(job: Job, settings: Search, store: Store, run_dir: Path) -> tuple[Done, int]:
    """The finished search, and how many steps had to be done for it."""
    done, ran = _do_all(search_steps(job, settings), store, run_dir)
    return done["search"], ran


def _do_all(steps: list[Step], store: Store, run_dir: Path) -> tuple[dict[str, Done], int]:
    """All steps, those that the store lacks done now; and how many these were."""
    reporter, ran = Reporter(len(steps)), 0
    done: dict[str, Done] = {}
    for step in steps:
        found = store.find(step.name, step.key)
        if found is None:
            found, ran = _do(step, store, done, reporter, run_dir), ran + 1
        else:
            reporter.cached(step.name)
        done[step.name] = found
    return done, ran


def _do(step: Step, store: Store, done: dict[str, Done], reporter: Reporter, run_dir: Path) -> Done:
    withdraw(run_dir)
    with reporter.step(step.name) as report:
        try:
            return store.run(step.name, step.key, step.inputs, lambda out: step.work(out, done, report))
        except StepError as error:
            given = list(step.inputs.get("after", {}))
            kept = f"; what it started from is kept: {done[given[0]].path}" if len(given) == 1 else ""
            raise StepError(f"step {step.name}: {error}{kept}") from error


def resolved(recipe: Recipe) -> str:
    """The recipe with every default written out and every path absolute; it runs as it stands."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
