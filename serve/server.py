"""One serving process: opens models, listens on a socket, drains after SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from paredown.runtime.errors import InputError, missing_extra

try:
    import httptools  # noqa: F401
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn
except ImportError as error:
    raise missing_extra(error.name or "uvicorn", "serve") from None

from .config import Settings
from .http.connections import Connections

if TYPE_CHECKING:
    from .http.middleware import InFlight
    from .models.manager import ModelManager

log = logging.getLogger("paredown")
# Ticks of the server, 0.1 s each, that are "not ready" before the socket is closed, so that its backlog is answered.
# Ticks, not seconds: a process that was not scheduled has read nothing meanwhile.
UNREADY_TICKS = 4
END_S = 5  # seconds beyond what draining and closing may take
CLOSE_S = 5  # seconds for the last answers to leave
INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
OPEN_PER_REQUEST = 4  # connections that may be open, for each request that may be under way


class Server(uvicorn.Server):
    """uvicorn's server, which on SIGTERM would close the socket at once and die of the signal. This one
    drains first."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        in_flight: InFlight,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        """`stopping()` is called once, when draining begins."""
        super().__init__(config)
        self.settings, self.in_flight, self.stopping = settings, in_flight, stopping
        self.connections = Connections(OPEN_PER_REQUEST * settings.connections)
        config.http = self.connections.protocol  # type: ignore[assignment]
        self.parent = os.getppid() if settings.workers > 1 else None
        self.drain_begin: float | None = None
        self.drain_ticks = 0
        self.interrupted = False  # by SIGINT: Ctrl+C

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.drain_begin is None:
            self.stopping()
        if self.drain_begin is not None:
            self.should_exit = True  # asked twice
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.in_flight.draining = True
        self.drain_begin = self.drain_begin or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        self.connections.close_slow()
        if self.parent is not None and os.getppid() != self.parent and self.drain_begin is None:
            self.handle_exit(0, None)  # the supervisor is dead
        if self.drain_begin is not None:
            self.drain_ticks += 1
            drained = self.drain_ticks >= UNREADY_TICKS and not self.in_flight.count
            if drained or time.monotonic() - self.drain_begin > self.settings.drain_s:
                self.should_exit = True
        return await super().on_tick(counter)


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises InputError when the address cannot be bound."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
        found.listen(2048)
    except OSError as error:
        found.close()
        raise InputError(f"--host {settings.host} --port {settings.port}: {error.strerror or error}") from None
    return found


def check_tls(settings: Settings) -> None:
    """InputError where certificate and key cannot be used."""
    if settings.tls_cert is None and settings.tls_key is None:
        return
    if settings.tls_cert is None or settings.tls_key is None:
        raise InputError("--tls-cert and --tls-key: give both")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: {error.strerror}") from None


def run(settings: Settings, listener: socket.socket, directory: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0, or 130 after SIGINT. `directory`: the shared state of several workers; None
    for one process.

    Raises BundleError or InputError before anything is served.
    """
    from .http.app import create_app  # imports prometheus_client, which reads the environment then
    from .http.middleware import InFlight
    from .models.control import ModelControl
    from .models.manager import ModelManager
    from .models.worker_state import WorkerState
    from .monitoring.logs import start_logging
    from .monitoring.metrics import Metrics

    start_logging()
    metrics, in_flight = Metrics(), InFlight()
    models = ModelManager(settings, metrics.call)
    state = WorkerState(directory) if directory else None
    commands = state.commands() if state else {}  # before the models are opened: later ones are still to be executed
    with exit_on_sigterm():
        models.open_initial()
    control = ModelControl(models, state, commands)
    config = uvicorn.Config(
        create_app(settings, models, metrics, control, in_flight),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=CLOSE_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    where = address(settings, listener)
    fields = {"url": where, "models": sorted(models.found), **settings.configuration, "pid": os.getpid()}
    log.info("serving", extra={"fields": fields})
    if not (settings.local or settings.api_key):
        log.warning("anyone who reaches this address may use the models: set PAREDOWN_API_KEY")

    def stopping() -> None:
        models.children.stop()
        threading.Thread(target=_exit_when_stuck, args=(settings, models), daemon=True, name="end").start()

    server = Server(config, settings, in_flight, stopping)
    server.run(sockets=[listener])
    log.info("stopped", extra={"fields": {"pid": os.getpid()}})
    return INTERRUPTED if server.interrupted else 0


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """In this block SIGTERM raises SystemExit(0): the process ends, and what it has unpacked is removed."""

    def stop(*_: object) -> None:
        raise SystemExit(0)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_when_stuck(settings: Settings, models: ModelManager) -> None:
    """End this process in time, also when a call of a model does not return and its thread is waited for."""
    time.sleep(settings.drain_s + CLOSE_S + END_S)
    log.error("not stopped in time: a call of a model does not return", extra={"fields": {"pid": os.getpid()}})
    models.remove_unpacked()
    os._exit(1)


def address(settings: Settings, listener: socket.socket) -> str:
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"
