"""Open connections: bounded in number, and in the time that one may be open without asking anything."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("paredown")
HEADERS_S = 10  # for the head of a request, since the connection was made or the last answer was sent
RESERVED = 64  # files that are kept for models, logs and metrics
TOLD_S = 10  # seconds between two lines of log


class Connections:
    """Those of one process. `Connections(n).made` is what uvicorn wants as its protocol."""

    def __init__(self, most: int) -> None:
        """`most` may be open; fewer where the process may not open as many files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most if files == resource.RLIM_INFINITY else max(1, min(most, files - RESERVED))
        self.idle: dict[Connection, float] = {}  # without the whole head of a request, since when; longest first
        self._told = -math.inf

    def made(self, **of_uvicorn: Any) -> Connection:
        return Connection(self, **of_uvicorn)

    def make_room(self, count: int) -> None:
        """With `count` open, close the one that has been idle for longest, if they are too many."""
        if count <= self.most:
            return
        next(iter(self.idle)).drop()  # the newest is idle in any case
        if time.monotonic() - self._told > TOLD_S:
            self._told = time.monotonic()
            log.warning("too many connections: idle ones are closed", extra={"fields": {"most": self.most}})

    def close_slow(self) -> None:
        """Close those that have been idle for too long, also if a byte comes now and then."""
        late = time.monotonic() - HEADERS_S
        while self.idle and next(iter(self.idle.values())) < late:
            next(iter(self.idle)).drop()


class Connection(HttpToolsProtocol):
    """uvicorn's, which waits for the head of a request for ever."""

    def __init__(self, every: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.every = every

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.every.idle[self] = time.monotonic()
        self.every.make_room(len(self.connections))

    def on_headers_complete(self) -> None:
        self.every.idle.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # and no other waits in its pipeline
            self.every.idle[self] = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self.every.idle.pop(self, None)
        super().connection_lost(exc)

    def drop(self) -> None:
        self.every.idle.pop(self, None)
        self.transport.abort()
