"""Starts the processes that share a training or a scoring, and ends them: each has a GPU, or a share of the cores.

Data parallel: every process runs the same function; group.py and the Trainer (accelerate, DDP) part the work. When one
of them ends early, so do the others.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from paredown.runtime.errors import InputError

from ..types import Progress
from .errors import ProcessLost, TooManyRows

WORK, RESULT, STORE, PROGRESS = "work.pickle", "result.pickle", "store", "progress.json"
POLL_S = 0.1  # between two polls of the processes
GRACE_S = 5.0  # after one has ended early, for the others to say why


@dataclass(frozen=True)
class Processes:
    """How many there are, and the threads of each."""

    count: int
    threads: int


@dataclass(frozen=True)
class Ended:
    """What a process left that failed: when, the error, and where it came from."""

    at: float
    error: BaseException
    traceback: str


def spread(function: Callable[..., Any], arguments: Mapping[str, Any], processes: Processes, report: Progress) -> Any:
    """`function(**arguments, report=...)` in all processes; what it returns in the first one, whose progress is told.

    The function is of a module, and can be pickled like its arguments and its result. What it raises in any of them is
    raised; ProcessLost where one was killed, InputError where there are GPUs, but not one for each. Where the memory
    of one did not suffice all of them start again, with half the rows at a time.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < processes.count:
        raise InputError(
            f"training_processes: {processes.count} need as many GPUs; this machine has {gpus}: give {gpus} or fewer"
        )
    most_rows = None
    while True:
        try:
            return _tried((function, dict(arguments), most_rows), processes, report)
        except TooManyRows as error:
            most_rows = error.rows // 2
            report(0.0, f"out of memory: again with {most_rows} rows at a time")


def _tried(work: tuple, processes: Processes, report: Progress) -> Any:
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        scratch = Path(folder)
        (scratch / WORK).write_bytes(pickle.dumps(work))
        running: list[subprocess.Popen] = []
        try:
            for rank in range(processes.count):
                running.append(_started(scratch, rank, processes))
            codes = _watched(running, scratch, report)
        finally:
            for process in running:
                process.kill()
                process.communicate()
        if any(codes):
            _raise(codes, scratch)
        return pickle.loads((scratch / RESULT).read_bytes())


def _started(scratch: Path, rank: int, processes: Processes) -> subprocess.Popen:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes.count, "LOCAL_WORLD_SIZE": processes.count}
    environment = {**places, "OMP_NUM_THREADS": processes.threads, "PYTHONWARNINGS": "ignore"}
    with (scratch / f"stderr-{rank}").open("wb") as said:
        return subprocess.Popen(
            # -P: import nothing from the working directory
            [sys.executable, "-P", "-m", "paredown.compress.distributed.worker", str(scratch)],
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=said,
            stderr=said,
            env=os.environ | {name: str(value) for name, value in environment.items()},
        )


def _watched(running: Sequence[subprocess.Popen], scratch: Path, report: Progress) -> list[int]:
    """The exit codes, when all have ended or one has failed; None counts as 0."""
    told = None

    def tell() -> None:
        nonlocal told
        if (scratch / PROGRESS).exists() and (said := (scratch / PROGRESS).read_text()) != told:
            told = said
            report(*json.loads(said))

    while any(process.poll() is None for process in running):
        if any(process.returncode for process in running):
            end = time.monotonic() + GRACE_S
            while any(process.poll() is None for process in running) and time.monotonic() < end:
                time.sleep(POLL_S)
            break
        time.sleep(POLL_S)
        tell()
    tell()
    return [process.returncode or 0 for process in running]


def _raise(codes: Sequence[int], scratch: Path) -> NoReturn:
    """What the first process that failed said; the others lost it."""
    of = len(codes)
    left = [pickle.loads(path.read_bytes()) for path in scratch.glob("error-*")]
    for rank, code in enumerate(codes):
        if code < 0 and not (left and -code == signal.SIGABRT):  # NCCL's, in one that waits for one that has failed
            name = signal.Signals(-code).name
            memory = ", which the system sends when memory runs out" if -code == signal.SIGKILL else ""
            raise ProcessLost(f"process {rank + 1} of {of} was ended by {name}{memory}; run the same command again")
    if not left:
        rank = next(rank for rank, code in enumerate(codes) if code)
        tail = (scratch / f"stderr-{rank}").read_text(errors="replace").strip().splitlines()[-3:]
        raise ProcessLost(f"process {rank + 1} of {of} ended with {codes[rank]}: {' | '.join(tail) or 'no output'}")
    first: Ended = min(left, key=lambda ended: ended.at)
    raise first.error from RuntimeError(first.traceback)
