"""Triton's own protocol buffers."""

import importlib.util
from importlib import metadata
from typing import Any


def official_config() -> Any:
    """inference.ModelConfig of the tritonclient wheel; its package cannot be imported without gRPC."""
    files = metadata.files("tritonclient") or []
    (file,) = [f for f in files if f.as_posix() == "tritonclient/grpc/model_config_pb2.py"]
    spec = importlib.util.spec_from_file_location("model_config_pb2", file.locate())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig()
