"""Time a residual sum and its layer norm on a CPU: as ONNX Runtime fuses them, and as two nodes.

    python benchmarks/layer_norm.py

Microseconds of one of twelve in a row, medians of interleaved rounds, at the widths and lengths of small encoders.
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

IN_A_ROW, ROUNDS, CALLS = 12, 15, 40


def main() -> None:
    for width, tokens in ((384, 12), (384, 28), (384, 128), (768, 28)):
        for threads in (1, 2):
            times = timed(width, tokens, threads)
            print(f"{tokens} tokens of {width}, {threads} threads:", *(f"{k} {v:.0f} us" for k, v in times.items()))


def timed(width: int, tokens: int, threads: int) -> dict[str, float]:
    """Microseconds of each kind."""
    sessions, rng = {kind: opened(kind, width, threads) for kind in ("fused", "two nodes")}, np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, tokens, width)).astype(np.float32) for name in ("x0", "skip")}
    samples = defaultdict(list)
    for _ in range(ROUNDS):
        for kind, session in sessions.items():
            session.run(None, feeds)
            began = time.perf_counter()
            for _ in range(CALLS):
                session.run(None, feeds)
            samples[kind].append((time.perf_counter() - began) / CALLS / IN_A_ROW * 1e6)
    return {kind: float(np.median(values)) for kind, values in samples.items()}


def opened(kind: str, width: int, threads: int) -> onnxruntime.InferenceSession:
    """A model of IN_A_ROW sums with layer norms."""
    nodes = []
    for i in range(IN_A_ROW):
        x, y = f"x{i}", f"x{i + 1}"
        if kind == "fused":
            domain = {"domain": "com.microsoft", "epsilon": 1e-12}
            nodes.append(helper.make_node("SkipLayerNormalization", [x, "skip", "scale", "shift"], [y], **domain))
        else:
            nodes.append(helper.make_node("Sum", [x, "skip"], [f"{x}s"]))
            nodes.append(helper.make_node("LayerNormalization", [f"{x}s", "scale", "shift"], [y], epsilon=1e-12))
    shape = [1, "tokens", width]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", "skip")]
    output = helper.make_tensor_value_info(f"x{IN_A_ROW}", TensorProto.FLOAT, shape)
    constants = [numpy_helper.from_array(np.ones(width, np.float32), name) for name in ("scale", "shift")]
    graph = helper.make_graph(nodes, "norms", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


if __name__ == "__main__":
    main()
