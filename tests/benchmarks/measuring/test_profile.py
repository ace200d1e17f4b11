from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from paredown.benchmarks.measuring.profile import _onnxruntime


def test_what_lies_in_a_branch_is_counted_once(tmp_path: Path) -> None:
    """ONNX Runtime lists an `If` with all its time, and the nodes inside it once more."""
    wide = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], np.ones(64 * 64, np.float32))
    branches = {
        name: helper.make_graph([helper.make_node(operator, inputs, ["y"], name)], name, [], [wide], [weight])
        for name, operator, inputs in (("then_branch", "MatMul", ["x", "w"]), ("else_branch", "Add", ["x", "w"]))
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], "choice", **branches)],  # type: ignore[arg-type]
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [wide],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    times, _ = _onnxruntime(tmp_path / "m.onnx", [{"x": np.ones((64, 64), np.float32), "c": np.array(True)}] * 3, 1)
    assert {node.operator for node in times.values()} == {"MatMul"}
