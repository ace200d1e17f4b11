"""Middleware: request ids, API key, limits, the gate at shutdown, the access log."""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import LOCAL, Settings
from ..errors import Refused
from ..monitoring.metrics import Metrics

log = logging.getLogger("paredown.request")
REQUEST_ID = "X-Request-Id"
HEALTH = "/v2/health/"
OPEN_SHARE = 4  # what needs no key, and what comes without one, has a place for each so many of the others

_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count()  # of request ids: one call of the system for all of them


class Gate:
    """How many requests are under way, and whether new ones are let in."""

    def __init__(self) -> None:
        self.under_way = 0
        self.taken = {"health": 0, "open": 0, "models": 0}  # of those, by what they ask for
        self.draining = False


class Front:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, gate: Gate, public: Collection[str]) -> None:
        """`public`: paths that need no API key."""
        self.app, self.settings, self.metrics, self.gate, self.public = app, settings, metrics, gate, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else f"{_PROCESS}{next(_NUMBERS):08x}"
        status = 499  # as nginx writes it: the client was gone before there was an answer
        scope["fields"] = fields = {}  # what the route adds to the line of log
        scope["begin"] = begin

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out[REQUEST_ID] = request_id
                if self.gate.draining:
                    out["Connection"] = "close"
            await send(message)

        known = self._known(headers)
        kind = self._kind(scope["path"], known)
        self.gate.under_way += 1
        self.gate.taken[kind] += 1
        self.metrics.under_way.inc()
        try:
            refused = self._refused(scope, headers, known, kind)
            await (refusal(refused) if refused else self.app)(scope, receive, answered)
        except Exception:  # a bug, ours or a runtime's; what the client may know is that it happened
            log.exception("failed", extra={"fields": {"request_id": request_id}})
            if status == 499:
                failed = Refused(500, f"the server failed on this request; its log says why, at {request_id}")
                await refusal(failed)(scope, receive, answered)
        finally:
            self.gate.under_way -= 1
            self.gate.taken[kind] -= 1
            self.metrics.under_way.dec()
            seconds = time.monotonic() - begin
            route = getattr(scope.get("endpoint"), "__name__", "none")  # never the path: clients choose it
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if self.settings.log_requests:
                line = {"request_id": request_id, "method": scope["method"], "path": scope["path"][:200]}
                log.info(
                    "request", extra={"fields": {**line, "status": status, "ms": round(1e3 * seconds, 2), **fields}}
                )

    def _kind(self, path: str, known: bool) -> str:
        """Which limit a request counts against: "health", "models", or "open" (no key is needed, or none was given)."""
        if path.startswith(HEALTH):
            return "health"
        return "models" if known and path not in self.public else "open"

    def _same_site(self, origin: str, host: str | None) -> bool:
        """The page that asks came from here. A server of this machine's alone has a local name: another site's name may
        be made to lead here (DNS rebinding)."""
        netloc = _netloc(origin)
        if netloc is None or netloc != host:
            return False
        return not self.settings.local or urlsplit(origin).hostname in LOCAL

    def _known(self, headers: Headers) -> bool:
        """The client has the key, or none is asked for."""
        key = self.settings.api_key
        if key is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        tried = [headers.get("x-api-key", ""), given.strip() if scheme.lower() == "bearer" else ""]
        return any(hmac.compare_digest(one.encode(), key.encode()) for one in tried)

    def _refused(self, scope: Scope, headers: Headers, known: bool, kind: str) -> Refused | None:
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None and not self._same_site(origin, host):
            return Refused(403, "requests from another site's pages are refused")
        if host is not None and not self._our_name(host):
            return Refused(403, f"this server is not called '{host[:100]}'; --allowed-host NAME allows a name")
        if self.gate.draining and kind != "health":
            return Refused(503, "the server is shutting down", retry_after=1)
        most = self.settings.connections if kind == "models" else max(1, self.settings.connections // OPEN_SHARE)
        if self.gate.taken[kind] > most and kind != "health":
            return Refused(429, f"overloaded: {self.gate.taken[kind]} requests are under way", retry_after=1)
        if not known and scope["path"] not in self.public:
            return Refused(401, "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        return None

    def _our_name(self, host: str) -> bool:
        """A server of this machine's alone, and without a key, is asked under a name of this machine: a page of another
        site whose name has been made to lead here (DNS rebinding) asks under its own.
        """
        if not self.settings.local or self.settings.api_key is not None:
            return True
        name = _hostname(f"//{host}")
        return name is not None and name.lower().rstrip(".") in {*LOCAL, *map(str.lower, self.settings.allowed_host)}


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    """The host and port of an origin; None for what is none."""
    try:
        parts = urlsplit(origin)
        return parts.netloc if parts.hostname else None
    except ValueError:
        return None


def refusal(error: Refused) -> JSONResponse:
    """An error as the protocol wants it."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)
