"""A KServe InferenceService whose container is the image of layout docker.

https://kserve.github.io/website: custom predictor, Open Inference Protocol v2, API serving.kserve.io/v1beta1.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest

from .common import service_name
from .docker import PORT, USER, to_docker

FILE, IMAGE = "inferenceservice.yaml", "IMAGE"
SPARE = 1.5  # times the measured memory of a process: HTTP, tokenising and queues are in none of the measurements
LEAST_MIB, STEP_MIB = 256, 64
HEAD = f"""\
# kubectl apply -f {FILE}, when IMAGE below is the name of an image that the cluster can pull:
#   docker build -t IMAGE . && docker push IMAGE
# The image holds the bundle. To keep the bundle in storage instead, add the environment variable STORAGE_URI (s3://...,
# gs://..., pvc://...: KServe copies it to /mnt/models before the container starts) and set args: [/mnt/models].
# Clients: POST /v2/models/NAME/infer. An API key: the environment variable PAREDOWN_API_KEY, from a Secret.
"""


def to_kserve(bundle: Path, out: Path) -> None:
    """OUT is a build context as of layout docker, and inferenceservice.yaml. Raises InputError as `to_docker`."""
    to_docker(bundle, out)
    service = inference_service(read_manifest(bundle), _memory_mb(bundle))
    (out / FILE).write_text(HEAD + yaml.safe_dump(service, sort_keys=False), encoding="utf-8")


def inference_service(manifest: dict[str, Any], memory_mb: float | None) -> dict[str, Any]:
    """The resource. `memory_mb`: measured, of one process of the model; None: not known.

    CPU and the options of the server are the bundle's serving configuration, where it was measured: in a container, the
    cores that a process sees are the node's, so they are said here. Without a measured memory there is no limit of it.
    """
    serving = manifest.get("serving", {"instances": 1, "threads": 1})
    cores = serving["instances"] * serving["threads"]
    requests, limits = {"cpu": str(cores)}, {"cpu": str(cores)}
    if memory_mb is not None:
        mebibytes = max(LEAST_MIB, SPARE * serving["instances"] * memory_mb * 1e6 / 2**20)
        mebibytes = STEP_MIB * math.ceil(mebibytes / STEP_MIB)
        requests, limits = requests | {"memory": f"{mebibytes}Mi"}, limits | {"memory": f"{2 * mebibytes}Mi"}
    options = {"workers": serving["instances"], "threads": serving["threads"], "batch_rows": serving.get("batch_size")}
    variables = {"PROTOCOL": "v2"} | {
        f"PAREDOWN_SERVE_{name.upper()}": str(value) for name, value in options.items() if value is not None
    }

    def probe(path: str, **more: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": 5, **more}

    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "args": ["/bundle"],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": probe("/v2/health/ready", failureThreshold=60),
        "readinessProbe": probe("/v2/health/ready"),
        "livenessProbe": probe("/v2/health/live", failureThreshold=6),
        "resources": {"requests": requests, "limits": limits},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    # A Service called paredown-serve would set variables that the server takes for its options.
    predictor = {"minReplicas": 1, "enableServiceLinks": False, "containers": [container]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": service_name(manifest["name"])},
        "spec": {"predictor": predictor},
    }


def _memory_mb(bundle: Path) -> float | None:
    """Memory of a process with the model, as choice.json of the bundle has it; None where it was not measured."""
    try:
        found = json.loads((bundle / "choice.json").read_text(encoding="utf-8"))["chosen"].get("memory_mb")
        if found is not None and not 0 < float(found) < math.inf:
            raise ValueError(found)
        return None if found is None else float(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{bundle / 'choice.json'}: damaged; pack the bundle of the run again") from None
