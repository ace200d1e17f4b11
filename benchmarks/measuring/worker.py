"""The measuring worker: one artefact in a fresh process, timed on request.

Runtimes in one process fight over the cores with their spinning threads: OpenVINO measured 2.5x slower beside ONNX
Runtime and PyTorch than alone. Speaks JSON lines: commands on stdin, answers on the pipe that was stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from paredown.export.artifact import read_artifact
from paredown.export.hardware import cores
from paredown.export.opening import open_artifact
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import StepError
from paredown.runtime.session import CannotRunHere

from .system_monitor import Gpu, Joules

DEADLINE_S = 900.0  # for one answer, beside the seconds that it is asked to measure; an engine may be built when opened


class WorkerDied(StepError):
    """The process of an artefact ended, or did not answer; `reason` is without the artefact's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class Worker:
    """The process that has an artefact open, seen from the one that measures. WorkerDied when it ends or hangs."""

    def __init__(self, name: str, artifact: Path, rows: Path, threads: int | None) -> None:
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
        self.send({"artifact": str(artifact), "rows": str(rows), "threads": count, "began": began})

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
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
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
    for answer in replies(json.loads(line) for line in iter(sys.stdin.readline, "")):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def replies(commands: Iterator[dict]) -> Iterator[dict]:
    """An answer for each command: the first one opens an artefact, each further one times a burst."""
    first = next(commands)
    began = time.perf_counter()
    artifact = read_artifact(Path(first["artifact"]))
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
    for burst in commands:
        batches = [encoder.pad([rows[i] for i in batch]) for batch in burst["batches"]]
        answer: dict = {"ms": timed(session, batches, burst["seconds"], joules), "memory_mb": peak_memory_mb()}
        on_gpu = gpu.memory_mb() if gpu else None
        if on_gpu is not None:
            answer["gpu_memory_mb"] = on_gpu
        spent = joules.taken()
        if spent is not None:
            answer["joules"] = spent / len(answer["ms"])
        yield answer


def _read(path: Path) -> list:
    """Rows as `latency` wrote them; pixels stay on the disk until they are asked for."""
    if path.suffix != ".npy":
        return json.loads(path.read_text())
    pixels = np.load(path, mmap_mode="r")
    return [pixels[i : i + 1] for i in range(len(pixels))]


def timed(session, batches: list[dict[str, np.ndarray]], seconds: float, joules: Joules | None = None) -> list[float]:
    """Milliseconds of every call: one untimed pass, then whole passes over `batches` until `seconds` are over.

    The untimed pass matters: OpenVINO prepares its kernels anew for every length that it has not seen. `joules` is
    read when it is over.
    """
    for batch in batches:
        session(batch)
    if joules is not None:
        joules.taken()
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while True:
        for batch in batches:
            start = time.perf_counter()
            session(batch)
            samples.append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() >= stop:
            return samples


def peak_memory_mb() -> float:
    """Peak resident memory of this process, MB (1e6 bytes). Not ru_maxrss, which a child takes over from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


if __name__ == "__main__":
    main()
