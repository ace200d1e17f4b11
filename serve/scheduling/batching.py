"""Dynamic batching: requests of many clients in few model calls; one thread tokenises, one runs the model.

A request is admitted only when the queue has room and what is in front of it will be done in time; it then gets its
answer, or 504 at its deadline, also while a call is running. Requests take turns of `batch_tokens`: one with many rows
holds up no small one. A row of a request that is gone is dropped unrun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np

from ..config import Settings
from ..errors import Refused
from .admission import Admission
from .batch_planner import split
from .inference_request import Job

log = logging.getLogger("paredown")


class Model(Protocol):
    """What is batched: `models.model.Model`, or anything that tokenises and runs rows."""

    name: str
    slack: float  # tokens that a call costs beside those of its rows
    seconds_per_token: float
    tokens_a_piece: int

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""
        ...

    def run(self, rows: list[list[int]]) -> np.ndarray:
        """One call: (rows, labels) or (rows, length, labels) float32, or token ids (rows, tokens) int64."""
        ...


class Batcher:
    """The queue and the two threads of one model."""

    def __init__(self, model: Model, settings: Settings, observe: Callable[[int, int, float], None] = lambda *_: None):
        """`observe(rows, tokens, seconds)` is called after each call of the model, in its thread."""
        self.model, self.settings, self.observe = model, settings, observe
        self._most = max(1, settings.batch_tokens // model.tokens_a_piece)  # pieces of rows a round
        self.admitted = Admission(settings.queue_rows, self._most, model.seconds_per_token)
        self._free = 0.0  # time.monotonic at which the last call ended
        self._busy_since = math.inf  # and at which the one that is running began
        self._new: SimpleQueue[Job | None] = SimpleQueue()
        self._ready: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name=f"{name}-{model.name}", daemon=True)
            for name, work in (("tokenise", self._tokenise), ("model", self._run))
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, job: Job) -> np.ndarray:
        """Logits in the rows' order, a line a row or a token, (lines, labels) float32.

        Refused 413 when it could not be done alone, 429 when there is no room now, 504 at the deadline.
        """
        count = len(job.texts if job.texts is not None else job.ids)
        job.left = count
        self.admitted.admit(job, count)
        late = Refused(504, "no answer before the deadline")
        timer = job.loop.call_at(job.loop.time() + job.deadline - time.monotonic(), job.finish, late)
        try:
            (self._ready if job.texts is None else self._new).put(job)
            return await job.done
        finally:
            timer.cancel()

    @property
    def alive(self) -> bool:
        """Both threads are there, and the model has come back from its last call, or may still."""
        stuck = time.monotonic() - self._busy_since > self.settings.open_s + self.settings.deadline_ms / 1e3
        return not stuck and all(thread.is_alive() for thread in self._threads)

    def close(self, timeout: float = 10) -> None:
        """Answer what was admitted, then stop the threads."""
        self._new.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _tokenise(self) -> None:
        while jobs := list(_take(self._new)):
            closing = jobs[-1] is None
            alive = []
            for job in jobs:
                if job is not None and job.done.done():
                    self.admitted.count(job, -job.left, -job.tokens)
                elif job is not None:
                    alive.append(job)
            self._tokenise_all(alive)
            if closing:
                self._ready.put(None)
                return

    def _tokenise_all(self, jobs: list[Job]) -> None:
        begin = time.monotonic()
        try:
            ids = self.model.tokenise([text for job in jobs for text in job.texts or ()])
        except BaseException as error:  # a panic of the tokenizers' library is no Exception
            if len(jobs) > 1:  # whose text was it? the others are to be answered
                for job in jobs:
                    self._tokenise_all([job])
                return
            if not isinstance(error, Refused):
                log.exception("the tokeniser failed on a request")
            for job in jobs:
                self.admitted.count(job, -job.left, -job.tokens)
                ours = error if isinstance(error, Refused) else RuntimeError(f"the tokeniser failed: {error}")
                _on_loop(job.loop, [(job, ours)])
            return
        seconds = time.monotonic() - begin
        place = 0
        for job in jobs:
            job.ids = ids[place : place + job.left]
            place += job.left
            tokens = sum(map(len, job.ids))
            self.admitted.count(job, 0, tokens - job.tokens)
            job.tokens, job.tokenise_s = tokens, seconds
            self._ready.put(job)

    def _run(self) -> None:
        waiting: deque[Job] = deque()
        closing = False
        while not closing or waiting:
            arrived = _take(self._ready) if not waiting else _drain(self._ready)
            for job in arrived:
                closing = closing or job is None
                if job is not None:
                    waiting.append(job)
            if not closing:
                closing = self._wait_for_company(waiting)
            taken = self._round(waiting)
            lengths = [len(job.ids[i]) for job, i in taken]
            for call in split(lengths, self.model.slack, self._most):
                if rows := [taken[i] for i in call if self._wanted(*taken[i])]:
                    self._call(rows)

    def _wanted(self, job: Job, i: int) -> bool:
        """Whether somebody waits for this row; else it is dropped."""
        if gone := job.done.done():
            self.admitted.count(job, -1, -len(job.ids[i]))
        return not gone

    def _wait_for_company(self, waiting: deque[Job]) -> bool:
        """Up to `max_wait_ms` after the oldest row came, or until the batch is full; True when closing."""
        if not self.settings.max_wait_ms or not waiting:
            return False
        until = min(job.begin for job in waiting) + self.settings.max_wait_ms / 1e3
        while sum(map(len, chain.from_iterable(job.ids[job.taken :] for job in waiting))) < self._most:
            try:
                job = self._ready.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return False
            if job is None:
                return True
            waiting.append(job)
        return False

    def _round(self, waiting: deque[Job]) -> list[tuple[Job, int]]:
        """The oldest requests' rows, `batch_tokens` at most but one row at least. A request that has had all of them
        goes to the end of the line.
        """
        taken: list[tuple[Job, int]] = []
        tokens = 0
        while waiting:
            job = waiting[0]
            while job.taken < len(job.ids):
                row = job, job.taken
                length = len(job.ids[job.taken])
                if self._wanted(*row):
                    if taken and tokens + length > self._most:
                        if taken[0][0] is job:
                            waiting.rotate(-1)
                        return taken
                    taken.append(row)
                    tokens += length
                job.taken += 1
            waiting.popleft()
        return taken

    def _call(self, rows: list[tuple[Job, int]]) -> None:
        """Run some rows together, and give their answers to those requests that have all of theirs."""
        ids = [job.ids[i] for job, i in rows]
        tokens = sum(map(len, ids))
        begin = self._busy_since = time.monotonic()
        try:
            logits = self.model.run(ids)
        except BaseException as error:
            if len(rows) > 1:  # whose row was it? the others are to be answered
                for row in rows:
                    self._call([row])
                return
            log.exception("the model failed on a row")
            job = rows[0][0]
            self.admitted.count(job, -1, -tokens)
            _on_loop(job.loop, [(job, RuntimeError(f"the model failed: {error}"))])
            return
        finally:
            self._busy_since = math.inf
        end = time.monotonic()
        seconds = end - begin
        busy = end - max(self._free, min(job.begin for job, _ in rows))  # with all that comes between two calls
        self._free = end
        self.admitted.learn(busy / (tokens + self.model.slack))  # what a call costs beside its tokens is no token's
        finished: dict[asyncio.AbstractEventLoop, list] = {}
        for (job, i), found in zip(rows, logits, strict=True):
            if not job.found:
                job.queue_s = begin - job.begin - job.tokenise_s
            job.found[i] = found[: len(job.ids[i])] if found.ndim > 1 else found[None]
            self.admitted.count(job, -1, -len(job.ids[i]))
            job.left -= 1
            if not job.left:
                lines = np.concatenate([job.found[i] for i in range(len(job.ids))])
                finished.setdefault(job.loop, []).append((job, lines))
        for job in {id(job): job for job, _ in rows}.values():
            job.model_s += seconds
        for loop, jobs in finished.items():
            _on_loop(loop, jobs)
        try:
            self.observe(len(rows), tokens, seconds)
        except Exception:  # a figure that is lost is no reason to stop
            log.exception("a call was not counted")


def _on_loop(loop: asyncio.AbstractEventLoop, results: list[tuple[Job, np.ndarray | BaseException]]) -> None:
    def finish() -> None:
        for job, result in results:
            job.finish(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(finish)


def _take(queue: SimpleQueue[Job | None]) -> Iterator[Job | None]:
    """What is in the queue, waiting for the first; None comes last."""
    first = queue.get()
    yield first
    if first is not None:
        yield from _drain(queue)


def _drain(queue: SimpleQueue[Job | None]) -> Iterator[Job | None]:
    with contextlib.suppress(Empty):
        while True:
            job = queue.get_nowait()
            yield job
            if job is None:
                return
