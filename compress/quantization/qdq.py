"""All of an ONNX graph in integers, for NPUs: Q and DQ nodes around every operator, weights in 8 bits, activations in 8
or 16, their ranges from rows.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    `types`: of activations and weights, names in KINDS. `symmetric`: zero points are 0. `qualcomm`: with the ranges
    and types that QNN wants of single operators (`get_qnn_qdq_config`). Matrices of Gemm and Conv are S8 with a scale
    for each output channel: with one for all, answers of a MiniLM were seven times as far off. StepError where the
    quantiser gives up.
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
    opset = _opset(model)
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
    if _opset(made).version != opset.version:  # of 16 bits it always says 21, also where Q and DQ are ONNX Runtime's
        _opset(made).version = opset.version
        onnx.checker.check_model(made)
        onnx.save(made, target)


def _opset(model: ModelProto) -> Any:
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
