"""The function that makes each runtime's artefact from a plain ONNX graph; all have one signature."""

from .to_onnx import to_onnx
from .to_openvino import to_openvino

EXPORTERS = {"onnxruntime": to_onnx, "openvino": to_openvino}
