"""Middleware: request ids, API key, limits of requests in flight, draining, access log."""

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
from ..errors import HTTPError
from ..monitoring.metrics import Metrics

log = logging.getLogger("paredown.request")
REQUEST_ID = "X-Request-Id"
LIVE, READY = ("/v2/health/live", "/healthz"), ("/v2/health/ready", "/health")
HEALTH = (*LIVE, *READY)  # answered under any load, and while it stops
OPEN_SHARE = 4  # public paths and requests without the key: one in flight for each so many others

_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count()  # of request ids: one system call for all of them


class InFlight:
    """How many requests are in flight, and whether the server drains: then new ones are refused."""

    def __init__(self) -> None:
        self.count = 0
        self.by_kind = {"health": 0, "open": 0, "models": 0}  # those of each limit
        self.draining = False


class RequestMiddleware:
    """ASGI middleware around the routes."""

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, in_flight: InFlight, public: Collection[str]
    ) -> None:
        """`public`: paths that need no API key."""
        self.app, self.settings, self.metrics, self.in_flight, self.public = app, settings, metrics, in_flight, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else f"{_PROCESS}{next(_NUMBERS):08x}"
        status = 499  # nginx's: the client disconnected before there was a response
        scope["fields"] = fields = {}  # what the endpoint adds to the access log
        scope["begin"] = begin

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out[REQUEST_ID] = request_id
                if self.in_flight.draining:
                    out["Connection"] = "close"
            await send(message)

        has_key = self._has_key(headers)
        kind = self._kind(scope["path"], has_key)
        self.in_flight.count += 1
        self.in_flight.by_kind[kind] += 1
        self.metrics.in_flight.inc()
        try:
            refused = self._refused(scope, headers, has_key, kind)
            await (error_response(refused) if refused else self.app)(scope, receive, send_with_id)
        except Exception:  # a bug, ours or a runtime's; the client gets no details
            log.exception("failed", extra={"fields": {"request_id": request_id}})
            if status == 499:
                failed = HTTPError(500, f"the server failed on this request; its log says why, at {request_id}")
                await error_response(failed)(scope, receive, send_with_id)
        finally:
            self.in_flight.count -= 1
            self.in_flight.by_kind[kind] -= 1
            self.metrics.in_flight.dec()
            seconds = time.monotonic() - begin
            route = getattr(scope.get("endpoint"), "__name__", "none")  # never the path: clients choose it
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if self.settings.log_requests:
                line = {"request_id": request_id, "method": scope["method"], "path": scope["path"][:200]}
                log.info(
                    "request", extra={"fields": {**line, "status": status, "ms": round(1e3 * seconds, 2), **fields}}
                )

    def _kind(self, path: str, has_key: bool) -> str:
        """Which limit a request counts against: "health", "models", or "open" (no key is needed, or none was given)."""
        if path in HEALTH:
            return "health"
        return "models" if has_key and path not in self.public else "open"

    def _same_site(self, origin: str, host: str | None) -> bool:
        """The request is from a page of this server. A server on the loopback address has a local name: another site's
        name may resolve to it (DNS rebinding)."""
        netloc = _netloc(origin)
        if netloc is None or netloc != host:
            return False
        return not self.settings.local or urlsplit(origin).hostname in LOCAL

    def _has_key(self, headers: Headers) -> bool:
        """The client has the key, or none is set."""
        key = self.settings.api_key
        if key is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        verified = [headers.get("x-api-key", ""), given.strip() if scheme.lower() == "bearer" else ""]
        return any(hmac.compare_digest(one.encode(), key.encode()) for one in verified)

    def _refused(self, scope: Scope, headers: Headers, has_key: bool, kind: str) -> HTTPError | None:
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None and not self._same_site(origin, host):
            return HTTPError(403, "requests from another site's pages are refused")
        if host is not None and not self._local_name(host):
            return HTTPError(403, f"this server is not called '{host[:100]}'; --allowed-host NAME allows a name")
        if self.in_flight.draining and kind != "health":
            return HTTPError(503, "the server is shutting down", retry_after=1)
        most = self.settings.connections if kind == "models" else max(1, self.settings.connections // OPEN_SHARE)
        if self.in_flight.by_kind[kind] > most and kind != "health":
            return HTTPError(429, f"overloaded: {self.in_flight.by_kind[kind]} requests are under way", retry_after=1)
        if not has_key and scope["path"] not in self.public:
            return HTTPError(401, "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        return None

    def _local_name(self, host: str) -> bool:
        """A server on the loopback address without a key answers only under names of this machine: a page of another
        site whose name resolves to it (DNS rebinding) sends its own.
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
    """The host and port of an origin; None for a malformed one."""
    try:
        parts = urlsplit(origin)
        return parts.netloc if parts.hostname else None
    except ValueError:
        return None


def error_response(error: HTTPError) -> JSONResponse:
    """The response to an error, in the form of the protocol."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)
