"""The profiles of NPU compilers: every one says where it is from, and the command offers those there are."""

from typing import get_args

import onnx
import pytest
from onnx import helper

from paredown.compress.quantization.qdq import KINDS
from paredown.export.onnx.npu_profiles import profiles
from paredown.pipeline.cli.bundle import ProfileName
from paredown.runtime.errors import InputError


def test_the_command_offers_the_profiles_there_are() -> None:
    assert get_args(ProfileName) == tuple(profiles())


@pytest.mark.parametrize("name", profiles())
def test_a_profile_names_its_source_and_real_operators(name: str) -> None:
    profile = profiles()[name]
    assert profile.source.startswith("https://github.com/")
    assert profile.version
    assert profile.unverified
    assert profile.types.keys() == profile.operators.keys() <= {8, 16}
    assert all(kind in KINDS for kinds in profile.types.values() for kind in kinds)
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    for names in profile.operators.values():
        assert len(names) == len(set(names))
        assert {"QuantizeLinear", "DequantizeLinear", "MatMul", "Add", "Softmax"} <= set(names)
        unknown = {one for one in names if ":" not in one and one not in known}
        assert unknown <= {"Inverse", "Mish", "Upsample"}  # com.microsoft's, of other domains, and deprecated


def test_another_opset_is_refused() -> None:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], "softmax")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(InputError, match="opset 20, profile qnn has 21"):
        profiles()["qnn"].check(model, 16)
