"""Does the steps of a plan: each as soon as those that it stands on are done and there is a place for it.

Places are this process, one step at a time in the order of the plan; processes of this machine beside it
(local_workers.py); or the machines of a Ray cluster (ray_cluster.py).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from paredown.compress.distributed.errors import ProcessLost
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


@dataclass(frozen=True)
class Lost:
    """A step without a result, and nothing is recorded: its input was bad, or the machine that did it was lost."""

    reason: str
    error: InputError | StepError  # with what to do about it


class Workers(Protocol):
    """Where the steps of plans are done."""

    def add(self, planned: Planned) -> None:
        """A further plan, of whose steps some will be started."""
        ...

    def choose(self, ready: Sequence[Step]) -> Step | None:
        """The step to start now, of those that stand on nothing unfinished, in the order of the plan; None: wait first.
        One of them where nothing has been started that has not ended."""
        ...

    def start(self, step: Step, done: Mapping[str, Done]) -> None: ...

    def wait(self) -> Iterable[tuple[Step, Done | Failed | Lost, bool]]:
        """Steps that have ended since the last call, and whether they were done now; raises what ends everything."""
        ...


class Engine(Protocol):
    """Opens workers. `places`: trainings that fit at the same time."""

    @property
    def places(self) -> int: ...

    def workers(self, store: Store, reporter: Reporter) -> AbstractContextManager[Workers]: ...


class Here:
    """This process: one step after the other."""

    places = 1

    def workers(self, store: Store, reporter: Reporter) -> AbstractContextManager[Workers]:
        return nullcontext(InTurn(store, reporter))


@dataclass
class InTurn:
    """Does each step when it is started."""

    store: Store
    reporter: Reporter
    ended: tuple[Step, Done | Failed | Lost, bool] | None = None

    def add(self, planned: Planned) -> None:
        """Nothing is to be prepared for it."""

    def choose(self, ready: Sequence[Step]) -> Step | None:
        return ready[0] if ready and self.ended is None else None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        try:
            self.ended = (step, *attempt(step, self.store, done, self.reporter))
        except InputError as error:
            self.ended = (step, Lost(str(error), error), True)

    def wait(self) -> Iterable[tuple[Step, Done | Failed | Lost, bool]]:
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
) -> Results:
    """All steps, those that the store lacks done now. StepError when one that is `vital` fails. `whole`: these are all
    steps of a run, and it ends with StepError before steps that measure would find no candidate."""
    reporter = Reporter(0, {step.name: step.seconds for step in planned.steps} if whole else {})
    with engine.workers(store, reporter) as workers:
        execution = Execution(workers, store, reporter)
        return execution.results(execution.add(planned, vital=vital, whole=whole))


@dataclass(eq=False)
class Underway:
    """A plan whose steps are being done."""

    planned: Planned
    vital: Collection[str] = ()
    whole: bool = False
    ledger: Ledger = field(default_factory=Ledger)
    waiting: dict[str, Step] = field(default_factory=dict)  # by name, in the order of the plan
    blocked: dict[str, set[str]] = field(default_factory=dict)  # by these, of the steps that wait: not yet settled
    settled: set[str] = field(default_factory=set)
    done: dict[str, Done] = field(default_factory=dict)
    busy: int = 0  # steps that are being done
    ran: int = 0
    lost: Lost | None = None  # what has ended the plan before its end

    @property
    def over(self) -> bool:
        return self.lost is not None or not (self.waiting or self.busy)

    @property
    def ready(self) -> Iterator[Step]:
        """The steps that wait for no other."""
        return (step for name, step in self.waiting.items() if not self.blocked[name])

    def wait_for(self, step: Step) -> None:
        """Have a step wait until those that it stands on have ended."""
        self.waiting[step.name] = step
        self.blocked[step.name] = self.ledger.direct[step.name] - self.settled

    @property
    def results(self) -> Results:
        steps = self.planned.steps
        found = {step.name: self.done[step.name] for step in steps if step.name in self.done}
        return Results(found, self.ledger.failed, self.ran)

    def settle(self, step: Step, found: Done | Failed | Failure | Lost) -> None:
        """Note how a step has ended."""
        self.settled.add(step.name)
        for others in self.blocked.values():
            others.discard(step.name)
        if isinstance(found, Done):
            self.done[step.name] = found
            return
        if isinstance(found, Lost):
            self.lost = found
            return
        if isinstance(found, Failed):
            given = list(step.inputs.get("after", {}))
            kept = self.done[given[0]].path if len(given) == 1 else None
            found = self.ledger.failed[step.name] = Failure.of(step.name, found, kept)
        if step.name in self.vital:
            raise StepError(f"{found} {found.advice}")


@dataclass
class Execution:
    """The steps of several plans, done side by side by the same workers. What is finished is reported once."""

    workers: Workers
    store: Store
    reporter: Reporter
    plans: list[Underway] = field(default_factory=list)
    busy: dict[str, tuple[str, Underway]] = field(default_factory=dict)  # keys by name; two models may share a step
    known: dict[str, Done] = field(default_factory=dict)  # finished steps by key

    def add(self, planned: Planned, *, vital: Collection[str] = (), whole: bool = False) -> Underway:
        """Have the steps of a plan done beside the others; `vital`, `whole`: as in `do_all`."""
        plan = Underway(planned, vital, whole)
        for step in planned.steps:
            plan.ledger.place(step)
            if step.key in self.known:
                plan.settle(step, self.known[step.key])
            else:
                plan.wait_for(step)
        self.reporter.total += len(plan.waiting)
        self.workers.add(planned)
        self.plans.append(plan)
        return plan

    def results(self, plan: Underway) -> Results:
        """Do steps until a plan has ended; raises what has ended it before its end."""
        self.until(plan)
        if plan.lost is not None:
            raise plan.lost.error
        return plan.results

    def until(self, *wanted: Underway) -> Underway:
        """Do steps until one of these plans has ended, which is returned."""
        while (ended := next((plan for plan in wanted if plan.over), None)) is None:
            self._do_some()
        self.plans.remove(ended)
        return ended

    def _do_some(self) -> None:
        """Start the next step, in the order of the plans; where none can be, wait for those that run."""
        keys = {key for key, _ in self.busy.values()}
        ready = [(step, plan) for plan in self.plans for step in plan.ready if step.key not in keys]
        chosen = self.workers.choose([step for step, _ in ready])
        if chosen is not None:
            self._start(next(plan for step, plan in ready if step is chosen), chosen)
            return
        for step, ended, new in self.workers.wait():
            _, plan = self.busy.pop(step.name)
            plan.busy -= 1
            plan.ran += new
            self._settle(plan, step, ended)

    def _start(self, plan: Underway, step: Step) -> None:
        del plan.waiting[step.name], plan.blocked[step.name]
        if step.takes_what_is_there and plan.whole:
            require_some(plan.planned.job, plan.ledger.failed)
        admitted = plan.ledger.admit(step)
        if isinstance(admitted, Failure):
            self.reporter.skipped(step.name, str(admitted))
            self._settle(plan, step, admitted)
        elif (there := kept_result(admitted, self.store, self.reporter)) is not None:
            self._settle(plan, admitted, there)
        else:
            self.busy[step.name] = step.key, plan
            plan.busy += 1
            self.workers.start(admitted, plan.done)

    def _settle(self, plan: Underway, step: Step, found: Done | Failed | Failure | Lost) -> None:
        plan.settle(step, found)
        if isinstance(found, Done):
            self.known[step.key] = found


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
        if step.takes_what_is_there or isinstance(error, DiskError | ProcessLost):
            raise type(error)(f"step {step.name}: {error}") from error
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
