"""Does the steps of a plan: each as soon as those that it stands on are done and there is a place for it.

Places are this process, one step at a time in the order of the plan, or the machines of a Ray cluster (ray_cluster.py).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

from paredown.runtime.errors import InputError, StepError

from .failures import Failure, Ledger, require_some
from .job import Job, Step
from .progress import Reporter
from .store import DiskError, Done, Failed, Store

Plans = Callable[[Job], list[Step]]


@dataclass(frozen=True)
class Planned:
    """Steps, and how another process comes to the same ones."""

    job: Job
    plans: Plans  # a function of a module, or a `partial` of one: it is sent to other processes
    steps: list[Step]
    adapted: bool = True  # the job is as its `adapt` steps have left it

    @staticmethod
    def of(job: Job, plans: Plans) -> Planned:
        """What `plans` gives of the job."""
        return Planned(job, plans, plans(job))


@dataclass(frozen=True)
class Results:
    """What the steps of a plan came to, by name, in the order of the plan."""

    done: dict[str, Done]
    failed: dict[str, Failure]  # those that stand on a failed one too
    ran: int  # how many were done now, failed ones among them

    @property
    def last(self) -> Done:
        """The result of the last step that was done."""
        return [*self.done.values()][-1]


class Workers(Protocol):
    """Where the steps of one plan are done."""

    def takes(self, step: Step) -> bool:
        """Whether the step may be started now."""
        ...

    def start(self, step: Step, done: Mapping[str, Done]) -> None: ...

    def wait(self) -> Iterable[tuple[Step, Done | Failed, bool]]:
        """Steps that have ended since the last call, and whether they were done now; raises what ended them."""
        ...


class Engine(Protocol):
    """Opens workers for a plan."""

    def workers(self, planned: Planned, store: Store, reporter: Reporter) -> AbstractContextManager[Workers]: ...


class Here:
    """This process: one step after the other."""

    def workers(self, planned: Planned, store: Store, reporter: Reporter) -> AbstractContextManager[Workers]:
        return nullcontext(_InTurn(store, reporter))


@dataclass
class _InTurn:
    store: Store
    reporter: Reporter
    ended: tuple[Step, Done | Failed, bool] | None = None

    def takes(self, step: Step) -> bool:
        return self.ended is None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        self.ended = (step, *attempt(step, self.store, done, self.reporter))

    def wait(self) -> Iterable[tuple[Step, Done | Failed, bool]]:
        ended, self.ended = self.ended, None
        return [] if ended is None else [ended]


HERE = Here()


def do_all(
    planned: Planned,
    store: Store,
    engine: Engine = HERE,
    *,
    vital: Collection[str] = (),
    whole: bool = False,
    known: Mapping[str, Done] = MappingProxyType({}),
    limit: float | None = None,
) -> Results:
    """All steps, those that the store lacks done now. StepError when one that is `vital` fails. `whole`: these are all
    steps of a run, and it ends with StepError before steps that measure would find no candidate. `known`: finished
    steps by key, which are not reported again; `limit`: seconds that are left of the search that these are steps of."""
    ledger, done = Ledger(), dict[str, Done]()
    for step in planned.steps:
        ledger.place(step)
        if step.key in known:
            done[step.name] = known[step.key]
    waiting = [step for step in planned.steps if step.name not in done]
    reporter = Reporter(len(waiting), {step.name: step.seconds for step in waiting} if whole else {}, limit)
    settled, busy, ran = set(done), dict[str, str](), 0  # busy: keys by name; two models may share a step

    def settle(step: Step, found: Done | Failed | Failure) -> None:
        settled.add(step.name)
        if isinstance(found, Done):
            done[step.name] = found
            return
        if isinstance(found, Failed):
            given = list(step.inputs.get("after", {}))
            kept = done[given[0]].path if len(given) == 1 else None
            found = ledger.failed[step.name] = Failure.of(step.name, found, kept)
        if step.name in vital:
            raise StepError(f"{found} {found.advice}")

    with engine.workers(planned, store, reporter) as workers:
        while waiting or busy:
            ready = (
                step
                for step in waiting
                if ledger.direct[step.name] <= settled and workers.takes(step) and step.key not in busy.values()
            )
            if (step := next(ready, None)) is None:
                for ended, found, new in workers.wait():
                    del busy[ended.name]
                    ran += new
                    settle(ended, found)
                continue
            waiting.remove(step)
            if step.takes_what_is_there and whole:
                require_some(planned.job, ledger.failed)
            admitted = ledger.admit(step)
            if isinstance(admitted, Failure):
                reporter.skipped(step.name, str(admitted))
                settle(step, admitted)
            elif (there := kept_result(admitted, store, reporter)) is not None:
                settle(admitted, there)
            else:
                busy[step.name] = step.key
                workers.start(admitted, done)
    return Results({step.name: done[step.name] for step in planned.steps if step.name in done}, ledger.failed, ran)


def attempt(step: Step, store: Store, done: Mapping[str, Done], reporter: Reporter) -> tuple[Done | Failed, bool]:
    """Do a step now, or take what another process has done since; whether it was done. Where another process does the
    same step, it is waited for."""
    with store.claim(step.key, partial(reporter.waits, step.title or step.name)):
        found = kept_result(step, store, reporter)
        return (_do(step, store, done, reporter), True) if found is None else (found, False)


def kept_result(step: Step, store: Store, reporter: Reporter) -> Done | Failed | None:
    """The result of a step, or its recorded failure, that the store has."""
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
