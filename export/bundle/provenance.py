"""provenance.json: how the model of a bundle was made, as an in-toto statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance. It is not signed by itself: `model.sig`
covers it with every other file. The same run gives the same bytes; no clock is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.runtime.manifest import sha256_of

NAME = "provenance.json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:paredown:run:v1"  # what `externalParameters` and `internalParameters` below mean
BUILDER = "urn:paredown:local"  # paredown on machines of the user's own


@dataclass(frozen=True)
class Source:
    """A checkpoint that a model was made from."""

    name: str  # OWNER/NAME on the Hub, or the name of the directory
    commit: str | None = None  # of the repository on the Hub; None: it was a directory
    weights: Mapping[str, str] = field(default_factory=dict)  # file -> sha256

    @property
    def purl(self) -> str | None:
        """Package URL of a checkpoint from the Hub, such as pkg:huggingface/OWNER/NAME@COMMIT; None of a directory."""
        return f"pkg:huggingface/{self.name}@{self.commit}" if self.commit else None


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from, as far as the records of its run say; all of it may be unknown."""

    checkpoint: Source | None = None  # that the run began with
    others: Sequence[Source] = ()  # further teachers, and what a student started from
    architecture: str | None = None  # of the checkpoint, as transformers names it
    data: Mapping[str, str] = field(default_factory=dict)  # split -> sha256 of its file
    recipe: str | None = None  # sha256 of recipe.resolved.yaml
    recipe_commit: str | None = None  # of the working directory, + where tracked files differ
    steps: Mapping[str, str] = field(default_factory=dict)  # step that the model stands on -> key
    machine: Mapping[str, Any] = field(default_factory=dict)  # that measured, with its `versions`
    finished: str | None = None  # when the measuring ended, UTC, ISO 8601

    @property
    def sources(self) -> list[Source]:
        """Every checkpoint, the one that the run began with first."""
        return [*([] if self.checkpoint is None else [self.checkpoint]), *self.others]


def write_provenance(out: Path, manifest: Mapping[str, Any], lineage: Lineage, files: Sequence[Path]) -> Path:
    """Write provenance.json into the bundle `out` about `files` of it, and return its path."""
    source, machine = manifest["source"], dict(lineage.machine)
    versions = {"paredown": manifest["tool"]["paredown"], **machine.pop("versions", {})}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "name": manifest["name"],
            "task": manifest["task"],
            "candidate": source["candidate"],
            "runtime": manifest["runtime"],
            "precision": manifest["precision"],
            "checkpoint": lineage.checkpoint and lineage.checkpoint.name,
            "recipe": {"digest": {"sha256": lineage.recipe}, "commit": lineage.recipe_commit},
        },
        "internalParameters": {"checkpointFiles": source["checkpoint"], "steps": dict(lineage.steps)},
        "resolvedDependencies": [
            *(
                {"name": f"{made_from.name}/{name}", "digest": {"sha256": digest}, "uri": made_from.purl}
                for made_from in lineage.sources
                for name, digest in made_from.weights.items()
            ),
            *({"name": f"data/{split}", "digest": {"sha256": digest}} for split, digest in lineage.data.items()),
        ],
    }
    details = {
        "builder": {
            "id": BUILDER,
            "version": versions if lineage.machine else dict(manifest["tool"]),
            "builderDependencies": (
                [{"name": "machine", "uri": f"{BUILDER}:machine", "annotations": machine}] if machine else []
            ),
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


def _stated(value: Any) -> Any:
    """Without what is unknown: None, and what is empty."""
    if isinstance(value, dict):
        kept = {key: _stated(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part not in (None, "", [], {})}
    return [part for part in map(_stated, value) if part not in (None, {})] if isinstance(value, list) else value
