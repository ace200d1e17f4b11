"""The layout bentoml, by BentoML itself: a Bento is built of it, served, and answers as the golden rows say.

`make receivers` installs BentoML below build/receivers; without it these tests are skipped.
"""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from bundling import bundle_of
from conftest import TASK, paredown
from serving import PATIENCE_S, eventually

from paredown.compress.models.loading import Checkpoint

BIN = Path(__file__).resolve().parents[2] / "build" / "receivers" / "python" / "bin"
pytestmark = pytest.mark.skipif(not (BIN / "bentoml").exists(), reason="no BentoML here: make receivers")


def asked(port: int, texts: list[str]) -> Any:
    body = json.dumps({"texts": texts}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_bento_answers_the_golden_rows(untrained: Checkpoint, tmp_path: Path) -> None:
    bundle = bundle_of(untrained, TASK, tmp_path / "made")
    assert paredown("pack", bundle, "--layout", "bentoml", "--output-dir", tmp_path / "project").returncode == 0
    here = {
        "BENTOML_HOME": str(tmp_path / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment = os.environ | here
    command = [BIN / "bentoml", "build", "--version", "1"]
    done = subprocess.run(
        command, cwd=tmp_path / "project", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "bentoml", "serve", "tiny:1", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: is_ready(port))
        golden = json.loads((bundle / "golden.json").read_text())["rows"]
        answers = asked(port, [row["text"] for row in golden])
        assert [answer["label"] for answer in answers] == [row["answer"] for row in golden]
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(port, ["a\x1eb"])
        assert refused.value.code == 400
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
        log.close()
