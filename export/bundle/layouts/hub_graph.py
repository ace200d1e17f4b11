"""An ONNX model with the outputs that the Hub's readers need; what it computes stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.selftest import golden_rows, open_encoder
from paredown.tasks.registry import task_named

if TYPE_CHECKING:
    from onnx import ModelProto

VECTOR = "sentence_embedding"  # (rows, width), fastembed
TOKENS = "last_hidden_state"  # (rows, tokens, width): optimum, and through it sentence-transformers; transformers.js
NEAR = 1e-3  # distance of a vector of length 1 from the pooled tokens, half precision included
SEARCHED = 40  # nodes before the output among which the tokens' vectors are searched


def job(bundle: Path, started: float, rows_s: float, model: str) -> str | None:
    """Of `isolation.in_child`, for the model is opened: rewrite the ONNX file `model`, a copy of the bundle's, in
    place, with outputs by the names that readers know.

    Returns how sentence-transformers pools the vectors of tokens to the bundle's, "mean" or "cls"; None where the
    answer is no vector. InputError for vectors that are no pooling of those of tokens.
    """
    manifest = read_manifest(bundle)
    return CHANGES[manifest["answer"]](bundle, manifest, Path(model))


def _two_ends(bundle: Path, manifest: dict, model: Path) -> None:
    """(rows, tokens, 2) -> the two parts that question answering has elsewhere, (rows, tokens) each."""
    import onnx
    from onnx import TensorProto, helper

    loaded = onnx.load(model, load_external_data=False)
    graph, (output,) = loaded.graph, manifest["outputs"]
    del graph.output[:]
    for number, name in enumerate(task_named(manifest["task"]).output_ends):
        graph.initializer.append(helper.make_tensor(f"{name}.number", TensorProto.INT64, [], [number]))
        graph.node.append(helper.make_node("Gather", [output, f"{name}.number"], [name], name=name, axis=2))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length"]))
    onnx.save(loaded, model)


def _vectors(bundle: Path, manifest: dict, model: Path) -> str:
    """The vector under its usual name, and before it those of the tokens that it was pooled from."""
    import onnx
    from onnx import TensorProto, helper

    tokens, pooling = _pooled_from(bundle, manifest, model)
    loaded = onnx.load(model, load_external_data=False)
    graph, (output,), width = loaded.graph, manifest["outputs"], len(manifest["labels"])
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = VECTOR if name == output else name
    graph.node.append(helper.make_node("Cast", [tokens], [TOKENS], name=TOKENS, to=TensorProto.FLOAT))
    del graph.output[:]
    for name, shape in ((TOKENS, ["batch", "length", width]), (VECTOR, ["batch", width])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(loaded, model)
    return pooling


CHANGES: dict[str, Callable[[Path, dict, Path], str | None]] = {"vector": _vectors, "ends": _two_ends}


def _pooled_from(bundle: Path, manifest: dict, model: Path) -> tuple[str, str]:
    """The tensor of the graph, (rows, tokens, width), that the bundle's vectors are pooled from, and how: found by its
    values on the golden rows."""
    import onnx
    import onnxruntime

    rows, _ = golden_rows(bundle, manifest)
    batch = open_encoder(bundle, manifest).pad([row["input_ids"] for row in rows])
    loaded = onnx.load(model, load_external_data=False)
    names = list(_before(loaded, manifest["outputs"][0]))
    (want, *_), mask = manifest["outputs"], batch["attention_mask"][..., None]
    probe = model.with_name("probe.onnx")
    for name in names:
        loaded.graph.output.append(onnx.ValueInfoProto(name=name))
    onnx.save(loaded, probe)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(probe), options, providers=["CPUExecutionProvider"])
        found = dict(zip([want, *names], session.run([want, *names], batch), strict=True))
    finally:
        probe.unlink()
    vector = np.asarray(found[want], np.float64)
    for name in names:
        tokens = np.asarray(found[name])
        if tokens.shape != (*mask.shape[:2], vector.shape[1]) or tokens.dtype.kind != "f":
            continue
        tokens = tokens.astype(np.float64)
        for pooling, pooled in (("mean", (tokens * mask).sum(1) / mask.sum(1)), ("cls", tokens[:, 0])):
            length = np.linalg.norm(pooled, axis=1, keepdims=True)
            if np.abs(pooled / np.maximum(length, 1e-12) - vector).max() < NEAR:
                return name, pooling
    raise InputError(
        "layout hub: sentence-transformers and transformers.js pool the vectors of tokens, and those of this model are "
        "pooled in another way (a static student's); select a candidate with layers, or use another --layout"
    )


def _before(model: ModelProto, output: str) -> Iterator[str]:
    """Tensors that the output is computed from, the nearest first."""
    makers: dict[str, Any] = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [output], {output}
    for name in waiting:  # it grows
        for before in makers[name].input if name in makers else ():
            if before in makers and before not in seen and len(seen) <= SEARCHED:
                seen.add(before)
                waiting.append(before)
                yield before
