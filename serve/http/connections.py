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

from .middleware import HEALTH

log = logging.getLogger("paredown")
HEADERS_S = 10  # seconds for the head of a request, from the connection or the last response
HEAD_BYTES = 32_768  # of a request's head: request line and headers; also of trailers and of chunk extensions
HEAD_FIELDS = 100  # headers of one request
SEND_S = 10  # seconds for a client to read a response, beside those that its size takes at SEND_RATE
SEND_RATE = 100_000  # bytes a second
LINGER_S = 1  # seconds in which a refused client may read the error
MAX_PIECE = 16_384  # bytes that are parsed at once, maximum
MIN_PIECE = 64  # bytes that are parsed at once, minimum: a few requests, if they are pipelined
BUFFER_BYTES = 2**26  # received and not parsed, on all connections together
TURN_REQUESTS, TURN_PIPELINED = 16, 4  # requests that begin in one iteration of the event loop, beside health checks
RESERVED = 64  # file descriptors for models, logs and metrics
LOG_S = 10  # seconds between two warnings
HEAD_TOO_LARGE = f"the head of a request has at most {HEAD_BYTES} bytes and {HEAD_FIELDS} headers"


class Connections:
    """Those of one process. `Connections(n).protocol` makes uvicorn's protocols."""

    def __init__(self, limit: int) -> None:
        """`limit` may be open; fewer where the process may not open as many files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = limit if files == resource.RLIM_INFINITY else max(1, min(limit, files - RESERVED))
        self.idle: dict[Connection, float] = {}  # waits for the head of a request, since (time.monotonic); oldest first
        self.unread: dict[Connection, float] = {}  # writes to a slow client, deadline (time.monotonic)
        self.buffered = 0  # bytes received and not parsed
        self._queue: deque[Callable[[], None]] = deque()  # requests that begin in the next iterations
        self._pipelined: deque[Callable[[], None]] = deque()  # and pipelined ones
        self._scheduled = False
        self._new = self._new_before = 0  # connections since requests last began; and the same one iteration ago
        self._logged = -math.inf

    def protocol(self, **arguments: Any) -> Connection:
        return Connection(self, **arguments)

    def close_oldest(self, count: int) -> None:
        """For a new connection: with `count` open, close the one idle for longest if they are too many."""
        self._new += 1
        if count <= self.limit:
            return
        next(iter(self.idle)).drop()  # the newest is idle in any case
        if time.monotonic() - self._logged > LOG_S:
            self._logged = time.monotonic()
            log.warning("too many connections: idle ones are closed", extra={"fields": {"most": self.limit}})

    def close_slow(self) -> None:
        """Close those that wait for a head for too long, trickled bytes or not, and those that do not read."""
        now = time.monotonic()
        while self.idle and next(iter(self.idle.values())) < now - HEADERS_S:
            next(iter(self.idle)).close_idle()
        for one in [one for one, until in self.unread.items() if until < now]:
            one.drop()

    def schedule(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None], pipelined: bool = False) -> None:
        """Run `call` in one of the next iterations of the event loop: TURN_REQUESTS in each, and TURN_PIPELINED of
        pipelined requests. The loop accepts one connection in an iteration: while some arrive, requests wait for
        TURN_REQUESTS of them. So thousands of requests at once delay no health check.
        """
        (self._pipelined if pipelined else self._queue).append(call)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._new_before < self._new < TURN_REQUESTS:
            self._new_before = self._new
            loop.call_soon(self._turn, loop)
            return
        self._new_before = self._new = 0
        try:
            for queue, limit in ((self._queue, TURN_REQUESTS), (self._pipelined, TURN_PIPELINED)):
                for _ in range(min(limit, len(queue))):
                    queue.popleft()()
        finally:
            self._scheduled = bool(self._queue or self._pipelined)
            if self._scheduled:
                loop.call_soon(self._turn, loop)


class _HeadTooLarge(Exception):
    """Raised to the parser, which stops then."""


class Flow(FlowControl):
    """uvicorn's flow control, for a connection that may hold bytes back: it reads again when they are parsed."""

    def __init__(self, transport: asyncio.Transport, resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self.holds_back = False
        self._resume = resume

    def resume_reading(self) -> None:
        if not self.holds_back:
            super().resume_reading()
        elif self.read_paused:
            self.read_paused = False
            self._resume()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits. uvicorn waits for the head of a request for ever, accepts one of any size, and
    parses all pipelined requests at once.

    Here a request is parsed when the one before it is answered; what has arrived of it is held back until then.
    """

    def __init__(self, shared: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.shared = shared
        self._buffer = b""  # received, not parsed
        self._parse_scheduled = False  # `_parse_in_turn` is scheduled
        self._in_turn = False
        self._head_bytes = 0  # bytes parsed since the last head, part of a body or end of a request
        self._headers = 0  # of the current request
        self._running: RequestResponseCycle | None = None  # the request that is being answered; `cycle` is the newest
        self._ignores_input = False  # what is received from now on is dropped

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Flow = Flow(transport, self._schedule_parse)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.shared.idle[self] = time.monotonic()
        self.shared.close_oldest(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            return
        self._set_buffer(self._buffer + data)
        if not self._parse_scheduled:
            self._parse()

    def _set_buffer(self, data: bytes) -> None:
        self.shared.buffered += len(data) - len(self._buffer)
        self._buffer = data

    def _schedule_parse(self) -> None:
        if not self._parse_scheduled:
            self._parse_scheduled = True
            self.shared.schedule(self.loop, self._parse_in_turn, pipelined=True)

    def _parse_in_turn(self) -> None:
        self._parse_scheduled, self._in_turn = False, True
        try:
            self._parse()
        finally:
            self._in_turn = False

    def _parse(self) -> None:
        """Parse the buffer, until a request is complete and not answered, or its body has to be read first."""
        buffered, at = self._buffer, 0
        while at < len(buffered) and not (
            self._ignores_input or self._busy or self.flow.read_paused or self.transport.is_closing()
        ):
            end = buffered.find(b"\r\n\r\n", at + MIN_PIECE, at + MAX_PIECE - 4)
            end = at + MAX_PIECE if end < 0 else end + 4
            piece = buffered[at:end]
            at += len(piece)
            self._head_bytes += len(piece)
            super().data_received(piece)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, HEAD_TOO_LARGE)
        if self._ignores_input or self.transport.is_closing():
            self._set_buffer(b"")
            self.flow.holds_back = False
            return
        self._set_buffer(buffered[at:])
        if self._buffer and self._busy and self.shared.buffered > BUFFER_BYTES:
            self.drop()
        elif self._buffer:
            self.flow.holds_back = True
            self.transport.pause_reading()
        elif self.flow.holds_back:
            self.flow.holds_back = False
            if not self.flow.read_paused:
                self.transport.resume_reading()

    @property
    def _busy(self) -> bool:
        """A request is complete, and not answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def on_message_begin(self) -> None:
        self._headers = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > HEAD_FIELDS:
            raise _HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_bytes > HEAD_BYTES:
            raise _HeadTooLarge
        self._head_bytes = 0
        self.shared.idle.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        start, self._running = super()._start_asgi_task, cycle
        if self._in_turn or cycle.scope["path"] in HEALTH:
            start(cycle, app)
        else:
            self.shared.schedule(self.loop, lambda: start(cycle, app))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()
        elif self.cycle.response_complete:  # and no other is pipelined
            self.shared.idle[self] = time.monotonic()
        if self._buffer:
            self._unset_keepalive_if_required()
            self._schedule_parse()

    def pause_writing(self) -> None:
        self._watch_sending()
        super().pause_writing()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.shared.unread.pop(self, None)
        super().resume_writing()

    def _watch_sending(self) -> None:
        """From now on the client has a deadline to read what is written."""
        size = self.transport.get_write_buffer_size()
        if size:
            self.shared.unread.setdefault(self, time.monotonic() + SEND_S + size / SEND_RATE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.idle.pop(self, None)
        self.shared.unread.pop(self, None)
        self._ignores_input = True
        self._set_buffer(b"")
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def close_idle(self) -> None:
        """Close it for being idle; a response that it has not read yet has a deadline of its own."""
        self.shared.idle.pop(self, None)
        self._watch_sending()
        if self not in self.shared.unread:
            self._abort()
        elif not self.transport.is_closing():
            self._ignores_input = True
            self.transport.close()

    def drop(self) -> None:
        self.shared.idle.pop(self, None)
        self.shared.unread.pop(self, None)
        self._abort()

    def _abort(self) -> None:
        """Close at once. For requests in flight the client has disconnected."""
        for cycle in (self.cycle, self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        too_large = self._head_bytes > HEAD_BYTES or self._headers > HEAD_FIELDS
        self._refuse(431 if too_large else 400, HEAD_TOO_LARGE if too_large else msg)

    def _unsupported_upgrade_warning(self) -> None:
        """What follows such a request is in another protocol."""
        self._ignores_input = True
        self.cycle.keep_alive = False

    def _refuse(self, status: int, message: str) -> None:
        """Send an error, and read no more; the connection stays for a moment, or the client would see a reset."""
        if self._ignores_input:
            return
        self._ignores_input = True
        self._set_buffer(b"")
        if self.cycle is not None and not self.cycle.response_complete:  # its response would be mixed with this one
            self._abort()
            return
        body = json.dumps({"error": message}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
        self.transport.write(STATUS_LINE[status] + head + str(len(body)).encode() + b"\r\n\r\n" + body)
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self._abort)
