"""One step of a run, done by a process that plans the run again: what it stands on, and whether it is the same step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from uuid import uuid4

import yaml

from paredown.runtime.errors import InputError, StepError

from .engine import Planned, Plans, attempt, kept_result
from .failures import Failure, Ledger, require_some
from .job import Job, Step, prepare
from .progress import Reporter
from .recipe.loader import resolved
from .recipe.schema import Recipe
from .steps.adapt import adapt_steps, adapted
from .store import Done, Failed, Store


class NotThereError(InputError):
    """A step that another one stands on is not in the store, or not yet to be seen on this machine."""


SHOWN = 5  # differences of two plans that an error names


@dataclass(frozen=True)
class Asked:
    """What another process needs to plan steps again."""

    recipe: str  # resolved
    adapted: bool
    plans: Plans
    machine: dict  # that measures
    threads: int
    gpus: Sequence[str]
    inputs: dict[str, dict]  # of the steps here, by name
    number: str = field(default_factory=lambda: uuid4().hex)  # of this one

    @staticmethod
    def of(planned: Planned) -> Asked:
        """What is asked of a process that does steps of a plan."""
        job = planned.job
        inputs = {step.name: step.inputs for step in planned.steps}
        return Asked(
            resolved(job.recipe), planned.adapted, planned.plans, dict(job.machine), job.threads, job.gpus, inputs
        )

    def planned(self, store: Store) -> tuple[Job, list[Step]]:
        """The job and its steps, planned again by this process, once. Raises InputError."""
        if self.number in _PLANNED:
            return _PLANNED[self.number]
        job = replace(_prepared(self.recipe), machine=self.machine, threads=self.threads, gpus=self.gpus)
        if self.adapted and job.recipe.adapt:
            found = {step.name: done for step in adapt_steps(job) if (done := store.find(step.name, step.key))}
            job = adapted(job, found)
        _PLANNED.clear()
        _PLANNED[self.number] = job, self.plans(job)
        return _PLANNED[self.number]

    def step(self, name: str, store: Store) -> tuple[Job, list[Step], Step]:
        """The job, its steps, and the one of this name; InputError where it is another one than was asked for."""
        job, steps = self.planned(store)
        require_same(steps, name, self.inputs, self.machine, job.machine)
        return job, steps, next(step for step in steps if step.name == name)


_PLANNED: dict[str, tuple[Job, list[Step]]] = {}  # the last one


@lru_cache(maxsize=4)
def _prepared(recipe: str) -> Job:
    return prepare(Recipe.model_validate(yaml.safe_load(recipe)), try_models=False, measures=False)


def do_planned(
    job: Job, steps: Sequence[Step], step: Step, store: Store, reporter: Reporter, key: str | None = None
) -> tuple[Done | Failed, bool]:
    """Do a step of a plan whose earlier steps the store has, or find it there; whether it was done now. InputError
    where one of these is missing, or where its key is not `key`; StepError where one failed."""
    step, done, ledger = _ready(steps, step, store)
    if key not in (None, step.key):
        failed = ", ".join(ledger.failed) or "none"
        raise InputError(
            f"step {step.name}: another key than in the plan; of the steps before it failed here: {failed}"
        )
    if step.takes_what_is_there:
        require_some(job, ledger.failed)
    found = kept_result(step, store, reporter)
    return attempt(step, store, done, reporter) if found is None else (found, False)


def _with_those_behind(steps: Sequence[Step], name: str) -> list[Step]:
    """A step and those that it stands on, it last."""
    ledger = Ledger()
    for step in steps:
        ledger.place(step)
    return [step for step in steps if step.name in ledger.behind(name) or step.name == name]


def _ready(steps: Sequence[Step], step: Step, store: Store) -> tuple[Step, dict[str, Done], Ledger]:
    """A step as it can be done, the results that it stands on, and which of these failed."""
    *before, _ = _with_those_behind(steps, step.name)
    ledger, done, missing = Ledger(), dict[str, Done](), []
    for planned in before:
        ready = ledger.admit(planned)
        if isinstance(ready, Failure):
            continue
        if (there := store.find(ready.name, ready.key)) is not None:
            done[ready.name] = there
        elif (failure := store.failure(ready.name, ready.key)) is not None:
            ledger.failed[ready.name] = Failure.of(ready.name, failure)
        else:
            missing.append(ready.name)
    if missing:
        raise NotThereError(f"step {step.name} stands on {', '.join(missing)}: do {missing[0]} first")
    ready = ledger.admit(step)
    if isinstance(ready, Failure):
        raise StepError(f"step {step.name} is not done: {ready} {ready.advice}")
    return ready, done, ledger


def require_same(
    steps: Sequence[Step],
    name: str,
    theirs: Mapping[str, Mapping[str, Any]],
    their_machine: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> None:
    """InputError where a step, or one that it stands on, was planned here with other inputs than elsewhere: with
    another version of a library, another number of threads, other rows. `theirs`: inputs by the name of the step."""
    for step in _with_those_behind(steps, name):
        if step.name not in theirs:
            raise InputError(f"step {name} stands on {step.name} here, which the plan does not have; plan again")
        there = {key: value for key, value in theirs[step.name].items() if key != "without"}
        here = dict(step.inputs)
        if there.get("machine") != here.get("machine"):  # its digest
            there["machine"], here["machine"] = their_machine, machine
        found = [line for line in differences(there, here) if not line.startswith("after.")]
        if found:
            raise InputError(
                f"step {step.name} is another one here than in the plan: {found_in(found)}; use "
                "the same versions and files, and machines of the same kind, or plan again"
            )


def found_in(differences: Sequence[str]) -> str:
    """The first of some differences, in one line."""
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "; ".join(differences[:SHOWN]) + more


def differences(there: Any, here: Any, path: str = "", other: str = "the plan has") -> list[str]:
    """What differs between two JSON-like values, by the path of keys; `other`: how a sentence names the first one."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = dict.fromkeys([*there, *here])
        pairs = ((f"{path}.{key}".lstrip("."), there.get(key), here.get(key)) for key in keys)
        return [line for key, a, b in pairs for line in differences(a, b, key, other)]
    same = json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True)
    return [] if same else [f"{path} is {_short(here)}, {other} {_short(there)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
