"""Profiles by operator: why INT8 did not help, and what limits the speed."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paredown.export.artifact import Artifact
from paredown.export.hardware import has_int8_isa

ROWS = 40
INT8_PRODUCTS = {
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
    "QLinearConv",
    "MatMulNBits",
}
FLOAT_PRODUCTS = {
    "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention", "Conv", "FusedConv",
}  # fmt: skip
CONTROL_FLOW = {"If", "Loop", "Scan"}  # their time is that of the nodes inside, which are listed too
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
    others: dict[str, float]  # the costliest operators that are neither product nor conversion, by their share
    overhead_ms: float  # of a call, beside its operators


def profile(artifact: Artifact, rows: Sequence[Sequence[int]], threads: int) -> Profile:
    """Run up to ROWS rows one by one with the runtime's own profiler on."""
    encoder = artifact.encoder()
    batches = [artifact.whole(encoder.pad([row])) for row in rows[:ROWS]]
    times, wall = PROFILED[artifact.runtime](artifact.path / artifact.files[0], batches, threads)
    nodes = list(times.values())
    total = sum(node.ms for node in nodes) or 1.0
    others: dict[str, float] = {}
    for node in nodes:
        if node.kind == "other":
            others[node.operator] = others.get(node.operator, 0.0) + node.ms / total
    return Profile(
        sum(node.ms for node in nodes if node.kind == "product" and node.int8) / total,
        sum(node.ms for node in nodes if node.kind == "product" and not node.int8) / total,
        sum(node.ms for node in nodes if node.kind == "conversion") / total,
        sum(node.kind == "product" and node.int8 for node in nodes),
        sum(node.kind == "product" and not node.int8 for node in nodes),
        dict(sorted(others.items(), key=lambda item: -item[1])[:3]),
        max(0.0, wall - total) / len(batches),
    )


def why_not_faster(found: Profile, mean_ms: float, floor_ms: float | None) -> str:
    """One paragraph on what limits an artefact that takes `mean_ms` a call; `floor_ms` as in floor.py, if known."""
    products, overhead = found.int8_products + found.float_products, found.overhead_ms / mean_ms
    others = ", ".join(f"{name} {share:.0%}" for name, share in found.others.items())
    said = [
        f"{products:.0%} of the operators' time is in matrix products, {found.int8_count} of "
        f"{found.int8_count + found.float_count} of them in INT8",
        f"{found.conversions:.0%} converts and reorders",
        *([f"the costliest others are {others}"] if others else []),
        f"a call takes {found.overhead_ms:.2g} ms beside its operators",
    ]
    text = "; ".join(said) + "."
    far = mean_ms / floor_ms if floor_ms else None
    if far is not None:
        text += (
            f" Its products alone would take {floor_ms:.2g} ms at this machine's best rate: {far:.3g} times the floor."
        )
    if overhead > 0.25:
        limit = "the overhead of a call: larger batches or a leaner runtime help, less arithmetic does not"
    elif found.conversions > 0.2:
        limit = "converting between formats: quantise fewer products, or all of them"
    elif products < 0.5:
        limit = "what is done between the products, element by element: fewer layers help more than narrower ones"
    elif far is not None and far > 3:
        limit = (
            "products too small to reach the machine's rate (short rows, one at a time): batches or fewer layers help"
        )
    else:
        limit = "the arithmetic of the products: a smaller model or a cheaper number format helps"
    return f"{text} What limits it is {limit}."


def why_int8_is_slower(found: Profile, slower: str) -> str:
    """One sentence for an INT8 artefact that takes `slower` ("1.2 times") as long as the same model in float."""
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
    return f"INT8 takes {slower} as long as float here: {'; '.join(reasons)}"


@dataclass
class Node:
    """Milliseconds of one node over all calls; `kind` is product, conversion or other."""

    operator: str
    kind: str
    int8: bool
    ms: float = 0.0


Times = dict[str, Node]


def _onnxruntime(model: Path, batches: Sequence[dict[str, np.ndarray]], threads: int) -> tuple[Times, float]:
    import onnxruntime

    def run(prefix: Path | None) -> tuple[onnxruntime.InferenceSession, float]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(prefix)
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        began = time.perf_counter()
        for batch in batches:
            session.run(None, {name: batch[name] for name in names})
        return session, (time.perf_counter() - began) * 1e3

    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        session, _ = run(Path(scratch) / "profile")
        _, wall = run(None)  # writing events down takes longer than a small model does
        events = json.loads(Path(session.end_profiling()).read_text())
    times: Times = {}
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if event.get("cat") != "Node" or operator in CONTROL_FLOW:
            continue
        if operator and event["name"].endswith("_kernel_time"):
            int8 = operator in INT8_PRODUCTS
            kind = "product" if int8 or operator in FLOAT_PRODUCTS else _other(operator)
            times.setdefault(event["name"], Node(operator, kind, int8)).ms += event["dur"] / 1e3
    return times, wall


def _openvino(model: Path, batches: Sequence[dict[str, np.ndarray]], threads: int) -> tuple[Times, float]:
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    compiled = openvino.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]
    times: Times = {}
    wall = 0.0
    for batch in batches:
        request.infer({name: batch[name] for name in names})  # it prepares its kernels for a length that is new
        began = time.perf_counter()
        request.infer({name: batch[name] for name in names})
        wall += (time.perf_counter() - began) * 1e3
        for info in request.profiling_info:
            int8 = "i8" in info.exec_type or "u8" in info.exec_type
            product = info.node_type in ("FullyConnected", "MatMul", "ScaledDotProductAttention", "Convolution")
            kind = "product" if product else _other(info.node_type)
            node = times.setdefault(info.node_name, Node(info.node_type, kind, int8))
            node.ms += info.real_time.total_seconds() * 1e3
    return {name: node for name, node in times.items() if node.ms > 0}, wall


def _other(operator: str) -> str:
    return "conversion" if operator in CONVERSIONS else "other"


PROFILED = {"onnxruntime": _onnxruntime, "openvino": _openvino}  # runtime -> how its time is profiled
