"""provenance.json: how the model of a bundle was made, as an in-toto statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance. It is not signed by itself: `model.sig`
covers it with every other file. The same run gives the same bytes; no clock is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "provenance.json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://paredown.invalid/run/v1"  # what `externalParameters` and `internalParameters` below mean
BUILDER = "https://paredown.invalid/local"  # paredown on machines of the user's own


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from, as far as the records of its run say; all of it may be unknown."""

    checkpoint: str | None = None  # OWNER/NAME on the Hub, or the name of the directory
    commit: str | None = None  # of the checkpoint's repository on the Hub; None: it was a directory
    architecture: str | None = None  # as transformers names it
    weights: Mapping[str, str] = field(default_factory=dict)  # file of the checkpoint -> sha256
    data: Mapping[str, str] = field(default_factory=dict)  # split -> sha256 of its file
    recipe: str | None = None  # sha256 of recipe.resolved.yaml
    recipe_commit: str | None = None  # of the working directory, + where tracked files differ
    steps: Mapping[str, str] = field(default_factory=dict)  # step that the model stands on -> key
    machine: Mapping[str, Any] = field(default_factory=dict)  # that measured
    hosts: Sequence[str] = ()  # machines that did steps
    finished: str | None = None  # when the measuring ended, UTC, ISO 8601

    @property
    def purl(self) -> str | None:
        """Package URL of a checkpoint from the Hub, such as pkg:huggingface/OWNER/NAME@COMMIT; None of a directory."""
        return f"pkg:huggingface/{self.checkpoint}@{self.commit}" if self.checkpoint and self.commit else None


def lineage_of_steps(steps: Path, directory: Path) -> dict[str, str]:
    """The steps that the step in `directory` stands on, itself too, with their keys: what the markers in the step store
    `steps` say, as far as they are there."""
    found: dict[str, str] = {}
    waiting = [directory]
    while waiting:
        marker = waiting.pop() / "step.json"
        if not marker.is_file():
            continue
        content = json.loads(marker.read_text(encoding="utf-8"))
        key = content["key"]
        found[marker.parent.name.removesuffix(f"-{key[:16]}")] = key
        after = content["inputs"].get("after") or {}
        waiting += [steps / f"{name}-{key[:16]}" for name, key in after.items() if name not in found]
    return dict(sorted(found.items()))


def write_provenance(out: Path, manifest: Mapping[str, Any], lineage: Lineage, files: Sequence[Path]) -> Path:
    """Write provenance.json into the bundle `out` about `files` of it, and return its path."""
    source, weights, data = manifest["source"], lineage.weights.items(), lineage.data.items()
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "name": manifest["name"],
            "task": manifest["task"],
            "candidate": source["candidate"],
            "runtime": manifest["runtime"],
            "precision": manifest["precision"],
            "checkpoint": lineage.checkpoint,
            "recipe": {"digest": {"sha256": lineage.recipe}, "commit": lineage.recipe_commit},
        },
        "internalParameters": {"checkpointFiles": source["checkpoint"], "steps": dict(lineage.steps)},
        "resolvedDependencies": [
            *({"name": name, "digest": {"sha256": digest}, "uri": lineage.purl} for name, digest in weights),
            *({"name": f"data/{split}", "digest": {"sha256": digest}} for split, digest in data),
        ],
    }
    details = {
        "builder": {
            "id": BUILDER,
            "version": dict(manifest["tool"]),
            "builderDependencies": [_machine(lineage)] if lineage.machine else [],
        },
        "metadata": {"finishedOn": lineage.finished},
    }
    statement = {
        "_type": STATEMENT,
        "subject": [
            {"name": path.relative_to(out).as_posix(), "digest": {"sha256": sha256_of(path)}} for path in sorted(files)
        ],
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }
    path = out / NAME
    path.write_text(json.dumps(_stated(statement), indent=2) + "\n", encoding="utf-8")
    return path


def _machine(lineage: Lineage) -> dict[str, Any]:
    """The machine that measured, and the names of those that did steps, as a ResourceDescriptor."""
    said = {key: value for key, value in lineage.machine.items() if key != "versions"}
    return {"name": "machine", "uri": f"{BUILDER}/machine", "annotations": said | {"hosts": list(lineage.hosts)}}


def _stated(value: Any) -> Any:
    """Without what is unknown: None, and what is empty."""
    if isinstance(value, dict):
        kept = {key: _stated(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part not in (None, "", [], {})}
    return [part for part in map(_stated, value) if part not in (None, {})] if isinstance(value, list) else value


def sha256_of(path: Path) -> str:
    """Hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
