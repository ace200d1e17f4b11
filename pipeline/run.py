"""Runs a recipe: plan, execute missing steps, select, publish."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from paredown.benchmarks.measurements import Adapted, Measurements, SearchSummary
from paredown.benchmarks.report.report import RESOLVED, rerun
from paredown.benchmarks.selection.choice import Choice
from paredown.export.bundle.archive import MACHINES
from paredown.export.hardware import cores, fingerprint
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError, StepError

from .engine import HERE, Engine, Execution, Planned, Plans, Results, do_all
from .estimates import row_seconds
from .failures import Failure, Ledger, sentences, steps_behind
from .job import Job, Step, made_of, prepare
from .local_workers import FEWEST_CORES, LocalWorkers
from .object_store import ObjectStore, open_store
from .plan import plan
from .progress import Reporter, tell
from .recipe.loader import resolved
from .recipe.schema import Recipe, Search
from .results.journal import PUBLISHED, STAMP, finish
from .results.measurements import hosts_of, measurements_of, read_measurements
from .results.publish import as_typed, decide, is_published, publish, read_choice
from .results.trackers import track
from .search import SEARCH, Found, explore, found_models, search_step, with_models
from .steps.adapt import adapt_steps, adapted
from .store import Store, disk_error, key_of, lock, write_atomic
from .trial_order import TrialOrder

LOCAL, RAY = "local", "ray"  # where steps are done


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
    made_of: dict[str, str]  # by candidate a key of its model before quantisation, its runtime and its precision


def default_run_dir(recipe: Recipe, file: Path) -> Path:
    """runs/NAME in the current directory: the recipe's `name`, or that of its file where it gives none."""
    return Path("runs") / (recipe.name if "name" in recipe.model_fields_set else file.stem)


def run(
    recipe: Recipe,
    run_dir: Path,
    older: Path | None = None,
    told: Collection[str] = (),
    on: str = LOCAL,
    store: str | None = None,
) -> Outcome:
    """Do the job of a recipe in `run_dir`; what an earlier run (`older`: or one elsewhere) finished is not done again.
    It measures on one machine; on several: machines.py. `told`: notes on the data that were said before; `on`: where
    the steps are done, as `_places` has it; `store`: URL of a store in object storage, with which the steps are shared
    (object_store.py).

    A step that gives no result to be trusted ends nothing but the candidates that stand on it, and is not tried again.
    Raises InputError for bad input, StepError when the checkpoint itself fails or no candidate is left: then what an
    earlier run has published stays as it was.
    """
    run_dir = run_dir.resolve()
    if isinstance(recipe.measure_on, list):
        raise InputError("measure_on: a list of machines has a result for each; from Python: paredown.run_on_each")
    if (run_dir / MACHINES).is_dir():
        raise InputError(
            f"{run_dir / MACHINES}: the results of a run on several machines; give another --output-dir, or remove it: "
            "finished steps are kept"
        )
    with opened(recipe, run_dir, told, on, store) as ([(job, engine)], shared):
        steps = Store(run_dir / "steps", None if older is None else older.resolve() / "steps", shared=shared)
        return run_job(job, run_dir, steps, engine)


@contextmanager
def opened(
    recipe: Recipe, run_dir: Path, told: Collection[str], on: str, store: str | None
) -> Iterator[tuple[Sequence[tuple[Job, Engine]], ObjectStore | None]]:
    """Prepare a recipe, and hold the run directory. For each machine that measures the job as it is planned for it and
    where its steps are done; and the store in object storage. Arguments and errors as those of `run`."""
    if on not in (LOCAL, RAY) and not on.startswith(f"{RAY}://"):
        raise InputError(f"--on {on}: {LOCAL}, {RAY} or {RAY}://HOST:PORT is expected")
    job = prepare(recipe, try_models=False, measures=on == LOCAL)
    shared = None if store is None else open_store(store)  # writes there: not for a recipe that is refused
    tell([note for note in job.notes if note not in told])
    with lock(run_dir), _places(on, job, run_dir, shared) as places:
        yield places, shared


def run_job(job: Job, run_dir: Path, steps: Store, engine: Engine) -> Outcome:
    """Do the job in a run directory that this process holds."""
    try:
        finish(run_dir)
        return _run(job, run_dir, steps, engine)
    except OSError as error:
        raise disk_error(error, run_dir) from error
    except StepError as error:
        bundle = run_dir / "bundle"
        there = f"; the bundle of the earlier run is still there: {bundle}" if bundle.exists() else ""
        raise type(error)(f"{error}{there}") from error


def require_here(recipe: Recipe) -> None:
    """InputError where a recipe is to be measured on another machine than this one."""
    elsewhere = [one for one in recipe.machines if not one.matches(None, fingerprint())]
    if not elsewhere:
        return
    run_there = ", or run there" if len(recipe.machines) == 1 and elsewhere[0].fingerprint else ""
    those = " or ".join(f"the one {one}" for one in elsewhere)
    raise InputError(
        f"measure_on: this machine, of fingerprint {fingerprint()[:8]}, is not {those}; reach "
        f"{'it' if len(elsewhere) == 1 else 'them'} with --on {RAY}{run_there}"
    )


@contextmanager
def _places(
    on: str, job: Job, run_dir: Path, shared: ObjectStore | None = None
) -> Iterator[Sequence[tuple[Job, Engine]]]:
    """Where steps are done, and the job as it is planned there, for each machine that measures: `local`, or a Ray
    cluster: `ray`, the one of $RAY_ADDRESS or of this machine, or its address, `ray://HOST:PORT`, whose machines share
    the run directory or the store `shared`. InputError where it measures elsewhere."""
    if on == LOCAL:
        require_here(job.recipe)
        engine = _of_this_machine(job.recipe)
        yield [(job.measured_on(one), engine) for one in job.recipe.machines or [None]]
    else:
        from .ray_cluster import cluster

        with cluster(None if on == RAY else on, job, run_dir, shared) as places:
            yield places


def _of_this_machine(recipe: Recipe) -> Engine:
    """Steps side by side where there are cores for it. A GPU's memory is not shared out: with a target for one, one
    step at a time."""
    on_gpu = any(RUNTIMES[target.runtime].SPEC.gpu for target in recipe.targets)
    return HERE if on_gpu or cores() < FEWEST_CORES else LocalWorkers(cores())


def _run(job: Job, run_dir: Path, store: Store, engine: Engine) -> Outcome:
    store.clean()
    recipe = resolved(job.recipe)
    unpublished = not any((run_dir / name).exists() for name in PUBLISHED)
    if unpublished:  # otherwise it changes with them
        write_atomic(run_dir / RESOLVED, recipe)
    changed, searched = Results({}, {}, 0), Results({}, {}, 0)
    if job.recipe.adapt:
        planned = replace(Planned.of(job, adapt_steps), adapted=False)
        changed = do_all(planned, store, engine, vital=[step.name for step in planned.steps])
        known, job = job.notes, adapted(job, changed.done)
        tell([note for note in job.notes if note not in known])
    if job.recipe.search is not None:
        searched = run_search(job, job.recipe.search, store, engine)
        job = with_models(job, found_models(searched.done[SEARCH]) if SEARCH in searched.done else [])
    steps = with_estimates(job, store, plan)
    wanted = {"recipe": job.recipe.model_dump(mode="json"), "groups": job.validation.groups, "notes": job.notes}
    final = key_of({"steps": sorted(step.key for step in steps), **wanted})
    vital = steps_behind(job, job.candidates[0])
    results = do_all(Planned(job, plan, steps), store, engine, vital=vital, whole=True)
    failed = searched.failed | results.failed
    fresh = results.ran > 0 or not is_published(run_dir, final)
    if fresh:
        measurements = measurements_of(job, steps, results.done, results.failed, run_dir).model_copy(
            update={
                "adapt": {
                    name: Adapted(**step.result, path=step.path.relative_to(run_dir).as_posix())
                    for name, step in changed.done.items()
                },
                "search": _found(searched),
                "hosts": hosts_of(job, results, changed, searched),
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
    keys = {step.name: step.key for step in steps}
    models = {candidate.name: made_of(job, candidate, keys) for candidate in job.candidates}
    return Outcome(run_dir, choice, measurements, len(steps), ran, fresh, job, seconds, sentences(job, failed), models)


def with_estimates(job: Job, store: Store, plans: Plans) -> list[Step]:
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


def run_search(job: Job, settings: Search, store: Store, engine: Engine = HERE) -> Results:
    """The step `search` of a recipe: found in the store, or done now with the trials that it takes."""
    found = Found()
    step = search_step(job, settings, found)
    if (kept := store.find(step.name, step.key)) is not None:
        return Results({step.name: kept}, {}, 0)
    order = TrialOrder(store.root.parent / SEARCH / f"trials-{step.key[:16]}.jsonl")
    reporter = Reporter(0)
    with engine.workers(store, reporter) as workers:
        explore(job, settings, Execution(workers, store, reporter), found, engine.places, order)
    return do_all(Planned(job, lambda _: [step], [step]), store)


def _found(searched: Results) -> SearchSummary | None:
    """What measurements.json says of the search; None where there was none."""
    return SearchSummary(**searched.done[SEARCH].result) if searched.done else None
