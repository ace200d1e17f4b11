"""Checkpoint to OpenVINO IR: fp32, the same IR run in bf16, or INT8 by NNCF."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..compress.checkpoint import Checkpoint
from ..compress.errors import missing_extra
from ..compress.tasks import Task
from .artifact import Artifact
from .machine import has_int8_isa
from .to_onnx import artifact_of


def to_openvino(
    plain: Path,
    checkpoint: Checkpoint,
    task: Task,
    out: Path,
    max_length: int,
    precision: str = "fp32",
    calibration: Sequence[dict[str, np.ndarray]] = (),
) -> Artifact:
    """Make an OpenVINO artefact of a precision in PRECISIONS["openvino"] in the directory `out`.

    `plain`: what `plain_onnx` wrote for this checkpoint. bf16 is a hint given when the model is compiled: the weights
    on disk stay float32; fp16 halves them. `calibration`: batches of training rows, needed for int8-static.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "openvino", "cpu") from None
    from ..compress import quantize

    out.mkdir(parents=True, exist_ok=True)
    details = {}
    with tempfile.TemporaryDirectory() as scratch:
        ir = Path(scratch) / "plain.xml"
        source = Path(scratch) / "plain.onnx"  # convert_model takes a comma in a path for two files
        source.symlink_to(plain.absolute())
        converted = openvino.convert_model(source)
        if precision == "int8-static":
            openvino.save_model(converted, ir, compress_to_fp16=False)
            details = {"reduce_range": not has_int8_isa()}
            quantize.openvino_static(ir, out / "model.xml", calibration, **details)
        else:
            openvino.save_model(converted, out / "model.xml", compress_to_fp16=precision == "fp16")
    files = ("model.xml", "model.bin")
    return artifact_of(checkpoint, task, out, max_length, "openvino", precision, files, details)
