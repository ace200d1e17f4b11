"""State that workers share: small JSON files in a private directory, replaced whole.

Nothing waits for a lock that a killed worker holds: it ends with its process.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

WANTED = "wanted.json"


class Shared:
    """The directory, seen by one worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid = os.getpid()

    def tell(self, kind: str, content: Any) -> None:
        """Let the others read `content`, as this worker's word on `kind`."""
        _write(self.directory / f"{kind}-{self.pid}.json", content)

    def told(self, kind: str) -> dict[int, Any]:
        """The last word of every living worker on `kind`, by process id."""
        found = {}
        for path in self.directory.glob(f"{kind}-*.json"):
            try:
                found[int(path.stem.rpartition("-")[2])] = json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                continue
        return found

    def want(self, model: str, action: str) -> int:
        """Write down that every worker shall `load` or `unload` a model; returns the number of the order."""
        with FileLock(self.directory / "lock"):
            orders = self.wanted()
            number = 1 + max((order["number"] for order in orders.values()), default=0)
            orders[model] = {"number": number, "action": action}
            _write(self.directory / WANTED, orders)
        return number

    def wanted(self) -> dict[str, dict]:
        """The last order for each model: {model: {number, action}}."""
        try:
            return json.loads((self.directory / WANTED).read_bytes())
        except FileNotFoundError:
            return {}


def forget(directory: Path, pid: int) -> None:
    """Remove the words of a worker that is dead."""
    for path in directory.glob(f"*-{pid}.json"):
        path.unlink(missing_ok=True)


def leave(directory: Path) -> None:
    """Take back this worker's words; the last one takes the directory along."""
    forget(directory, os.getpid())
    if not any(directory.glob("worker-*.json")):
        shutil.rmtree(directory, ignore_errors=True)


def _write(path: Path, content: Any) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content))
    scratch.replace(path)
