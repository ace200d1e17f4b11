"""Where an artefact's time goes, operator by operator, and one sentence on why INT8 did not help."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..export.artifact import Artifact
from ..export.machine import has_int8_isa

ROWS = 40
INT8_PRODUCTS = {
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
}
FLOAT_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"}
CONVERSIONS = {
    "DynamicQuantizeLinear",
    "QuantizeLinear",
    "DequantizeLinear",
    "Cast",
    "Reorder",
    "Convert",
    "FakeQuantize",
}


@dataclass(frozen=True)
class Profile:
    """Shares of an artefact's time, 0..1, and how many matrix products run in INT8 and in float."""

    int8_products: float
    float_products: float
    conversions: float
    int8_count: int
    float_count: int


def profile(artifact: Artifact, rows: Sequence[Sequence[int]], threads: int) -> Profile:
    """Run up to ROWS rows one by one with the runtime's own profiler on."""
    encoder = artifact.encoder()
    batches = [encoder.pad([row]) for row in rows[:ROWS]]
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[artifact.runtime]
    times = run(artifact.path / artifact.files[0], batches, threads)
    total = sum(ms for _, _, ms in times.values()) or 1.0
    return Profile(
        sum(ms for kind, int8, ms in times.values() if kind == "product" and int8) / total,
        sum(ms for kind, int8, ms in times.values() if kind == "product" and not int8) / total,
        sum(ms for kind, _, ms in times.values() if kind == "conversion") / total,
        sum(kind == "product" and int8 for kind, int8, _ in times.values()),
        sum(kind == "product" and not int8 for kind, int8, _ in times.values()),
    )


def why_int8_is_slower(found: Profile, slower: float) -> str:
    """One sentence for an INT8 artefact that takes `slower` times as long as the same model in float."""
    reasons = []
    if not has_int8_isa():
        reasons.append("this CPU has no VNNI or AMX, so 8-bit products are put together from 16-bit ones")
    products = found.int8_products + found.float_products
    reasons.append(f"{products:.0%} of its time is in matrix products")
    if found.float_count:
        reasons.append(
            f"{found.float_count} of {found.int8_count + found.float_count} products stay in float "
            f"({found.float_products:.0%} of the time)"
        )
    if found.conversions > 0.02:
        reasons.append(f"{found.conversions:.0%} goes into converting between the formats")
    return f"INT8 takes {slower:.2f}x as long as float here: {'; '.join(reasons)}"


Times = dict[str, tuple[str, bool, float]]  # node -> (product, conversion or other; in INT8; milliseconds)


def _onnxruntime(model: Path, batches: Sequence[dict[str, np.ndarray]], threads: int) -> Times:
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        for batch in batches:
            session.run(None, {name: batch[name] for name in names})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: Times = {}
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if event.get("cat") == "Node" and operator and event["name"].endswith("_kernel_time"):
            before = times.get(event["name"], ("", False, 0.0))[2]
            int8 = operator in INT8_PRODUCTS
            kind = "product" if int8 or operator in FLOAT_PRODUCTS else _other(operator)
            times[event["name"]] = (kind, int8, before + event["dur"] / 1e3)
    return times


def _openvino(model: Path, batches: Sequence[dict[str, np.ndarray]], threads: int) -> Times:
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    compiled = openvino.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]
    times: Times = {}
    for batch in batches:
        request.infer({name: batch[name] for name in names})
        for info in request.profiling_info:
            before = times.get(info.node_name, ("", False, 0.0))[2]
            int8 = "i8" in info.exec_type or "u8" in info.exec_type
            product = info.node_type in ("FullyConnected", "MatMul", "ScaledDotProductAttention")
            kind = "product" if product else _other(info.node_type)
            times[info.node_name] = (kind, int8, before + info.real_time.total_seconds() * 1e3)
    return {name: entry for name, entry in times.items() if entry[2] > 0}


def _other(operator: str) -> str:
    return "conversion" if operator in CONVERSIONS else "other"
