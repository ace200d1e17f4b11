"""What an ONNX file refers to is found without onnx and without a runtime, wherever it hides."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from paredown.export.artifact import read_artifact
from paredown.export.opening import open_artifact
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError, write_manifest
from paredown.runtime.model_scan import check_model_file, scan
from paredown.runtime.selftest import selftest


def elsewhere(location: str, name: str = "w") -> TensorProto:
    """A tensor whose data lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="16")
    return tensor


def model(initializers=(), nodes=(), functions=(), sparse=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        list(initializers),
        sparse_initializer=list(sparse),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], functions=list(functions))


def hidden(place: str, location: str) -> onnx.ModelProto:
    """A model with external data in a given place."""
    tensor = elsewhere(location)
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    if place == "initializer":
        return model([tensor])
    if place == "attribute":
        return model(nodes=[constant])
    if place == "subgraph":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])])
        return model(nodes=[helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)])
    if place == "function":
        return model(functions=[helper.make_function("f", "F", [], ["w"], [constant], [helper.make_opsetid("", 17)])])
    return model(sparse=[helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.arange(4), "i"), [8])])


PLACES = ("initializer", "attribute", "subgraph", "function", "sparse")


def onnx_sees(message) -> set[str]:
    """Locations of external data that protobuf itself finds, in whatever message."""
    if isinstance(message, TensorProto):
        return {e.value for e in message.external_data if e.key == "location"}
    inner = [value for field, value in message.ListFields() if field.type == field.TYPE_MESSAGE]
    parts = [part for value in inner for part in ([value] if hasattr(value, "ListFields") else value)]
    return set().union(*map(onnx_sees, parts))


@pytest.mark.parametrize("place", PLACES)
def test_external_data_are_found_wherever_they_hide(place: str, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(16))
    (tmp_path / "m.onnx").write_bytes(hidden(place, "weights").SerializeToString())
    assert scan(tmp_path / "m.onnx").locations == {"weights"}
    check_model_file(tmp_path / "m.onnx", "onnxruntime")  # a regular file beside it is allowed
    for outside in (
        "../weights",
        "/etc/passwd",
        "a/../../x",
        "missing",
        "*/_ORT_MEM_ADDR_/*",
        "",
        "C:x",
        "a\\b",
        "link",
    ):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("/etc/passwd")
        (tmp_path / "m.onnx").write_bytes(hidden(place, outside).SerializeToString())
        with pytest.raises(ValueError, match="external data at"):
            check_model_file(tmp_path / "m.onnx", "onnxruntime")


def test_native_operators_and_foreign_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes=[helper.make_node("Evil", ["x"], ["z"], domain="evil.ops")]).SerializeToString())
    with pytest.raises(ValueError, match=r"operators of 'evil.ops', which come from a native library"):
        check_model_file(path, "onnxruntime")
    path.write_bytes(
        model(nodes=[helper.make_node("EPContext", [], ["z"], domain="com.microsoft")]).SerializeToString()
    )
    with pytest.raises(ValueError, match="compiled code"):
        check_model_file(path, "onnxruntime")
    with pytest.raises(ValueError, match=r"openvino opens .xml files here"):
        check_model_file(path, "openvino")
    function = helper.make_function("mine", "F", ["x"], ["z"], [], [helper.make_opsetid("", 17)])
    path.write_bytes(
        model(functions=[function], nodes=[helper.make_node("F", ["x"], ["z"], domain="mine")]).SerializeToString()
    )
    check_model_file(path, "onnxruntime")
    for nonsense in (b"", b"\0", b"text", bytes(100), b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x3a\x00"):
        path.write_bytes(nonsense)
        with pytest.raises(ValueError, match=r"empty|not an ONNX model"):
            check_model_file(path, "onnxruntime")


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(PLACES), st.integers(0), st.integers(0, 255), st.booleans())
def test_no_damage_hides_external_data_from_us_that_onnx_would_follow(
    tmp_path_factory: pytest.TempPathFactory, place: str, where: int, byte: int, insert: bool
) -> None:
    raw = hidden(place, "../evil").SerializeToString()
    where %= len(raw)
    raw = raw[:where] + bytes([byte]) + raw[where + (not insert) :]
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(raw)
    try:
        found = scan(path)
    except ValueError:
        return  # refused
    try:
        parsed = onnx.load_model_from_string(raw)
    except Exception:
        return  # no runtime reads it either
    assert onnx_sees(parsed) <= found.locations


def test_a_bundle_whose_model_points_outside_is_refused_before_a_runtime(finished: Path, tmp_path: Path) -> None:
    import hashlib

    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    raw = hidden("subgraph", "../../evil").SerializeToString()
    for name in [name for name in manifest["files"] if name.startswith("model/")]:
        (bundle / name).unlink()
        del manifest["files"][name]
    (bundle / "model" / "model.onnx").write_bytes(raw)
    manifest["files"]["model/model.onnx"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    write_manifest(bundle, manifest | {"runtime": "onnxruntime", "model": "model/model.onnx"})
    with pytest.raises(BundleError, match=r"model/model.onnx: external data at '../../evil'"):
        selftest(bundle)


def test_an_artefact_whose_model_points_outside_is_refused_before_a_runtime(finished: Path, tmp_path: Path) -> None:
    (made,) = finished.glob("steps/teacher-onnxruntime-fp32-*/artifact.json")
    artefact = shutil.copytree(made.parent, tmp_path / "artefact")
    (artefact / "model.onnx").write_bytes(hidden("initializer", "../evil").SerializeToString())
    with pytest.raises(InputError, match=r"external data at '../evil'"):
        open_artifact(read_artifact(artefact), 1)
