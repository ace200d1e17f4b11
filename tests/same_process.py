"""Latency measured in this process: a fresh one for every artefact imports a runtime for seconds each time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from paredown.benchmarks.measuring.worker import Worker, replies


class SameProcess(Worker):
    """Answers as a process of its own would. Put in the place of `interleaved.Worker` where the times do not matter."""

    def __init__(
        self, name: str, artifact: Path, rows: Path, threads: int | None, parallel: tuple[int, int] = (1, 1)
    ) -> None:
        self.name = name
        self.commands: deque[dict] = deque()
        self.replies = replies(self._received())
        self.process = SimpleNamespace(kill=lambda: None)  # type: ignore[assignment]
        self.send({"artifact": str(artifact), "rows": str(rows), "threads": threads or 1, "began": time.time()})

    def _received(self) -> Iterator[dict]:
        while True:
            yield self.commands.popleft()

    def send(self, message: dict) -> None:
        self.commands.append(message)

    def receive(self, seconds: float = 0.0) -> dict:
        return next(self.replies)

    def stop(self) -> None:
        self.replies.close()  # type: ignore[attr-defined]
