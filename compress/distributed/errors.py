"""What ends the processes that share a training."""

from __future__ import annotations

from paredown.runtime.errors import StepError


class ProcessLost(StepError):
    """A process was ended from outside. It says nothing about the step, so it is not recorded as its failure."""


class TooManyRows(Exception):
    """One of the processes has run out of memory with so many rows at a time: all of them start again with fewer."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows
