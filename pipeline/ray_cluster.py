"""Steps of a run on the machines of a Ray cluster: any of them trains, those that the recipe names measure, alone.

A task is told the recipe and the name of a step. It plans the run again and has to come to the same key, else it
refuses and names what differs. Results are in the run directory, which all machines see under one path, or in object
storage, of which each machine keeps copies in its cache; nothing of them passes through Ray's object store. https://docs.ray.io/en/latest/ray-core/walkthrough.html
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paredown.export.hardware import fingerprint, machine, training_gpus, training_threads
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError, StepError, missing_extra

from .engine import Lost, Planned
from .job import Job, Step, belongs_on_machine, check_installed
from .object_store import ObjectStore, open_store
from .one_step import Asked, NotThereError, differences, do_planned, found_in
from .progress import TOLD_S, Elsewhere, Forwarded, Reporter, tell
from .recipe.schema import MeasureOn, Recipe
from .resources import cores_of, memory_of, trains
from .steps.step_keys import code_of
from .store import Done, Failed, Store, key_of

LABEL = "paredown"  # of a node: ray start --labels paredown=edge-arm64
KEPT = "what is done is kept"
TRIES = 3  # a task whose worker or machine is lost is tried again as often
MEASURING, COMPUTING, ON_GPU = "measuring", "computing", "on a GPU"  # places of steps
CONNECT_S = 10.0  # until an address is given up
SEEN_S = 90.0  # until a network file system shows everywhere what was written: it keeps names for a minute


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as a task on it has found it."""

    id: str
    host: str
    labels: Mapping[str, str]
    cores: int  # that Ray gives out there
    machine: dict
    gpus: int  # that Ray gives out there
    trains_on: Sequence[str]  # the names of its GPUs that PyTorch can train on
    memory: int  # bytes that Ray gives out there
    code: dict  # versions and code, as keys of steps have them
    held: str  # what the run directory's .lock says there; "" where there is none
    lacks: str = ""  # why a target of the recipe cannot be run there
    unreachable: str = ""  # why the store in object storage cannot be used there


@contextmanager
def cluster(
    address: str | None, job: Job, run_dir: Path, store: ObjectStore | None = None
) -> Iterator[list[tuple[Job, RayCluster]]]:
    """Connect to a cluster, check its machines, and give the job as it is planned for each that measures: `address`
    None is that of $RAY_ADDRESS, of this machine, or a new one here; `store`: a store in object storage, in place of a
    shared run directory. InputError where a machine has other versions or does not see the run directory (or the
    store), or where one that the recipe measures on is not there."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise missing_extra("ray", "ray") from None
    if ray.is_initialized():
        raise InputError("Ray is in use in this process: call ray.shutdown() first")
    if address is not None and job.recipe.measure_on is None:
        raise InputError(
            f"--on {address}: this process is outside the cluster: name the machine that measures, measure_on"
        )
    _require_reachable(address or os.environ.get("RAY_ADDRESS", ""))
    ended = signal.getsignal(signal.SIGTERM)
    try:
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace="paredown")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise InputError(
            f"--on {address or 'ray'}: no Ray cluster at {where}: {' '.join(str(error).split())}"
        ) from None
    try:
        if ended is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)  # Ray has set its own
        nodes = _nodes(ray, job.recipe, run_dir, store)
        _check(nodes, (run_dir / ".lock").read_text() if store is None else None)
        measuring = _measuring(job.recipe.machines, nodes, ray)
        for node in measuring:
            if node.lacks:
                raise InputError(f"{node.host}: {node.lacks}")
        computing = [node for node in nodes if node not in measuring and node.cores] or measuring
        gpus = _training_gpus(computing)
        most, processes = max(node.gpus for node in computing), job.recipe.training_processes
        if gpus and most < processes:
            raise InputError(
                f"training_processes: {processes} need as many GPUs of one machine; none has more than {most}"
            )
        least = min(node.cores for node in computing)
        if not least:
            raise InputError("the cluster has no cores for paredown: start its machines without --num-cpus 0")
        threads = training_threads() if os.environ.get("OMP_NUM_THREADS") else least
        names = ", ".join(f"{node.host} ({node.cores} cores)" for node in nodes)
        link = f"; dashboard: http://{context.dashboard_url}" if getattr(context, "dashboard_url", "") else ""
        verb = "measures" if len(measuring) == 1 else "measure"
        said = f"{' and '.join(node.host for node in measuring)} {verb}"
        trainer = gpus[0].split(",")[0] if gpus else f"{threads} threads"
        tell([f"Ray: {names}; {said}; {trainer} train{link}", *_same_kind(measuring)])
        engines = [
            RayCluster(
                ray, run_dir, node, computing, min(threads, least), {node.id: node.host for node in nodes},
                None if store is None else store.url, tuple(node.id for node in measuring), processes,
                any(RUNTIMES[target.runtime].SPEC.gpu for target in job.recipe.targets),
            )
            for node in measuring
        ]  # fmt: skip
        jobs = [replace(job.measured_on(one), threads=threads, gpus=gpus) for one in job.recipe.machines or [None]]
        yield [(replace(one, machine=at.measuring.machine), at) for one, at in zip(jobs, engines, strict=True)]
    finally:
        ray.shutdown()


def _training_gpus(computing: Sequence[Node]) -> list[str]:
    """The GPU that trains, as keys of steps name it, where machines that compute have one; trainings wait for it. A
    result of it has other bits than one of a CPU, or of another GPU. InputError where there are several kinds."""
    kinds = {name: node.host for node in computing if node.gpus for name in node.trains_on}
    if len(kinds) > 1:
        there = ", ".join(f"{host}: {name}" for name, host in kinds.items())
        raise InputError(
            f"the cluster has GPUs of several kinds ({there}), and the keys of trainings name one; start the machines "
            "with the others with: ray start --num-gpus 0"
        )
    return [*kinds]


def _require_reachable(address: str) -> None:
    """InputError where nothing listens at the address of a cluster: Ray would try for minutes."""
    if address in ("", "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--on ray: no Ray cluster at {address} (HOST:PORT is expected): {error}") from None


def _nodes(ray: Any, recipe: Recipe, run_dir: Path, store: ObjectStore | None) -> list[Node]:
    """The machines of the cluster, each asked by a task on it. Where two have one host name, Ray's number is added. One
    that is listed and gone is left out: Ray takes seconds to see that a machine has ended."""
    with nullcontext("") if store is None else store.seen() as seen:
        return _asked(ray, recipe, run_dir, None if store is None else store.url, seen)


def _asked(ray: Any, recipe: Recipe, run_dir: Path, store: str | None, seen: str) -> list[Node]:
    """What the machines say; `store`: its URL, `seen`: an object in it."""
    about = ray.remote(num_cpus=0, max_retries=TRIES)(_about)
    living = [node for node in ray.nodes() if node["Alive"]]
    asked = [about.options(scheduling_strategy=_on(ray, node["NodeID"])) for node in living]
    found = [task.remote(recipe, run_dir, store, seen) for task in asked]
    named, told = Counter(node["NodeManagerHostname"] for node in living), []
    for node, answer in zip(living, found, strict=True):
        host = node["NodeManagerHostname"]
        host = host if named[host] == 1 else f"{host} ({node['NodeID'][:8]})"
        try:
            said = ray.get(answer)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            tell([f"Ray: {host} is gone"])
            continue
        except ray.exceptions.RayError as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
            raise InputError(f"{host}: paredown cannot work there: {reason}; install the same there as here") from None
        cores, gpus, memory = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory"))
        labels = node.get("Labels") or {}
        gpus = gpus if said["trains_on"] else 0  # with a PyTorch for CPUs
        told.append(Node(node["NodeID"], host, labels, cores, gpus=gpus, memory=memory, **said))
    return told


def _about(recipe: Recipe, run_dir: Path, store: str | None, seen: str) -> dict:
    """What a machine says of itself; `seen`: an object that the driver has written to the store."""
    lacks = held = unreachable = ""
    with suppress(OSError):
        held = (run_dir / ".lock").read_text()
    try:
        check_installed(recipe)
    except InputError as error:
        lacks = str(error)
    try:
        if store is not None:
            open_store(store, seen)
    except InputError as error:
        unreachable = str(error)
    return {
        "machine": machine(), "trains_on": training_gpus(hidden=True), "code": _code(), "held": held, "lacks": lacks,
        "unreachable": unreachable,
    }  # fmt: skip


def _code() -> dict:
    return code_of("compress", "export", "benchmarks", "pipeline/steps")


def _check(nodes: list[Node], held: str | None) -> None:
    """InputError for a machine whose keys of steps would be others, or that sees another run directory: `held` is what
    its .lock says here, None where the machines share a store in object storage, which each has to reach."""
    ours = _code()
    for node in nodes:
        if found := differences(ours, node.code, other="here it is"):
            raise InputError(f"{node.host}: {found_in(found)}")
        if node.unreachable:
            raise InputError(f"{node.host}: {node.unreachable}")
        if held is not None and node.held != held:
            raise InputError(
                f"{node.host}: it does not see the run directory; give an --output-dir that all machines share, under "
                "the same path, or a --store in object storage"
            )


def _measuring(wanted: list[MeasureOn], nodes: list[Node], ray: Any) -> list[Node]:
    """The machines that the recipe measures on, one for each that it names; the one of this process where it names
    none."""
    if not wanted:
        mine = ray.get_runtime_context().get_node_id()
        return [node for node in nodes if node.id == mine]
    found: list[Node] = []
    for one in wanted:
        node = next((node for node in nodes if one.matches(node.labels.get(LABEL), fingerprint(node.machine))), None)
        if node is None:
            raise InputError(
                f"measure_on: no machine of the cluster is {one}; there are {_described(nodes)} (give a label with: "
                f"ray start --labels {LABEL}=NAME)"
            )
        if node in found:
            other = wanted[found.index(node)]
            raise InputError(f"measure_on: {node.host} is {other} and {one}; name each machine once")
        found.append(node)
    return found


def _described(nodes: list[Node]) -> str:
    """Label and fingerprint of each machine, for an error."""
    return ", ".join(
        f"{node.host}: {node.labels.get(LABEL, 'no label')}, {fingerprint(node.machine)[:8]}" for node in nodes
    )


def _same_kind(measuring: list[Node]) -> list[str]:
    """A note for machines with one fingerprint: the keys of their steps are the same."""
    kinds: dict[str, list[str]] = {}
    for node in measuring:
        kinds.setdefault(fingerprint(node.machine), []).append(node.host)
    return [
        f"{' and '.join(hosts)} have the same fingerprint: what {hosts[0]} has measured is the result of all of them"
        for hosts in kinds.values()
        if len(hosts) > 1
    ]


def _on(ray: Any, node: str) -> Any:
    """Where a task is to run: on one node and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@dataclass(frozen=True)
class RayCluster:
    """An engine (engine.py)."""

    ray: Any
    run_dir: Path
    measuring: Node
    computing: Sequence[Node]  # train, score and trace; those that measure, where there are no others
    cpus: int  # that a training on the CPU is given
    hosts: Mapping[str, str]  # names by Ray's numbers
    store: str | None = None  # URL of the store in object storage
    all_measuring: tuple[str, ...] = ()  # Ray's numbers of all machines that measure
    processes: int = 1  # of a training, each with a GPU where there are some
    gpu_targets: bool = False  # a GPU of the machine that measures is built for and timed: one step at a time there

    @property
    def places(self) -> int:
        """Trainings that are started at the same time."""
        if not self.apart:
            return 1 if self.gpus else max(1, self.measuring.cores // self.cpus)
        if self.gpus:
            return sum(node.gpus // self.processes for node in self.computing)
        return sum(node.cores // self.cpus for node in self.computing)

    def workers(self, store: Store, reporter: Reporter) -> AbstractContextManager[_Tasks]:
        """Tasks for the steps of plans; those that still run when it is left are cancelled."""
        return _tasks(self, store, reporter)

    @property
    def apart(self) -> bool:
        """Other machines train than the one that measures."""
        return all(node.id != self.measuring.id for node in self.computing)

    @property
    def gpus(self) -> bool:
        """Trainings are done on GPUs."""
        return any(node.gpus for node in self.computing)

    def place(self, step: Step) -> str:
        """Where a step is done: MEASURING; ON_GPU, a training where there are GPUs; else COMPUTING."""
        if belongs_on_machine(step) or not self.apart:
            return MEASURING
        return ON_GPU if trains(step) and self.gpus else COMPUTING

    def needs(self, step: Step) -> int:
        """How much of its place a step takes: cores, or GPUs."""
        place, few = self.place(step), cores_of(step)
        if place == ON_GPU:
            return step.inputs.get("processes", 1)
        if belongs_on_machine(step):
            most, few = self.measuring.cores, None if self.gpu_targets else few
        else:
            most = self.measuring.cores if trains(step) and self.gpus else self.cpus
        return max(1, most if few is None else min(few, most))

    def has(self, place: str) -> int:
        """How much a place has."""
        if place == MEASURING:
            return max(1, self.measuring.cores)
        if place == ON_GPU:
            return sum(node.gpus // self.processes * self.processes for node in self.computing)
        return sum(node.cores // self.cpus for node in self.computing) * self.cpus

    def options(self, step: Step, memory: int) -> dict[str, Any]:
        """What a step's task asks Ray for. `memory`: bytes of one that has others beside it, as far as a machine has
        them."""
        on_machine, few = belongs_on_machine(step), cores_of(step)
        asked: dict[str, Any] = {"name": step.name, "num_cpus": self.needs(step)}
        if few is not None:
            asked["memory"] = min([memory, *(n.memory for n in ([self.measuring] if on_machine else self.computing))])
        if trains(step) and not on_machine and self.gpus:
            asked["num_gpus"] = step.inputs.get("processes", 1)
            each = min(node.cores // node.gpus for node in self.computing if node.gpus)
            asked["num_cpus"] = max(1, each * asked["num_gpus"])
            # nvidia-smi's order; and in processes of their own: one that was started without a GPU never sees one
            asked["runtime_env"] = {"env_vars": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}}
        elif on_machine and self.gpu_targets:  # in processes that have never been kept from a GPU
            asked["runtime_env"] = {"env_vars": {"PAREDOWN_MEASURES": "1"}}
        return asked


@contextmanager
def _tasks(cluster: RayCluster, store: Store, reporter: Reporter) -> Iterator[_Tasks]:
    ray = cluster.ray
    here = _on(ray, ray.get_runtime_context().get_node_id())
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    tasks = _Tasks(cluster, store, reporter, board)
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
    shown: Elsewhere


@dataclass
class _Tasks:
    """Tasks (engine.Workers)."""

    cluster: RayCluster
    store: Store
    reporter: Reporter
    board: Any
    asked: dict[str, Any] = field(default_factory=dict)  # what the task of a step needs, by the step's name
    memory: int = 0  # bytes of a step beside others
    running: dict[Any, _Task] = field(default_factory=dict)

    def add(self, planned: Planned) -> None:
        """A further plan: what its tasks need is kept in the cluster once."""
        cluster = self.cluster
        asked = cluster.ray.put((Asked.of(planned), cluster.run_dir, cluster.store, cluster.hosts))
        self.asked |= dict.fromkeys((step.name for step in planned.steps), asked)
        self.memory = max(self.memory, memory_of(planned.job))

    def choose(self, ready: Sequence[Step]) -> Step | None:
        """The first one that its place has as much left for as it needs; those behind one that waits there wait too.
        What times something, and whatever takes all cores of the machine that measures, is alone there."""
        left, full = self._left(), set[str]()
        for step in ready:
            place = self.cluster.place(step)
            if place not in full and self.cluster.needs(step) <= left[place]:
                return step
            full.add(place)
        return None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        """Submit a step."""
        ray, alone = self.cluster.ray, belongs_on_machine(step)
        work = ray.remote(max_retries=TRIES, retry_exceptions=False)(_work)
        options = self.cluster.options(step, self.memory)
        if alone:
            options["scheduling_strategy"] = _on(ray, self.cluster.measuring.id)
        elif self.cluster.apart:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.cluster.all_measuring)})"}
        shown = Elsewhere(self.reporter, step.name, step.title)
        ref = work.options(**options).remote(self.asked[step.name], step.name, step.key, alone, self.board)
        self.running[ref] = _Task(step, shown)

    def wait(self) -> Iterable[tuple[Step, Done | Failed | Lost, bool]]:
        """Steps that have ended; none after a second without one."""
        ray = self.cluster.ray
        ended, _ = ray.wait([*self.running], num_returns=1, timeout=TOLD_S)
        if not ended:
            self._require_machines()
        with suppress(ray.exceptions.RayError):
            told = ray.get(self.board.read.remote(), timeout=10)
            for task in self.running.values():
                if task.step.name in told:
                    task.shown.report(*told[task.step.name])
        for ref in ended:
            yield self._result(self.running.pop(ref), ref)

    def _left(self) -> dict[str, int]:
        """What each place has left."""
        left = {place: self.cluster.has(place) for place in (MEASURING, COMPUTING, ON_GPU)}
        for task in self.running.values():
            left[self.cluster.place(task.step)] -= self.cluster.needs(task.step)
        return left

    def _require_machines(self) -> None:
        """StepError where no machine is left that could do what runs: its task would wait without end."""
        cluster = self.cluster
        living = {node["NodeID"]: node["Resources"] for node in cluster.ray.nodes() if node["Alive"]}
        places = {cluster.place(task.step) for task in self.running.values()}
        if MEASURING in places and cluster.measuring.id not in living:
            raise StepError(f"{cluster.measuring.host}, which measures, is gone; start it, and run it again: {KEPT}")
        others = [resources for number, resources in living.items() if number not in cluster.all_measuring]
        for place, part in ((COMPUTING, "CPU"), (ON_GPU, "GPU")):
            if place in places and not any(resources.get(part) for resources in others):
                what = "trains" if place == COMPUTING else "has a GPU"
                raise StepError(f"no machine of the cluster is left that {what}; start one, and run it again: {KEPT}")

    def _result(self, task: _Task, ref: Any) -> tuple[Step, Done | Failed | Lost, bool]:
        step, ray = task.step, self.cluster.ray
        try:
            new = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # raised by the step itself
            task.shown.end(error)
            if isinstance(error.cause, InputError):
                return step, Lost(str(error.cause), error.cause), True
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except ray.exceptions.RayError as error:
            task.shown.end(error)
            reason = " ".join(str(error).split())[:300]
            tried = f" in {TRIES + 1} tries" if isinstance(error, ray.exceptions.WorkerCrashedError) else ""
            reason = f"step {step.name}: not done on the cluster{tried}: {reason}"
            return step, Lost(reason, StepError(f"{reason}; run it again: {KEPT}")), True
        end = time.monotonic() + SEEN_S
        while (found := self.store.find(step.name, step.key) or self.store.failure(step.name, step.key)) is None:
            if time.monotonic() > end:
                where = self.cluster.store or f"{self.store.root}: is that one file system?"
                raise StepError(f"step {step.name}: its result is not in {where}")
            _look_again(self.store)
        if isinstance(found, Failed):
            task.shown.fail(found.reason)
        else:
            task.shown.end()
        return step, found, new

    def cancel(self) -> None:
        """End what still runs."""
        for ref, task in self.running.items():
            with suppress(Exception):
                self.cluster.ray.cancel(ref, force=True)
            task.shown.end(KeyboardInterrupt())
        self.running.clear()


def _look_again(store: Store) -> None:
    """Have a network file system list the directory anew, after a second."""
    time.sleep(TOLD_S)
    with suppress(FileNotFoundError):
        list(store.root.iterdir())


def _work(
    asked: tuple[Asked, Path, str | None, Mapping[str, str]], name: str, key: str, alone: bool, board: Any
) -> bool:
    """The task: do a step, or find it done; whether it was done now. `asked`: what it is planned from, the run
    directory, the URL of the store in object storage, and the names of machines by Ray's numbers."""
    import ray

    plan, run_dir, url, hosts = asked
    os.environ["OMP_NUM_THREADS"] = str(plan.threads)  # of trainings; those that time set their own
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU") and not alone:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what Ray has not given it
    host = hosts.get(ray.get_runtime_context().get_node_id(), platform.node())
    try:
        return _done(plan, _store(run_dir, url, host), name, key, alone, board)
    except InputError as error:
        raise InputError(f"{host}: {error}") from error


def _done(asked: Asked, store: Store, name: str, key: str, alone: bool, board: Any) -> bool:
    store.clean()
    job, steps, step = asked.step(name, store)
    if alone and fingerprint() != fingerprint(asked.machine):
        found = found_in(differences(asked.machine, machine()))
        raise InputError(f"step {name}: this machine is not the one that was planned for: {found}")
    if trains(step) and not alone and (here := [*dict.fromkeys(training_gpus())]) != [*asked.gpus]:
        raise InputError(f"step {name}: it is planned for the GPUs {[*asked.gpus]}, and this machine gives it {here}")
    told = Forwarded(lambda name, share, text: board.tell.remote(name, share, text))
    end = time.monotonic() + SEEN_S
    while True:
        try:
            return do_planned(job, steps, step, store, told, key)[1]
        except NotThereError:
            if time.monotonic() > end:
                raise
            _look_again(store)


def _store(run_dir: Path, url: str | None, host: str) -> Store:
    """Where the task finds the steps before it, and puts its own: in the run directory, or in object storage."""
    if url is None:
        return Store(run_dir / "steps", host=host)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown" / "steps"
    of_store = key_of({"store": url})[:16]  # two stores may have other bytes of one step
    return Store(cache / of_store, host=host, shared=open_store(url))
