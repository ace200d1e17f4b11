"""Admission control of one model: rows and tokens in flight, and whether a request is accepted."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from ..errors import HTTPError

if TYPE_CHECKING:
    from .queued_request import QueuedRequest

MARGIN = 0.5  # share of the time to the deadline that the estimate of the wait may take
SLOWER, QUICKER = (
    0.3,
    0.05,
)  # weight of the newest call in the estimate of seconds per token: it rises fast and falls slowly


class Admission:
    """Rows and tokens that wait or run, and the seconds per token."""

    def __init__(self, queue_rows: int, turn_tokens: int, seconds_per_token: float) -> None:
        """`seconds_per_token`: measured without load."""
        self.queue_rows, self.turn_tokens = queue_rows, turn_tokens
        self.rows = self.tokens = 0
        self._next_turns = 0  # of these tokens, those of each request's next turn
        self._unloaded = self._recent = seconds_per_token
        self._lock = threading.RLock()  # of what is above

    def admit(self, request: QueuedRequest, rows: int) -> None:
        """Count it in. HTTPError 413 when it would be late without load too, 429 when the queue is full."""
        left = request.deadline - time.monotonic()
        if rows > self.queue_rows:
            raise HTTPError(413, f"{rows} rows in one request; the queue takes {self.queue_rows}")
        with self._lock:
            unloaded = request.tokens * min(self._unloaded, self._recent)
            if rows > 1 and unloaded > left:
                raise HTTPError(
                    413, f"about {unloaded:.2f} s of work for {max(0, left):.2f} s: send fewer rows at once"
                )
            # What runs first: a turn of each of the others, where it needs one turn itself; else all of them.
            wait = (self._next_turns if request.tokens <= self.turn_tokens else self.tokens) * self._recent
            too_late = wait + request.tokens * self._recent > MARGIN * left
            if self.rows + rows > self.queue_rows or (self.rows and too_late):
                why = f"{self.rows} rows are waiting"
                raise HTTPError(429, f"overloaded: {why}, about {wait:.2f} s of work", max(1, math.ceil(wait)))
            self.count(request, rows, request.tokens)

    def count(self, request: QueuedRequest, rows: int, tokens: int) -> None:
        """Add to the rows and tokens of a request that wait or run; negative numbers take off."""
        with self._lock:
            self.rows += rows
            self.tokens += tokens
            turn = min(request.queued_tokens, self.turn_tokens)
            request.queued_tokens += tokens
            self._next_turns += min(request.queued_tokens, self.turn_tokens) - turn

    def learn(self, seconds_per_token: float) -> None:
        """Update the estimate with the newest call."""
        with self._lock:
            change = seconds_per_token - self._recent
            self._recent += (SLOWER if change > 0 else QUICKER) * change
