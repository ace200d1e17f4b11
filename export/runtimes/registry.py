"""The function that makes each runtime's artefact from a plain ONNX graph; all have one signature."""

from collections.abc import Callable
from functools import partial

from paredown.runtime.session import ENGINES, PROVIDERS

from ..artifact import Artifact
from ..onnx.exporter import to_onnx
from .openvino import to_openvino
from .tensorrt import to_provider, to_tensorrt

EXPORTERS: dict[str, Callable[..., Artifact]] = {
    "onnxruntime": to_onnx,
    "openvino": to_openvino,
    **{runtime: partial(to_provider, runtime=runtime) for runtime in PROVIDERS},
    **{runtime: partial(to_tensorrt, runtime=runtime) for runtime in ENGINES},
}
