"""The files of docs/snippets/cluster, by what reads them: hadolint, Ray's own validation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "docs" / "snippets" / "cluster"


def test_the_dockerfile_passes_the_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, FILES / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ray_accepts_the_launchers_file() -> None:
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FILES / "ray-up.yaml").read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="head_start_ray_command"):
        validate_config(prepare_config(config | {"head_start_ray_command": []}))


def test_all_files_have_the_version_of_ray_that_is_tested() -> None:
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    cluster = yaml.safe_load((FILES / "kuberay.yaml").read_text())["spec"]
    assert cluster["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-" in (FILES / "Dockerfile").read_text()
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {container["image"] for pod in pods for container in pod["template"]["spec"]["containers"]}
    assert images == {yaml.safe_load((FILES / "ray-up.yaml").read_text())["docker"]["image"]}
