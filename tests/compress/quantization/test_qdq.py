"""All of a graph in integers: types, opset, scales per channel, and answers that stay near."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from paredown.compress.quantization.qdq import quantize_all
from paredown.runtime.errors import StepError


def small(path: Path, opset: int) -> Path:
    """x @ W + b, softmax."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 4)) * [1, 0.1, 0.01, 1]
    constants = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    constants.append(numpy_helper.from_array(np.arange(4, dtype=np.float32), "b"))
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "gemm"),
        helper.make_node("Softmax", ["h"], ["y"], "softmax"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n, size in (("x", 8), ("y", 4)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def rows() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 8)).astype(np.float32)} for _ in range(20)]


@pytest.mark.parametrize(
    ("opset", "types", "domain", "kinds"),
    [
        (21, ("uint16", "uint8"), "", {TensorProto.UINT16, TensorProto.INT8, TensorProto.INT32}),
        (17, ("int16", "int8"), "com.microsoft", {TensorProto.INT16, TensorProto.INT8, TensorProto.INT32}),
        (19, ("int8", "int8"), "", {TensorProto.INT8, TensorProto.INT32}),
    ],
)
def test_types_and_opset_are_those_that_were_asked_for(
    opset: int, types: tuple[str, str], domain: str, kinds: set[int], tmp_path: Path
) -> None:
    source, target = small(tmp_path / "float.onnx", opset), tmp_path / "qdq.onnx"
    symmetric = types[0].startswith("int")
    quantize_all(source, target, rows(), types, symmetric=symmetric, qualcomm=opset == 21)
    model = onnx.load(target)
    assert next(entry.version for entry in model.opset_import if not entry.domain) == opset
    rounding = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.domain for node in rounding} == {domain}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    assert {constants[node.input[2]].data_type for node in rounding} == kinds
    (weights,) = (node for node in rounding if node.input[0].startswith("w_"))
    assert list(constants[weights.input[1]].dims) == [4]  # a scale for each output channel
    outputs = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, rows()[0])[0]
        for path in (source, target)
    ]
    assert np.asarray(outputs[1]) == pytest.approx(np.asarray(outputs[0]), abs=0.02)


def test_a_product_of_two_activations_has_8_bits_in_the_second_for_qualcomm(tmp_path: Path) -> None:
    """QNN's HTP takes no (uint16, uint16)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8]) for name in "xy")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "product"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, tmp_path / "float.onnx")
    rng = np.random.default_rng(0)
    given = [{"x": rng.normal(1, size=(1, 8, 8)).astype(np.float32)} for _ in range(20)]
    target = tmp_path / "qdq.onnx"
    quantize_all(tmp_path / "float.onnx", target, given, ("uint16", "uint8"), symmetric=False, qualcomm=True)
    made = onnx.load(target)
    constants = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    makers = {node.output[0]: node for node in made.graph.node}
    (product,) = (node for node in made.graph.node if node.op_type == "MatMul")
    kinds = [constants[makers[name].input[2]] for name in product.input]
    assert kinds == [TensorProto.UINT16, TensorProto.UINT8]
    want, got = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given[0])[0]
        for path in (tmp_path / "float.onnx", target)
    )
    assert np.asarray(got) == pytest.approx(np.asarray(want), abs=0.3)


def test_a_graph_that_cannot_be_rounded_is_one_line(tmp_path: Path) -> None:
    source = small(tmp_path / "float.onnx", 21)
    with pytest.raises(StepError, match="onnxruntime's quantiser gave up"):
        quantize_all(source, tmp_path / "qdq.onnx", [], ("uint16", "uint8"), symmetric=False, qualcomm=True)
