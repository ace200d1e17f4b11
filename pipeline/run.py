"""Runs a recipe: plan, execute missing steps, select, publish."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import yaml

from paredown.benchmarks.measurements import Adapted, Measurements, SearchSummary
from paredown.benchmarks.report.report import RESOLVED, rerun
from paredown.benchmarks.selection.choice import Choice
from paredown.runtime.errors import InputError, StepError

from .estimates import row_seconds
from .failures import Failure, Ledger, require_some, sentences, steps_behind
from .job import Job, Step, prepare
from .plan import plan
from .progress import Reporter, tell
from .recipe.schema import Recipe, Search
from .results.journal import PUBLISHED, STAMP, finish
from .results.measurements import measurements_of, read_measurements
from .results.publish import as_typed, decide, is_published, publish, read_choice
from .results.trackers import track
from .search import SEARCH, Found, Results, explore, found_models, search_step, with_models
from .steps.adapt import adapt_steps, adapted
from .store import DiskError, Done, Failed, Store, disk_error, key_of, lock, write_atomic


@dataclass(frozen=True)
class Outcome:
    """A finished run: where it is, what was chosen, and how many steps had to be done."""

    run_dir: Path
    choice: Choice
    measurements: Measurements
    steps: int
    ran: int
    republished: bool
    job: Job  # as its `adapt` steps and its search left it
    seconds: float  # that its steps took, those of an earlier run too
    failed: list[str]  # one line for each step that failed: what it has cost, why, and how to try it again


def default_run_dir(recipe: Recipe, file: Path) -> Path:
    """runs/NAME in the current directory: the recipe's `name`, or that of its file where it gives none."""
    return Path("runs") / (recipe.name if "name" in recipe.model_fields_set else file.stem)


def run(recipe: Recipe, run_dir: Path, older: Path | None = None, told: Collection[str] = ()) -> Outcome:
    """Do the job of a recipe in `run_dir`; what an earlier run (`older`: or one elsewhere) finished is not done again.
    `told`: notes on the data that were said before.

    A step that gives no result to be trusted ends nothing but the candidates that stand on it, and is not tried again.
    Raises InputError for bad input, StepError when the checkpoint itself fails or no candidate is left: then what an
    earlier run has published stays as it was.
    """
    run_dir = run_dir.resolve()
    job = prepare(recipe, try_models=False)
    tell([note for note in job.notes if note not in told])
    with lock(run_dir):
        try:
            finish(run_dir)
            return _run(job, run_dir, older)
        except OSError as error:
            raise disk_error(error, run_dir) from error
        except StepError as error:
            bundle = run_dir / "bundle"
            there = f"; the bundle of the earlier run is still there: {bundle}" if bundle.exists() else ""
            raise StepError(f"{error}{there}") from error


def _run(job: Job, run_dir: Path, older: Path | None) -> Outcome:
    store = Store(run_dir / "steps", None if older is None else older.resolve() / "steps")
    store.clean()
    recipe = resolved(job.recipe)
    unpublished = not any((run_dir / name).exists() for name in PUBLISHED)
    if unpublished:  # otherwise it changes with them
        write_atomic(run_dir / RESOLVED, recipe)
    changed, searched = Results({}, {}, 0), Results({}, {}, 0)
    if job.recipe.adapt:
        steps = adapt_steps(job)
        changed = _do_all(steps, store, vital=[step.name for step in steps])
        known, job = job.notes, adapted(job, changed.done)
        tell([note for note in job.notes if note not in known])
    if job.recipe.search is not None:
        searched = run_search(job, job.recipe.search, store)
        job = with_models(job, found_models(searched.done[SEARCH]) if SEARCH in searched.done else [])
    steps = with_estimates(job, store, plan)
    wanted = {"recipe": job.recipe.model_dump(mode="json"), "groups": job.validation.groups, "notes": job.notes}
    final = key_of({"steps": sorted(step.key for step in steps), **wanted})
    results = _do_all(steps, store, vital=steps_behind(job, job.candidates[0]), job=job)
    failed = searched.failed | results.failed
    fresh = results.ran > 0 or not is_published(run_dir, final)
    if fresh:
        measurements = measurements_of(job, steps, results.done, results.failed, run_dir).model_copy(
            update={
                "adapt": {name: Adapted(**step.result) for name, step in changed.done.items()},
                "search": _found(searched),
            }
        )
        text = json.dumps(measurements.to_json()) + "\n"
        if unpublished:  # first: where the rule finds nothing, another rule may
            write_atomic(run_dir / "measurements.json", text)
        choice = decide(measurements, job.recipe.choose, run_dir)
        command = rerun(as_typed(run_dir))
        publish(run_dir, measurements, choice, command, {"measurements.json": text, RESOLVED: recipe, STAMP: final})
        track(job.recipe.report_to, choice, job.recipe.name, run_dir)
    measurements = read_measurements(run_dir)
    choice = read_choice(run_dir, measurements)
    ran = changed.ran + searched.ran + results.ran
    seconds = sum(step.seconds for step in results.done.values())
    return Outcome(run_dir, choice, measurements, len(steps), ran, fresh, job, seconds, sentences(job, failed))


def with_estimates(job: Job, store: Store, plans: Callable[[Job], list[Step]]) -> list[Step]:
    """The steps that `plans` gives. Where there is work to do, what they take is estimated from what a row costs here,
    which is measured."""
    steps = plans(job)
    if not _work_left(steps, store):
        return steps
    try:
        return plans(replace(job, row_s=row_seconds(job)))
    except Exception:  # an estimate ends no run: the step that meets the same error says what it is
        return steps


def _work_left(steps: list[Step], store: Store) -> bool:
    """Whether a step is neither there nor known to fail. Files are not verified."""
    ledger = Ledger()
    for given in steps:
        step = ledger.admit(given)
        if isinstance(step, Failure) or store.has(step.name, step.key):
            continue
        failure = store.failure(step.name, step.key)
        if failure is None:
            return True
        ledger.failed[step.name] = Failure.of(step.name, failure)
    return False


def run_search(job: Job, settings: Search, store: Store) -> Results:
    """The step `search` of a recipe: found in the store, or done now with the trials that it takes."""
    found = Found()
    step = search_step(job, settings, found)
    if (kept := store.find(step.name, step.key)) is not None:
        return Results({step.name: kept}, {}, 0)
    known: dict[str, Done] = {}

    def execute(steps: list[Step]) -> Results:
        spent = sum(done.seconds for done in known.values())
        results = _do_all(steps, store, known=known, limit=60 * settings.minutes - spent)
        known.update({step.key: results.done[step.name] for step in steps if step.name in results.done})
        return results

    explore(job, settings, execute, found)
    return _do_all([step], store)


def _found(searched: Results) -> SearchSummary | None:
    """What measurements.json says of the search; None where there was none."""
    return SearchSummary(**searched.done[SEARCH].result) if searched.done else None


def _do_all(
    steps: list[Step],
    store: Store,
    vital: Collection[str] = (),
    job: Job | None = None,
    known: Mapping[str, Done] = MappingProxyType({}),
    limit: float | None = None,
) -> Results:
    """All steps, those that the store lacks done now. StepError when one that is `vital` fails, or when the steps that
    measure would find no candidate of the `job`. `known`: finished steps by key, which are not reported again; `limit`:
    seconds that are left of the search that these are steps of."""
    new = [step for step in steps if step.key not in known]
    guesses = {step.name: step.seconds for step in new} if job is not None else {}  # a search has further steps
    reporter, ledger, done, ran = Reporter(len(new), guesses, limit), Ledger(), {}, 0
    for planned in steps:
        if planned.key in known:
            ledger.admit(planned)
            done[planned.name] = known[planned.key]
            continue
        if planned.takes_what_is_there and job is not None:
            require_some(job, ledger.failed)
        step = ledger.admit(planned)
        if isinstance(step, Failure):
            reporter.skipped(planned.name, str(step))
            failure = step
        else:
            found, new_one = attempt(step, store, done, reporter)
            ran += new_one
            if isinstance(found, Done):
                done[step.name] = found
                continue
            given = list(step.inputs.get("after", {}))
            kept = done[given[0]].path if len(given) == 1 else None
            failure = ledger.failed[step.name] = Failure.of(step.name, found, kept)
        if planned.name in vital:
            raise StepError(f"{failure} {failure.advice}")
    return Results(done, ledger.failed, ran)


def attempt(step: Step, store: Store, done: Mapping[str, Done], reporter: Reporter) -> tuple[Done | Failed, bool]:
    """Find a step or its recorded failure, or do it now; whether it was done. Where another process does the same step,
    it is waited for."""
    found = _known(step, store, reporter)
    if found is not None:
        return found, False
    with store.claim(step.key, partial(reporter.waits, step.title or step.name)):
        found = _known(step, store, reporter)
        return (_do(step, store, done, reporter), True) if found is None else (found, False)


def _known(step: Step, store: Store, reporter: Reporter) -> Done | Failed | None:
    found = store.find(step.name, step.key)
    if found is not None:
        reporter.cached(step.name)
        return found
    failed = store.failure(step.name, step.key)
    if failed is not None:
        reporter.failed(step.name, failed.reason, again=True)
    return failed


def _do(step: Step, store: Store, done: Mapping[str, Done], reporter: Reporter) -> Done | Failed:
    """Do a step. A failure is recorded, but for that of a step that measures: it may be the machine's."""
    try:
        with reporter.step(step.name, step.title) as report:
            return store.run(step.name, step.key, step.inputs, lambda out: step.work(out, done, report))
    except StepError as error:
        if step.takes_what_is_there or isinstance(error, DiskError):
            raise StepError(f"step {step.name}: {error}") from error
        reporter.failed(step.name, str(error))
        return store.fail(step.name, step.key, step.inputs, str(error))
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # of torch, an exporter, a runtime: one candidate's, and the others go on
        if step.takes_what_is_there:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"
        reporter.failed(step.name, reason)
        return store.fail(step.name, step.key, step.inputs, reason, traceback.format_exc())


def resolved(recipe: Recipe) -> str:
    """The recipe with every default written out and every path absolute; it runs as it stands."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
