"""Supervises several worker processes on one socket: starts, watches, restarts and stops them.

`python -m paredown.serve.supervisor` is one of them: settings as JSON on standard input, the socket inherited.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError

from .config import Settings
from .models.worker_state import remove_own, remove_worker
from .monitoring.logs import start_logging
from .server import CLOSE_S, INTERRUPTED, address, listen, run

log = logging.getLogger("paredown")
BACKOFF_S = (0.1, 0.5, 2.0, 5.0)  # before the first, second, ... start after deaths in a row
WELL_S = 30  # seconds alive after which a death is the first again
POLL_S = 0.1
KILL_S = 3  # beyond what a worker gives itself to drain


@dataclass(eq=False)
class Worker:
    """A worker slot, and the process that runs in it now."""

    process: subprocess.Popen
    begin: float
    deaths: int = 0
    restart_at: float | None = None  # when to start the next process


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, in this process or in workers that it supervises; the exit code."""
    listener = listen(settings)
    if settings.workers == 1:
        return run(settings, listener)
    start_logging()
    with tempfile.TemporaryDirectory(prefix="paredown-serve-") as directory:
        return _supervise(settings, listener, Path(directory))


def _start(settings: Settings, listener: socket.socket, directory: Path) -> subprocess.Popen:
    metrics = directory / "metrics"
    metrics.mkdir(exist_ok=True)
    threads = str(settings.threads_each)
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "RAYON_NUM_THREADS": threads,  # the tokenizer's
        "OMP_NUM_THREADS": threads,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "paredown.serve.supervisor", str(listener.fileno()), str(directory)],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env=environment,
        start_new_session=True,  # Ctrl+C reaches the supervisor alone, which tells them
    )
    assert process.stdin is not None
    process.stdin.write(settings.model_dump_json().encode())
    process.stdin.close()
    return process


def _supervise(settings: Settings, listener: socket.socket, directory: Path) -> int:
    from prometheus_client import multiprocess

    stopping, interrupted = False, 0

    def stop(sign: int, *_: object) -> None:
        nonlocal stopping, interrupted
        stopping, interrupted = True, INTERRUPTED if sign == signal.SIGINT else interrupted

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    workers = [Worker(_start(settings, listener, directory), time.monotonic()) for _ in range(settings.workers)]
    log.info("serving", extra={"fields": {"url": address(settings, listener), **settings.configuration}})
    served = False  # whether a worker ever was ready: before that, one that cannot start ends it all
    code = 0
    while not stopping:
        time.sleep(POLL_S)
        served = served or any(directory.glob("worker-*.json"))
        now = time.monotonic()
        for worker in workers:
            if worker.restart_at is None and worker.process.poll() is not None:
                pid, status = worker.process.pid, worker.process.returncode
                if not served:
                    stopping, code = True, max(1, status)
                    continue
                remove_worker(directory, pid)
                multiprocess.mark_process_dead(pid, str(directory / "metrics"))
                worker.deaths = 1 if now - worker.begin > WELL_S else worker.deaths + 1
                worker.restart_at = now + BACKOFF_S[min(worker.deaths, len(BACKOFF_S)) - 1]
                log.error("a worker died", extra={"fields": {"pid": pid, "status": status, "deaths": worker.deaths}})
            elif worker.restart_at is not None and now >= worker.restart_at:
                worker.process, worker.begin, worker.restart_at = _start(settings, listener, directory), now, None
    listener.close()  # one that stays open here would take connections that no worker is going to read
    return max(code, _stop(workers, settings)) or interrupted


def _stop(workers: list[Worker], settings: Settings) -> int:
    alive = [worker.process for worker in workers if worker.process.poll() is None]
    for process in alive:
        process.terminate()
    until, code = time.monotonic() + settings.drain_s + CLOSE_S + KILL_S, 0
    for process in alive:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("a worker did not stop", extra={"fields": {"pid": process.pid}})
            process.kill()
            process.wait()
            code = 1
    return code


def main() -> int:
    """A worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    settings = Settings.model_validate(json.load(sys.stdin))
    listener, directory, supervisor = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), os.getppid()
    try:
        run(settings, listener, directory)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if os.getppid() != supervisor:  # it is dead, and cannot clean up
            remove_own(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
