"""Limits of open connections: number, idle time, size of a request's head, unread answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("paredown")
HEADERS_S = 10  # for the head of a request, since the connection was made or the last answer was sent
HEAD_BYTES = 32_768  # of a request's head: its first line, its headers; also of trailers and of chunk extensions
HEAD_LINES = 100  # headers of one request
SEND_S = 10  # seconds for a client to take an answer, beside those that its size takes at SEND_RATE
SEND_RATE = 100_000  # bytes a second
LINGER_S = 1  # seconds in which a client that is refused may read why
PIECE = 16_384  # bytes that are parsed at once, at most
SHORTEST = 64  # bytes that are parsed at once, at least: a few requests, if they are pipelined
HELD_BYTES = 2**26  # that wait behind requests without an answer, on all connections together
TURN, PIPELINED = 16, 4  # requests that begin in one turn of the event loop, beside health checks
RESERVED = 64  # files that are kept for models, logs and metrics
TOLD_S = 10  # seconds between two lines of log
HEALTH = "/v2/health/"
TOO_MUCH = f"the head of a request has at most {HEAD_BYTES} bytes and {HEAD_LINES} headers"


class Connections:
    """Those of one process. `Connections(n).made` is what uvicorn wants as its protocol."""

    def __init__(self, most: int) -> None:
        """`most` may be open; fewer where the process may not open as many files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most if files == resource.RLIM_INFINITY else max(1, min(most, files - RESERVED))
        self.idle: dict[Connection, float] = {}  # without a complete head of a request, since when; longest first
        self.unread: dict[Connection, float] = {}  # whose client does not take its answer, until when it may
        self.held = 0  # bytes that have arrived and are not parsed yet
        self._first: deque[Callable[[], None]] = deque()  # what has its turn later
        self._behind: deque[Callable[[], None]] = deque()  # and what has waited behind another request of its client
        self._turning = False
        self._new = self._seen = 0  # connections made since requests had a turn; and those at the last look
        self._told = -math.inf

    def made(self, **of_uvicorn: Any) -> Connection:
        return Connection(self, **of_uvicorn)

    def make_room(self, count: int) -> None:
        """For a new one: with `count` open, close the one that has been idle for longest, if they are too many."""
        self._new += 1
        if count <= self.most:
            return
        next(iter(self.idle)).drop()  # the newest is idle in any case
        if time.monotonic() - self._told > TOLD_S:
            self._told = time.monotonic()
            log.warning("too many connections: idle ones are closed", extra={"fields": {"most": self.most}})

    def close_slow(self) -> None:
        """Close those that are idle for too long, also if a byte comes now and then, and those that read nothing."""
        now = time.monotonic()
        while self.idle and next(iter(self.idle.values())) < now - HEADERS_S:
            next(iter(self.idle)).late()
        for one in [one for one, until in self.unread.items() if until < now]:
            one.drop()

    def soon(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None], pipelined: bool = False) -> None:
        """Let `act` have its turn: TURN of them in each turn of the event loop, and beside them PIPELINED of what was
        asked for before the answer to another request was read. The loop takes one new connection in a turn: while some
        come, requests wait for TURN of them. So thousands of requests at once hold up no health check.
        """
        (self._behind if pipelined else self._first).append(act)
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._seen < self._new < TURN:
            self._seen = self._new
            loop.call_soon(self._turn, loop)
            return
        self._seen = self._new = 0
        try:
            for queue, most in ((self._first, TURN), (self._behind, PIPELINED)):
                for _ in range(min(most, len(queue))):
                    queue.popleft()()
        finally:
            self._turning = bool(self._first or self._behind)
            if self._turning:
                loop.call_soon(self._turn, loop)


class _TooMuch(Exception):
    """In the head of a request; raised to the parser, which stops then."""


class Flow(FlowControl):
    """uvicorn's, of a connection that may hold bytes back: reading goes on when they are parsed."""

    def __init__(self, transport: asyncio.Transport, wake: Callable[[], None]) -> None:
        super().__init__(transport)
        self.holds = False
        self._wake = wake

    def resume_reading(self) -> None:
        if not self.holds:
            super().resume_reading()
        elif self.read_paused:
            self.read_paused = False
            self._wake()


class Connection(HttpToolsProtocol):
    """uvicorn's, which waits for the head of a request for ever, takes one of any size, and parses every request that
    has arrived, however many are waiting for their answers.

    Here a request is parsed when the one before it is answered; what has arrived of it is held back until then.
    """

    def __init__(self, every: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.every = every
        self._held = b""  # arrived, not parsed
        self._waits = False  # for its turn to parse more
        self._has_turn = False
        self._silent = 0  # bytes parsed since the last head, piece of a body or end of a request
        self._lines = 0  # headers since the request began
        self._running: RequestResponseCycle | None = None  # the one that has its turn; `cycle` is the newest
        self._deaf = False  # nothing that comes is looked at any more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Flow = Flow(transport, self._later)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.every.idle[self] = time.monotonic()
        self.every.make_room(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._hold(self._held + data)
        if not self._waits:
            self._parse()

    def _hold(self, data: bytes) -> None:
        self.every.held += len(data) - len(self._held)
        self._held = data

    def _later(self) -> None:
        if not self._waits:
            self._waits = True
            self.every.soon(self.loop, self._parse_now, pipelined=True)

    def _parse_now(self) -> None:
        self._waits, self._has_turn = False, True
        try:
            self._parse()
        finally:
            self._has_turn = False

    def _parse(self) -> None:
        """Parse what is held, until a request is complete and has no answer yet, or its body is to be read first."""
        held, at = self._held, 0
        while at < len(held) and not (self._deaf or self._busy or self.flow.read_paused or self.transport.is_closing()):
            end = held.find(b"\r\n\r\n", at + SHORTEST, at + PIECE - 4)
            end = at + PIECE if end < 0 else end + 4
            piece = held[at:end]
            at += len(piece)
            self._silent += len(piece)
            super().data_received(piece)
            if self._silent > HEAD_BYTES:
                self._refuse(431, TOO_MUCH)
        if self._deaf or self.transport.is_closing():
            self._hold(b"")
            self.flow.holds = False
            return
        self._hold(held[at:])
        if self._held and self._busy and self.every.held > HELD_BYTES:
            self.drop()
        elif self._held:
            self.flow.holds = True
            self.transport.pause_reading()
        elif self.flow.holds:
            self.flow.holds = False
            if not self.flow.read_paused:
                self.transport.resume_reading()

    @property
    def _busy(self) -> bool:
        """A request is here to its last byte, and not answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def on_message_begin(self) -> None:
        self._lines = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        if self._lines > HEAD_LINES:
            raise _TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._silent > HEAD_BYTES:
            raise _TooMuch
        self._silent = 0
        self.every.idle.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        start, self._running = super()._start_asgi_task, cycle
        if self._has_turn or cycle.scope["path"].startswith(HEALTH):
            start(cycle, app)
        else:
            self.every.soon(self.loop, lambda: start(cycle, app))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()
        elif self.cycle.response_complete:  # and no other waits in its pipeline
            self.every.idle[self] = time.monotonic()
        if self._held:
            self._unset_keepalive_if_required()
            self._later()

    def pause_writing(self) -> None:
        self._watch_sending()
        super().pause_writing()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.every.unread.pop(self, None)
        super().resume_writing()

    def _watch_sending(self) -> None:
        """From now on the client has so many seconds to take what is written."""
        size = self.transport.get_write_buffer_size()
        if size:
            self.every.unread.setdefault(self, time.monotonic() + SEND_S + size / SEND_RATE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.every.idle.pop(self, None)
        self.every.unread.pop(self, None)
        self._deaf = True
        self._hold(b"")
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def late(self) -> None:
        """Idle for too long; what it still has to take of an answer has a time of its own."""
        self.every.idle.pop(self, None)
        self._watch_sending()
        if self not in self.every.unread:
            self._abort()
        elif not self.transport.is_closing():
            self._deaf = True
            self.transport.close()

    def drop(self) -> None:
        self.every.idle.pop(self, None)
        self.every.unread.pop(self, None)
        self._abort()

    def _abort(self) -> None:
        """Close at once. Requests that are under way are told, as if the client had left: they can write nowhere."""
        for cycle in (self.cycle, self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        too_much = self._silent > HEAD_BYTES or self._lines > HEAD_LINES
        self._refuse(431 if too_much else 400, TOO_MUCH if too_much else msg)

    def _unsupported_upgrade_warning(self) -> None:
        """What comes after such a request is in another protocol."""
        self._deaf = True
        self.cycle.keep_alive = False

    def _refuse(self, status: int, message: str) -> None:
        """Answer, and take nothing more; the connection stays for a moment, or the client would see a reset."""
        if self._deaf:
            return
        self._deaf = True
        self._hold(b"")
        if self.cycle is not None and not self.cycle.response_complete:  # its answer would be mixed with this one
            self._abort()
            return
        body = json.dumps({"error": message}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
        self.transport.write(STATUS_LINE[status] + head + str(len(body)).encode() + b"\r\n\r\n" + body)
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self._abort)
