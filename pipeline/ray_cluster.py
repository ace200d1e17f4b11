"""Steps of a run on the machines of a Ray cluster: any of them trains, one of them measures, alone.

A task is told the recipe and the name of a step. It plans the run again and has to come to the same key, else it
refuses and names what differs. Results are in the run directory, which all machines see under one path; nothing of them
passes through Ray's object store. https://docs.ray.io/en/latest/ray-core/walkthrough.html
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from paredown.export.hardware import fingerprint, machine, training_threads
from paredown.runtime.errors import InputError, StepError, missing_extra

from .engine import Planned, Plans
from .job import Job, Step, prepare
from .one_step import differences, do_planned, found_in, require_same
from .progress import Report, Reporter, tell
from .recipe.loader import resolved
from .recipe.schema import MeasureOn, Recipe
from .steps.adapt import adapt_steps, adapted
from .steps.step_keys import code_of
from .store import Done, Failed, Store

LABEL = "paredown"  # of a node: ray start --labels paredown=edge-arm64
OF_MACHINE = ("machine", "int8_isa", "engine")  # inputs of steps that belong on the machine that measures
TRIES = 3  # a task whose worker or machine is lost is tried again as often
TOLD_S = 1.0  # seconds between two looks at the progress of the tasks


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as a task on it has found it."""

    id: str
    host: str
    labels: Mapping[str, str]
    cores: int  # that Ray gives out there
    machine: dict
    code: dict  # versions and code, as keys of steps have them
    shared: bool  # it sees the run directory


@dataclass(frozen=True)
class Asked:
    """What a task needs to plan a run again."""

    run_dir: Path
    recipe: str  # resolved
    adapted: bool
    plans: Plans
    machine: dict  # that measures
    threads: int
    inputs: dict[str, dict]  # of the driver's steps, by name


@contextmanager
def cluster(address: str | None, job: Job, run_dir: Path) -> Iterator[tuple[Job, RayCluster]]:
    """Connect to a cluster, check its machines, and give the job as it is planned for them: `address` None is that of
    $RAY_ADDRESS, of this machine, or a new one here. InputError where a machine has other versions or does not see the
    run directory, or where none is the one that the recipe measures on."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its vendor
        import ray
    except ImportError:
        raise missing_extra("ray", "ray") from None
    try:
        context = ray.init(address=address, log_to_driver=False, include_dashboard=None, namespace="paredown")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise InputError(
            f"--on {address or 'ray'}: no Ray cluster at {where}: {' '.join(str(error).split())}"
        ) from None
    try:
        nodes = _nodes(ray, run_dir)
        _check(nodes)
        measuring = _measuring(job.recipe.measure_on, nodes, ray)
        computing = [node for node in nodes if node.id != measuring.id and node.cores] or [measuring]
        given = os.environ.get("OMP_NUM_THREADS")
        threads = training_threads() if given else min(node.cores for node in computing)
        names = ", ".join(f"{node.host} ({node.cores} cores)" for node in nodes)
        link = f"; dashboard: http://{context.dashboard_url}" if getattr(context, "dashboard_url", "") else ""
        tell([f"Ray: {names}; {measuring.host} measures{link}"])
        here = replace(job, machine=measuring.machine, threads=threads)
        yield here, RayCluster(ray, run_dir, measuring, computing[0] is not measuring, threads)
    finally:
        ray.shutdown()


def _nodes(ray: Any, run_dir: Path) -> list[Node]:
    """The machines of the cluster, each asked by a task on it."""
    about = ray.remote(num_cpus=0, max_retries=TRIES)(_about)
    living = [node for node in ray.nodes() if node["Alive"]]
    found = [about.options(scheduling_strategy=_on(ray, node["NodeID"])).remote(str(run_dir)) for node in living]
    told = []
    for node, answer in zip(living, found, strict=True):
        host = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
        try:
            said = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
            raise InputError(f"{host}: paredown cannot work there: {reason}; install the same there as here") from None
        told.append(Node(node["NodeID"], host, node.get("Labels") or {}, int(node["Resources"].get("CPU", 0)), **said))
    return told


def _about(run_dir: str) -> dict:
    """What a machine says of itself."""
    return {"machine": machine(), "code": _code(), "shared": (Path(run_dir) / ".lock").is_file()}


def _code() -> dict:
    return code_of("compress", "export", "benchmarks", "pipeline/steps")


def _check(nodes: list[Node]) -> None:
    """InputError for a machine whose keys of steps would be others, or that sees another run directory."""
    ours = _code()
    for node in nodes:
        if found := differences(ours, node.code):
            raise InputError(f"{node.host}: {found_in(found)}".replace("the plan has", "here it is"))
        if not node.shared:
            raise InputError(
                f"{node.host}: it does not see the run directory; give an --output-dir that all machines share, under "
                "the same path"
            )


def _measuring(wanted: MeasureOn | None, nodes: list[Node], ray: Any) -> Node:
    """The machine that the recipe measures on; where it names none, the one of this process."""
    if wanted is None:
        mine = ray.get_runtime_context().get_node_id()
        return next(node for node in nodes if node.id == mine)
    for node in nodes:
        if wanted.matches(node.labels.get(LABEL), fingerprint(node.machine)):
            return node
    there = ", ".join(
        f"{node.host}: {node.labels.get(LABEL, 'no label')}, {fingerprint(node.machine)[:8]}" for node in nodes
    )
    raise InputError(
        f"measure_on: no machine of the cluster is {wanted}; there are {there} (give a label with: ray start "
        f"--labels {LABEL}=NAME)"
    )


def _on(ray: Any, node: str) -> Any:
    """Where a task is to run: on one node and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@dataclass(frozen=True)
class RayCluster:
    """An engine for plans (engine.py)."""

    ray: Any
    run_dir: Path
    measuring: Node
    apart: bool  # other machines train
    threads: int

    def workers(self, planned: Planned, store: Store, reporter: Reporter) -> AbstractContextManager[_Tasks]:
        """Tasks for the steps of a plan; those that still run when it is left are cancelled."""
        return _tasks(self, planned, store, reporter)


@contextmanager
def _tasks(cluster: RayCluster, planned: Planned, store: Store, reporter: Reporter) -> Iterator[_Tasks]:
    asked = Asked(
        cluster.run_dir, resolved(planned.job.recipe), planned.adapted, planned.plans, dict(planned.job.machine),
        cluster.threads, {step.name: step.inputs for step in planned.steps},
    )  # fmt: skip
    ray = cluster.ray
    board = ray.remote(num_cpus=0)(Board).remote()
    tasks = _Tasks(cluster, store, reporter, ray.put(asked), board)
    try:
        yield tasks
    finally:
        tasks.cancel()
        with suppress(ray.exceptions.RayError):
            ray.kill(board)


class Board:
    """How far the tasks are, as they tell; an actor that the driver reads."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[float, str]] = {}

    def tell(self, name: str, share: float, text: str) -> None:
        """Progress of a step, as `Report` has it."""
        self.said[name] = (share, text)

    def read(self) -> dict[str, tuple[float, str]]:
        """What was told since the last call, by step."""
        said, self.said = self.said, {}
        return said


@dataclass
class _Task:
    step: Step
    shown: ExitStack
    report: Report
    alone: bool  # on the machine that measures


@dataclass
class _Tasks:
    """The tasks of one plan (engine.Workers)."""

    cluster: RayCluster
    store: Store
    reporter: Reporter
    asked: Any
    board: Any
    running: dict[Any, _Task] = field(default_factory=dict)

    def takes(self, step: Step) -> bool:
        """A step that belongs on the machine that measures waits until nothing runs there: in the order of the plan."""
        alone = [task.alone for task in self.running.values()]
        if belongs_on_machine(step):
            return not any(alone) and (self.cluster.apart or not self.running)
        return self.cluster.apart or not any(alone)

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        """Submit a step."""
        ray, alone = self.cluster.ray, belongs_on_machine(step)
        work = ray.remote(max_retries=TRIES, retry_exceptions=False)(_work)
        options: dict[str, Any] = {"num_cpus": self.cluster.threads, "name": step.name}
        if alone:
            node = self.cluster.measuring
            options |= {"num_cpus": node.cores, "scheduling_strategy": _on(ray, node.id)}
        elif self.cluster.apart:
            options["label_selector"] = {"ray.io/node-id": f"!{self.cluster.measuring.id}"}
        shown = ExitStack()
        report = shown.enter_context(self.reporter.step(step.name, step.title))
        ref = work.options(**options).remote(self.asked, step.name, step.key, alone, self.board)
        self.running[ref] = _Task(step, shown, report, alone)

    def wait(self) -> Iterable[tuple[Step, Done | Failed, bool]]:
        """Steps that have ended; none after a second without one."""
        ray = self.cluster.ray
        ended, _ = ray.wait([*self.running], num_returns=1, timeout=TOLD_S)
        with suppress(ray.exceptions.RayError):
            told = ray.get(self.board.read.remote(), timeout=10)
            for task in self.running.values():
                if task.step.name in told:
                    task.report(*told[task.step.name])
        for ref in ended:
            yield self._result(self.running.pop(ref), ref)

    def _result(self, task: _Task, ref: Any) -> tuple[Step, Done | Failed, bool]:
        step, ray = task.step, self.cluster.ray
        try:
            new = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # raised by the step itself
            _close(task, error)
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except ray.exceptions.RayError as error:
            _close(task, error)
            reason = " ".join(str(error).split())[:300]
            raise StepError(
                f"step {step.name}: its worker was lost {TRIES + 1} times: {reason}; what is done is kept: run it again"
            ) from None
        found = self.store.find(step.name, step.key) or self.store.failure(step.name, step.key)
        if found is None:
            raise StepError(f"step {step.name}: its result is not in {self.store.root}: is that one file system?")
        if isinstance(found, Failed):
            _close(task, StepError(found.reason))
            self.reporter.failed(step.name, found.reason)
        else:
            _close(task)
        return step, found, new

    def cancel(self) -> None:
        """End what still runs."""
        for ref, task in self.running.items():
            with suppress(Exception):
                self.cluster.ray.cancel(ref, force=True)
            _close(task, KeyboardInterrupt())
        self.running.clear()


def _close(task: _Task, error: BaseException | None = None) -> None:
    """End the progress of a step, without the line that says it is done where it is not."""
    with suppress(BaseException):  # it is raised again where it belongs
        task.shown.__exit__(type(error) if error else None, error, None)


def belongs_on_machine(step: Step) -> bool:
    """Whether a step's key names something of the machine that measures: it is done there, and alone."""
    return any(step.inputs.get(name) is not None for name in OF_MACHINE)


def _work(asked: Asked, name: str, key: str, alone: bool, board: Any) -> bool:
    """The task: do a step, or find it done; whether it was done now."""
    if alone:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it; measuring sets its own
    else:
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    import ray

    store = Store(asked.run_dir / "steps", host=f"{platform.node()} ({ray.get_runtime_context().get_node_id()[:8]})")
    store.clean()
    job = replace(_prepared(asked.recipe), machine=asked.machine, threads=asked.threads)
    if asked.adapted and job.recipe.adapt:
        job = adapted(job, {step.name: done for step in adapt_steps(job) if (done := store.find(step.name, step.key))})
    steps = asked.plans(job)
    require_same(steps, name, asked.inputs, asked.machine, job.machine)
    if alone and fingerprint() != fingerprint(asked.machine):
        found = found_in(differences(asked.machine, machine()))
        raise InputError(f"step {name}: this machine is not the one that was planned for: {found}")
    step = next(step for step in steps if step.name == name)
    _, new = do_planned(job, steps, step, store, _Told(board))
    return new


@lru_cache(maxsize=4)
def _prepared(recipe: str) -> Job:
    return prepare(Recipe.model_validate(yaml.safe_load(recipe)), try_models=False)


class _Told(Reporter):
    """Progress of a task, for the driver."""

    def __init__(self, board: Any) -> None:
        super().__init__(1)
        self.board, self.shown = board, "none"

    @contextmanager
    def step(self, name: str, title: str = "") -> Iterator[Report]:
        last = 0.0

        def report(share: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= TOLD_S:
                last = time.monotonic()
                self.board.tell.remote(name, share, text)

        yield report
