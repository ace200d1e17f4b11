"""The model card of an SBOM: CycloneDX 1.6, `modelCard` of a component that is a machine-learning model.

https://cyclonedx.org/docs/1.6/json/#metadata_component_modelCard. cyclonedx-python-lib has no classes for it, so it is
plain JSON here; the library's strict validator reads it in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paredown.runtime.preprocessor import PIXELS
from paredown.tasks.registry import task_named

from .model_card import About
from .provenance import Lineage

CERTIFICATE = "drop against the checkpoint, points; one-sided 95 % bound"


def ml_model_card(manifest: Mapping[str, Any], about: About, lineage: Lineage) -> dict[str, Any]:
    """`modelCard`: task, architecture and data, the metrics with their intervals and the certificate, the limits."""
    task = task_named(manifest["task"])
    parameters = {
        "task": manifest["task"],
        **({"modelArchitecture": lineage.architecture} if lineage.architecture else {}),
        "datasets": [_data(split, name, about, lineage) for split, name in about.data.items()],
        "inputs": [{"format": "image" if PIXELS in manifest["inputs"] else "string"}],
        "outputs": [{"format": manifest["answer"]}],
    }
    needs = manifest["isa"]["needs_one_of"]
    limits = [
        task.limits,
        task.describe_length(dict(manifest)),
        *([f"It needs a CPU with one of {', '.join(needs)}."] if needs else []),
        "Inputs unlike the training data were not tested.",
    ]
    return {
        "modelParameters": {key: value for key, value in parameters.items() if value},
        "quantitativeAnalysis": {"performanceMetrics": _metrics(manifest["metric"])},
        "considerations": {
            "useCases": [f"{task.name} of {task.rows_are}"],
            "technicalLimitations": limits,
            "ethicalConsiderations": [{"name": "Fairness between groups of people was not tested."}],
        },
    }


def _data(split: str, name: str, about: About, lineage: Lineage) -> dict[str, Any]:
    """A data set: its rows, and the digest of its file where the run noted it."""
    digest = lineage.data.get(split)
    properties = [{"name": "paredown:split", "value": split}]
    properties += [{"name": "paredown:sha256", "value": digest}] if digest else []
    rows = about.rows.get(split)
    return {
        "type": "dataset",
        "name": name,
        **({"description": f"{rows} rows"} if rows else {}),
        "contents": {"properties": properties},
    }


def _metrics(metric: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each split with its 95 % interval; of the certificate its drop and the bound of it."""
    found = []
    for split in ("validation", "test"):
        value, interval = metric[f"metric_{split}"], metric[f"metric_{split}_ci"]
        if value is not None:
            ends = {"lowerBound": f"{interval[0]:.4f}", "upperBound": f"{interval[1]:.4f}"} if interval else None
            entry = {"type": f"{metric['metric']}, points", "value": f"{value:.4f}", "slice": split}
            found.append(entry | ({"confidenceInterval": ends} if ends else {}))
    certificate = metric.get("certificate")
    if certificate:
        drop, bound = certificate["drop"], certificate["drop_upper_95"]
        found.append(
            {
                "type": CERTIFICATE,
                "value": f"{drop:.4f}",
                "slice": f"{certificate['split']}, {certificate['rows']} rows that nothing else used",
                "confidenceInterval": {"upperBound": f"{bound:.4f}"},
            }
        )
    return found
