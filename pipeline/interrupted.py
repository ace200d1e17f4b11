"""Ctrl+C: one line and exit code 130, at whatever moment it comes. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
# What the same command does when it is given again; any other starts from the beginning.
RESUMED = {
    "compress": "finished steps and trials are kept in the run directory, and the same command continues after them",
    "run": "finished steps are kept in the run directory, and the same command continues after them",
    "tune": "finished trials are kept beside the output directory, and the same command continues after them",
    "serve": "requests that were under way have been answered",
}


def stopped() -> str:
    """The one line."""
    words = [word for before, word in zip(sys.argv, sys.argv[1:], strict=False) if before != "--progress"]
    name = next((word for word in words if not word.startswith("-")), "")
    return f"stopped by Ctrl+C; {RESUMED.get(name, 'nothing is kept, and the same command starts from the beginning')}"


def stop_at_once(*_: object) -> None:
    """End this process now. Nothing is lost by it: every file appears under its name when it is whole."""
    os.write(2, f"{stopped()}\n".encode())
    os._exit(INTERRUPTED)
