"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(found: Callable[[], Any], wait_s: float, poll_s: float = 0.05) -> Any:
    """What `found` gives as soon as it is something. AssertionError after `wait_s` seconds without it."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if there := found():
            return there
        time.sleep(poll_s)
    raise AssertionError("it did not come")
