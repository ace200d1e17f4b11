"""Dynamic batching: requests of many clients in few model calls; one thread tokenises, one runs the model.

A request is admitted only when the queue is not full and the work in front of it will be done in time; it then gets its
answer, or 504 at its deadline, also while a call is running. Requests take turns of `batch_tokens`: one with many rows
delays no small one. Rows of a request whose client has disconnected are dropped.
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
from ..errors import HTTPError
from .admission import Admission
from .batch_planner import split
from .queued_request import QueuedRequest

log = logging.getLogger("paredown")


class Model(Protocol):
    """What is batched: `models.model.Model`, or anything that tokenises and runs rows."""

    name: str
    slack: float  # tokens that a call costs beside those of its rows
    seconds_per_token: float
    tokens_per_unit: int  # tokens that an element of a row counts as: 1 of a text

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
        self._batch_tokens = max(1, settings.batch_tokens // model.tokens_per_unit)  # elements of rows a round
        self.admission = Admission(settings.queue_rows, self._batch_tokens, model.seconds_per_token)
        self._last_end = 0.0  # time.monotonic at the end of the last call
        self._busy_since = math.inf  # and at the begin of the one that is running
        self._untokenised: SimpleQueue[QueuedRequest | None] = SimpleQueue()
        self._tokenised: SimpleQueue[QueuedRequest | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name=f"{name}-{model.name}", daemon=True)
            for name, work in (("tokenise", self._tokenise), ("model", self._run))
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, request: QueuedRequest) -> np.ndarray:
        """Logits in the rows' order, a line a row or a token, (lines, labels) float32.

        HTTPError 413 when it would miss its deadline without load too, 429 when the queue is full, 504 at the deadline.
        """
        count = len(request.texts if request.texts is not None else request.ids)
        request.rows_left = count
        self.admission.admit(request, count)
        late = HTTPError(504, "no answer before the deadline")
        timer = request.loop.call_at(request.loop.time() + request.deadline - time.monotonic(), request.finish, late)
        try:
            (self._tokenised if request.texts is None else self._untokenised).put(request)
            return await request.future
        finally:
            timer.cancel()

    @property
    def alive(self) -> bool:
        """Both threads run, and no call of the model takes longer than it may."""
        stuck = time.monotonic() - self._busy_since > self.settings.open_s + self.settings.deadline_ms / 1e3
        return not stuck and all(thread.is_alive() for thread in self._threads)

    def close(self, timeout: float = 10) -> None:
        """Answer what was admitted, then stop the threads."""
        self._untokenised.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _tokenise(self) -> None:
        while requests := list(_take(self._untokenised)):
            closing = requests[-1] is None
            alive = []
            for request in requests:
                if request is not None and request.future.done():
                    self.admission.count(request, -request.rows_left, -request.tokens)
                elif request is not None:
                    alive.append(request)
            self._tokenise_all(alive)
            if closing:
                self._tokenised.put(None)
                return

    def _tokenise_all(self, requests: list[QueuedRequest]) -> None:
        begin = time.monotonic()
        try:
            ids = self.model.tokenise([text for request in requests for text in request.texts or ()])
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            if len(requests) > 1:  # find the text that fails, and answer the others
                for request in requests:
                    self._tokenise_all([request])
                return
            if not isinstance(error, HTTPError):
                log.exception("the tokeniser failed on a request")
            for request in requests:
                self.admission.count(request, -request.rows_left, -request.tokens)
                failure = error if isinstance(error, HTTPError) else RuntimeError(f"the tokeniser failed: {error}")
                _on_loop(request.loop, [(request, failure)])
            return
        seconds = time.monotonic() - begin
        start = 0
        for request in requests:
            request.ids = ids[start : start + request.rows_left]
            start += request.rows_left
            tokens = sum(map(len, request.ids))
            self.admission.count(request, 0, tokens - request.tokens)
            request.tokens, request.tokenise_s = tokens, seconds
            self._tokenised.put(request)

    def _run(self) -> None:
        waiting: deque[QueuedRequest] = deque()
        closing = False
        while not closing or waiting:
            arrived = _take(self._tokenised) if not waiting else _drain(self._tokenised)
            for request in arrived:
                closing = closing or request is None
                if request is not None:
                    waiting.append(request)
            if not closing:
                closing = self._wait_for_more(waiting)
            taken = self._next_rows(waiting)
            lengths = [len(request.ids[i]) for request, i in taken]
            for call in split(lengths, self.model.slack, self._batch_tokens, self.settings.batch_rows):
                if rows := [taken[i] for i in call if self._wanted(*taken[i])]:
                    self._call(rows)

    def _wanted(self, request: QueuedRequest, i: int) -> bool:
        """Whether this row still needs an answer; else it is dropped."""
        if done := request.future.done():
            self.admission.count(request, -1, -len(request.ids[i]))
        return not done

    def _wait_for_more(self, waiting: deque[QueuedRequest]) -> bool:
        """Up to `max_wait_ms` after the oldest row came, or until the batch is full; True when closing."""
        if not self.settings.max_wait_ms or not waiting:
            return False
        until = min(request.arrived for request in waiting) + self.settings.max_wait_ms / 1e3
        while sum(map(len, chain.from_iterable(r.ids[r.next_row :] for r in waiting))) < self._batch_tokens:
            try:
                request = self._tokenised.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return False
            if request is None:
                return True
            waiting.append(request)
        return False

    def _next_rows(self, waiting: deque[QueuedRequest]) -> list[tuple[QueuedRequest, int]]:
        """The oldest requests' rows, `batch_tokens` at most but one row at least. A request that has used its turn
        goes to the end of the queue.
        """
        taken: list[tuple[QueuedRequest, int]] = []
        tokens = 0
        while waiting:
            request = waiting[0]
            while request.next_row < len(request.ids):
                row = request, request.next_row
                length = len(request.ids[request.next_row])
                if self._wanted(*row):
                    if taken and tokens + length > self._batch_tokens:
                        if taken[0][0] is request:
                            waiting.rotate(-1)
                        return taken
                    taken.append(row)
                    tokens += length
                request.next_row += 1
            waiting.popleft()
        return taken

    def _call(self, rows: list[tuple[QueuedRequest, int]]) -> None:
        """Run some rows in one call, and answer the requests that are complete with it."""
        ids = [request.ids[i] for request, i in rows]
        tokens = sum(map(len, ids))
        begin = self._busy_since = time.monotonic()
        try:
            logits = self.model.run(ids)
        except BaseException as error:
            if len(rows) > 1:  # find the row that fails, and answer the others
                for row in rows:
                    self._call([row])
                return
            log.exception("the model failed on a row")
            request = rows[0][0]
            self.admission.count(request, -1, -tokens)
            _on_loop(request.loop, [(request, RuntimeError(f"the model failed: {error}"))])
            return
        finally:
            self._busy_since = math.inf
        end = time.monotonic()
        seconds = end - begin
        first = min(request.arrived for request, _ in rows)
        busy = end - max(self._last_end, first)  # with all that happens between two calls
        self._last_end = end
        self.admission.learn(busy / (tokens + self.model.slack))  # the slack: the fixed cost of a call, in tokens
        finished: dict[asyncio.AbstractEventLoop, list] = {}
        for (request, i), found in zip(rows, logits, strict=True):
            if not request.outputs:
                request.queue_s = begin - request.arrived - request.tokenise_s
            request.outputs[i] = found[: len(request.ids[i])] if found.ndim > 1 else found[None]
            self.admission.count(request, -1, -len(request.ids[i]))
            request.rows_left -= 1
            if not request.rows_left:
                lines = np.concatenate([request.outputs[i] for i in range(len(request.ids))])
                finished.setdefault(request.loop, []).append((request, lines))
        for request in {id(request): request for request, _ in rows}.values():
            request.model_s += seconds
        for loop, requests in finished.items():
            _on_loop(loop, requests)
        try:
            self.observe(len(rows), tokens, seconds)
        except Exception:  # losing a metric is no reason to stop
            log.exception("a call was not counted")


def _on_loop(loop: asyncio.AbstractEventLoop, results: list[tuple[QueuedRequest, np.ndarray | BaseException]]) -> None:
    def finish() -> None:
        for request, result in results:
            request.finish(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer
        loop.call_soon_threadsafe(finish)


def _take(queue: SimpleQueue[QueuedRequest | None]) -> Iterator[QueuedRequest | None]:
    """What is in the queue, waiting for the first; None comes last."""
    first = queue.get()
    yield first
    if first is not None:
        yield from _drain(queue)


def _drain(queue: SimpleQueue[QueuedRequest | None]) -> Iterator[QueuedRequest | None]:
    with contextlib.suppress(Empty):
        while True:
            request = queue.get_nowait()
            yield request
            if request is None:
                return
