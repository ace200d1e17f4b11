"""Runs a job on an untrusted bundle in a process of its own, with a deadline and a memory limit.

A model that nobody has opened yet may never come back: a loop without an end, constants that multiply, a tokenizer
whose normaliser does. `python -m paredown.export.isolation JOB` reads its arguments as JSON on standard input.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError, StepError
from paredown.runtime.manifest import BundleError, models_of, read_manifest
from paredown.runtime.selftest import usable_cores

from .runtimes.registry import RUNTIMES, check_installed

DEADLINE_S = 120  # for opening a bundle and for its golden rows
ROWS_S = 3600  # for the user's own rows
GRACE_S = 5  # after which a child whose parent is gone ends itself
MEMORY = 4 * 10**9  # bytes that any child may take,
MEMORY_EACH = 10  # and so many times what its model files have,
MEMORY_CORE = 2**26  # and so many for the threads of each core
JOBS = {
    "cold": "bundle.cold_start:job",
    "hub": "bundle.layouts.hub_graph:job",
    "mobile": "bundle.layouts.mobile:job",
    "npu": "bundle.layouts.npu:job",
    "open": "predictor:open_job",
    "predict": "predictor:predict_job",
}
NOWHERE = Path(os.devnull).open("w")  # noqa: SIM115 - stays open
ANSWER, ROWS = 63, b"\n"  # file number in the child, and what is written there before the user's rows are begun
TOO_LATE = 1  # exit code of a process that faulthandler ends
ERRORS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (InputError, StepError, BundleError)}


class Children:
    """The processes that are open now. `stop` ends them, and no further one begins."""

    def __init__(self) -> None:
        self._alive: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.kill()

    @contextlib.contextmanager
    def started(self, command: list[str]) -> Any:
        with self._lock:
            if self._stopped:
                raise BundleError("not opened: the program is stopping")
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._alive.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._alive.discard(process)
            process.kill()
            process.communicate()


def in_child(
    job: str,
    bundle: Path,
    seconds: float = DEADLINE_S,
    rows_s: float = 0,
    children: Children | None = None,
    **given: Any,
) -> Any:
    """What a function of JOBS returns for an unpacked bundle, as JSON has it.

    Raises what it raises of InputError, StepError and BundleError; BundleError when the model is not open within
    `seconds`, the user's own rows are not done in `rows_s` more, it takes too much memory, or crashes; InputError when
    a package that it needs is not installed.
    """
    manifest, begin = read_manifest(bundle), time.monotonic()
    check_installed(manifest["requirements"])
    memory = _memory(manifest)
    told = {"bundle": str(bundle), "started": begin, "seconds": seconds, "rows_s": rows_s, "memory": memory}
    with (children or Children()).started([sys.executable, "-P", "-m", __name__, job]) as process:
        try:
            given_all = json.dumps(told | {"given": given}).encode()
            stdout, stderr = process.communicate(given_all, timeout=seconds + (rows_s and rows_s + GRACE_S))
        except subprocess.TimeoutExpired:
            raise BundleError(_late(seconds, rows_s)) from None
        took = time.monotonic() - begin
    try:
        said = json.loads(stdout)
    except ValueError:
        rows = stdout == ROWS
        if process.returncode == TOO_LATE and (rows or took >= seconds):
            raise BundleError(_late(seconds, rows_s if rows else 0)) from None
        raise BundleError(_crashed(process.returncode, stderr, memory)) from None
    if "error" in said:
        raise ERRORS[said["error"]](said["message"])
    return said["result"]


def _memory(manifest: dict) -> int | None:
    """Bytes of memory that the model may take; None where it is not known how much is needed: beside a GPU."""
    runtime = RUNTIMES.get(manifest["runtime"])
    if runtime is None or runtime.SPEC.gpu:
        return None
    files = manifest["files"]
    folders = {Path(name).parent for name in models_of(manifest)}  # with its external data
    size = sum(entry["bytes"] for name, entry in files.items() if Path(name).parent in folders)
    return MEMORY + MEMORY_EACH * size + MEMORY_CORE * usable_cores()


def _late(seconds: float, rows_s: float) -> str:
    if rows_s:
        return f"the rows are not done within {rows_s:g} s; it was stopped"
    return f"the model does not come back within {seconds:g} s; it was stopped"


def _crashed(code: int, stderr: bytes, memory: int | None) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    how = signal.Signals(-code).name if -code in signal.valid_signals() else f"exit code {code}"
    limit = f"; it may take {memory / 1e9:.0f} GB of memory" if memory is not None and code in (-6, -9, -11) else ""
    return f"it does not answer in a process of its own: {lines[-1][:300] if lines else how}{limit}"


def limit_memory(most: int | None) -> None:
    """Let this process take so many bytes of private memory; None: as many as it may. Only where the kernel counts
    them: Linux."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if most is None else most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def end_after(seconds: float) -> None:
    """End this process then, whatever holds it up: the timer is C's, and needs no turn of Python."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=NOWHERE)


def begin_rows(seconds: float) -> None:
    """The model is open, and the user's rows have so many seconds; called by a job, in the child."""
    os.write(ANSWER, ROWS)
    end_after(seconds)


def main() -> int:
    """The child."""
    told = json.loads(sys.stdin.buffer.read())
    own = told["rows_s"] == 0  # else the parent does not know when the model was open
    end_after(told["seconds"] + (GRACE_S if own else 0))
    os.dup2(1, ANSWER)  # what a runtime prints is no part of it
    os.dup2(2, 1)
    limit_memory(told["memory"])
    module, name = JOBS[sys.argv[1]].split(":")
    said: dict[str, Any]
    try:
        job = getattr(importlib.import_module(f".{module}", __package__), name)
        said = {"result": job(Path(told["bundle"]), told["started"], told["rows_s"], **told["given"])}
    except MemoryError:
        said = {"error": "BundleError", "message": "the model takes more memory than it may"}
        if told["memory"] is not None:
            said["message"] += f", {told['memory'] / 1e9:.0f} GB"
    except PermissionError as error:
        said = {"error": "InputError", "message": f"{error.filename or 'a file'}: {error.strerror}"}
    except tuple(ERRORS.values()) as error:
        kind = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
        said = {"error": kind, "message": str(error)}
    with os.fdopen(ANSWER, "w") as file:
        json.dump(said, file)
    sys.stdout.flush()
    os._exit(0)  # threads of a runtime may be stuck


if __name__ == "__main__":
    sys.exit(main())
