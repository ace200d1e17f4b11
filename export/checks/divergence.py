"""Finds the first tensor of an artefact that diverges from the plain graph, by bisection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..artifact import Artifact

# How far a tensor inside the graph may be off: root mean square of the difference, as a share of that of its values.
DEPARTS = {
    "fp32": 1e-3,
    "fp16": 0.02,
    "bf16": 0.05,
    "int8-dynamic": 0.3,
    "int8-static": 0.3,
    "int8-weight": 0.1,
    "int4-weight": 0.3,
}


class Values(Protocol):
    """The tensors of an opened graph: their names, and the values of one of them for a batch."""

    names: set[str]

    def __call__(self, name: str, batch: dict[str, np.ndarray]) -> np.ndarray: ...


@dataclass(frozen=True)
class Departure:
    """The node whose output departs, how far it is off there, and at the last shared tensor before it."""

    node: str
    kind: str
    error: float
    before: float

    def __str__(self) -> str:
        return (
            f"it departs first at {self.kind} '{self.node}', whose output is off by {100 * self.error:.3g} % of its "
            f"size; {100 * self.before:.3g} % just before"
        )


def first_departure(plain: Path, artifact: Artifact, batch: dict[str, np.ndarray]) -> Departure | None:
    """Bisect the tensors that the plain ONNX graph and the artefact have in common, in the graph's order.

    `batch`: inputs of the model, a few rows are enough. None where even the output departs by less than DEPARTS.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(plain)).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    theirs, batch = _OnnxValues(plain), artifact.whole(batch)
    ours: Values = VALUES[Path(artifact.files[0]).suffix](artifact.path / artifact.files[0])
    places = [
        (node, name)
        for node in graph.node
        for name in node.output
        if kinds.get(name) == onnx.TensorProto.FLOAT and name in ours.names and node.op_type != "Constant"
    ]
    limit = DEPARTS[artifact.precision]

    def error(i: int) -> float:
        want, got = (values(places[i][1], batch) for values in (theirs, ours))
        if want.shape != got.shape:
            return float("inf")
        off = np.subtract(got, want, out=np.zeros_like(want), where=got != want)  # both may be infinite, as masks are
        size = np.square(want, out=np.zeros_like(want), where=np.isfinite(want)).mean()
        found = float(np.sqrt(np.square(off).mean() / (size + 1e-12)))
        return found if np.isfinite(found) else float("inf")

    good, before = -1, 0.0  # the inputs agree
    bad = len(places) - 1
    if bad < 0 or not (worst := error(bad)) > limit:
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        found = error(middle)
        if found > limit:
            bad, worst = middle, found
        else:
            good, before = middle, found
    return Departure(places[bad][0].name, places[bad][0].op_type, worst, before)


class _OnnxValues:
    """Tensors of an ONNX file; each is asked for as one more output."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.model = onnx.load(path)
        self.outputs = list(self.model.graph.output)
        self.names = {name for node in self.model.graph.node for name in node.output}

    def __call__(self, name: str, batch: dict[str, np.ndarray]) -> np.ndarray:
        import onnxruntime
        from onnx import helper

        del self.model.graph.output[:]
        self.model.graph.output.append(helper.make_empty_tensor_value_info(name))
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = {entry.name: batch[entry.name] for entry in session.get_inputs()}
        return np.asarray(session.run([name], wanted)[0], dtype=np.float64)


class _OpenvinoValues:
    """Tensors of an OpenVINO model; they keep the names that they had in ONNX."""

    def __init__(self, path: Path) -> None:
        import openvino

        self.core, self.path = openvino.Core(), path
        model = self.core.read_model(path)
        self.names = {name for op in model.get_ops() for port in op.outputs() for name in port.get_names()}

    def __call__(self, name: str, batch: dict[str, np.ndarray]) -> np.ndarray:
        model = self.core.read_model(self.path)
        already = next((i for i, port in enumerate(model.outputs) if name in port.get_names()), None)
        if already is None:
            model.add_outputs(name)
            already = len(model.outputs) - 1
        request = self.core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        request.infer({port.get_any_name(): batch[port.get_any_name()] for port in model.inputs})
        return np.array(request.get_output_tensor(already).data, dtype=np.float64)


VALUES = {".onnx": _OnnxValues, ".xml": _OpenvinoValues}  # what can be inspected, by the suffix of the model file
