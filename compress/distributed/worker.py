"""One of the processes that processes.py starts."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
import traceback
from pathlib import Path

from .group import joined, leads
from .processes import PROGRESS, RESULT, STORE, WORK, Ended


def main() -> None:
    """Do the work of the directory that is named, as process $RANK of $WORLD_SIZE."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    scratch, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        function, arguments, most_rows = pickle.loads((scratch / WORK).read_bytes())
        with joined(scratch / STORE, rank, int(os.environ["WORLD_SIZE"]), most_rows):
            result = function(**arguments, report=_Told(scratch))
        if rank == 0:
            (scratch / RESULT).write_bytes(pickle.dumps(result))
    except Exception as error:
        ended = Ended(time.monotonic(), _sendable(error), traceback.format_exc())
        _replace(scratch / f"error-{rank}", pickle.dumps(ended))
        os._exit(1)  # at once: the others may be waiting for this one


class _Told:
    """Progress of the first process, for the one that waits."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / PROGRESS

    def __call__(self, share: float, text: str) -> None:
        if leads():
            _replace(self.path, json.dumps([share, text]).encode())


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.replace(path)


def _sendable(error: Exception) -> Exception:
    """The error, or its text where pickle cannot carry it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """The process that started this one holds the other end of its stdin."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
