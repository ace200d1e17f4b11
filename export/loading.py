"""Anything that `bench` takes, as an artefact: our own, a bundle, a checkpoint, or another tool's export."""

from __future__ import annotations

import shutil
from pathlib import Path

from paredown.compress.models.loading import open_checkpoint
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import reader_file
from paredown.runtime.selftest import MANIFEST as BUNDLE_MANIFEST
from paredown.runtime.selftest import check_files, read_manifest
from paredown.tasks.base import Task

from .artifact import MANIFEST, Artifact, read_artifact
from .bundle.archive import copy_tree, unpack
from .foreign import SUFFIX_RUNTIME, foreign_artifact
from .runtimes import pytorch
from .runtimes.base import ExportJob


def adopt(path: Path, scratch: Path, task: Task, max_length: int) -> Artifact:
    """The artefact at `path`: a directory, a bundle's .tar.gz, or an .onnx or .xml file with config.json and
    tokenizer.json (of images preprocessor_config.json) beside it. Copies what lacks an artifact.json to `scratch`.
    Raises InputError, BundleError.
    """
    if not path.exists():
        raise InputError(f"{path}: no such artefact; give an exported directory, a bundle, a checkpoint, .onnx or .xml")
    if path.name.endswith(".tar.gz"):
        path = unpack(path, scratch / "unpacked")
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return read_artifact(path)
        if (path / BUNDLE_MANIFEST).is_file():
            return _from_bundle(path, scratch)
        models = [p for p in sorted(path.iterdir()) if p.suffix in SUFFIX_RUNTIME]
        if len(models) == 1:
            return foreign_artifact(models[0], scratch, task, max_length)
        if models:
            raise InputError(f"{path}: holds {', '.join(p.name for p in models)}; name one of them")
        return pytorch.export(ExportJob(None, open_checkpoint(path, task), task, scratch / "checkpoint", max_length))
    if path.suffix in SUFFIX_RUNTIME:
        if (path.parent / MANIFEST).is_file():
            return read_artifact(path.parent)
        return foreign_artifact(path, scratch, task, max_length)
    raise InputError(f"{path}: not an artefact; known files: .onnx, .xml, .tar.gz")


def _from_bundle(bundle: Path, scratch: Path) -> Artifact:
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    model, rules = Path(manifest["model"]), manifest.get("generation")
    out = scratch / "bundle"
    copy_tree(bundle / model.parent, out)
    reader = reader_file(manifest["inputs"])
    shutil.copyfile(bundle / reader, out / reader)
    files = (model.name, *sorted(p.name for p in (bundle / model.parent).iterdir() if p.name != model.name))
    lengths = manifest["length_policy"]["pad_to"]
    return Artifact(
        path=out,
        name=manifest["name"],
        task=manifest["task"],
        runtime=manifest["runtime"],
        precision=manifest["precision"],
        files=files,
        inputs=tuple(manifest["inputs"]),
        outputs=tuple(manifest["outputs"]),
        labels=tuple(manifest["labels"]),
        max_length=manifest["max_length"],
        pad_id=manifest["pad_id"],
        source=manifest["source"]["checkpoint"],
        generation=rules and rules | ({"decoder": Path(rules["decoder"]).name} if "decoder" in rules else {}),
        details=manifest["source"]["details"],
        lengths=() if lengths == "longest" else tuple(lengths),
        batch_size=manifest["batch_size"],
    ).write()
