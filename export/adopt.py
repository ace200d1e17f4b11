"""Anything that can be timed, as an artefact: our own, a bundle, a checkpoint, or another tool's export."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..compress.checkpoint import Checkpoint, open_checkpoint
from ..compress.encoder import reader_file
from ..compress.errors import InputError, missing_extra
from ..compress.tasks import Task
from ..compress.untrusted import read_config
from .archive import unpack
from .artifact import MANIFEST, Artifact, read_artifact
from .modelfile import check_model_file, scan
from .selftest import MANIFEST as BUNDLE_MANIFEST
from .selftest import check_files, read_manifest
from .session import TOKEN_TYPES

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


def _foreign(model: Path, scratch: Path, task: Task, max_length: int) -> Artifact:
    """A model file of another tool; labels and padding come from the config.json beside it, shapes that are fixed and
    the output's name from the model."""
    if task.gives_text:
        raise InputError(f"{model}: of a model that gives texts, our own export or bundle is expected, with its rules")
    reader = reader_file(task.inputs)
    folder = next((f for f in (model.parent, model.parent.parent) if (f / reader).is_file()), None)
    if folder is None or not (folder / "config.json").is_file():
        raise InputError(f"{model}: {reader} and config.json are needed beside it")
    checkpoint = Checkpoint(folder, read_config(folder / "config.json"), ())
    runtime = SUFFIX_RUNTIME[model.suffix]
    shapes, outputs = _signature(model, runtime)
    given = {*task.inputs, *(() if task.columns.second else (TOKEN_TYPES,))}
    if not shapes.keys() <= given or not shapes.keys() & set(task.inputs):
        raise InputError(
            f"{model}: its inputs are {', '.join(sorted(shapes))}; a model for {task.name} is given "
            f"{', '.join(sorted(given))}; export it again with these alone"
        )
    if task.output not in outputs and len(outputs) > 1:
        raise InputError(f"{model}: its outputs are {', '.join(outputs)}; one, or one called {task.output}, is scored")
    rows, length = shapes.get("input_ids", (None, None))[:2]
    longest = min(max_length, checkpoint.positions, *([length] if length else []))
    out = scratch / "foreign"
    out.mkdir(parents=True)
    beside = scan(model).locations if model.suffix == ".onnx" else {model.with_suffix(".bin").name}
    files = (model.name, *sorted(beside))
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.parent / name, out / name)
    shutil.copyfile(folder / reader, out / reader)
    encoder = checkpoint.encoder(max_length)
    encoder.write(out)
    return Artifact(
        path=out,
        name=model.stem,
        task=task.name,
        runtime=runtime,
        precision="unknown",
        files=files,
        inputs=tuple(name for name in task.inputs if name in shapes),
        outputs=(task.output if task.output in outputs else outputs[0],),
        labels=checkpoint.labels,
        max_length=longest if task.reads_text else encoder.max_length,
        pad_id=checkpoint.pad_id,
        source="",
        lengths=(length,) if length else (),
        batch_size=rows,
    ).write()


def _signature(model: Path, runtime: str) -> tuple[dict[str, list[int | None]], list[str]]:
    """Inputs by name with their shapes (None: any size), and the names of the outputs. InputError for no such model."""
    try:
        check_model_file(model, runtime)
        return _SIGNATURES[runtime](model)
    except ImportError as error:
        raise missing_extra(error.name or runtime, "cpu") from None
    except Exception as error:  # each runtime has classes of its own for a file that is no model
        raise InputError(f"{model}: does not open: {' '.join(str(error).split())}") from None


def _onnx_signature(model: Path) -> tuple[dict[str, list[int | None]], list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    shapes = {i.name: [size if isinstance(size, int) else None for size in i.shape] for i in session.get_inputs()}
    return shapes, [output.name for output in session.get_outputs()]


def _openvino_signature(model: Path) -> tuple[dict[str, list[int | None]], list[str]]:
    import openvino

    read = openvino.Core().read_model(model)
    shapes = {
        port.get_any_name(): [size.get_length() if size.is_static else None for size in port.get_partial_shape()]
        for port in read.inputs
    }
    return shapes, [port.get_any_name() for port in read.outputs]


_SIGNATURES = {"onnxruntime": _onnx_signature, "openvino": _openvino_signature}
