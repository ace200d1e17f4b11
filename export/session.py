"""An artefact opened on this machine: `session(batch) -> arrays`, one signature for every runtime.

Needs numpy and the runtime alone, and imports nothing of ours: the same file is copied into every bundle, so that
the measured path is the served path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Session = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


BF16_REST = ("bf16", "int8-static")


class CannotRunHere(Exception):
    """The artefact is whole, but this machine lacks what it needs; the message says what."""


def open_session(model: Path, runtime: str, precision: str, threads: int) -> Session:
    """Open the model file with `runtime` on `threads` CPU threads.

    The session takes every input by name, (rows, length) int64, and returns every output by name, float32.
    Raises ValueError for a runtime it does not know, ImportError when the runtime is not installed, CannotRunHere
    when the machine lacks the instructions.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime '{runtime}'; known: {', '.join(RUNTIMES)}")
    return RUNTIMES[runtime](Path(model), precision, threads)


def _open_onnxruntime(model: Path, precision: str, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = session.run(outputs, _only(inputs, batch))
        return dict(zip(outputs, (np.asarray(array) for array in arrays), strict=True))

    return run


def _open_openvino(model: Path, precision: str, threads: int) -> Session:
    import openvino

    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise CannotRunHere("this CPU has no bf16 instructions (AVX512-BF16 or AMX)")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # What INT8 leaves in float runs in bf16 where that is faster; fp32 means fp32.
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 and precision in BF16_REST else "f32",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", config)
    request = compiled.create_infer_request()
    inputs = [port.get_any_name() for port in compiled.inputs]
    outputs = [(i, port.get_any_name()) for i, port in enumerate(compiled.outputs)]

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer(_only(inputs, batch), share_inputs=True)
        return {name: np.array(request.get_output_tensor(i).data) for i, name in outputs}

    return run


def _only(names: list[str], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that the model has; a model exported elsewhere may want token types, all zero for a single text."""
    return {name: batch[name] if name in batch else np.zeros_like(batch["input_ids"]) for name in names}


RUNTIMES = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
