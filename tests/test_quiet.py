"""Nothing phones home: whatever is run, no other machine is asked, and no file is left in the home directory.

A library that reports its use goes through the proxy that the environment names; this one is ours. ONNX Runtime's
telemetry leaves an id in the home directory at once, and asks 9 s later.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import PATIENCE_S, starting

from paredown.compress.models.loading import Checkpoint

HIDE = ("CI", "HF_HUB_OFFLINE", "ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK")  # each of them keeps some library quiet
PROXIES = [name for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())]
LATER = "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); import selftest; p = pathlib.Path(sys.argv[1]); "
LATER += "opened = selftest.open_model(p, selftest.read_manifest(p)); time.sleep(12)"


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment of a new user; at the end nobody has asked the proxy, and the home is empty."""
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in HIDE:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        yield
        proxy.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            asking, _ = proxy.accept()
            asking.settimeout(1)
            pytest.fail(f"asked: {asking.recv(300)!r}")
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("words", [["doctor"], ["verify", "BUNDLE"], ["predict", "BUNDLE", "--text", "good"]])
def test_a_command(words: list[str], finished: Path, quiet: None) -> None:
    named = [str(finished / "bundle") if word == "BUNDLE" else word for word in words]
    subprocess.run([sys.executable, "-m", "paredown", *named], check=True, capture_output=True)


@pytest.mark.slow
def test_what_makes_and_measures(teacher: Checkpoint, files: dict, finished: Path, tmp_path: Path, quiet: None) -> None:
    """`run` is these, and `choose`: torch, transformers, both exporters, every runtime in processes of their own."""
    rows, paredown = ["--train", files["train"]], [sys.executable, "-m", "paredown"]
    models = [finished / "bundle", teacher.path, tmp_path / "openvino", tmp_path / "onnx"]
    for words in (
        ["finetune", teacher.path, *rows, "--epochs", "0.1", "--output-dir", tmp_path / "tuned"],
        ["export", teacher.path, "--to", "onnx", "--output-dir", tmp_path / "onnx"],
        ["export", teacher.path, "--to", "openvino", "--output-dir", tmp_path / "openvino"],
        ["bench", *models, "--data", files["test"], "--min-seconds", "0.1", "--processes", "1", "--min-repeats", "2"],
    ):
        done = subprocess.run([*paredown, *map(str, words)], check=False, capture_output=True, text=True)
        assert done.returncode in (0, 1 if words[0] == "bench" else 0), done.stderr


def test_a_bundle_by_itself(finished: Path, quiet: None) -> None:
    subprocess.run([sys.executable, finished / "bundle" / "selftest.py"], check=True, capture_output=True)


@pytest.mark.slow
def test_a_bundle_that_stays_open(finished: Path, quiet: None) -> None:
    subprocess.run([sys.executable, "-B", "-c", LATER, finished / "bundle"], check=True, capture_output=True)


def test_a_server(finished: Path, tmp_path: Path, quiet: None) -> None:
    with starting(tmp_path) as start:
        server = start(finished / "bundle")
        for _ in range(20):
            assert server.ask("/predict", {"text": "good"})[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
