"""One request's rows, from their admission to their answers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np


class Gone(Exception):
    """The client has left."""


@dataclass(eq=False)
class Job:
    """One request's rows on their way."""

    texts: list[str] | None
    ids: list[list[int]]
    tokens: int  # of all rows: an estimate until they are tokenised
    deadline: float  # time.monotonic
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[np.ndarray]
    begin: float = field(default_factory=time.monotonic)
    found: dict[int, np.ndarray] = field(default_factory=dict)  # row -> its logits, (lines, labels)
    left: int = 0  # rows without an answer
    taken: int = 0  # rows that have had their turn
    waits: int = 0  # tokens of those that are admitted
    tokenise_s: float = 0.0
    queue_s: float = 0.0  # until the first row's call began
    model_s: float = 0.0  # of the calls that its rows were in

    def finish(self, result: np.ndarray | BaseException) -> None:
        """Give the result to the waiting request; on the event loop."""
        if not self.done.done():
            if isinstance(result, BaseException):
                self.done.set_exception(result)
            else:
                self.done.set_result(result)
