"""Progress of a run: bars on a terminal, JSON lines otherwise, both on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[float, str], None]
QUIET_SECONDS = 5.0  # between two JSON lines of one step


def tell(notes: Sequence[str]) -> None:
    """Notes on stderr, one a line: what was done with the data without being asked."""
    console = Console(stderr=True, markup=False)
    for note in notes:
        if console.is_terminal:
            console.print(f"note: {note}", highlight=False, soft_wrap=True)
        else:
            print(json.dumps({"event": "note", "text": note}), file=sys.stderr, flush=True)


class Reporter:
    """One line per step, and how far the running one is."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.console = Console(stderr=True)
        self.fancy = self.console.is_terminal

    def cached(self, name: str) -> None:
        """A step that was found in the store."""
        self.done += 1
        self._line({"event": "cached", "step": name}, f"[dim]{self._count()} {name}: already there")

    def failed(self, name: str, reason: str, *, again: bool = False) -> None:
        """A step that gave no result to be trusted; `again`: one that failed in an earlier run and is not repeated."""
        self.done += again
        self._line({"event": "failed", "step": name, "reason": reason}, f"[red]{self._count()} {name}: failed[/]")

    def skipped(self, name: str, reason: str) -> None:
        """A step that stands on one that failed."""
        self.done += 1
        self._line({"event": "skipped", "step": name, "reason": reason}, f"[dim]{self._count()} {name}: skipped")

    @contextmanager
    def step(self, name: str) -> Iterator[Report]:
        """Announce a step, pass on its progress, and say how long it took."""
        self.done += 1
        began = time.monotonic()
        if self.fancy:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            times = (TimeElapsedColumn(), TimeRemainingColumn())
            with Progress(*columns, *times, console=self.console, transient=True) as bar:
                task = bar.add_task(f"{self._count()} {name}", total=1.0, text="")
                yield lambda share, text: bar.update(task, completed=share, text=text)
        else:
            self._line({"event": "start", "step": name}, "")
            last = began

            def report(share: float, text: str) -> None:
                nonlocal last
                if time.monotonic() - last >= QUIET_SECONDS:
                    last = time.monotonic()
                    self._line({"event": "progress", "step": name, "share": round(share, 3), "text": text}, "")

            yield report
        seconds = time.monotonic() - began
        self._line(
            {"event": "done", "step": name, "seconds": round(seconds, 1)}, f"{self._count()} {name}: {seconds:.1f} s"
        )

    def _count(self) -> str:
        return f"{self.done}/{self.total}"

    def _line(self, event: dict, text: str) -> None:
        if self.fancy:
            self.console.print(text, highlight=False)
        else:
            print(json.dumps({**event, "of": f"{self.done}/{self.total}"}), file=sys.stderr, flush=True)
