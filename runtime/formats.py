"""What a bundle must hold for each runtime: which files it may open, and how far golden outputs may differ.

Needs nothing but Python and imports nothing of ours: the same file is copied into every bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """Model files of a runtime."""

    suffixes: tuple[str, ...]  # OpenVINO would read ONNX, TensorFlow and Paddle files too, by their suffix
    # By precision: largest difference of an output on another machine of the kind. INT8 rounds differently where float
    # sums differ, and runtimes round activations to 8 bits beside weights of 4 or 8.
    tolerance: Mapping[str, float]


_WEIGHTS = {"int8-weight": 0.2, "int4-weight": 0.2}
_GPU = {"fp32": 0.005, "fp16": 0.05, "bf16": 0.1, "int8-static": 0.2}
FORMATS = {
    "onnxruntime": Format(
        (".onnx", ".ort"), {"fp32": 1e-3, "fp16": 0.05, "int8-dynamic": 0.2, "int8-static": 0.2, **_WEIGHTS}
    ),
    "openvino": Format((".xml",), {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1, "int8-static": 0.2, **_WEIGHTS}),
    "executorch": Format((".pte",), {"fp32": 1e-3, "int8-dynamic": 0.2}),
    "litert": Format((".tflite",), {"fp32": 1e-3, "int8-dynamic": 0.2}),
    "onnxruntime-cuda": Format((".onnx",), _GPU),
    "onnxruntime-tensorrt": Format((".onnx",), _GPU),
    "tensorrt": Format((".engine",), _GPU),
    "tensorrt_rtx": Format((".engine",), _GPU),
}
