"""Servers for tests: the application in this process, or `paredown serve` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.testclient import TestClient

from paredown.serve.config import Settings
from paredown.serve.http.app import create_app
from paredown.serve.http.middleware import InFlight
from paredown.serve.models.control import ModelControl
from paredown.serve.models.manager import ModelManager
from paredown.serve.monitoring.metrics import Metrics

PATIENCE_S = 120  # for what takes a second on an idle machine


def app_of(**settings: object) -> tuple[Starlette, ModelManager, InFlight]:
    """The application; a minute for every answer, because the machine may be busy."""
    chosen = Settings.model_validate(
        {"threads": 1, "deadline_ms": 60_000, "open_s": 600, "log_requests": False, **settings}
    )
    metrics, in_flight = Metrics(), InFlight()
    models = ModelManager(chosen, metrics.call)
    models.open_initial()
    return create_app(chosen, models, metrics, ModelControl(models, None), in_flight), models, in_flight


@contextlib.contextmanager
def client_of(**settings: object) -> Iterator[tuple[TestClient, ModelManager, InFlight]]:
    """The application in this process."""
    app, models, in_flight = app_of(**settings)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client, models, in_flight


class Running:
    """`paredown serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen, url: str, errors: Path) -> None:
        self.process, self.url, self.errors = process, url, errors

    def listening(self) -> bool:
        self.url = next((line["url"] for line in self.lines() if line["message"] == "serving"), "")
        return bool(self.url)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.errors.read_text().splitlines() if line.startswith("{")]

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def starting(directory: Path) -> Iterator[Callable[..., Running]]:
    """`start(*options)`: a server that is ready; all of them are gone when the block ends. `measured`: with the serving
    configuration of its bundle."""
    begun: list[Running] = []

    def start(*options: object, measured: bool = False, env: dict[str, str] | None = None) -> Running:
        errors = directory / f"errors-{len(begun)}.jsonl"
        command = [sys.executable, "-m", "paredown", "serve", *map(str, options)]
        command += ["--port", "0", "--deadline-ms", "60000", "--open-s", "600"]
        command += [] if measured or "--workers" in options else ["--workers", "1"]
        with errors.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env={**os.environ, **(env or {})})
        running = Running(process, "", errors)
        begun.append(running)
        eventually(lambda: process.poll() is not None or running.listening())
        assert process.poll() is None, errors.read_text()
        return running

    try:
        yield start
    finally:
        for running in begun:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()


def eventually(true: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
