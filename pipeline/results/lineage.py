"""Where the model of a bundle comes from: read from the records of its run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from paredown.benchmarks.measurements import CheckpointSource, Measurements
from paredown.benchmarks.report.report import RESOLVED
from paredown.benchmarks.selection.choice import known
from paredown.export.bundle.provenance import Lineage, Source
from paredown.runtime.manifest import sha256_of

from ..failures import texts_of
from ..store import MARKER


def lineage(run_dir: Path, measurements: Measurements, chosen: str, recipe: str | None) -> Lineage:
    """What the run's records say of checkpoints, data, recipe and steps of the candidate `chosen`. `recipe`: its text;
    read where it is None."""
    file, origin = run_dir / RESOLVED, known(measurements.origin)
    if recipe is not None:
        digest = hashlib.sha256(recipe.encode()).hexdigest()
    else:
        digest = sha256_of(file) if file.is_file() else None
    artifact = known(measurements.entry(chosen).artifact)
    adapted = [step.path for step in measurements.adapt.values() if step.path is not None]
    steps, named = recorded_steps(run_dir / "steps", [run_dir / path for path in (artifact, *adapted)])
    return Lineage(
        checkpoint=_source(origin),
        others=[source for digest, other in origin.others.items() if digest in named and (source := _source(other))],
        architecture=origin.architecture,
        data=measurements.data_digests,
        recipe=digest,
        recipe_commit=measurements.commit,
        steps=steps,
        machine=measurements.machine.model_dump(),
        finished=measurements.measured_at or None,
    )


def recorded_steps(store: Path, directories: Iterable[Path]) -> tuple[dict[str, str], set[str]]:
    """The steps that those in `directories` stand on, themselves too, by name with their keys; and every text in their
    inputs, the digests of checkpoints among them.

    A step stands on those whose keys are in its inputs. Steps that were deleted, or whose marker is damaged, are left
    out.
    """
    markers: dict[Path, dict] = {}
    for path in store.glob(f"[!.]*/{MARKER}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads(path.read_bytes())
            markers[path.parent] = {"key": str(content["key"]), "inputs": texts_of(content["inputs"])}
    by_key = {marker["key"]: directory for directory, marker in markers.items()}
    found: set[Path] = set()
    waiting = [directory for directory in directories if directory in markers]
    while waiting:
        directory = waiting.pop()
        if directory not in found:
            found.add(directory)
            waiting += [by_key[text] for text in markers[directory]["inputs"] if text in by_key]
    keys = {directory: markers[directory]["key"] for directory in sorted(found)}
    steps = {directory.name.removesuffix(f"-{key[:16]}"): key for directory, key in keys.items()}
    return steps, {text for directory in found for text in markers[directory]["inputs"]}


def _source(record: CheckpointSource) -> Source | None:
    return None if record.name is None else Source(record.name, record.commit, record.weights)
