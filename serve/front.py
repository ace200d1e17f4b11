"""What every request passes before and after its route: identity, key, limits, the gate at shutdown, the log."""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .refused import Refused
from .settings import LOCAL, Settings

log = logging.getLogger("paredown.request")
REQUEST_ID = "X-Request-Id"
OPEN = ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # no key: they tell nothing and change nothing

_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count()  # of request ids: one call of the system for all of them


class Gate:
    """How many requests are under way, and whether new ones are let in."""

    def __init__(self) -> None:
        self.under_way = 0
        self.draining = False


class Front:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, gate: Gate) -> None:
        self.app, self.settings, self.metrics, self.gate = app, settings, metrics, gate

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

        self.gate.under_way += 1
        self.metrics.under_way.inc()
        try:
            refused = self._refused(scope, headers)
            await (refusal(refused) if refused else self.app)(scope, receive, answered)
        except Exception:  # a bug, ours or a runtime's; what the client may know is that it happened
            log.exception("failed", extra={"fields": {"request_id": request_id}})
            if status == 499:
                failed = Refused(500, f"the server failed on this request; its log says why, at {request_id}")
                await refusal(failed)(scope, receive, answered)
        finally:
            self.gate.under_way -= 1
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

    def _same_site(self, origin: str, host: str | None) -> bool:
        """The page that asks came from here. A server of this machine's alone has a local name: another site's name may
        be made to lead here (DNS rebinding)."""
        netloc = _netloc(origin)
        if netloc is None or netloc != host:
            return False
        return not self.settings.local or urlsplit(origin).hostname in LOCAL

    def _refused(self, scope: Scope, headers: Headers) -> Refused | None:
        path, health = scope["path"], scope["path"].startswith("/v2/health/")
        origin = headers.get("origin")
        if origin is not None and not self._same_site(origin, headers.get("host")):
            return Refused(403, "requests from another site's pages are refused")
        if self.gate.draining and not health:
            return Refused(503, "the server is shutting down", retry_after=1)
        if self.gate.under_way > self.settings.connections and not health:
            return Refused(429, f"overloaded: {self.gate.under_way} requests are under way", retry_after=1)
        key = self.settings.api_key
        if key is not None and path not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            tried = [headers.get("x-api-key", ""), given.strip() if scheme.lower() == "bearer" else ""]
            if not any(hmac.compare_digest(one.encode(), key.encode()) for one in tried):
                return Refused(401, "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
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
