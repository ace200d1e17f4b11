"""Checkpoint to OpenVINO IR: fp32, the same IR run in bf16, or INT8 by NNCF."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..compress.checkpoint import Checkpoint
from ..compress.errors import missing_extra
from ..compress.families import WHOLE
from ..compress.tasks import Task
from .artifact import WEIGHTS_ONLY, Artifact
from .halves import DECODER, ENCODER, plain_decoder, recorded
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
    out.mkdir(parents=True, exist_ok=True)
    graphs = {"model": (plain, calibration)}
    if task.writes:
        calls = recorded(plain, checkpoint, calibration) if precision == "int8-static" else []
        graphs = {ENCODER: (plain, calibration), DECODER: (plain_decoder(plain), calls)}
    transformer = checkpoint.config.get("model_type") not in WHOLE
    for name, (graph, batches) in graphs.items():
        _convert(graph, out / f"{name}.xml", precision, batches, transformer)
    files = tuple(f"{name}.{suffix}" for name in graphs for suffix in ("xml", "bin"))
    details = {"reduce_range": not has_int8_isa()} if precision == "int8-static" else {}
    return artifact_of(checkpoint, task, out, max_length, "openvino", precision, files, details)


def _convert(
    plain: Path, target: Path, precision: str, calibration: Sequence[dict[str, np.ndarray]], transformer: bool
) -> None:
    """One graph in its precision, written to `target`."""
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "openvino", "cpu") from None
    import onnx

    from ..compress import quantize, weights

    with tempfile.TemporaryDirectory() as scratch:
        ir = Path(scratch) / "plain.xml"
        source = Path(scratch) / "plain.onnx"  # convert_model takes a comma in a path for two files
        source.symlink_to(plain.absolute())
        converted = openvino.convert_model(source)
        given = onnx.load(plain, load_external_data=False).graph
        for ports, entries in ((converted.inputs, given.input), (converted.outputs, given.output)):
            for port, entry in zip(ports, entries, strict=True):  # a tensor that is only passed on has several names
                port.get_tensor().set_names({entry.name})
        if precision == "int8-static":
            openvino.save_model(converted, ir, compress_to_fp16=False)
            quantize.openvino_static(ir, target, calibration, transformer=transformer, reduce_range=not has_int8_isa())
        elif precision in WEIGHTS_ONLY:
            weights.openvino_weights(converted, target, WEIGHTS_ONLY[precision])
        else:
            openvino.save_model(converted, target, compress_to_fp16=precision == "fp16")
