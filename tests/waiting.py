"""Processes that wait for each other, for tests: functions that `processes.spread` can start, without transformers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from paredown.compress.distributed import group
from paredown.compress.distributed.errors import TooManyRows
from paredown.compress.types import Progress
from paredown.runtime.errors import StepError


def killed(path: Path, report: Progress) -> None:
    """The second process is killed while the first one waits for it."""
    (path / str(os.getpid())).touch()
    if group.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.gathered(1)


def wrong(report: Progress) -> None:
    """The second process raises, while the first one waits for it."""
    if group.rank() == 1:
        raise StepError("the loss is nan")
    group.gathered(1)


def crowded(report: Progress) -> int:
    """The memory does for four rows at a time; how many were taken."""
    rows = group.rows_at_a_time(8)
    if rows > 4:
        raise TooManyRows(rows)
    return rows


def waits(path: Path, report: Progress) -> None:
    """It takes ten minutes."""
    (path / str(os.getpid())).touch()
    time.sleep(600)
