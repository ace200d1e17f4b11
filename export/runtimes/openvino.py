"""Checkpoint to OpenVINO IR: fp32, the same IR run in bf16, or INT8 by NNCF."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paredown.compress.models.architectures import CONVOLUTIONAL
from paredown.compress.models.loading import Checkpoint
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.runtime.errors import missing_extra
from paredown.tasks.base import Task

from ..artifact import WEIGHTS_ONLY, Artifact
from ..hardware import has_int8_isa
from ..onnx.exporter import artifact_of
from ..onnx.forms import FORMS


def to_openvino(
    plain: Path,
    checkpoint: Checkpoint,
    task: Task,
    out: Path,
    max_length: int,
    precision: str = "fp32",
    calibration: Sequence[dict[str, np.ndarray]] = (),
    judge: Int8Evaluator | None = None,
) -> Artifact:
    """Make an OpenVINO artefact of a precision in PRECISIONS["openvino"] in the directory `out`.

    `plain`: what `plain_onnx` wrote for this checkpoint. bf16 is a hint given when the model is compiled: the weights
    on disk stay float32; fp16 halves them. `calibration`: batches of training rows, needed for int8-static; `judge`: a
    quarter of them says what INT8 costs.
    """
    out.mkdir(parents=True, exist_ok=True)
    form, batches = FORMS[task.graph], calibration if precision == "int8-static" else ()
    graphs = form.graphs(plain, checkpoint, batches, judge)
    transformer = checkpoint.config.get("model_type") not in CONVOLUTIONAL
    found = {
        graph.name: _convert(
            graph.plain, out / f"{graph.name}.xml", task, precision, graph.calibration, graph.judge, transformer
        )
        for graph in graphs
    }
    details = dict(form.details(found))
    files = tuple(f"{graph.name}.{suffix}" for graph in graphs for suffix in ("xml", "bin"))
    if precision == "int8-static":
        details["reduce_range"] = not has_int8_isa()
    return artifact_of(checkpoint, task, out, max_length, "openvino", precision, files, details)


def _convert(
    plain: Path,
    target: Path,
    task: Task,
    precision: str,
    calibration: Sequence[dict[str, np.ndarray]],
    judge: Int8Evaluator | None,
    transformer: bool,
) -> dict:
    """One graph in its precision, written to `target`; what was found, for the artefact's details."""
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "openvino", "cpu") from None
    import onnx

    from paredown.compress.quantization import int8, weight_only

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
            reduce = not has_int8_isa()
            rows = int8.Calibration(calibration, task, judge)
            return int8.openvino_static(ir, target, rows, transformer=transformer, reduce_range=reduce)
        if precision in WEIGHTS_ONLY:
            weight_only.openvino_weights(converted, target, WEIGHTS_ONLY[precision])
        else:
            openvino.save_model(converted, target, compress_to_fp16=precision == "fp16")
        return {}
