"""The measuring worker: one artefact in a fresh process, timed on request.

Runtimes in one process fight over the cores with their spinning threads: OpenVINO measured 2.5x slower beside ONNX
Runtime and PyTorch than alone. Speaks JSON lines: commands on stdin, answers on the pipe that was stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np

from paredown.export.artifact import Artifact, read_artifact
from paredown.export.hardware import cores
from paredown.export.opening import open_artifact
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import StepError
from paredown.runtime.preprocessor import Preprocessor
from paredown.runtime.session import CannotRunHere, Session

from .system_monitor import Gpu, Joules

Passes = Sequence[Sequence[Sequence[int]]]  # numbers of the rows of each call, in passes
WARM_S = 0.05  # of untimed calls before those that are timed
DEADLINE_S = 900.0  # for one answer, beside the seconds that it is asked to measure; an engine may be built when opened


class WorkerDied(StepError):
    """The process of an artefact ended, or did not answer; `reason` is without the artefact's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class Worker:
    """The process that has an artefact open, seen from the one that measures. WorkerDied when it ends or hangs.

    `parallel`: how many instances beside itself it can time at once, and the threads of each."""

    def __init__(
        self, name: str, artifact: Path, rows: Path, threads: int | None, parallel: tuple[int, int] = (0, 1)
    ) -> None:
        self.name = name
        count = threads or cores()
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in stop()
        began = time.time()
        self.process = subprocess.Popen(
            # -P: import nothing from the working directory
            [sys.executable, "-P", "-m", "paredown.benchmarks.measuring.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(count), "PYTHONWARNINGS": "ignore"},
        )
        self.send(
            {"artifact": str(artifact), "rows": str(rows), "threads": count, "parallel": parallel, "began": began}
        )

    def send(self, message: dict) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # whoever receives hears that it has ended
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def receive(self, seconds: float = 0.0) -> dict:
        """Its answer; a process that has not given it DEADLINE_S seconds after `seconds` is killed."""
        assert self.process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.process.kill()

        watch = threading.Timer(seconds + DEADLINE_S, kill)
        watch.daemon = True
        watch.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watch.cancel()
        if not line.endswith("\n"):
            self._died(late=late.is_set())
        return json.loads(line)

    def ask(self, message: dict) -> dict:
        """Time one burst."""
        self.send(message)
        return self.receive(message["seconds"])

    def stop(self) -> None:
        """End the process. It has nothing to save, and one with PyTorch takes most of a second to end by itself."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what it has not read
            self.process.stdin.close()
        self.process.stdout.close()
        self.stderr.close()

    def _died(self, *, late: bool = False) -> NoReturn:
        code = self.process.wait()
        self.stderr.seek(0)
        tail = " | ".join(self.stderr.read().strip().splitlines()[-3:]) or "no output"
        what = f"did not answer for {DEADLINE_S:g} s" if late else f"ended with {code}"
        raise WorkerDied(self.name, f"its process {what} while it was measured: {tail}")


def main() -> None:
    """Open the artefact named in the first command, then time bursts until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints goes to stderr
    commands = (json.loads(line) for line in iter(sys.stdin.readline, ""))
    first = next(commands)
    instances = Instances(first)
    first["began"] += instances.fork_s  # no part of a cold start
    for answer in replies(itertools.chain([first], commands), instances):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def replies(commands: Iterator[dict], instances: Instances | None = None) -> Iterator[dict]:
    """An answer for each command: the first one opens an artefact, each further one times a burst, in `instances`
    where it asks for some: without a sample where there are none."""
    first = next(commands)
    artifact = read_artifact(Path(first["artifact"]))
    _imported(artifact)
    began = time.perf_counter()
    try:
        session = open_artifact(artifact, first["threads"])
    except CannotRunHere as reason:
        yield {"cannot_run": str(reason)}
        return
    rows = _read(Path(first["rows"]))
    encoder = artifact.encoder()
    opened = time.perf_counter()
    session(encoder.pad(rows[:1]))
    yield {
        "load_s": opened - began,
        "first_call_ms": (time.perf_counter() - opened) * 1e3,
        "cold_start_s": time.time() - first["began"],
    }
    # One that idles beside a CPU's model is not charged to it.
    gpu = Gpu() if RUNTIMES[artifact.runtime].SPEC.gpu else None
    joules = Joules(gpu=gpu)
    watch = Stopwatch(session, encoder, rows, joules)
    for burst in commands:
        if count := burst.get("instances", 0):
            ms, spent = instances.timed(burst["passes"], burst["seconds"], count) if instances else ([], None)
        else:
            watch.prepare(burst["passes"])
            ms, spent = watch.timed(burst["passes"], burst["seconds"])
        answer: dict = {"ms": ms, "memory_mb": peak_memory_mb()}
        on_gpu = gpu.memory_mb() if gpu else None
        if on_gpu is not None:
            answer["gpu_memory_mb"] = on_gpu
        if spent is not None and ms:
            answer["joules"] = spent / len(ms)
        yield answer


class Instances:
    """Processes that have the same artefact open, each with its share of the cores: one that is timed alone, and
    several that are timed at once. Forked before this one opens a session, as threads do not survive that; they open
    theirs when they are first asked. None of a runtime on a GPU, nor where a system cannot fork."""

    def __init__(self, first: dict) -> None:
        count, threads = first["parallel"]
        artifact = read_artifact(Path(first["artifact"]))
        self.pipes: dict[int, list[Connection]] = {}  # how many run at once -> theirs
        self.fork_s = 0.0
        if count < 1 or RUNTIMES[artifact.runtime].SPEC.gpu or "fork" not in multiprocessing.get_all_start_methods():
            return
        _imported(artifact)  # once for all
        began = time.perf_counter()
        context = multiprocessing.get_context("fork")
        every: list[Connection] = []
        for size in sorted({1, count}):
            if size == 1 and artifact.generation is not None:  # of one that writes, a row is no call
                continue
            for _ in range(size):
                ours, theirs = context.Pipe()
                every.append(ours)
                context.Process(target=_instance, args=(first, threads, theirs, tuple(every)), daemon=True).start()
                theirs.close()
            self.pipes[size] = every[-size:]
        self.fork_s = time.perf_counter() - began

    def timed(self, passes: Passes, seconds: float, count: int) -> tuple[list[float], float | None]:
        """Milliseconds of every call of `count` instances, while all of them run; of a single one also the joules of
        all, where they can be read. No sample once one of them has ended, for want of memory for example."""
        asked = self.pipes.get(count)
        if asked is None:
            return [], None
        try:
            for pipe in asked:
                pipe.send((passes, seconds))
            for pipe in asked:  # all are open, and have made their untimed pass
                pipe.recv()
            for pipe in asked:
                pipe.send(None)
            found = [pipe.recv() for pipe in asked]
        except (EOFError, OSError):
            for pipe in asked:
                pipe.close()
            del self.pipes[count]
            return [], None
        return [ms for samples, _ in found for ms in samples], found[0][1] if len(found) == 1 else None


def _instance(first: dict, threads: int, pipe: Connection, others: Sequence[Connection]) -> None:
    """One of several instances: times bursts until the process that forked it ends."""
    for other in others:  # held here as well, they would not end with that process
        other.close()
    watch = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            passes, seconds = pipe.recv()
            if watch is None:
                artifact = read_artifact(Path(first["artifact"]))
                session = open_artifact(artifact, threads)
                watch = Stopwatch(session, artifact.encoder(), _read(Path(first["rows"])), Joules(gpu=None))
            watch.prepare(passes)
            pipe.send(None)
            pipe.recv()
            pipe.send(watch.timed(passes, seconds))


def _imported(artifact: Artifact) -> None:
    """Import what opening the artefact needs, which takes longer than opening it. What is missing is said there."""
    spec = RUNTIMES[artifact.runtime].SPEC
    with contextlib.suppress(ImportError):
        for name in (spec.module, *spec.imports):
            importlib.import_module(name)


def _read(path: Path) -> list:
    """Rows as `latency` wrote them; pixels stay on the disk until they are asked for."""
    if path.suffix != ".npy":
        return json.loads(path.read_text())
    pixels = np.load(path, mmap_mode="r")
    return [pixels[i : i + 1] for i in range(len(pixels))]


class Stopwatch:
    """Times calls of an open session on rows by their numbers, a pass of several calls after another.

    Calls of a shape that was not seen before are made untimed first: OpenVINO prepares its kernels anew for each.
    """

    def __init__(self, session: Session, encoder: Preprocessor, rows: list, joules: Joules | None = None) -> None:
        self.session, self.encoder, self.rows, self.joules = session, encoder, rows, joules
        self.seen: set[tuple[int, ...]] = set()

    def prepare(self, passes: Passes) -> None:
        """Untimed calls of the first pass: of new shapes, and until the caches are its own again."""
        began = time.perf_counter()
        for batch in self._batches(passes[0]):
            if time.perf_counter() - began > WARM_S:
                return
            self.session(batch)

    def timed(self, passes: Passes, seconds: float) -> tuple[list[float], float | None]:
        """Milliseconds of every call, and the joules of all where they can be read: whole passes, from the first one
        on, until calls have taken `seconds`."""
        samples: list[float] = []
        total = None
        for one in itertools.cycle(passes):
            batches = self._batches(one)
            if self.joules is not None:
                self.joules.taken()
            for batch in batches:
                start = time.perf_counter()
                self.session(batch)
                samples.append((time.perf_counter() - start) * 1e3)
            spent = self.joules.taken() if self.joules is not None else None
            total = total if spent is None else spent + (total or 0.0)
            if sum(samples) >= 1e3 * seconds:
                break
        return samples, total

    def _batches(self, numbers: Sequence[Sequence[int]]) -> list[dict[str, np.ndarray]]:
        batches = [self.encoder.pad([self.rows[i] for i in batch]) for batch in numbers]
        for batch in batches:
            shape = next(iter(batch.values())).shape
            if shape not in self.seen:
                self.seen.add(shape)
                self.session(batch)
        return batches


def peak_memory_mb() -> float:
    """Peak resident memory of this process, MB (1e6 bytes). Not ru_maxrss, which a child takes over from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


if __name__ == "__main__":
    main()
