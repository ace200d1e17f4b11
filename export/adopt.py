"""Anything that can be timed, as an artefact: our own, a bundle, a checkpoint, or another tool's export."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..compress.checkpoint import Checkpoint, open_checkpoint
from ..compress.encoder import reader_file
from ..compress.errors import InputError
from ..compress.tasks import Task
from ..compress.untrusted import read_config
from .archive import unpack
from .artifact import MANIFEST, Artifact, read_artifact
from .selftest import MANIFEST as BUNDLE_MANIFEST
from .selftest import check_files, read_manifest

SUFFIX_RUNTIME = {".onnx": "onnxruntime", ".xml": "openvino"}


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
            return _foreign(models[0], scratch, task, max_length)
        if models:
            raise InputError(f"{path}: holds {', '.join(p.name for p in models)}; name one of them")
        from .eager import to_pytorch

        return to_pytorch(open_checkpoint(path, task), task, scratch / "checkpoint", max_length)
    if path.suffix in SUFFIX_RUNTIME:
        if (path.parent / MANIFEST).is_file():
            return read_artifact(path.parent)
        return _foreign(path, scratch, task, max_length)
    raise InputError(f"{path}: not an artefact; known files: .onnx, .xml, .tar.gz")


def _from_bundle(bundle: Path, scratch: Path) -> Artifact:
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    model, rules = Path(manifest["model"]), manifest.get("generation")
    out = scratch / "bundle"
    shutil.copytree(bundle / model.parent, out)
    reader = reader_file(manifest["inputs"])
    shutil.copyfile(bundle / reader, out / reader)
    files = (model.name, *sorted(p.name for p in (bundle / model.parent).iterdir() if p.name != model.name))
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
    ).write()


def _foreign(model: Path, scratch: Path, task: Task, max_length: int) -> Artifact:
    """A model file of another tool; labels and padding come from the config.json beside it."""
    if task.gives_text:
        raise InputError(f"{model}: of a model that gives texts, our own export or bundle is expected, with its rules")
    reader = reader_file(task.inputs)
    folder = next((f for f in (model.parent, model.parent.parent) if (f / reader).is_file()), None)
    if folder is None or not (folder / "config.json").is_file():
        raise InputError(f"{model}: {reader} and config.json are needed beside it")
    checkpoint = Checkpoint(folder, read_config(folder / "config.json"), ())
    out = scratch / "foreign"
    out.mkdir(parents=True)
    names = [model.name, *(p.name for p in model.parent.glob(f"{model.stem}*") if p.name != model.name)]
    for name in names:
        shutil.copyfile(model.parent / name, out / name)
    shutil.copyfile(folder / reader, out / reader)
    encoder = checkpoint.encoder(max_length)
    encoder.write(out)
    return Artifact(
        path=out,
        name=model.stem,
        task=task.name,
        runtime=SUFFIX_RUNTIME[model.suffix],
        precision="unknown",
        files=tuple(names),
        inputs=task.inputs,
        outputs=(task.output,),
        labels=checkpoint.labels,
        max_length=encoder.max_length,
        pad_id=checkpoint.pad_id,
        source="",
    ).write()
