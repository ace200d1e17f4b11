"""Roofline estimate: a model's multiplications at this machine's best matrix-product rate.

Floor = max(MACs / MACs a second, bytes of weights / bytes a second); what is done element by element counts as nothing.
MACs of an encoder layer, S tokens, width H, attention width A, feed-forward width I: S (4 H A + 2 H I) + 2 S^2 A.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from .profile import FLOAT_PRODUCTS, INT8_PRODUCTS

BLOCKS = "MatMulNBits"  # weights alone are quantised; activations are rounded to INT8 beside them
ATTENTION = {"Attention", "QAttention"}


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one part of a graph: for each token in float and in INT8, and for each pair of tokens."""

    float_token: int = 0
    int8_token: int = 0
    pair: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Rates:
    """What the machine does in a millisecond at its best: multiply-accumulates in float and in INT8, bytes read."""

    float_macs: float
    int8_macs: float
    bytes_read: float


def work_of(model: Path) -> list[Work]:
    """The work of an ONNX file on every row, and that behind each further `If` (the second, third, ... model of a
    cascade)."""
    import onnx

    found: list[Work] = [Work()]
    for node, weights, depth in _products(onnx.load(model).graph, {}, 0):
        found += [Work()] * (depth + 1 - len(found))
        bytes_each = 1 if node.op_type in INT8_PRODUCTS else 4
        if node.op_type == BLOCKS:  # packed in blocks, so that their shape is not the matrix's
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            weights, bytes_each = [(sizes["K"], sizes["N"])], sizes["bits"] / 8
        for rows, columns in weights:
            macs = rows * columns
            attention = node.op_type in ATTENTION
            int8 = node.op_type in INT8_PRODUCTS
            part = Work(
                0 if int8 else macs, macs if int8 else 0, 2 * columns // 3 if attention else 0, int(macs * bytes_each)
            )
            found[depth] += part
    return found


def floor_ms(work: Work, lengths: Sequence[int], rates: Rates) -> float:
    """Mean milliseconds of one row a call, over rows of these lengths in tokens."""
    tokens = np.asarray(lengths, dtype=float)
    multiplying = tokens * (work.float_token / rates.float_macs + work.int8_token / rates.int8_macs)
    multiplying += tokens**2 * work.pair / rates.float_macs
    return float(np.maximum(multiplying, work.weight_bytes / rates.bytes_read).mean())


def model_floor_ms(
    model: Path,
    lengths: Sequence[int],
    rates: Rates,
    asked: Sequence[float] = (),
    windows: Sequence[int | None] = (),
) -> float:
    """`floor_ms` of an ONNX file. `asked`: of a cascade, the share of the rows that each further model is asked
    about, 0..1. `windows`: how many tokens each of its models reads at most, None for all."""
    total = 0.0
    for share, work, window in zip_longest([1.0, *asked], work_of(model), windows):
        read = lengths if window is None else np.minimum(lengths, window).tolist()
        total += share * floor_ms(work, read, rates) if share and work else 0.0
    return total


def machine_rates(threads: int, seconds: float = 1.0) -> Rates:
    """Measured here: ONNX Runtime's own product of 512 x 1536 x 1536 in float and U8S8, and a copy of 256 MB."""
    macs = 512 * 1536 * 1536
    block = np.ones(2**25)
    copy = np.empty_like(block)
    best = _best(lambda: np.copyto(copy, block), seconds)
    return Rates(
        macs / _best(_product(threads, int8=False), seconds),
        macs / _best(_product(threads, int8=True), seconds),
        2 * block.nbytes / best,
    )


def _products(graph, outer: dict[str, tuple[int, ...]], depth: int) -> Iterator[tuple]:
    """Every matrix product with constant weights: node, the weights' (rows, columns), how many `If`s it is behind."""
    known = {**outer, **{weight.name: tuple(weight.dims) for weight in graph.initializer}}
    for node in graph.node:
        if node.op_type in FLOAT_PRODUCTS | INT8_PRODUCTS:
            yield node, [known[name] for name in node.input if len(known.get(name, ())) == 2], depth
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _products(attribute.g, known, depth + (node.op_type == "If"))


def _product(threads: int, *, int8: bool):
    """A call of one matrix product in ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.integers(-64, 64, (1536, 1536)).astype(np.int8 if int8 else np.float32)
    left = rng.integers(0, 128, (512, 1536)).astype(np.uint8 if int8 else np.float32)
    kinds = (TensorProto.UINT8, TensorProto.INT32) if int8 else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if int8 else "MatMul", ["left", "weight"], ["out"])],
        "product",
        [helper.make_tensor_value_info("left", kinds[0], [512, 1536])],
        [helper.make_tensor_value_info("out", kinds[1], [512, 1536])],
        [numpy_helper.from_array(weight, "weight")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def _best(call, seconds: float) -> float:
    """Milliseconds of the fastest of the calls that fit into `seconds`."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)
