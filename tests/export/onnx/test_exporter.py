import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from conftest import IMAGES, LABELS, TASK, example_inputs, make_checkpoint, task_of

from paredown.compress.data import dataset
from paredown.compress.models.architectures import FAMILIES, supported
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.models.structure import cut
from paredown.export.artifact import read_artifact
from paredown.export.bundle.writer import isa_needed
from paredown.export.hardware import INT8_ISA
from paredown.export.onnx import fusion
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.metadata import finish, for_mobile
from paredown.export.opening import open_artifact
from paredown.export.runtimes import openvino as openvino_runtime
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import collate, run_rows
from paredown.runtime.session import CannotRunHere, open_session

CPU = ("onnxruntime", "openvino")  # what runs on a GPU is in test_tensorrt.py
ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3], [2, 9, 9, 3]]


def outputs(session) -> np.ndarray:
    return run_rows(session, ROWS, 0, "logits", batch_size=2)


def multiplied(constant: Any) -> bool:
    """A weight (converted and scaled) of a matrix product, not of a table that is looked up."""
    node = constant
    for _ in range(3):
        node = next(iter(node.output(0).get_target_inputs())).get_node()
    return node.get_type_name() == "MatMul"


@pytest.mark.parametrize("able", [True, False])
def test_int8_of_openvino_says_what_it_needs(
    able: bool, teacher: Checkpoint, files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the CPU's INT8 would saturate, weights take half of the range, and then any CPU will do."""
    monkeypatch.setattr(openvino_runtime, "has_int8_isa", lambda: able)
    rows = dataset.read(str(files["train"]), names=LABELS).texts[:16]
    calibration = [collate([row], 0) for row in teacher.encoder().ids(rows)]
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES["openvino"].export(
        ExportJob(plain, teacher, TASK, tmp_path / "out", 32, "int8-static", calibration)
    )
    assert isa_needed(artifact) == (sorted(INT8_ISA) if able else [])
    nodes: list[Any] = openvino.Core().read_model(tmp_path / "out" / "model.xml").get_ops()
    int8 = [n for n in nodes if n.get_type_name() == "Constant" and n.get_element_type() == openvino.Type.i8]
    widest = max(int(np.abs(node.data.astype(int)).max()) for node in int8 if multiplied(node))
    assert widest > 120 if able else widest <= 64


def uneven(kind: str, path: Path) -> Checkpoint:
    source = make_checkpoint(path / "whole", kind)
    model = load(source, task_of(kind))
    heads = [np.array([0, 2]), np.array([1]), np.arange(4)] if FAMILIES[kind].prunes_heads else [np.arange(4)] * 3
    cut(model, heads, [np.arange(10), np.arange(64), np.arange(40)])
    return save(model, source, path / "cut")


def test_a_cut_image_model_computes_the_same_in_onnx(tmp_path: Path) -> None:
    checkpoint = uneven("vit", tmp_path)
    plain = plain_onnx(checkpoint, IMAGES, tmp_path / "plain.onnx")
    for rows in (1, 3):
        batch = {name: tensor.numpy() for name, tensor in example_inputs("vit", rows).items()}
        want = forward(load(checkpoint, IMAGES), batch)["logits"]
        for runtime in CPU:
            np.testing.assert_allclose(open_session(plain, runtime, "fp32", 1)(batch)["logits"], want, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in supported(decoders=False) if kind != "vit"])
@pytest.mark.parametrize("runtime", CPU)
def test_an_unevenly_cut_checkpoint_computes_the_same_everywhere(kind: str, runtime: str, tmp_path: Path) -> None:
    checkpoint = uneven(kind, tmp_path)
    plain = plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, checkpoint, TASK, tmp_path / "out", 32))
    want = outputs(partial(forward, load(checkpoint, TASK)))
    np.testing.assert_allclose(outputs(open_artifact(artifact, 1)), want, atol=1e-5)
    assert read_artifact(tmp_path / "out") == artifact
    onnx.checker.check_model(onnx.load(plain))
    if runtime == "onnxruntime" and FAMILIES[kind].fuses:
        fused = [node for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node if node.op_type == "Attention"]
        heads = [next(a.i for a in node.attribute if a.name == "num_heads") for node in fused]
        assert heads == [2, 1, 4]


@pytest.mark.parametrize("kind", supported(decoders=False))
def test_any_number_of_rows_of_any_length_is_answered(kind: str, tmp_path: Path) -> None:
    """Of rows, lengths and positions, none is written into the graph; the last shape is the longest that is allowed."""
    checkpoint, task = make_checkpoint(tmp_path / kind, kind, layers=2), task_of(kind)
    plain, model = plain_onnx(checkpoint, task, tmp_path / "plain.onnx"), load(checkpoint, task)
    made = [RUNTIMES[runtime].export(ExportJob(plain, checkpoint, task, tmp_path / runtime, 64)) for runtime in CPU]
    sessions = [open_artifact(artifact, 1) for artifact in made]
    random = np.random.default_rng(0)
    for rows, length in ((1, 7), (3, 16), (8, 5), (1, 1), (2, checkpoint.positions)):
        if kind == "vit":
            batch = {"pixel_values": random.normal(size=(rows, 3, 16, 16)).astype(np.float32)}
        else:
            lengths = random.integers(1, length + 1, size=rows)
            lengths[0] = length
            batch = collate([random.integers(4, 24, n).tolist() for n in lengths], checkpoint.pad_id)
        want = forward(model, batch)["logits"]
        for session in sessions:
            np.testing.assert_allclose(session(batch)["logits"], want, atol=1e-5)


@pytest.mark.parametrize(("runtime", "precision"), [(r, p) for r in CPU for p in RUNTIMES[r].precisions(TASK)])
def test_every_precision_keeps_the_answers(
    runtime: str, precision: str, teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    rows = dataset.read(str(files["train"]), names=LABELS)
    calibration = [collate([row], 0) for row in teacher.encoder().ids(rows.texts[:64])]
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, tmp_path / "out", 32, precision, calibration))
    held_out = dataset.read(str(files["validation"]), names=LABELS)
    ids = artifact.encoder().ids(held_out.texts)
    try:
        session = open_artifact(artifact, 1)
    except CannotRunHere as reason:
        assert precision == "bf16"
        pytest.skip(str(reason))
    ours = run_rows(session, ids, 0, "logits")
    theirs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits")
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > 0.97
    if precision.startswith("int8"):
        assert not np.allclose(ours, theirs, atol=1e-6)
        operators = (tmp_path / "out" / artifact.files[0]).read_bytes()
        assert any(name in operators for name in (b"QAttention", b"DequantizeLinear", b"FakeQuantize"))


def test_an_onnx_file_says_what_it_is(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "out", 32))
    model = onnx.load(tmp_path / "out" / "model.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, told["task"], json.loads(told["labels"])) == ("paredown", TASK.name, list(LABELS))
    assert told["checkpoint_sha256"] == teacher.digest
    before = outputs(open_artifact(artifact, 1))
    phone = for_mobile(artifact)
    assert [p.name for p in (tmp_path / "out").glob("model.*")] == ["model.ort"]
    assert read_artifact(tmp_path / "out") == phone
    np.testing.assert_allclose(outputs(open_artifact(phone, 1)), before, atol=1e-5)


def test_a_graph_that_is_not_sound_is_refused(teacher: Checkpoint, tmp_path: Path) -> None:
    path = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "MatMul").input[0] = "nowhere"
    onnx.save(model, path)
    with pytest.raises(StepError, match=r"plain\.onnx: not a sound ONNX model.*nowhere"):
        finish(path, task="t", labels=LABELS, source="s", precision="fp32")


def test_static_int8_needs_calibration_rows(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    for runtime in CPU:
        with pytest.raises(InputError, match="needs calibration rows"):
            RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, tmp_path / "out", 32, "int8-static", []))


def test_layer_norms_are_not_fused_with_sums_on_a_cpu(teacher: Checkpoint, tmp_path: Path) -> None:
    """Neither in the file nor when ONNX Runtime opens it, where its own optimizer would fuse an Add. A GPU's are, and
    both give the same answers."""
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    counts = {gpu: fusion.fuse(plain, tmp_path / f"{gpu}.onnx", teacher, gpu=gpu) for gpu in (False, True)}
    assert "SkipLayerNormalization" not in counts[False]
    assert counts[False]["LayerNormalization"] >= 2 * teacher.depth
    assert counts[True]["SkipLayerNormalization"] == 2 * teacher.depth
    found = []
    for gpu in (False, True):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "opened.onnx")
        options.log_severity_level = 3  # that the file is for this machine
        session = onnxruntime.InferenceSession(str(tmp_path / f"{gpu}.onnx"), options)
        kinds = {node.op_type for node in onnx.load(tmp_path / "opened.onnx").graph.node}
        assert ("SkipLayerNormalization" in kinds) == gpu
        ids = np.array([ROWS[0]], dtype=np.int64)
        found.append(session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    np.testing.assert_allclose(*found, atol=1e-5)


def test_attention_that_stays_unfused_fails_the_export(
    teacher: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    deeper = Checkpoint(teacher.path, {**teacher.config, "num_hidden_layers": 4}, teacher.weights)
    with pytest.raises(StepError, match="fused attention: 3 of 4"):
        fusion.fuse(plain, tmp_path / "fused.onnx", deeper)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"runtime": "magic"}, "unknown runtime 'magic'"),
        ({"files": ["../x"]}, "not a file inside"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_artifact_file_is_refused(change: dict, word: str, teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "out", 32))
    shutil.copyfile(plain, tmp_path / "x")
    manifest = tmp_path / "out" / "artifact.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(InputError, match=word):
        read_artifact(tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        read_artifact(tmp_path)


def test_an_architecture_that_is_not_known_is_refused_before_it_is_loaded(copy_of_teacher: Path) -> None:
    config = json.loads((copy_of_teacher / "config.json").read_text())
    (copy_of_teacher / "config.json").write_text(json.dumps({**config, "model_type": "albert"}))  # has other weights
    with pytest.raises(InputError, match="cannot export a 'albert' model yet; supported: bert, "):
        plain_onnx(open_checkpoint(copy_of_teacher, TASK), TASK, copy_of_teacher / "plain.onnx")
