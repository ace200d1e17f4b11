"""All of an ONNX graph in integers, for NPUs: Q and DQ nodes around every operator, weights in 8 bits, activations in 8
or 16, their ranges from rows.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.preprocessor import Batch

from .int8 import onnxruntime_quantization, quantiser_errors

if TYPE_CHECKING:
    from onnx import ModelProto

KINDS = {"int8": "QInt8", "uint8": "QUInt8", "int16": "QInt16", "uint16": "QUInt16"}
CONTRIB_BELOW = 21  # the first opset whose QuantizeLinear has 16 bits; below it, ONNX Runtime's own is taken


def quantize_all(
    source: Path, target: Path, rows: Sequence[Batch], types: Sequence[str], *, symmetric: bool, qualcomm: bool
) -> None:
    """Write the graph with Q and DQ nodes. `rows`: inputs of single calls; minimum and maximum of each value in them
    are its range.

    `types`: of activations and weights, names in KINDS; tables, and constants of Add and Mul, have that of activations.
    `symmetric`: zero points are 0. `qualcomm`: with the ranges and types that QNN wants of single operators
    (`get_qnn_qdq_config`, `_second_operands_in_8_bits`). Matrices of Gemm and Conv are S8 with a scale for each output
    channel: with one for all, answers of a MiniLM were seven times as far off. StepError where the quantiser gives up.
    """
    import onnx

    quantization = onnxruntime_quantization()
    activations, weights = (getattr(quantization.QuantType, KINDS[kind]) for kind in types)
    model, queue = onnx.load(source), iter(rows)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(queue, None)

    channels = {
        name: [{"quant_type": quantization.QuantType.QInt8, "axis": axis, "symmetric": True}]
        for name, axis in _output_axes(model).items()
    }
    given: dict[str, Any] = {"activation_type": activations, "weight_type": weights, "activation_symmetric": symmetric}
    opset = onnx_opset(model)
    with quantiser_errors("onnxruntime"):
        if qualcomm:
            from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

            config = get_qnn_qdq_config(source, Reader(), **given, init_overrides=channels)
        else:
            contrib = {"UseQDQContribOps": True} if opset.version < CONTRIB_BELOW and types[0].endswith("16") else {}
            given |= {"min_real_range": 1e-4, "tensor_quant_overrides": channels, "extra_options": contrib}
            config = quantization.get_qdq_config(source, Reader(), **given)
        quantization.quantize(str(source), str(target), config)
    made = onnx.load(target)
    if qualcomm and types[0].endswith("16"):
        _second_operands_in_8_bits(made)
        onnx.checker.check_model(made)
        onnx.save(made, target)
    if onnx_opset(made).version != opset.version:  # 21 for 16 bits, also where Q and DQ are ONNX Runtime's
        onnx_opset(made).version = opset.version
        onnx.checker.check_model(made)
        onnx.save(made, target)


def _second_operands_in_8_bits(model: ModelProto) -> None:
    """MatMul of two uint16 activations: the second is quantised again, to uint8, in place.

    QNN's HTP supports (uint16, uint8), (uint8, uint16) and (uint8, uint8): QNN-ExecutionProvider.md of onnxruntime-qnn.
    The second are keys and values: in 8 bits the many small probabilities of a long row would become 0. Logits of a
    MiniLM, 64 tokens, move by 0.0115 in the mean with these, by 0.0100 with queries and probabilities, by 0.0083 with
    none. The quantiser's own `convert` has no effect behind a Transpose.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    nodes = list[Any]()
    for node in model.graph.node:
        read = [makers.get(name) for name in node.input]
        if node.op_type == "MatMul" and all(
            maker is not None and constants[maker.input[2]].data_type == TensorProto.UINT16 for maker in read
        ):
            scale, zero = (numpy_helper.to_array(constants[name]) for name in makers[node.input[1]].input[1:])
            prefix = f"{node.name}.second"
            for name, value in (("scale", scale * np.float32(257)), ("zero", np.round(zero / 257).astype(np.uint8))):
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{prefix}.{name}"))
            given = [node.input[1], f"{prefix}.scale", f"{prefix}.zero"]
            nodes.append(helper.make_node("QuantizeLinear", given, [f"{prefix}.q"], f"{prefix}.Q"))
            given[0], node.input[1] = f"{prefix}.q", f"{prefix}.dq"
            nodes.append(helper.make_node("DequantizeLinear", given, [f"{prefix}.dq"], f"{prefix}.DQ"))
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def onnx_opset(model: ModelProto) -> Any:
    """The entry of ONNX's own operators."""
    return next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _output_axes(model: ModelProto) -> dict[str, int]:
    """Axis of the output channels, by name of the constant matrix."""
    from onnx import helper

    constants = {tensor.name for tensor in model.graph.initializer}
    found = dict[str, int]()
    for node in model.graph.node:
        if node.op_type in ("Gemm", "Conv") and node.input[1] in constants:
            turned = any(a.name == "transB" and helper.get_attribute_value(a) for a in node.attribute)
            found[node.input[1]] = 0 if turned or node.op_type == "Conv" else 1
    return found
