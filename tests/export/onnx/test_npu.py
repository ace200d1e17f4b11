"""Graphs for NPUs: each family's answers stay those of its ONNX model, in one shape and in a profile's operators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from loud import loud_checkpoint, onnx_of

from paredown.compress.models.architectures import FAMILIES
from paredown.export.onnx.npu import Wanted, npu_graph
from paredown.export.onnx.npu_profiles import profiles
from paredown.runtime.errors import InputError

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


def test_what_a_profile_has_not_is_named_with_its_nodes(tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "modernbert"), tmp_path, "modernbert")
    with pytest.raises(
        InputError, match=r"profile rknn has no Neg \(/model/.*attn/Neg.* and 1 more\) with 8-bit .*https"
    ):
        npu_graph(source, tmp_path / "npu.onnx", Wanted(RKNN, 8, LENGTH))
    with pytest.raises(InputError, match=r"no Gather .*--embedding outside"):
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


def test_images_have_one_row(tmp_path: Path) -> None:
    source = onnx_of(loud_checkpoint(tmp_path / "checkpoint", "vit"), tmp_path, "vit")
    npu_graph(source, tmp_path / "npu.onnx", Wanted(QNN, 16, LENGTH))
    pixels = {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    assert answer(tmp_path / "npu.onnx", pixels) == pytest.approx(answer(source, pixels), abs=2e-4)
