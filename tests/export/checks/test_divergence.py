from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import TASK
from onnx import numpy_helper

from paredown.compress.models.loading import Checkpoint
from paredown.export.checks.divergence import first_departure
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.preprocessor import collate

BATCH = collate([[2, 5, 11, 20, 3], [2, 6, 3]], 0)


def spoil(path: Path, place: str) -> None:
    """Turn the weights of one matrix product around and blow them up, as a broken conversion might."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "MatMul" and place in node.name)
    weight = next(w for w in model.graph.initializer if w.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(-30 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("place", ["layer.0/output/dense", "layer.2/intermediate/dense", "classifier"])
def test_the_first_node_that_departs_is_named(teacher: Checkpoint, tmp_path: Path, runtime: str, place: str) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    broken = Path(tmp_path / "broken.onnx")
    broken.write_bytes(plain.read_bytes())
    if place == "classifier":  # a Gemm
        model = onnx.load(broken)
        bias = next(w for w in model.graph.initializer if w.name.endswith("classifier.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(9), bias.name))
        onnx.save(model, broken)
    else:
        spoil(broken, place)
    artifact = RUNTIMES[runtime].export(ExportJob(broken, teacher, TASK, tmp_path / "out", 32))
    found = first_departure(plain, artifact, BATCH)
    assert found is not None
    assert place in found.node
    assert found.error > 0.1 > found.before
    assert place in str(found)


def test_a_node_that_gives_no_number_departs(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    model = onnx.load(plain)
    bias = next(w for w in model.graph.initializer if w.name.endswith("classifier.bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(2, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "broken.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(tmp_path / "broken.onnx", teacher, TASK, tmp_path / "out", 32))
    found = first_departure(plain, artifact, BATCH)
    assert found is not None
    assert "classifier" in found.node
    assert found.before < 0.1


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime", "fp32"), ("onnxruntime", "int8-dynamic"), ("onnxruntime", "int8-static"), ("openvino", "fp32"),
     ("openvino", "int8-static")],
)  # fmt: skip
def test_a_sound_artefact_departs_nowhere(teacher: Checkpoint, tmp_path: Path, runtime: str, precision: str) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, tmp_path / "out", 32, precision, [BATCH]))
    assert first_departure(plain, artifact, BATCH) is None
