"""A run that measures on several machines: a run directory for each, and the candidate that suits all of them.

One machine after the other has its turn. The steps are in one store: those that do not depend on the machine have the
same keys, and are done once.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from paredown.benchmarks.report.report import RESOLVED
from paredown.benchmarks.selection.one_for_all import OneForAll, one_for_all
from paredown.export.bundle.archive import MACHINES
from paredown.runtime.errors import InputError, StepError

from .engine import Engine
from .job import Job
from .object_store import ObjectStore
from .progress import tell
from .recipe.loader import resolved
from .recipe.schema import Recipe
from .results.journal import PUBLISHED
from .run import LOCAL, Outcome, opened, run_job
from .store import DiskError, Store, disk_error, lock, write_atomic

ONE_FOR_ALL = "one_for_all.json"


@dataclass(frozen=True)
class Outcomes:
    """A finished run on several machines: what each came to, by the name that `measure_on` gives it."""

    run_dir: Path
    machines: dict[str, Outcome]
    lost: dict[str, str]  # machines without a result, and why
    one_for_all: OneForAll

    def require_all(self) -> None:
        """StepError where a machine has no result."""
        if self.lost:
            there = f"; the results of {', '.join(self.machines)} are in {self.run_dir / MACHINES}"
            lost = "; ".join(f"{name}: {why}" for name, why in self.lost.items())
            raise StepError(f"{lost}{there if self.machines else ''}")


def run_on_each(
    recipe: Recipe, run_dir: Path, told: Collection[str] = (), on: str = LOCAL, store: str | None = None
) -> Outcomes:
    """Do the job of a recipe whose `measure_on` is a list, in `run_dir`: each machine has its results in
    `machines/NAME`, which is a run directory, and `one_for_all.json` has the candidate that suits all.

    A machine without a result (`lost`) ends nothing of the others. Arguments and errors as those of `run.run`.
    """
    if not isinstance(recipe.measure_on, list):
        raise InputError("measure_on: a list of machines is expected; from Python, for one: paredown.run")
    run_dir = run_dir.resolve()
    for name in ("measurements.json", *PUBLISHED):
        if (run_dir / name).exists():
            raise InputError(
                f"{run_dir / name}: the results of a run on one machine; give another --output-dir, or remove "
                f"measurements.json, {', '.join(PUBLISHED)}: finished steps are kept"
            )
    machines, lost = dict[str, Outcome](), dict[str, str]()
    with opened(recipe, run_dir, told, on, store) as (places, shared):
        write_atomic(run_dir / RESOLVED, resolved(recipe))
        for job, engine in places:
            (one,) = job.recipe.machines
            tell([f"for the machine {one}:"])
            try:
                machines[one.name] = _run_for(one.name, job, run_dir, engine, shared)
            except DiskError:
                raise
            except StepError as error:
                lost[one.name] = str(error)
        choices = {name: outcome.choice for name, outcome in machines.items()}
        found = one_for_all(choices, {name: outcome.made_of for name, outcome in machines.items()}, lost)
        write_atomic(run_dir / ONE_FOR_ALL, json.dumps(found.model_dump(mode="json", by_alias=True), indent=2) + "\n")
    return Outcomes(run_dir, machines, lost, found)


def _run_for(name: str, job: Job, run_dir: Path, engine: Engine, shared: ObjectStore | None) -> Outcome:
    """The run of one machine, in a run directory of its own whose `steps` is a link to those of all."""
    directory, steps = run_dir / MACHINES / name, run_dir / "steps"
    with lock(directory):
        link = directory / "steps"
        try:
            steps.mkdir(exist_ok=True)
            if not link.is_symlink() and not link.exists():
                link.symlink_to(Path("..") / ".." / "steps", target_is_directory=True)
        except OSError as error:
            raise disk_error(error, link) from error
        if link.resolve() != steps.resolve():
            raise InputError(f"{link}: a link to {steps} is expected; remove it, and run again")
        try:
            return run_job(job, directory, Store(link, shared=shared), engine)
        except InputError as error:  # a time that cannot be reached on this machine, for example
            raise StepError(str(error)) from error
