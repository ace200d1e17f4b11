"""State that workers share: small JSON files in a private directory, replaced atomically.

Nothing waits for a lock that a killed worker holds: it ends with its process.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

COMMANDS = "commands.json"


class WorkerState:
    """The directory, seen by one worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid = os.getpid()

    def publish(self, kind: str, content: Any) -> None:
        """Let the others read `content`, this worker's state of `kind`."""
        _write(self.directory / f"{kind}-{self.pid}.json", content)

    def published(self, kind: str) -> dict[int, Any]:
        """The last state of `kind` of every living worker, by process id."""
        found = {}
        for path in self.directory.glob(f"{kind}-*.json"):
            try:
                found[int(path.stem.rpartition("-")[2])] = json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                continue
        return found

    def command(self, model: str, action: str) -> int:
        """Tell every worker to "load" or "unload" a model; returns the number of the command."""
        with FileLock(self.directory / "lock"):
            commands = self.commands()
            number = 1 + max((command["number"] for command in commands.values()), default=0)
            commands[model] = {"number": number, "action": action}
            _write(self.directory / COMMANDS, commands)
        return number

    def commands(self) -> dict[str, dict]:
        """The last command for each model: {model: {number, action}}."""
        try:
            return json.loads((self.directory / COMMANDS).read_bytes())
        except FileNotFoundError:
            return {}


def remove_worker(directory: Path, pid: int) -> None:
    """Remove the state of a worker that is dead."""
    for path in directory.glob(f"*-{pid}.json"):
        path.unlink(missing_ok=True)


def remove_own(directory: Path) -> None:
    """Remove this worker's state; the last worker removes the directory."""
    remove_worker(directory, os.getpid())
    if not any(directory.glob("worker-*.json")):
        shutil.rmtree(directory, ignore_errors=True)


def _write(path: Path, content: Any) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content))
    scratch.replace(path)
