"""The steps of a run for schedulers: which there are, what each waits for, and one of them done alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from paredown.benchmarks.measuring.records import Record
from paredown.runtime.errors import InputError, StepError, nearest

from .failures import Failure, Ledger
from .job import Job, Step, prepare
from .object_store import open_store
from .one_step import do_planned, require_same
from .plan import plan, search_steps
from .progress import Reporter
from .recipe.schema import Recipe
from .resources import times
from .run import require_here, run_search, with_estimates
from .search import SEARCH, Found, found_models, search_step, with_models
from .steps.adapt import adapt_steps, adapted
from .store import Done, Failed, Store

PLAN_SCHEMA: Literal[1] = 1  # raised when a key is renamed, removed or changes its meaning

State = Literal["done", "to do", "failed", "skipped"]


class PlannedStep(Record):
    """A step of a run."""

    name: str
    title: str = Field(description="what it does")
    key: str = Field(description="sha256 of its inputs, under which its result is kept")
    after: list[str] = Field(description="steps that come first")
    timed: bool = Field(description="it times something: nothing may run beside it on its machine")
    seconds: float = Field(description="an estimate for this machine")
    state: State
    reason: str | None = Field(description="why it failed, or is skipped")
    inputs: dict[str, Any] = Field(description="what the key is of: settings, rows, versions, code, steps before it")


class Plan(Record):
    """What `paredown plan` prints: the steps that are known now, in an order in which they can be done."""

    version: Literal[1] = Field(default=PLAN_SCHEMA, validation_alias="schema", serialization_alias="schema")
    name: str
    run_dir: str
    machine: dict[str, Any] = Field(description="that the plan was made on")
    steps: list[PlannedStep]
    notes: list[str] = Field(description="what was done with the data without being asked")
    then: str = Field(
        description="what is planned when these steps are done; empty: these are all, and `run` publishes"
    )


@dataclass(frozen=True)
class Known:
    """The steps that can be planned now, and the job as those that are done have left it."""

    job: Job
    steps: list[Step]
    then: str = ""


def known_steps(job: Job, store: Store, *, planning: bool = True) -> Known:
    """The steps that can be planned with what the store has: those of `adapt`, then those before the search and the
    search itself, then all others. `planning`: read-only, and with their seconds, by what a row takes here, which is
    timed; else what a shared store has of them is brought here."""

    def planned(job: Job, steps_of: Any) -> list[Step]:
        return with_estimates(job, store, steps_of) if planning else steps_of(job)

    find = store.peek if planning else store.find
    steps, settings = planned(job, adapt_steps), job.recipe.search
    done = {step.name: there for step in steps if (there := find(step.name, step.key)) is not None}
    if len(done) < len(steps):
        return Known(job, steps, "what this leaves is compressed and measured")
    job = adapted(job, done)
    if settings is None:
        return Known(job, [*steps, *planned(job, plan)])
    steps += planned(job, lambda job: [*search_steps(job, settings), search_step(job, settings, Found())])
    found = find(steps[-1].name, steps[-1].key)
    if found is None:
        return Known(job, steps, "what the search has found is exported and measured")
    before = {(step.name, step.key) for step in steps}
    job = with_models(job, found_models(found))
    return Known(job, [*steps, *(step for step in planned(job, plan) if (step.name, step.key) not in before)])


def planned_run(job: Job, run_dir: Path) -> Plan:
    """The plan of a job in `run_dir`, as far as it is known. Makes nothing. Raises InputError."""
    _require_one(job.recipe)
    store = Store(run_dir.resolve() / "steps")
    known = known_steps(job, store)
    ledger, steps = Ledger(), []
    for planned in known.steps:
        step = ledger.admit(planned)
        state, reason = _state(step, store, ledger)
        step = planned if isinstance(step, Failure) else step
        steps.append(
            PlannedStep(
                name=step.name, title=step.title or step.name, key=step.key, after=sorted(ledger.direct[step.name]),
                timed=times(step), seconds=step.seconds if state == "to do" else 0.0, state=state,
                reason=reason, inputs=step.inputs,
            )
        )  # fmt: skip
    return Plan(
        name=job.recipe.name,
        run_dir=str(run_dir),
        machine=dict(job.machine),
        steps=steps,
        then=known.then,
        notes=list(known.job.notes),
    )


def _require_one(recipe: Recipe) -> None:
    """InputError where a recipe is to be measured on several machines, or on another one than this."""
    if isinstance(recipe.measure_on, list):
        raise InputError(
            "measure_on: a list, and steps are planned for one machine; write a recipe for each, and share with "
            "--store what does not depend on the machine; or: paredown run --on ray"
        )
    require_here(recipe)


def _state(step: Step | Failure, store: Store, ledger: Ledger) -> tuple[State, str | None]:
    if isinstance(step, Failure):
        return "skipped", str(step)
    if store.peek(step.name, step.key) is not None:
        return "done", None
    failure = store.failure(step.name, step.key)
    if failure is None:
        return "to do", None
    ledger.failed[step.name] = Failure.of(step.name, failure)
    return "failed", f"{failure.reason} (to try it again, delete {failure.path})"


def dot(plan: Plan) -> str:
    """The plan as a graph of Graphviz: steps that time something as boxes, steps that are done filled."""
    lines = ["digraph plan {", "  rankdir=LR;", "  node [style=rounded];"]
    colours = {"done": "palegreen", "failed": "salmon", "skipped": "lightgrey"}
    for step in plan.steps:
        parts = [f"label={json.dumps(step.name)}", f"shape={'box' if step.timed else 'ellipse'}"]
        parts += [f"style=filled, fillcolor={colours[step.state]}"] if step.state in colours else []
        lines.append(f"  {json.dumps(step.name)} [{', '.join(parts)}];")
        lines += [f"  {json.dumps(before)} -> {json.dumps(step.name)};" for before in step.after]
    return "\n".join([*lines, "}"])


def read_plan(file: Path) -> Plan:
    """What `paredown plan` has written. Raises InputError."""
    try:
        return Plan.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise InputError(f"{file}: no plan; make it with: paredown plan RECIPE > {file}") from None


def do_step(
    recipe: Recipe, run_dir: Path, name: str, wanted: Plan | None = None, store: str | None = None
) -> tuple[Done, bool]:
    """Do one step of a run in `run_dir`, or find it there: its result, and whether it was done now.

    Several processes may do steps of one run, on several machines where they share its directory, or a store in object
    storage: `store`, its URL. `wanted`: a plan whose key of this step this machine has to reach. InputError where it
    does not, where there is no such step, or where one that comes before is missing; StepError where the step, or one
    that it stands on, has failed.
    """
    _require_one(recipe)
    job = prepare(recipe, try_models=False)
    steps = Store(run_dir.resolve() / "steps", shared=None if store is None else open_store(store))
    steps.clean()
    known = known_steps(job, steps, planning=False)
    by_name = {step.name: step for step in known.steps}
    if name not in by_name:
        later = f"; {known.then} when these are done" if known.then else ""
        raise InputError(f"no step '{name}'; {nearest(name, by_name)}{later}")
    if wanted is not None:
        if name not in (theirs := {step.name: step.inputs for step in wanted.steps}):
            raise InputError(f"the plan has no step '{name}'; {nearest(name, theirs)}")
        require_same(known.steps, name, theirs, wanted.machine, known.job.machine)
    if name == SEARCH:  # with all that it needs
        assert known.job.recipe.search is not None
        results = run_search(known.job, known.job.recipe.search, steps)
        if name not in results.done:
            raise StepError(str(results.failed[name]))
        return results.done[name], results.ran > 0
    step = by_name[name]
    found, now = do_planned(known.job, known.steps, step, steps, Reporter(1, {name: step.seconds}))
    if isinstance(found, Failed):
        raise StepError(f"{name}: {found.reason} (to try it again, delete {found.path})")
    return found, now
