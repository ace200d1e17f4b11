from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from paredown.compress.quantization.weight_only import _products_alone


def gemm(**attributes: Any) -> onnx.ModelProto:
    """x (2, 4) times a constant, plus a constant, in one node."""
    random = np.random.default_rng(0)
    shape = (3, 4) if attributes.get("transB") else (4, 3)
    weights = [("w", random.normal(size=shape)), ("b", random.normal(size=3))]
    x = (4, 2) if attributes.get("transA") else (2, 4)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "product", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def answer(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(8, dtype=np.float32).reshape(session.get_inputs()[0].shape)
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("attributes", "taken_apart"),
    [
        ({}, True),
        ({"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, True),
        ({"transB": 1}, False),
        ({"transA": 1}, False),
        ({"alpha": 0.0}, False),
        ({"beta": 0.0}, False),
        ({"alpha": 2.0}, False),
    ],
)
def test_only_a_plain_gemm_is_taken_apart_and_the_answers_stay(attributes: dict, taken_apart: bool) -> None:
    want = answer(gemm(**attributes))
    made = _products_alone(gemm(**attributes))
    assert [node.op_type for node in made.graph.node] == (["MatMul", "Add"] if taken_apart else ["Gemm"])
    np.testing.assert_allclose(answer(made), want, atol=1e-5)
