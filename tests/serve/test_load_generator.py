import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import paredown

from paredown.runtime.errors import InputError
from paredown.serve.load_generator import Load, request_bodies, send


def test_requests_are_due_at_the_rate_that_was_asked_for() -> None:
    assert list(Load(4, 1, "even").due_times()) == [0, 0.25, 0.5, 0.75]
    random = list(Load(1000, 10).due_times())
    assert len(random) == pytest.approx(10_000, rel=0.05)
    assert random == list(Load(1000, 10).due_times())
    assert random != list(Load(1000, 10, seed=1).due_times())


@pytest.mark.parametrize(("rps", "seconds"), [(0, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_a_rate_or_duration_of_none_is_refused(rps: float, seconds: float) -> None:
    with pytest.raises(InputError, match="both are more than 0"):
        Load(rps, seconds)


def test_both_ways_to_ask() -> None:
    assert request_bodies(["a"], "http://h", None) == ("http://h/predict", [b'{"text": "a"}'])
    address, (body,) = request_bodies(["a"], "http://h", "m")
    assert address == "http://h/v2/models/m/infer"
    assert json.loads(body)["inputs"][0]["data"] == ["a"]
    _, (body,) = request_bodies(["a\x1eb"], "http://h", "m")
    assert [tensor["data"] for tensor in json.loads(body)["inputs"]] == [["a"], ["b"]]


def test_a_server_that_stalls_is_charged_for_all_who_would_have_waited() -> None:
    """It answers nothing for a second, then everything at once: a closed loop would see one slow request."""
    arrived = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in (b"\r\n", b""):
            pass
        await reader.read(100)
        arrived.append(time.perf_counter())
        await asyncio.sleep(max(0.0, arrived[0] + 1 - time.perf_counter()))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def both():
        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await send(f"http://127.0.0.1:{port}/", [b"{}"], Load(50, 0.8, "even", timeout=60))

    outcome = asyncio.run(both())
    found = outcome.summary()
    assert found["ok"] == found["sent"] == 40
    slow = sum(latency > 0.15 for latency in outcome.latencies)
    assert slow >= 39  # each of them waited for the end of that second
    assert found["p50_ms"] < found["max_ms"]
    assert found["lag_p99_ms"] >= 0


def test_not_one_success_is_a_failure(tmp_path: Path) -> None:
    """And the figures are written all the same."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(401)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        url, figures = f"http://127.0.0.1:{server.server_port}", tmp_path / "figures.json"
        done = paredown("load", url, "--rps", 20, "--seconds", 0.2, "--text", "a", "--timeout", 60, "--json", figures)
        server.shutdown()
    assert done.returncode == 1
    assert done.stderr == f"error: {url}/predict: not one request succeeded\n"
    assert json.loads(figures.read_text())["ok"] == 0
