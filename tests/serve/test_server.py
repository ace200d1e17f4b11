"""Servers in processes of their own, and the clients that exist."""

import asyncio
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
import uvicorn
from conftest import refused
from serving import PATIENCE_S, Running, eventually, starting
from strangers import endless, openers

from paredown.export.predictor import Predictor
from paredown.serve.config import Settings
from paredown.serve.http.middleware import InFlight
from paredown.serve.server import Server

TEXTS = ["a brilliant moving film", "dull awful weak"]
SHOWN = re.compile(r"<tr><th>(\w+)</th>.*?([\d.]+) %</td>")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting(tmp_path_factory.mktemp("server")) as start:
        yield start(finished / "bundle", "--threads", 1)


@pytest.fixture(scope="module")
def want(finished: Path) -> list[dict]:
    return Predictor(finished / "bundle", 1)(TEXTS)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_bundles_answers(server: Running, want: list[dict], binary: bool) -> None:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=PATIENCE_S)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["name"] == "paredown"
    (listed,) = client.get_model_repository_index()
    about = client.get_model_metadata(listed["name"])
    given = triton.InferInput(about["inputs"][0]["name"], [2], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in TEXTS], dtype=object), binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    found = client.infer("tiny", [given], outputs=outputs, request_id="7", request_compression_algorithm="gzip")
    labels = [label.decode() if binary else label for label in np.asarray(found.as_numpy("label")).tolist()]
    assert labels == [w["label"] for w in want]
    scores = [[w["scores"][name] for name in ("negative", "positive")] for w in want]
    np.testing.assert_allclose(np.asarray(found.as_numpy("scores")), scores, atol=0.02)
    assert found.get_response()["id"] == "7"
    everything = client.infer("tiny", [given])
    np.testing.assert_allclose(np.asarray(everything.as_numpy("scores")), scores, atol=0.02)
    with pytest.raises(triton.InferenceServerException, match="unknown model"):
        client.infer("other", [given])
    client.load_model("tiny")
    client.close()


def test_curl_gets_the_bundles_answer(server: Running, want: list[dict]) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS}]}
    url = f"{server.url}/v2/models/tiny/infer"
    done = subprocess.run(["curl", "-sS", url, "-d", json.dumps(body)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["data"] == [w["label"] for w in want]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_answer(server: Running, finished: Path, tmp_path: Path) -> None:
    """The page asks by itself when its address names a text, which is also a link that can be shared."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
         f"--user-data-dir={tmp_path}", "--dump-dom", f"{server.url}/#{TEXTS[0].replace(' ', '%20')}"],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    (alone,) = Predictor(finished / "bundle", 1)(TEXTS[:1])  # dynamic INT8 answers a little otherwise in a batch
    shown = {label: float(score) for label, score in SHOWN.findall(done.stdout)}
    assert shown == pytest.approx({label: 100 * p for label, p in alone["scores"].items()}, abs=0.1)
    assert "ms here" in done.stdout


def test_each_request_is_a_line_of_log(server: Running) -> None:
    server.ask("/predict", {"text": "good film"}, **{"X-Request-Id": "line-1"})
    eventually(lambda: any(line.get("request_id") == "line-1" for line in server.lines()))
    (line,) = [line for line in server.lines() if line.get("request_id") == "line-1"]
    assert (line["status"], line["path"], line["rows"], line["model"]) == (200, "/predict", 1, "tiny")


def hammer(server: Running, stop: threading.Event, replies: list) -> list[threading.Thread]:
    """Clients that ask until `stop`; a reply is (when the request had left, status), status 0 where there was none."""
    body, address = json.dumps({"text": TEXTS}), server.url.removeprefix("http://")

    def ask() -> None:
        while not stop.is_set():
            client, sent, status = http.client.HTTPConnection(address, timeout=PATIENCE_S), math.inf, 0
            try:
                client.request("POST", "/predict", body)
                sent = time.monotonic()  # not before: a busy machine may hold a client for longer than a drain takes
                status = client.getresponse().status
            except (OSError, http.client.HTTPException):
                pass
            finally:
                client.close()
            replies.append((sent, status))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    return threads


def test_sigterm_under_load_loses_no_accepted_request(finished: Path, start: Callable[..., Running]) -> None:
    server, stop, replies = start(finished / "bundle", "--threads", 1), threading.Event(), []
    threads = hammer(server, stop, replies)
    eventually(lambda: len(replies) > 20)
    told = time.monotonic()
    assert server.stop() == 0
    eventually(lambda: any(status == 0 for _, status in replies))
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for _, status in replies} <= {200, 503, 0}
    assert {status for sent, status in replies if sent < told} <= {200, 503}
    assert [line["message"] for line in server.lines()][-1] == "stopped"


def test_a_process_that_waited_for_its_turn_still_reads_its_backlog() -> None:
    server = Server(uvicorn.Config(lambda: None), Settings(drain_s=60), InFlight())
    server.handle_exit(signal.SIGTERM, None)
    time.sleep(0.5)  # the machine was busy
    asyncio.run(server.on_tick(1))
    assert not server.should_exit
    for turn in range(2, 5):
        asyncio.run(server.on_tick(turn))
    assert server.should_exit


def test_workers_share_the_work_and_come_back(finished: Path, start: Callable[..., Running]) -> None:
    server, replies = start(finished / "bundle", "--workers", 2), []

    def pids() -> set[int]:
        return {line["pid"] for line in server.lines() if line["message"] == "serving" and "pid" in line}

    eventually(lambda: len(pids()) == 2)
    assert server.ask("/v2/repository/models/tiny/load", {})[0] == 200  # in both
    loads = [line for line in server.lines() if line["message"] == "loaded"]
    assert len(loads) == 4
    victim = min(pids())
    os.kill(victim, signal.SIGKILL)
    for _ in range(10):
        try:
            replies.append(server.ask("/predict", {"text": TEXTS})[0])
        except OSError:
            replies.append(0)  # it was on its way to the one that died
    assert replies.count(200) >= 9
    eventually(lambda: len(pids()) == 3)
    assert any(line["message"] == "a worker died" and line["pid"] == victim for line in server.lines())
    text = server.ask("/metrics")[1].decode()
    assert 'paredown_requests_total{route="predict",status="200"}' in text
    assert server.stop() == 0


def test_workers_that_close_leave_no_socket_that_nobody_reads(finished: Path, start: Callable[..., Running]) -> None:
    server = start(finished / "bundle", "--workers", 2, "--threads", 1, "--drain-s", 0.5)
    address = urlsplit(server.url)
    where = (address.hostname or "", address.port or 0)
    eventually(lambda: server.ask("/v2/health/live")[0] == 200)
    with socket.create_connection(where) as slow:  # its body never comes: a worker waits for it, its socket closed
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        server.ask("/v2/health/live")
        server.process.terminate()

        def closed() -> bool:
            try:
                socket.create_connection(where).close()
            except ConnectionRefusedError:
                return True
            assert server.process.poll() is None
            return False

        eventually(closed)
        assert sum(line["message"] == "stopped" for line in server.lines()) < 2
    assert server.process.wait(PATIENCE_S) == 0


def test_workers_whose_supervisor_was_killed_leave_nothing(
    finished: Path, start: Callable[..., Running], tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = start(finished / "bundle", "--workers", 2, "--threads", 1, env={"TMPDIR": str(scratch)})
    eventually(lambda: len(list(scratch.glob("*/worker-*.json"))) == 2)
    server.process.kill()
    eventually(lambda: not list(scratch.glob("paredown-serve-*")))
    eventually(lambda: sum(line["message"] == "stopped" for line in server.lines()) == 2)


def test_a_bundle_that_does_not_open_ends_all_workers(finished: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(finished / "bundle", tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    command = [sys.executable, "-m", "paredown", "serve", str(broken), "--port", "0", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "error: tokenizer.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_tls_and_a_key_from_the_environment(finished: Path, start: Callable[..., Running], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--tls-cert", cert, "--tls-key", key, "--threads", 1]
    server = start(finished / "bundle", *options, env={"PAREDOWN_API_KEY": "s3cret"})
    assert server.url.startswith("https://")

    def curl(*more: object) -> str:
        command = ["curl", "-sS", "--cacert", cert, f"{server.url}/predict", "-d", '{"text": "good"}', *more]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout

    assert "API key" in json.loads(curl())["error"]
    assert json.loads(curl("-H", "Authorization: Bearer s3cret"))["label"]
    assert "s3cret" not in server.errors.read_text()


def test_what_cannot_be_served_is_one_line(finished: Path, tmp_path: Path) -> None:
    from conftest import paredown

    bundle = finished / "bundle"
    refused(paredown("serve"), "either a bundle or --models")
    refused(paredown("serve", bundle, "--models", tmp_path), "either a bundle or --models")
    refused(paredown("serve", bundle, "--port", "70000"), "--port")
    refused(paredown("serve", bundle, "--workers", "0"), "--workers")
    refused(paredown("serve", bundle, "--host", "203.0.113.7"), "--host 203.0.113.7")
    refused(paredown("serve", bundle, "--tls-cert", tmp_path / "x"), "give both")
    refused(paredown("serve", bundle, "--tls-cert", tmp_path / "x", "--tls-key", tmp_path / "y"), "--tls-cert")
    (tmp_path / "empty").touch()
    refused(paredown("serve", bundle, "--api-key-file", tmp_path / "empty"), "--api-key-file")
    (tmp_path / "accent").write_text("sésame")
    refused(paredown("serve", bundle, "--api-key-file", tmp_path / "accent"), "printable ASCII")
    refused(paredown("serve", bundle, env={"PAREDOWN_API_KEY": "sésame"}), "$PAREDOWN_API_KEY")
    refused(paredown("load", "localhost:1", "--rps", "1", "--text", "a"), "http://")
    refused(paredown("load", "http://localhost:1", "--rps", "1"), "--text or --data")
    refused(paredown("load", "http://127.0.0.1:1", "--rps", "9", "--seconds", "0.3", "--text", "a"), "no answer")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_opens_an_endless_model_stops_when_told(
    workers: int, finished: Path, tmp_path: Path, start: Callable[..., Running]
) -> None:
    models = tmp_path / "models"
    shutil.copytree(finished / "bundle", models / "good")
    endless(finished / "bundle", models / "endless" / "1")
    server = start("--models", models, "--load", "none", "--workers", workers, "--drain-s", 2)
    threading.Thread(target=server.ask, args=("/v2/repository/models/endless/load", {}), daemon=True).start()
    eventually(lambda: openers(server.process.pid))
    opening = openers(server.process.pid)
    assert server.ask("/v2/repository/models/good/load", {})[0] == 200
    assert server.ask("/predict", {"text": "good", "model": "good"})[0] == 200
    assert server.stop() == 0
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in opening))


def test_a_server_stops_while_it_opens_its_first_model(finished: Path, tmp_path: Path) -> None:
    bundle = endless(finished / "bundle", tmp_path / "endless")
    command = [sys.executable, "-m", "paredown", "serve", bundle, "--port", "0", "--open-s", "300"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE)
    eventually(lambda: openers(process.pid))
    opening = openers(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in opening))
