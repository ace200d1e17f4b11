"""Admission control of one model: rows and tokens in flight, and whether a request is let in."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from ..errors import Refused

if TYPE_CHECKING:
    from .inference_request import Job

MARGIN = 0.5  # share of the time to the deadline that the estimate of the wait may take
SLOWER, QUICKER = 0.3, 0.05  # weight of the newest call in the estimate of seconds per token: careful soon, bold late


class Admission:
    """Rows and tokens that wait or run, and what a token takes."""

    def __init__(self, queue_rows: int, turn_tokens: int, seconds_per_token: float) -> None:
        """`seconds_per_token`: of a machine that does nothing else."""
        self.queue_rows, self.turn_tokens = queue_rows, turn_tokens
        self.rows = self.tokens = 0
        self._next = 0  # of these tokens, those of each request's next turn
        self._alone = self._lately = seconds_per_token
        self._lock = threading.RLock()  # of what is above

    def admit(self, job: Job, rows: int) -> None:
        """Count it in. Refused 413 when it could not be done if it were alone, 429 when there is no room now."""
        left = job.deadline - time.monotonic()
        if rows > self.queue_rows:
            raise Refused(413, f"{rows} rows in one request; the queue takes {self.queue_rows}")
        with self._lock:
            alone = job.tokens * min(self._alone, self._lately)
            if rows > 1 and alone > left:
                raise Refused(413, f"about {alone:.2f} s of work for {max(0, left):.2f} s: send fewer rows at once")
            # What comes first: a turn of each of the others, where it needs no more itself; else all of them.
            wait = (self._next if job.tokens <= self.turn_tokens else self.tokens) * self._lately
            late = wait + job.tokens * self._lately > MARGIN * left
            if self.rows + rows > self.queue_rows or (self.rows and late):
                why = f"{self.rows} rows are waiting"
                raise Refused(429, f"overloaded: {why}, about {wait:.2f} s of work", max(1, math.ceil(wait)))
            self.count(job, rows, job.tokens)

    def count(self, job: Job, rows: int, tokens: int) -> None:
        """So many more of the job's wait or run; with a minus, so many fewer."""
        with self._lock:
            self.rows += rows
            self.tokens += tokens
            turn = min(job.waits, self.turn_tokens)
            job.waits += tokens
            self._next += min(job.waits, self.turn_tokens) - turn

    def learn(self, seconds_per_token: float) -> None:
        """What the newest call took."""
        with self._lock:
            change = seconds_per_token - self._lately
            self._lately += (SLOWER if change > 0 else QUICKER) * change
