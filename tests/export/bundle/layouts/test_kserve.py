"""An InferenceService starts the image of layout docker with the bundle's serving configuration."""

import json
from pathlib import Path

import pytest
import yaml
from bundling import SERVING, bundle_of
from conftest import TASK, paredown
from manifests import EXAMPLE

from paredown.compress.models.loading import Checkpoint
from paredown.export.bundle.layouts.kserve import inference_service, to_kserve
from paredown.runtime.errors import InputError
from paredown.serve.config import Settings
from paredown.serve.http.middleware import LIVE, READY


def test_the_service_has_the_configuration_and_asks_the_servers_health(untrained: Checkpoint, tmp_path: Path) -> None:
    bundle = bundle_of(untrained, TASK, tmp_path / "made", serving=SERVING, memory_mb=400.0)
    done = paredown("pack", bundle, "--layout", "kserve", "--output-dir", tmp_path / "service")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "service" / "Dockerfile").is_file()
    service = yaml.safe_load((tmp_path / "service" / "inferenceservice.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = service["spec"]["predictor"]["containers"]
    options = {entry["name"]: entry["value"] for entry in container["env"]}
    assert options.pop("PROTOCOL") == "v2"
    given = {name.removeprefix("PAREDOWN_SERVE_").lower(): value for name, value in options.items()}
    settings = Settings.model_validate(given)
    assert (settings.workers, settings.threads, settings.batch_rows) == (2, 1, 4)
    paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert set(paths[:2]) <= {*READY}
    assert paths[2] in LIVE
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "1152Mi"}  # 1.5 x 2 x 400 MB, in steps of 64


@pytest.mark.parametrize(("name", "expected"), [("Rotten_Tomatoes.v2", "rotten-tomatoes-v2"), ("7b", "model-7b")])
def test_a_name_is_one_that_kubernetes_takes(name: str, expected: str) -> None:
    manifest = {key: value for key, value in EXAMPLE.items() if key != "serving"} | {"name": name}
    service = inference_service(manifest, None)
    assert service["metadata"]["name"] == expected
    resources = service["spec"]["predictor"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}  # no memory was measured


@pytest.mark.parametrize("memory", [float("inf"), -5, "much"])
def test_a_memory_that_is_none_is_damage(untrained: Checkpoint, tmp_path: Path, memory: object) -> None:
    bundle = bundle_of(untrained, TASK, tmp_path / "made")
    choice = json.loads((bundle / "choice.json").read_text())
    choice["chosen"]["memory_mb"] = memory
    (bundle / "choice.json").write_text(json.dumps(choice))
    with pytest.raises(InputError, match=r"choice\.json: damaged"):
        to_kserve(bundle, tmp_path / "service")
