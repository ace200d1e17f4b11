"""INT8: from an ONNX file to an ONNX file (ONNX Runtime), or from an OpenVINO model to an OpenVINO model (NNCF).

Activations U8, weights S8 per channel. Without VNNI or AMX the U8 x S8 product saturates in 16 bits
(onnxruntime#14642), so weights take 7 bits there (`reduce_range`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import InputError, missing_extra

Batches = Sequence[dict[str, np.ndarray]]


def dynamic(source: Path, target: Path, *, reduce_range: bool) -> None:
    """Weights to INT8 now, activations at run time. Works on the graph with fused attention."""
    quantization = _onnxruntime()
    with tempfile.TemporaryDirectory() as scratch:
        quantization.quantize_dynamic(
            _without_value_info(source, Path(scratch)),
            target,
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},  # FLOAT, for outputs of fused nodes whose type is not inferred
        )


def static(source: Path, target: Path, batches: Batches, *, reduce_range: bool) -> None:
    """QDQ around MatMul and Gemm, activation ranges (min-max) from `batches`: {input name: int64 array}, from train.

    Other operators stay in float: quantising them too measured slower and less accurate on this kind of model.
    """
    quantization = _onnxruntime()
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    queue = iter(batches)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(queue, None)

    with tempfile.TemporaryDirectory() as scratch:
        quantization.quantize_static(
            _without_value_info(source, Path(scratch)),
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"DefaultTensorType": 1, "MatMulConstBOnly": True},
        )


def openvino_static(source: Path, target: Path, batches: Batches) -> None:
    """OpenVINO IR to INT8 IR by NNCF's post-training quantisation for transformers, calibrated on `batches`."""
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "nncf", "cpu") from None
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        quantised = nncf.quantize(
            model, nncf.Dataset(list(batches)), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )
    openvino.save_model(quantised, target, compress_to_fp16=False)


def _onnxruntime():
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
    logging.getLogger().addFilter(lambda record: "pre-processing before quantization" not in record.getMessage())
    return quantization


def _without_value_info(source: Path, scratch: Path) -> Path:
    """Shapes that the exporter noted contradict the quantiser's own inference; it works them out again."""
    import onnx

    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(model, scratch / "model.onnx")
    return scratch / "model.onnx"
