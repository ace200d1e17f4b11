from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LABELS, TASK
from onnx import helper, numpy_helper
from paredown.compress import data, quantize
from paredown.compress.checkpoint import Checkpoint
from paredown.compress.encoder import Batch, collate
from paredown.compress.errors import StepError
from paredown.compress.smooth import smooth
from paredown.export.to_onnx import plain_onnx


@pytest.fixture(scope="module")
def plain(teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_onnx(teacher, TASK, tmp_path_factory.mktemp("plain") / "plain.onnx")


@pytest.fixture(scope="module")
def batches(teacher: Checkpoint, files: dict) -> list[Batch]:
    rows = data.read(str(files["train"]), names=LABELS).sample(48)
    return [collate([ids], 0) for ids in teacher.encoder().ids(rows.texts)]


def outliers(plain: Path, path: Path, factor: float) -> Path:
    """The same function with one channel of a hidden activation `factor` times as large: what breaks plain INT8."""
    model = onnx.load(plain)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    node = next(n for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants)
    weight = numpy_helper.to_array(constants[node.input[1]]).copy()
    scale = np.ones(weight.shape[0], dtype=np.float32)
    scale[0] = factor
    readers = [n for n in graph.node if n.input and n.input[0] == node.input[0] and n.op_type == "MatMul"]
    for reader in readers:
        tensor = constants[reader.input[1]]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / scale[:, None], tensor.name))
    graph.initializer.append(numpy_helper.from_array(scale, "outlier"))
    at = next(i for i, n in enumerate(graph.node) if n.name == readers[0].name)
    graph.node.insert(at, helper.make_node("Mul", [node.input[0], "outlier"], ["with_outlier"], name="outlier.mul"))
    for reader in readers:
        reader.input[0] = "with_outlier"
    onnx.save(model, path)
    return path


def test_smoothing_changes_nothing_but_the_ranges(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    smoothed = smooth(plain, tmp_path / "smoothed.onnx", batches[:8])
    onnx.checker.check_model(onnx.load(smoothed))
    np.testing.assert_allclose(quantize._logits(smoothed, batches), quantize._logits(plain, batches), atol=1e-4)


def test_every_calibration_is_tried_and_the_nearest_is_kept(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    found = quantize.static(plain, tmp_path / "int8.onnx", batches, reduce_range=True)
    tried = found["calibration_kl"]
    assert set(tried) == {"min-max", "percentile", "entropy", "smoothquant"}
    assert found["calibration"] == min(tried, key=tried.get)
    assert found["agreement"] >= 0.99
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds


def test_smoothquant_wins_where_one_channel_is_an_outlier(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    broken = outliers(plain, tmp_path / "outliers.onnx", 30000.0)
    found = quantize.static(broken, tmp_path / "int8.onnx", batches, reduce_range=True)
    assert found["calibration_kl"]["smoothquant"] < 0.5 * found["calibration_kl"]["min-max"]


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("method", [quantize.dynamic, quantize.static])
def test_a_quantiser_that_gives_up_is_one_line(method, plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    model = onnx.load(plain)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2 and "MatMul" in tensor.name)
    spoiled = numpy_helper.to_array(tensor) * np.float32(np.nan)
    tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(StepError, match=r"onnxruntime's quantiser gave up: .*scale") as caught:
        method(tmp_path / "nan.onnx", tmp_path / "int8.onnx", batches[:8], reduce_range=True)
    assert "\n" not in str(caught.value)


def test_the_product_that_hurts_stays_in_float(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    broken = outliers(plain, tmp_path / "outliers.onnx", 30000.0)
    bare = quantize.dynamic(broken, tmp_path / "bare.onnx", reduce_range=True)
    assert bare == {}
    wanted = quantize._logits(plain, batches)
    assert quantize._agreement(quantize._logits(tmp_path / "bare.onnx", batches), wanted) < 0.99
    found = quantize.dynamic(broken, tmp_path / "mended.onnx", batches, reduce_range=True)
    assert found["agreement"] >= 0.99
    products = [n for n in onnx.load(plain).graph.node if n.op_type == "MatMul"]
    assert 1 <= len(found["left_in_float"]) < len(products) / 3
    assert quantize._agreement(quantize._logits(tmp_path / "mended.onnx", batches), wanted) == found["agreement"]
