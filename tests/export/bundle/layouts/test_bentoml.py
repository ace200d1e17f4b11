"""The BentoML project: its service is run with decorators that do nothing; BentoML itself is in tests/receivers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bundling import SERVING
from conftest import paredown
from manifests import change_manifest

from paredown.export.bundle.layouts.bentoml import to_bentoml
from paredown.runtime.errors import InputError
from paredown.runtime.selftest import selftest

DECORATORS = """
from types import SimpleNamespace
asked = []
def service(**given):
    asked.append(given)
    return lambda cls: cls
def api(**given):
    asked.append(given)
    return lambda method: method
class InvalidArgument(Exception): pass
exceptions = SimpleNamespace(InvalidArgument=InvalidArgument)
"""
ASK = """
import json, sys
import bentoml, service
bundle = service.Bundle()
texts = json.loads(sys.stdin.read())
try:
    bundle.predict(["a\\x1eb"])
except bentoml.InvalidArgument as error:
    why = str(error)
print(json.dumps([bentoml.asked, bundle.predict(texts), why]))
"""


def test_the_service_answers_the_golden_rows(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made, tmp_path / "made")
    change_manifest(bundle, serving=SERVING, name="My_Model")
    done = paredown("pack", bundle, "--layout", "bentoml", "--output-dir", tmp_path / "project")
    assert done.returncode == 0, done.stderr
    project = tmp_path / "project"
    names = {"bentofile.yaml", "bundle", "paredown_bundle", "requirements.txt", "service.py"}
    assert {path.name for path in project.iterdir()} == names
    (tmp_path / "stand" / "bentoml").mkdir(parents=True)
    (tmp_path / "stand" / "bentoml" / "__init__.py").write_text(DECORATORS)
    rows = json.loads((bundle / "golden.json").read_text())["rows"]
    path = os.pathsep.join(map(str, (project, tmp_path / "stand")))
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK], env=os.environ | {"PYTHONPATH": path},
        input=json.dumps([row["text"] for row in rows]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked, answers, why = json.loads(done.stdout)
    assert asked == [
        {"name": "my-model", "workers": 2, "resources": {"cpu": "2"}},
        {},  # not batchable: a bad row would fail the requests of others
    ]
    assert [answer["label"] for answer in answers] == [row["answer"] for row in rows]
    assert "U+001E" in why
    assert selftest(project / "bundle")["name"] == "My_Model"


def test_a_bento_is_built_of_the_files_that_are_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    to_bentoml(made, tmp_path / "out")
    build = yaml.safe_load((tmp_path / "out" / "bentofile.yaml").read_text())
    assert build["service"] == "service:Bundle"
    assert all((tmp_path / "out" / name.removesuffix("/**")).exists() for name in build["include"])
    assert build["docker"] == {"python_version": ".".join(map(str, sys.version_info[:2]))}
    assert (tmp_path / "out" / "requirements.txt").read_text() == (made / "requirements.txt").read_text()


def test_what_cannot_be_served_is_refused_and_no_text_of_strangers_is_installed(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made, tmp_path / "bundle")
    (tmp_path / "out").mkdir()
    (bundle / "requirements.txt").write_text("--index-url https://example.org\n")
    with pytest.raises(InputError, match=r"requirements.txt: lines such as numpy==2\.4\.6 are expected"):
        to_bentoml(bundle, tmp_path / "out")
    change_manifest(bundle, runtime="litert")
    with pytest.raises(InputError, match="layout bentoml: for bundles of onnxruntime and openvino, not litert"):
        to_bentoml(bundle, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
