import logging
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from conftest import LABELS, TASK, make_checkpoint
from onnx import helper, numpy_helper
from onnxruntime import quantization

from paredown.compress.config import Finetune, Int8
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.quantization import int8 as quantize
from paredown.compress.quantization.int8 import Calibration
from paredown.compress.quantization.int8_cost import Int8Evaluator, answers, distances, outputs
from paredown.compress.quantization.sensitivity import composed, groups_of, products
from paredown.compress.quantization.smoothquant import smooth
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.fusion import fuse
from paredown.runtime.errors import StepError
from paredown.runtime.preprocessor import Batch, collate
from paredown.tasks.rows import Rows


@pytest.fixture(scope="module")
def teacher(untrained: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One whose attention counts, so that an outlier there costs points: most seeds give one that adds words up."""
    rows, model = dataset.read(str(files["train"]), names=LABELS), load(untrained, TASK)
    data = TrainingData(dataset.encode(untrained.encoder(), rows), rows.gold)
    finetune(model, data, Finetune(epochs=8, learning_rate=5e-3, freeze_embeddings=False), seed=2)
    return save(model, untrained, tmp_path_factory.mktemp("attentive") / "teacher")


@pytest.fixture(scope="module")
def plain(teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_onnx(teacher, TASK, tmp_path_factory.mktemp("plain") / "plain.onnx")


@pytest.fixture(scope="module")
def rows(files: dict) -> Rows:
    return dataset.read(str(files["train"]), names=LABELS).sample(48)


@pytest.fixture(scope="module")
def batches(teacher: Checkpoint, rows: Rows) -> list[Batch]:
    return batches_of(teacher, rows)


@pytest.fixture(scope="module")
def judge(teacher: Checkpoint, rows: Rows) -> Int8Evaluator:
    return Int8Evaluator(Int8(), rows, teacher.encoder())


def outliers(plain: Path, path: Path, factor: float, product: str = "") -> Path:
    """The same function with one channel of a hidden activation `factor` times as large: what breaks plain INT8."""
    model = onnx.load(plain)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    node = next(n for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants and product in n.name)
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


def batches_of(checkpoint: Checkpoint, rows: Rows) -> list[Batch]:
    return [collate([ids], 0) for ids in checkpoint.encoder().ids(rows.texts)]


def logits(model: Path, batches: list[Batch]) -> np.ndarray:
    return outputs(answers(model, batches))


def test_smoothing_changes_nothing_but_the_ranges(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    smoothed = smooth(plain, tmp_path / "smoothed.onnx", batches[:8])
    onnx.checker.check_model(onnx.load(smoothed))
    np.testing.assert_allclose(logits(smoothed, batches), logits(plain, batches), atol=1e-4)


def test_every_calibration_is_tried_and_the_nearest_is_kept(
    plain: Path, batches: list[Batch], judge: Int8Evaluator, tmp_path: Path
) -> None:
    found = quantize.static(plain, tmp_path / "int8.onnx", Calibration(batches, TASK, judge), reduce_range=True)
    tried = found["calibration_kl"]
    assert set(tried) == {"min-max", "percentile", "entropy", "smoothquant"}
    assert found["calibration"] == min(tried, key=tried.get)
    assert found["agreement"] >= 0.99
    assert (found["products"], found["left_in_float"]) == (8 * 3 + 2, [])
    assert found["int8_cost"]["rows"] == len(batches) / 4
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds


def test_smoothquant_wins_where_one_channel_is_an_outlier(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    broken = outliers(plain, tmp_path / "outliers.onnx", 30000.0)
    found = quantize.static(broken, tmp_path / "int8.onnx", Calibration(batches), reduce_range=True)
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
        method(tmp_path / "nan.onnx", tmp_path / "int8.onnx", Calibration(batches[:8]), reduce_range=True)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def broken(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outliers(plain, tmp_path_factory.mktemp("broken") / "outliers.onnx", 1e6)


@pytest.fixture(scope="module")
def many(files: dict) -> Rows:
    return dataset.read(str(files["train"]), names=LABELS).sample(200)


def test_the_products_that_cost_points_stay_in_float(
    teacher: Checkpoint, broken: Path, many: Rows, tmp_path: Path
) -> None:
    judge, batches = Int8Evaluator(Int8(), many, teacher.encoder()), batches_of(teacher, many)
    bare = quantize.dynamic(broken, tmp_path / "bare.onnx", Calibration(), reduce_range=True)
    assert bare == {}
    with mock.patch.object(quantization, "quantize_dynamic", wraps=quantization.quantize_dynamic) as calls:
        found = quantize.dynamic(broken, tmp_path / "int8.onnx", Calibration(batches, TASK, judge), reduce_range=True)
    cost = found["int8_cost"]
    assert (cost["measure"], cost["unit"], cost["limit"], cost["rows"]) == ("accuracy", "points", 0.5, 200)
    float32, int8, mixed = (
        100 * (logits(path, batches).argmax(-1) == many.gold).mean()
        for path in (broken, tmp_path / "bare.onnx", tmp_path / "int8.onnx")
    )
    assert (cost["before"], cost["after"]) == pytest.approx((float32 - int8, float32 - mixed))
    assert cost["before"] > 3
    assert cost["after"] <= 0.5
    assert 1 <= len(found["left_in_float"]) <= 3  # queries, keys and values of one layer read the outlier
    assert all("layer.0/attention/self" in name for name in found["left_in_float"])
    assert calls.call_count == 2
    groups = len(groups_of(products(onnx.load(broken), onnx.load(tmp_path / "bare.onnx"))))
    assert groups == 3 * 2 + 2
    assert found["variants_tried"] <= (groups + 4) + (1 + 3 + 2)


def test_products_go_back_only_where_that_brings_something(
    teacher: Checkpoint, broken: Path, many: Rows, tmp_path: Path
) -> None:
    judge, batches = Int8Evaluator(Int8(), many, teacher.encoder()), batches_of(teacher, many)
    quantize.dynamic(broken, tmp_path / "bare.onnx", Calibration(), reduce_range=True)
    with mock.patch.object(quantize, "left_in_float", lambda groups, *_: groups[-1]):  # the head, which does no harm
        found = quantize.dynamic(broken, tmp_path / "int8.onnx", Calibration(batches, TASK, judge), reduce_range=True)
    assert found["left_in_float"] == []
    assert found["int8_cost"]["before"] == found["int8_cost"]["after"] > 3
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "bare.onnx").read_bytes()


@pytest.mark.parametrize("symmetric", [False, True])
def test_static_int8_leaves_products_in_float_too(
    symmetric: bool, teacher: Checkpoint, broken: Path, many: Rows, tmp_path: Path
) -> None:
    batches = batches_of(teacher, many)[:64]
    bare = quantize.static(broken, tmp_path / "bare.onnx", Calibration(batches, TASK), symmetric=symmetric)
    assert set(bare) == {"calibration", "calibration_kl"}
    least = min(bare["calibration_kl"].values())
    judge = Int8Evaluator(Int8(max_kl=least / 2))
    with mock.patch.object(quantization, "quantize_static", wraps=quantization.quantize_static) as calls:
        found = quantize.static(broken, tmp_path / "int8.onnx", Calibration(batches, TASK, judge), symmetric=symmetric)
    assert found["int8_cost"]["rows"] == 16
    assert found["int8_cost"]["before"] == pytest.approx(least)
    assert found["int8_cost"]["after"] <= least / 2
    assert 1 <= len(found["left_in_float"]) <= found["products"] / 2
    assert calls.call_count == 5


def test_without_labels_the_distance_counts(teacher: Checkpoint, broken: Path, many: Rows, tmp_path: Path) -> None:
    judge, batches = Int8Evaluator(Int8(), replace(many, labels=None), teacher.encoder()), batches_of(teacher, many)
    found = quantize.dynamic(broken, tmp_path / "int8.onnx", Calibration(batches, TASK, judge), reduce_range=True)
    cost = found["int8_cost"]
    assert (cost["measure"], cost["unit"], cost["limit"]) == ("KL", "nats a row", 0.01)
    assert cost["before"] > 0.01 >= cost["after"]
    apart = distances(answers(tmp_path / "int8.onnx", batches), answers(broken, batches))
    assert cost["after"] == pytest.approx(apart.mean())
    assert 1 <= len(found["left_in_float"]) <= 3
    far = replace(judge, limits=Int8(max_kl=100))
    found = quantize.dynamic(broken, tmp_path / "int8.onnx", Calibration(batches, TASK, far), reduce_range=True)
    assert (found["left_in_float"], found["variants_tried"]) == ([], 0)


def unsure(path: Path) -> tuple[Checkpoint, Rows]:
    """A teacher of 151 labels that hardly prefers one, and rows with labels of which it knows nothing."""
    source = make_checkpoint(path / "source")
    names = tuple(f"intent-{i}" for i in range(151))
    model = load(source, TASK)
    torch.manual_seed(0)
    model.classifier = torch.nn.Linear(32, 151)
    model.classifier.weight.data = 0.1 * torch.randn(1, 32) + 0.001 * torch.randn(151, 32)
    model.config.num_labels = 151
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    checkpoint = save(model, source, path / "unsure")
    random = np.random.default_rng(0)
    words = source.encoder().tokenizer.get_vocab()
    texts = tuple(" ".join(random.choice(sorted(words), 8)) for _ in range(300))
    return open_checkpoint(checkpoint.path, TASK), Rows("rows", texts, random.integers(0, 151, 300), names)


def test_answers_of_an_unsure_teacher_may_change_where_its_metric_does_not_suffer(tmp_path: Path) -> None:
    checkpoint, rows = unsure(tmp_path)
    batches = batches_of(checkpoint, rows)
    fuse(plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx"), tmp_path / "fused.onnx", checkpoint)
    judge = Int8Evaluator(Int8(), rows, checkpoint.encoder())
    for labelled in (judge, replace(judge, rows=None)):
        found = quantize.dynamic(
            tmp_path / "fused.onnx", tmp_path / "int8.onnx", Calibration(batches, TASK, labelled), reduce_range=True
        )
        assert found["agreement"] < 0.99
        assert (found["products"], found["left_in_float"], found["variants_tried"]) == (4 * 3 + 3, [], 0)


@pytest.mark.parametrize("how", ["dynamic", "fused", "static", "symmetric"])
def test_a_variant_answers_as_the_graph_that_the_quantiser_makes(
    how: str, teacher: Checkpoint, plain: Path, batches: list[Batch], tmp_path: Path
) -> None:
    """Held for every group, so that a change of the quantiser's names is found here."""
    source, as_stated = plain, how == "symmetric"
    if how == "fused":
        source = tmp_path / "fused.onnx"
        fuse(plain, source, teacher)
    kind = "quantize_static" if how in ("static", "symmetric") else "quantize_dynamic"
    real, compared = getattr(quantization, kind), []

    def compare(model: Path, out: Path, *args: object, **more: object) -> None:
        real(model, out, *args, **more)
        if compared:
            return
        float_graph, int8 = onnx.load(model), onnx.load(out)
        for group in groups_of(products(float_graph, int8)):
            excluded = [*group, *(name + quantize.OF_GEMM for name in group)]
            real(model, tmp_path / "made.onnx", *args, **(more | {"nodes_to_exclude": excluded}))
            onnx.save(composed(float_graph, int8, group), tmp_path / "composed.onnx")
            onnx.checker.check_model(onnx.load(tmp_path / "composed.onnx"))
            ours, theirs = (
                outputs(answers(tmp_path / f"{name}.onnx", batches[:6], as_stated)) for name in ("composed", "made")
            )
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=str(group))
            compared.append(group)

    with mock.patch.object(quantization, kind, compare):
        if kind == "quantize_dynamic":
            quantize.dynamic(source, tmp_path / "int8.onnx", Calibration(), reduce_range=True)
        else:
            quantize.static(source, tmp_path / "int8.onnx", Calibration(batches[:12]), symmetric=as_stated)
    assert len(compared) == 2 * teacher.depth + (1 if kind == "quantize_static" else 2)


def test_the_root_logger_is_left_as_it_was(plain: Path, batches: list[Batch], tmp_path: Path) -> None:
    before = list(logging.getLogger().filters)
    quantize.dynamic(plain, tmp_path / "int8.onnx", Calibration(batches), reduce_range=True)
    assert logging.getLogger().filters == before
