"""One request's rows, from their admission to their answers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np


class ClientDisconnected(Exception):
    """The client has left."""


@dataclass(eq=False)
class QueuedRequest:
    """The rows of one request, their outputs, and the times that `Server-Timing` reports."""

    texts: list[str] | None
    ids: list[list[int]]
    tokens: int  # of all rows: an estimate until they are tokenised
    deadline: float  # time.monotonic
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[np.ndarray]
    arrived: float = field(default_factory=time.monotonic)
    outputs: dict[int, np.ndarray] = field(default_factory=dict)  # row -> its logits, (lines, labels)
    rows_left: int = 0  # rows without an answer
    next_row: int = 0  # the first row that no batch has had yet
    queued_tokens: int = 0  # tokens of its rows that wait or run
    tokenise_s: float = 0.0
    queue_s: float = 0.0  # until the first row's call began
    model_s: float = 0.0  # of the calls that its rows were in

    def finish(self, result: np.ndarray | BaseException) -> None:
        """Give the result to the waiting request; on the event loop."""
        if not self.future.done():
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
