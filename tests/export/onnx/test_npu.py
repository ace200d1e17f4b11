"""Graphs for NPUs: each family's answers stay those of its ONNX model, in one shape and in a profile's operators."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import IMAGES, TASK, make_checkpoint
from examples import EXAMPLES
from loud import loud, loud_checkpoint, onnx_of
from onnx import helper, numpy_helper
from picturing import untrained

from paredown.compress.models.architectures import CONVOLUTIONAL, FAMILIES
from paredown.compress.models.loading import open_checkpoint
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.npu import Wanted, npu_graph
from paredown.export.onnx.npu_profiles import Profile, profiles
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS

LENGTH = 16
TEXTS = [[2, 5, 11, 20, 3], [2, *range(4, 17), 3], [2, 3]]
KINDS = [name for name, family in FAMILIES.items() if not family.decoder and name != "vit"]
QNN, VITIS, RKNN = (profiles()[name] for name in ("qnn", "vitisai", "rknn"))


def answer(model: Path, given: Mapping[str, Any]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, dict(given))
    return np.asarray(found)


def padded_to(ids: list[int], table: np.ndarray | None) -> dict[str, np.ndarray]:
    fill = [0] * (LENGTH - len(ids))
    row, mask = np.array([ids + fill], np.int32), np.array([[1] * len(ids) + fill], np.int32)
    if table is None:
        return {"input_ids": row, "attention_mask": mask}
    return {"inputs_embeds": table[row], "attention_mask": mask.astype(np.float32)}


def check(source: Path, target: Path, wanted: Wanted) -> onnx.ModelProto:
    """The graph answers as the model does without padding."""
    table = npu_graph(source, target, wanted)
    assert (table is not None) == wanted.outside
    for ids in TEXTS:
        whole = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        assert answer(target, padded_to(ids, table)) == pytest.approx(answer(source, whole), abs=2e-4)
    return onnx.load(target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_keeps_its_answers(kind: str, tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", kind), tmp_path, kind)
    for outside in (False, True):
        pad_id = int(kind == "mpnet")  # transformers counts an MPNet's positions by this id, whatever its config says
        model = check(source, tmp_path / "npu.onnx", Wanted(QNN, 16, LENGTH, outside, pad_id))
        kind_of_input = onnx.TensorProto.FLOAT if outside else onnx.TensorProto.INT32
        assert {entry.type.tensor_type.elem_type for entry in model.graph.input} == {kind_of_input}
        values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        assert {name for node in model.graph.node for name in node.output} <= {entry.name for entry in values}
        assert all(dim.dim_value > 0 for entry in values for dim in entry.type.tensor_type.shape.dim)
        assert {node.domain for node in model.graph.node} == {""}


def test_operators_are_in_the_forms_that_a_profile_has(tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path, "bert")
    forms = {"Gelu", "Erf", "LayerNormalization", "InstanceNormalization", "Gather", "Sum", "Attention"}
    found = {}
    for profile in (QNN, VITIS, RKNN):
        bits = max(profile.types)
        model = check(source, tmp_path / "npu.onnx", Wanted(profile, bits, LENGTH, outside=True))
        assert next(entry.version for entry in model.opset_import if not entry.domain) == profile.opset
        found[profile.name] = forms & {node.op_type for node in model.graph.node}
    assert found == {
        "qnn": {"Gelu", "LayerNormalization"},
        "vitisai": {"Gelu", "InstanceNormalization"},
        "rknn": {"Erf", "LayerNormalization"},
    }


def test_a_mask_of_just_minus_10000_is_bounded(tmp_path: Path) -> None:
    """It would leave no bits for the scores beside it."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("pixel_values", "y"))
    mask = numpy_helper.from_array(np.array([[-1e4, 0]], np.float32), "mask")
    nodes = [helper.make_node("Add", ["pixel_values", "mask"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [mask])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    npu_graph(tmp_path / "float.onnx", tmp_path / "npu.onnx", Wanted(QNN, 16, 2))
    (bounded,) = onnx.load(tmp_path / "npu.onnx").graph.initializer
    assert numpy_helper.to_array(bounded).tolist() == [[-50, 0]]


def test_what_a_profile_has_not_is_named_with_its_nodes(tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "modernbert"), tmp_path, "modernbert")
    with pytest.raises(
        InputError,
        match=r"rknn does not support Neg \(/model/.*attn/Neg.* and 1 more\) with 8-bit .*; take --profile qnn, or",
    ):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(RKNN, 8, LENGTH))
    with pytest.raises(InputError, match=r"not support .*Gather .*--profile qnn, or another"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(VITIS, 16, LENGTH))
    assert not (tmp_path / "npu.onnx").exists()


def test_a_model_of_another_length_is_refused(tmp_path: Path) -> None:
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path, "bert")
    model = onnx.load(source)
    make_dim_param_fixed(model.graph, "length", 8)
    onnx.save(model, source)
    with pytest.raises(InputError, match=r"one row of 16 tokens is wanted, and input_ids has the shape \(1, 8\)"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(QNN, 16, LENGTH))


def test_a_model_of_several_rows_is_refused(tmp_path: Path) -> None:
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path, "bert")
    model = onnx.load(source)
    make_dim_param_fixed(model.graph, "batch", 4)
    onnx.save(model, source)
    with pytest.raises(InputError, match="input_ids has 4 rows in this model; pack a candidate of any batch size"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(QNN, 16, LENGTH))


@pytest.mark.parametrize(("profile", "bits"), [(QNN, 16), (VITIS, 16), (VITIS, 8), (RKNN, 8)])
def test_images_have_one_row(profile: Profile, bits: int, tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "vit"), tmp_path, "vit")
    npu_graph(source, tmp_path / "npu.onnx", Wanted(profile, bits, LENGTH))
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    assert answer(tmp_path / "npu.onnx", pixels) == pytest.approx(answer(source, pixels), abs=2e-4)


def test_a_gelu_by_tanh_is_that_of_onnx_or_taken_apart(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint", "bert", 2)
    loud(tmp_path / "checkpoint")
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "gelu_new"}))
    source = onnx_of(open_checkpoint(tmp_path / "checkpoint", TASK), tmp_path, "bert")
    assert "FastGelu" in {node.op_type for node in onnx.load(source).graph.node}
    made = {
        profile.name: check(source, tmp_path / "npu.onnx", Wanted(profile, max(profile.types), LENGTH, outside=True))
        for profile in (QNN, VITIS, RKNN)
    }
    gelus = {name: sum(node.op_type == "Gelu" for node in model.graph.node) for name, model in made.items()}
    assert gelus == {"qnn": 2, "vitisai": 0, "rknn": 0}


def test_advice_is_what_helps(tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "bert"), tmp_path, "bert")
    with pytest.raises(InputError, match="take --embedding outside, --profile qnn or rknn, or another candidate"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(VITIS, 16, LENGTH))
    with pytest.raises(InputError, match=r"Tanh .*take --activations 16, --profile qnn or rknn, or another"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(VITIS, 8, LENGTH, outside=True))
    (tmp_path / "pairs").mkdir()
    source = source_of("text-pair-classification", tmp_path / "pairs")
    with pytest.raises(InputError, match=r"rst\); take --profile qnn, or another candidate"):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(VITIS, 16, LENGTH))


def source_of(name: str, folder: Path) -> Path:
    """The model file of a family, or of the example of a task."""
    if name in FAMILIES:
        return onnx_of(loud_checkpoint(folder / "checkpoint", name), folder, name)
    if name in CONVOLUTIONAL:
        checkpoint, task = untrained(folder / "checkpoint", name), IMAGES
    else:
        EXAMPLES[name].checkpoint(folder / "checkpoint")
        task = TASKS[name]
        checkpoint = open_checkpoint(folder / "checkpoint", task).for_task(task)
    plain = plain_onnx(checkpoint, task, folder / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, task, folder / "made", 32))
    return artifact.path / artifact.files[0]


def documented() -> list[tuple[str, list[str]]]:
    """(model, columns) of the table in docs/bundle.md."""
    page = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")
    lines = page.partition("| model, task |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(name.strip("` "), row[1:]) for row in cells for name in row[0].split(",")]


@pytest.mark.parametrize(("name", "columns"), documented())
def test_the_page_says_what_each_profile_takes(name: str, columns: list[str], tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    for (profile, bits), said in zip([(QNN, 16), (QNN, 8), (VITIS, 16), (VITIS, 8), (RKNN, 8)], columns, strict=True):
        wanted = Wanted(profile, bits, LENGTH, outside=said == "outside", pad_id=int(name == "mpnet"))
        if not said.startswith("no: "):
            npu_graph(source, tmp_path / "npu.onnx", wanted)
            continue
        with pytest.raises(InputError, match=f"does not support .*{said.removeprefix('no: ')}"):
            npu_graph(source, tmp_path / "npu.onnx", wanted)


def test_the_page_has_every_family() -> None:
    assert {name for name, _ in documented()} >= {*KINDS, "vit", *CONVOLUTIONAL}
