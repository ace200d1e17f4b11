"""A build context: what it copies is there, and what it installs is the bundle's, and the server."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import paredown
from manifests import change_manifest

from paredown.export.bundle.layouts.docker import to_docker
from paredown.runtime.errors import InputError
from paredown.runtime.selftest import selftest
from paredown.serve.config import Settings


def test_the_build_context_is_complete(made: Path, tmp_path: Path) -> None:
    done = paredown("pack", made, "--layout", "docker", "--output-dir", tmp_path / "image")
    assert done.returncode == 0, done.stderr
    context = tmp_path / "image"
    text = (context / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (context / source).exists()
    selftest(context / "bundle")
    *bundles, server = (context / "requirements.txt").read_text().splitlines()
    assert bundles == (made / "requirements.txt").read_text().splitlines()
    assert re.fullmatch(r"paredown\[serve\]==[0-9.]+", server)
    names = re.findall(r"PAREDOWN_SERVE_([A-Z]+)=", text)
    assert {"HOST", "PORT"} <= set(names)
    assert {name.lower() for name in names} - {"max"} <= set(Settings.model_fields)
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)


def test_a_runtime_that_needs_a_gpu_is_refused(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made, tmp_path / "bundle")
    change_manifest(bundle, runtime="tensorrt")
    done = paredown("pack", bundle, "--layout", "kserve", "--output-dir", tmp_path / "image")
    assert done.returncode != 0
    assert not (tmp_path / "image").exists()
    with pytest.raises(InputError, match="for bundles of onnxruntime and openvino, not tensorrt"):
        to_docker(bundle, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed_on": {"python": "3.11-slim\nRUN id\nFROM python:3"}}, "is no version"),
        ({"tool": {"paredown": "1\n--index-url http://elsewhere.invalid/"}}, "is no version"),
        ({}, r"lines such as numpy==2\.4\.6 are expected"),
    ],
)
def test_what_docker_executes_is_not_a_strangers(made: Path, tmp_path: Path, change: dict, message: str) -> None:
    bundle = shutil.copytree(made, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    change_manifest(bundle, **{key: manifest[key] | value for key, value in change.items()})
    if not change:
        (bundle / "requirements.txt").write_text("--index-url http://elsewhere.invalid/\nnumpy==2.4.6\n")
    (tmp_path / "image").mkdir()
    with pytest.raises(InputError, match=message):
        to_docker(bundle, tmp_path / "image")
    assert not any((tmp_path / "image").iterdir())
