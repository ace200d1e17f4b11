"""Steps of a run side by side on this machine, in processes of their own: exports, evaluations, ONNX graphs.

A process is told how to plan the run again and the name of a step, as a task of a Ray cluster is; results are in the
store. `python -m paredown.pipeline.local_workers` is one of them: a fresh process, since one that is forked does not
survive PyTorch's threads. It speaks JSON lines: names of steps on stdin, answers on the pipe that was stdout. It ends
when its stdin is closed, in the middle of a step too: it never outlives the process that has started it.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import psutil

from paredown.compress.distributed.errors import ProcessLost
from paredown.runtime.errors import InputError, StepError

from .engine import InTurn, Lost, Planned
from .failures import Ledger
from .job import Step
from .object_store import open_store
from .one_step import Asked, do_planned
from .progress import TOLD_S, Elsewhere, Forwarded, Reporter, tell
from .resources import cores_of, free_memory, memory_of, trains
from .store import DiskError, Done, Failed, Store

FEWEST_CORES = 4  # of a machine that does steps side by side
FEWEST_STEPS = 4  # that are ready: together they take longer than a process takes to import PyTorch and to plan, 6 s
TAIL = 3  # lines of what a process has said that its end is explained with
ERRORS = {kind.__name__: kind for kind in (InputError, DiskError, ProcessLost, StepError, MemoryError)}  # in this order


@dataclass(frozen=True)
class LocalWorkers:
    """An engine (engine.py): this machine, as many steps at once as its cores and its free memory allow.

    A step that takes all cores is done in this process, with nothing beside it: whatever trains, scores on all threads
    or times something (resources.py). The others take one core or two, and go to further processes as soon as
    FEWEST_STEPS of them are ready and not in the store, where the memory allows two; before that, and in a plan without
    so many, they are done in this process too. Trainings come before the exports of what they train, so that many are
    ready at once; the order of the steps that measure, and of those between them, is that of the plan.
    """

    cores: int
    places = 1  # trainings at the same time

    def workers(self, store: Store, reporter: Reporter) -> AbstractContextManager[_Places]:
        """The places of plans; processes that still run when they are left are killed."""
        return closing(_Places(self.cores, store, reporter))


@dataclass(frozen=True)
class _Running:
    step: Step
    shown: Elsewhere
    again: bool  # its first process was lost; nothing is beside it


@dataclass
class _Places:
    """The steps that are done now (engine.Workers)."""

    cores: int
    store: Store
    reporter: Reporter
    running: dict[_Worker, _Running] = field(default_factory=dict)
    idle: list[_Worker] = field(default_factory=list)
    lost: list[Step] = field(default_factory=list)  # to be done again
    beside: bool = False  # further processes are worth their start
    ready: Sequence[Step] = ()  # when the last one was chosen that nothing ran beside
    plans: list[Planned] = field(default_factory=list)
    order: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)  # by names of steps: plan, and `_order`
    memory: int = 0  # bytes of a process

    def __post_init__(self) -> None:
        self.here = InTurn(self.store, self.reporter)
        self.heard: queue.SimpleQueue[tuple[_Worker, dict | None]] = queue.SimpleQueue()
        self.limit = self.most = self.cores  # processes at once

    def add(self, planned: Planned) -> None:
        """A further plan; its steps come after those of the plans before it."""
        self.order |= {name: (len(self.plans), *order) for name, order in _order(planned.steps).items()}
        self.plans.append(planned)
        self.memory = max(self.memory, memory_of(planned.job))

    def choose(self, ready: Sequence[Step]) -> Step | None:
        """The first one, if there are cores for it. One that takes all waits until the others have ended, and those
        behind it wait with it."""
        if not ready or self.here.ended is not None or self.lost or any(task.again for task in self.running.values()):
            return None
        first = min(ready, key=lambda step: self.order[step.name])
        if not self.running:
            self.most, self.ready = self._fit(), ready
            return first
        taken = sum(cores_of(task.step) or self.cores for task in self.running.values())
        fits = len(self.running) < self.most and taken + (cores_of(first) or self.cores) <= self.cores
        earlier = any(self._stretch(task.step) < self._stretch(first) for task in self.running.values())
        return first if fits and not earlier else None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        """Do a step here, or send it to a process. Processes that wait would hold memory beside one that takes all."""
        if not self.running:
            self.beside = self.beside or (self.most > 1 and self._worth(step))
        if cores_of(step) is not None and self.beside:
            self._send(step)
            return
        if cores_of(step) is None:
            self._rest()
        self.here.start(step, done)

    def wait(self) -> Iterable[tuple[Step, Done | Failed | Lost, bool]]:
        """Steps that have ended; none after a second without one."""
        if self.here.ended is not None:
            return self.here.wait()
        if self.lost and not self.running:
            self._send(self.lost.pop(0), again=True)
        try:
            worker, said = self.heard.get(timeout=TOLD_S)
        except queue.Empty:
            return []
        if said is not None and "share" in said:
            self.running[worker].shown.report(said["share"], said["text"])
            return []
        task = self.running.pop(worker, None)
        if said is None:
            return self._gone(worker, task)
        assert task is not None
        self.idle.append(worker)
        if said.get("error") == MemoryError.__name__ and not task.again:
            self._again(task, "had too little memory")
            return []
        return [self._result(task, said)]

    def close(self) -> None:
        """End all processes, and remove what they leave half made."""
        for worker in (*self.running, *self.idle):
            worker.kill()
        for task in self.running.values():
            task.shown.end(KeyboardInterrupt())
        if self.running:
            self.store.clean()
        if "_scratch" in vars(self):
            self._scratch.cleanup()

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="paredown-")  # removed in close()

    def _asked(self, step: Step) -> Path:
        """The file that a process plans a step from."""
        number = self.order[step.name][0]
        path = Path(self._scratch.name) / f"{number}.pickle"
        if not path.exists():
            path.write_bytes(pickle.dumps(Asked.of(self.plans[number])))
        return path

    def _stretch(self, step: Step) -> tuple[int, int]:
        """The plan, and the measuring steps of it that come before; a step waits for those of earlier stretches."""
        return self.order[step.name][:2]

    def _worth(self, first: Step) -> bool:
        """Whether so many steps are ready beside the first one, and not in the store, that processes are worth their
        start."""
        together = (s for s in self.ready if self._stretch(s) == self._stretch(first) and cores_of(s) is not None)
        missing = (1 for s in together if not self.store.has(s.name, s.key))
        return sum(1 for _ in zip(range(FEWEST_STEPS), missing, strict=False)) == FEWEST_STEPS

    def _fit(self) -> int:
        """Processes that the free memory has space for, beside what the idle ones hold already."""
        held = sum(worker.memory() for worker in self.idle)
        return max(1, min(self.limit, (free_memory() + held) // self.memory))

    def _rest(self) -> None:
        while self.idle:
            self.idle.pop().kill()

    def _send(self, step: Step, *, again: bool = False) -> None:
        if again or any(worker.process.poll() is not None for worker in self.idle):
            self._rest()
        worker = self.idle.pop() if self.idle else _Worker(self.store, self.heard)
        shown = Elsewhere(self.reporter, step.name, step.title)
        self.running[worker] = _Running(step, shown, again)
        worker.send(self._asked(step), step)

    def _again(self, task: _Running, what: str) -> None:
        task.shown.end(MemoryError())
        tell([f"{task.step.name}: its process {what}; it is done again, with nothing beside it"])
        self.reporter.done -= 1
        self.lost.append(task.step)
        self.limit = max(1, self.limit // 2)

    def _gone(self, worker: _Worker, task: _Running | None) -> list[tuple[Step, Done | Failed | Lost, bool]]:
        """After the end of a process: its step is done again, or has failed."""
        if task is None:  # it had nothing to do
            return []
        how = worker.kill()  # and what it has started
        self.store.clean()
        if not task.again:
            self._again(task, f"ended with {how}")
            return []
        reason = f"its process ended with {how} twice, with nothing beside it the second time; is there enough memory?"
        task.shown.fail(reason)
        return [(task.step, self.store.fail(task.step.name, task.step.key, task.step.inputs, reason), True)]

    def _result(self, task: _Running, said: dict[str, Any]) -> tuple[Step, Done | Failed | Lost, bool]:
        step = task.step
        error = _error(said)
        if error is None:
            found = self.store.find(step.name, step.key) or self.store.failure(step.name, step.key)
            if isinstance(found, Done):
                task.shown.end()
                return step, found, said["new"]
            if isinstance(found, Failed):
                task.shown.fail(found.reason)
                return step, found, said["new"]
            error = StepError(f"step {step.name}: its result is not in {self.store.root}")
        task.shown.end(error)
        if isinstance(error, InputError):
            return step, Lost(str(error), error), True
        raise error


def _order(steps: Sequence[Step]) -> dict[str, tuple[int, int, int]]:
    """The order in which ready steps are started, by name: the measuring steps that come before in the plan (a step
    behind one waits for it); what stands on no training, trainings, what stands on them; the place in the plan."""
    ledger, order, stretch = Ledger(), dict[str, tuple[int, int, int]](), 0
    trainings: set[str] = set()
    for place, step in enumerate(steps):
        ledger.place(step)
        stretch += step.takes_what_is_there
        if trains(step):
            trainings.add(step.name)
        kind = 1 if trains(step) else 2 if trainings & ledger.behind(step.name) else 0
        order[step.name] = (stretch, kind if not stretch else 0, place)
    return order


def _error(said: Mapping[str, Any]) -> Exception | None:
    """What has ended a step in its process, to be raised here."""
    if "error" not in said:
        return None
    if "errno" in said:
        known = said["errno"] is not None
        return OSError(said["errno"], said["message"], said["filename"]) if known else OSError(said["message"])
    return ERRORS.get(said["error"], RuntimeError)(said["message"])


class _Worker:
    """A process that does steps, seen from the one that sends them. What it says is put into `heard`, None at its
    end."""

    def __init__(self, store: Store, heard: queue.SimpleQueue) -> None:
        where = [str(store.root), store.host, None if store.shared is None else store.shared.url]
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in kill()
        self.process = subprocess.Popen(
            # -P: import nothing from the working directory
            [sys.executable, "-P", "-m", __name__, json.dumps(where)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,  # Ctrl+C reaches this process alone, which ends it
        )
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def send(self, asked: Path, step: Step) -> None:
        """Have it do a step; `asked`: the file that it plans from."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # whoever listens hears that it has ended
            self.process.stdin.write(json.dumps([str(asked), step.name, step.key]).encode() + b"\n")
            self.process.stdin.flush()

    def memory(self) -> int:
        """Bytes that it holds."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).memory_info().rss
        return 0

    def kill(self) -> str:
        """End it, and the processes that it has started; how its end came, and what was said last."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        how = signal.Signals(-code).name if -code in signal.valid_signals() else f"exit code {code}"
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.stderr.seek(0)
        tail = " | ".join(self.stderr.read().strip().splitlines()[-TAIL:])
        self.stderr.close()
        return f"{how} ({tail[-300:]})" if tail else how

    def _listen(self, heard: queue.SimpleQueue) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers, suppress(ValueError):  # half a line, where it was killed
            for line in answers:
                heard.put((self, json.loads(line)))
        heard.put((self, None))


def main() -> None:
    """Do steps until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to stderr
    with suppress(OSError):  # where memory is short, the kernel is to end this process and not the one that waits
        Path("/proc/self/oom_score_adj").write_text("800")

    def say(message: dict) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    root, host, shared = json.loads(sys.argv[1])
    store = Store(Path(root), host=host, shared=None if shared is None else open_store(shared))
    for asked, name, key in _asked_for():
        try:
            say({"new": _do(_read(asked), store, name, key, say)})
        except OSError as error:
            message = error.strerror or str(error)
            say({"error": "OSError", "errno": error.errno, "message": message, "filename": error.filename})
        except tuple(ERRORS.values()) as error:
            kind = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
            say({"error": kind, "message": str(error)})
        except Exception:
            say({"error": "RuntimeError", "message": traceback.format_exc()})


def _asked_for() -> Iterator[tuple[str, str, str]]:
    """Files to plan from, names and keys of steps from stdin; a thread reads it, and ends this process when it is
    closed."""
    names: queue.SimpleQueue[tuple[str, str, str]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            names.put(tuple(json.loads(line)))
        with suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)  # what this one has started too
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield names.get()


@lru_cache(maxsize=1)
def _read(path: str) -> Asked:
    return pickle.loads(Path(path).read_bytes())


def _do(asked: Asked, store: Store, name: str, key: str, say: Any) -> bool:
    job, steps, step = asked.step(name, store)
    told = Forwarded(lambda _, share, text: say({"share": share, "text": text}))
    return do_planned(job, steps, step, store, told, key)[1]


if __name__ == "__main__":
    main()
