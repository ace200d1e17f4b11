"""Model files exported by other tools: inputs and outputs, judged by their shapes.

Names of outputs say little. Two rows of unlike length are run, and what comes out has to have the shape that the task
asks for: (rows, labels), (rows, tokens, labels), one number a row, a vector a row, or two ends for every token.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paredown.compress.models.loading import Checkpoint
from paredown.compress.models.sentence_transformers import pooling_of
from paredown.compress.models.validation import read_config
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.model_scan import check_model_file, scan
from paredown.runtime.preprocessor import Preprocessor, parts_of, reader_file, run_rows
from paredown.runtime.session import TOKEN_TYPES, CannotRunHere, Session
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named

from .artifact import Artifact
from .opening import open_artifact

SUFFIX_RUNTIME = {".onnx": "onnxruntime", ".xml": "openvino"}
POOLING = "pooling"  # in an artefact's details: how its vectors are made of its output; "none": it gives them


def foreign_artifact(model: Path, scratch: Path, task: Task, max_length: int) -> Artifact:
    """A model file of another tool; labels and padding come from the config.json beside it, shapes that are fixed and
    the output's name from the model."""
    task.require(Feature.OTHER_TOOLS, str(model))
    reader = reader_file(task.inputs)
    folder = next((f for f in (model.parent, model.parent.parent) if (f / reader).is_file()), None)
    if folder is None or not (folder / "config.json").is_file():
        raise InputError(f"{model}: {reader} and config.json are needed beside it")
    checkpoint = Checkpoint(folder, read_config(folder / "config.json"), ())
    runtime = SUFFIX_RUNTIME[model.suffix]
    shapes, outputs = _signature(model, runtime)
    needed, given = {*task.inputs}, {*task.inputs, *task.optional_inputs}
    if not shapes.keys() <= given or not shapes.keys() & needed:
        raise InputError(
            f"{model}: its inputs are {', '.join(sorted(shapes))}; a model for {task.name} is given "
            f"{', '.join(sorted(given))}; export it again with these alone"
        )
    rows, length = shapes.get("input_ids", (None, None))[:2]
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
    artifact = Artifact(
        path=out,
        name=model.stem,
        task=task.name,
        runtime=runtime,
        precision="unknown",
        files=files,
        inputs=tuple(name for name in (*task.inputs, *task.optional_inputs) if name in shapes),
        outputs=tuple(outputs),
        labels=checkpoint.labels,
        max_length=min(encoder.max_length, length or encoder.max_length),
        pad_id=checkpoint.pad_id,
        source="",
        lengths=(length,) if length else (),
        batch_size=rows,
    )
    chosen, pooled = _outputs_of(artifact, task, model)
    details = {} if pooled is None else {POOLING: pooling_of(folder) if pooled else "none"}
    return replace(artifact, outputs=chosen, details=details).write()


def answered(artifact: Artifact, texts: Sequence[str], threads: int) -> np.ndarray:
    """What an artefact answers, ours or another tool's: as `run_rows` has it, and as its task's `correct` asks for.

    Raises CannotRunHere.
    """
    encoder, task = artifact.encoder(), task_named(artifact.task)
    session = _as_asked(open_artifact(artifact, threads), artifact, task, encoder, texts)
    only = artifact.outputs[0]
    name = task.output if len(artifact.outputs) > 1 or POOLING in artifact.details else only
    return run_rows(session, encoder.ids(texts), encoder.pad_id, name)


def _as_asked(session: Session, artifact: Artifact, task: Task, encoder: Preprocessor, texts: Sequence[str]) -> Session:
    """The session, given the token types of its tokenizer where it takes any, and giving the one output of its task."""
    types = _types_of(encoder, texts) if TOKEN_TYPES in artifact.inputs else None
    pooling = artifact.details.get(POOLING)

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = session(batch if types is None else batch | {TOKEN_TYPES: _typed(batch, types)})
        outputs = [np.asarray(found[name]) for name in artifact.outputs]
        if len(outputs) == 2:  # both ends of an answer
            return {task.output: np.stack([end.reshape(end.shape[:2]) for end in outputs], axis=-1)}
        if pooling is not None:
            return {task.output: _vectors(outputs[0], batch["attention_mask"], pooling)}
        if outputs[0].ndim == 1:  # one number a row
            return found | {artifact.outputs[0]: outputs[0][:, None]}
        return found

    return run


def _types_of(encoder: Preprocessor, texts: Sequence[str]) -> dict[tuple[int, ...], list[int]]:
    """Token ids of each row -> its token types, as the tokenizer makes them."""
    made = encoder.tokenizer.encode_batch([parts_of(text) for text in texts])
    return {tuple(encoding.ids): list(encoding.type_ids) for encoding in made}


def _typed(batch: Mapping[str, np.ndarray], types: Mapping[tuple[int, ...], list[int]]) -> np.ndarray:
    """The token types of a batch, (rows, length) int64, 0 for padding."""
    made = np.zeros_like(batch["input_ids"])
    for i, length in enumerate(batch["attention_mask"].sum(axis=1)):
        row = types.get(tuple(batch["input_ids"][i, :length].tolist()))
        if row is not None:
            made[i, :length] = row
    return made


def _vectors(output: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    """(rows, width) of length 1, of a model's (rows, width) or (rows, tokens, width) float32; mask (rows, tokens)."""
    if pooling == "cls":
        output = output[:, 0]
    elif pooling == "mean":
        real = mask[..., None].astype(output.dtype)
        output = (output[:, : mask.shape[1]] * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    return output / np.maximum(np.linalg.norm(output, axis=-1, keepdims=True), 1e-12)


def _outputs_of(artifact: Artifact, task: Task, model: Path) -> tuple[tuple[str, ...], bool | None]:
    """Which of a model's outputs are scored, and `Task.needs_pooling` of them.

    Two rows of unlike length are run. InputError where no output, or more than one, has the shape of the task.
    """
    encoder = artifact.encoder()
    texts = task.example_rows(encoder)
    rows, types = encoder.ids(texts), _types_of(encoder, texts) if TOKEN_TYPES in artifact.inputs else {}
    batch = encoder.pad(rows)
    if types:
        batch[TOKEN_TYPES] = _typed(batch, types)
    try:
        found = {name: np.asarray(value).shape for name, value in open_artifact(artifact, 1)(batch).items()}
    except CannotRunHere as reason:
        raise InputError(f"{model}: cannot run here: {reason}") from None
    except InputError:
        raise
    except Exception as error:  # each runtime has classes of its own for what a graph cannot do
        raise InputError(f"{model}: does not run on two rows of text: {' '.join(str(error).split())[:300]}") from None
    tokens = batch["input_ids"].shape[1] if "input_ids" in batch else 0
    names = tuple(artifact.outputs)
    widths = [(2, size) for size in (tokens, *artifact.lengths)]  # what is padded to is not taken off a row of ends
    ends = task.output_ends
    if ends and set(ends) <= set(names) and all(found[name][:2] in widths for name in ends):
        return ends, None
    chosen = next((name for name in task.output_names if name in names), None)
    fits = [name for name in names if task.fits_shape(found[name], 2, tokens, len(artifact.labels))]
    if chosen is None and len(names) > 1 and len(fits) != 1:
        raise InputError(
            f"{model}: its outputs are {', '.join(f'{n} {_shown(found[n], tokens)}' for n in names)}; one, or one "
            f"called {task.output}, is scored, {task.describe_shape(artifact.labels)}"
        )
    chosen = chosen or next(iter((*fits, *names)))
    if chosen not in fits:
        raise InputError(
            f"{model}: its output {chosen} is {_shown(found[chosen], tokens)}, and {task.name} asks for "
            f"{task.describe_shape(artifact.labels)}{task.other_task(found[chosen], tokens)}"
        )
    return (chosen,), task.needs_pooling(found[chosen])


def _shown(shape: tuple[int, ...], tokens: int) -> str:
    parts = ["rows", *("tokens" if size == tokens and i == 0 else str(size) for i, size in enumerate(shape[1:]))]
    return f"({', '.join(parts)})"


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
