"""SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): move the outliers of activations into the weights before INT8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paredown.runtime.preprocessor import Batch

STRENGTH = 0.5  # the paper's alpha: how much of the range moves from the activations to the weights


def smooth(source: Path, target: Path, batches: Sequence[Batch]) -> Path:
    """Write an ONNX file that computes the same with smoother inputs of its constant matrix products; returns `target`.

    Each input is divided, channel by channel, by s = max|x|^alpha / max|w|^(1 - alpha); its matrices' rows take s on.
    """
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list] = defaultdict(list)  # an activation and the products that read it
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants and len(constants[node.input[1]].dims) == 2:
            readers[node.input[0]].append(node)
    if not readers:  # nothing to smooth: a model without layers
        onnx.save(model, target)
        return target
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in readers)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}
    largest: dict[str, np.ndarray] = {}
    for batch in batches:
        found = session.run(list(readers), {name: array for name, array in batch.items() if name in wanted})
        for name, array in zip(readers, found, strict=True):
            top = np.abs(np.asarray(array)).reshape(-1, np.asarray(array).shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, 0), top)
    for number, (name, nodes) in enumerate(readers.items()):
        weights = [numpy_helper.to_array(constants[node.input[1]]) for node in nodes]
        rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        scale = np.maximum(largest[name], 1e-5) ** STRENGTH / np.maximum(rows, 1e-5) ** (1 - STRENGTH)
        scale = scale.astype(np.float32)
        factor, smoothed = f"smooth.{number}.factor", f"smooth.{number}"
        graph.initializer.append(numpy_helper.from_array(1 / scale, factor))
        for node, weight in zip(nodes, weights, strict=True):
            own = f"{smoothed}.{node.input[1]}"  # a matrix may be used elsewhere too
            if own not in {tensor.name for tensor in graph.initializer}:
                graph.initializer.append(numpy_helper.from_array(weight * scale[:, None], own))
            node.input[0], node.input[1] = smoothed, own
        graph.node.insert(
            _before(graph, nodes[0]), helper.make_node("Mul", [name, factor], [smoothed], name=f"{smoothed}.mul")
        )
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.save(model, target)
    return target


def _before(graph, first) -> int:
    """Position of a node: what it reads has to come before it."""
    return next(i for i, node in enumerate(graph.node) if node.name == first.name)
