"""Progress of a run on stderr: bars on a terminal and in a notebook, lines of text otherwise, JSON lines in CI.

The environment variable PAREDOWN_PROGRESS (the option --progress) asks for one of them.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import Literal, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Report = Callable[[float, str], None]
Mode = Literal["auto", "plain", "json", "none"]
MODE = "PAREDOWN_PROGRESS"  # environment variable
JSON_S, PLAIN_S = 5.0, 30.0  # seconds between two lines of one step
TOLD_S = 1.0  # seconds between two messages of a step that another process does


def how(console: Console) -> Literal["bar", "plain", "json", "none"]:
    """How progress is shown here."""
    asked = os.environ.get(MODE, "auto")
    if asked in get_args(Mode) and asked != "auto":
        return asked  # pyright: ignore[reportReturnType]
    if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):  # rich draws bars with these there
        return "bar"
    return "json" if os.environ.get("CI") else "plain"


def tell(notes: Sequence[str]) -> None:
    """Notes on stderr, one a line: what was done with the data without being asked."""
    console = Console(stderr=True, markup=False)
    shown = how(console)
    for note in notes if shown != "none" else ():
        if shown == "json":
            print(json.dumps({"event": "note", "text": note}), file=sys.stderr, flush=True)
        else:
            console.print(f"note: {note}", highlight=False, soft_wrap=True)


def suggest(*command: object) -> None:
    """The command that usually comes next, on stderr; no value of it is None."""
    console = Console(stderr=True, markup=False)
    if how(console) in ("bar", "plain"):
        console.print(f"Next: {shlex.join(map(str, command))}", highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A time to wait, as people say it: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Reporter:
    """One line per step, and how far all of them are.

    `seconds`: what each step is expected to take, by name; those that are found in the store count until then. Of those
    that are done it is known how much longer they took, and the time left of the others is corrected by it.
    """

    def __init__(self, total: int, seconds: Mapping[str, float] | None = None) -> None:
        self.total, self.done = total, 0
        self.ends: float | None = None  # of a search, as time.monotonic has it
        self.console = Console(stderr=True)
        self.shown = how(self.console)
        self.guesses = dict(seconds or {})
        self.guessed = self.took = 0.0  # of the steps that were done here
        self.bars: Progress | None = None
        self.users = 0  # steps that have a bar
        self.found = 0  # steps in a row that were there, of which people have not been told

    def limit(self, seconds: float) -> None:
        """Say what is left of a search, which does further steps until then."""
        self.ends = time.monotonic() + seconds

    def cached(self, name: str) -> None:
        """A step that was found in the store. People are told of those in a row by one line."""
        self._over(name)
        self.found += 1
        self._line({"event": "cached", "step": name}, "")
        if self.done == self.total:
            self._say_found()

    def failed(self, name: str, reason: str, *, again: bool = False) -> None:
        """A step that gave no result to be trusted; `again`: one that failed in an earlier run and is not repeated."""
        self._say_found()
        if again:
            self._over(name)
        self._line(
            {"event": "failed", "step": name, "reason": reason},
            f"[red]{self._count()} {escape(f'{name}: failed: {reason}')}[/]",
        )

    def skipped(self, name: str, reason: str) -> None:
        """A step that stands on one that failed."""
        self._say_found()
        self._over(name)
        self._line(
            {"event": "skipped", "step": name, "reason": reason}, f"[dim]{self._count()} {escape(name)}: skipped"
        )

    def waits(self, title: str) -> None:
        """Another process does the step that is next."""
        self._say_found()
        self._line({"event": "waits", "step": title}, f"{escape(title)}: another process does it; waiting")

    @contextmanager
    def step(self, name: str, title: str = "") -> Iterator[Report]:
        """Announce a step, pass on its progress, and say how long it took."""
        self._say_found()
        guess, title = self._over(name), escape(title or name)
        began = time.monotonic()
        if self.shown == "bar":
            with self._live() as bar:
                task = bar.add_task(f"{self._count()} {title}", total=1.0, text="", left="")
                try:
                    yield lambda share, text: self._show(bar, task, share, text, guess, began)
                finally:
                    bar.remove_task(task)
        else:
            self._line({"event": "start", "step": name}, "")
            last = began

            def report(share: float, text: str) -> None:
                nonlocal last
                now = time.monotonic()
                if now - last >= (JSON_S if self.shown == "json" else PLAIN_S):
                    last = now
                    left = self._left(share, guess, began)
                    self._line(
                        {"event": "progress", "step": name, "share": round(share, 3), "text": text},
                        f"{self._count()} {title}: {share:.0%}, {escape(text)}{left and f'; {left}'}",
                    )

            yield report
        seconds = time.monotonic() - began
        self.guessed, self.took = self.guessed + guess, self.took + (seconds if guess else 0.0)
        self._line(
            {"event": "done", "step": name, "seconds": round(seconds, 1)}, f"{self._count()} {title}: {seconds:.1f} s"
        )

    def _say_found(self) -> None:
        if self.found and self.shown in ("bar", "plain"):
            there = "1 step was" if self.found == 1 else f"{self.found} steps were"
            self.console.print(f"[dim]{self._count()} {there} there already", highlight=False)
        self.found = 0

    def _over(self, name: str) -> float:
        """Count a step; what it was expected to take."""
        self.done += 1
        return self.guesses.pop(name, 0.0)

    def _left(self, share: float, guess: float, began: float) -> str:
        """The time that this step and those after it will take, or that is left of a search; "" where nothing is known
        of it."""
        if self.ends is not None:
            return f"about {duration(max(0.0, self.ends - time.monotonic()))} of the search left"
        if not guess and share <= 0.05:
            return ""
        slower = (self.took + 1) / (self.guessed + 1)
        so_far = time.monotonic() - began
        own = so_far / share - so_far if share > 0.05 else max(0.0, guess * slower - so_far)
        return f"about {duration(own + slower * sum(self.guesses.values()))} left"

    @contextmanager
    def _live(self) -> Iterator[Progress]:
        """The bars of the steps that are being done: several where there are several machines."""
        if self.bars is None:
            self.bars = self._bar()
            self.bars.start()
        bars, self.users = self.bars, self.users + 1
        try:
            yield bars
        finally:
            self.users -= 1
            if not self.users:
                self.bars.stop()
                self.bars = None

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[text]}"))
        return Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console, transient=True
        )

    def _show(self, bar: Progress, task: TaskID, share: float, text: str, guess: float, began: float) -> None:
        bar.update(task, completed=share, text=escape(text), left=self._left(share, guess, began))

    def _count(self) -> str:
        return f"{self.done}/{self.total}"

    def _line(self, event: dict, text: str) -> None:
        if self.shown == "json":
            print(json.dumps({**event, "of": f"{self.done}/{self.total}"}), file=sys.stderr, flush=True)
        elif self.shown != "none" and text:
            self.console.print(text, highlight=False, soft_wrap=True)


class Elsewhere:
    """A step that another process does, shown by the reporter of this one."""

    def __init__(self, reporter: Reporter, name: str, title: str) -> None:
        self.reporter, self.name = reporter, name
        self._shown = ExitStack()
        self.report = self._shown.enter_context(reporter.step(name, title))

    def end(self, error: BaseException | None = None) -> None:
        """Say that it is done; not where there is an error, which is raised again where it belongs."""
        with suppress(BaseException):
            self._shown.__exit__(type(error) if error else None, error, None)

    def fail(self, reason: str) -> None:
        """Say that it has no result to be trusted."""
        self.end(RuntimeError(reason))
        self.reporter.failed(self.name, reason)


class Forwarded(Reporter):
    """Progress of steps that this process does for another one, which shows it: told once in TOLD_S at most."""

    def __init__(self, tell: Callable[[str, float, str], object]) -> None:
        super().__init__(1)
        self.tell, self.shown = tell, "none"

    @contextmanager
    def step(self, name: str, title: str = "") -> Iterator[Report]:
        last = 0.0

        def report(share: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= TOLD_S:
                last = time.monotonic()
                self.tell(name, share, text)

        yield report
