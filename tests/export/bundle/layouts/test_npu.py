"""An ONNX model for the compiler of an NPU: ONNX Runtime on this CPU gives the golden rows."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bundling import bundled
from conftest import TASK, paredown, refused, sentences, write_csv
from examples import EXAMPLES
from loud import loud, loud_checkpoint
from manifests import change_manifest
from PIL import Image

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import open_checkpoint
from paredown.export.bundle.layouts import npu
from paredown.export.bundle.layouts.npu import to_npu
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.npu_profiles import profiles
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS

LENGTH = 16
WIDE = ("text-pair-classification", "question-answering", "sentence-embedding")  # whose graphs compute with int64
FILES = {"README.md", "golden.json", "labels.txt", "model.onnx", "tokenizer.json"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and data.csv beside it."""
    path = tmp_path_factory.mktemp("npu")
    checkpoint = loud_checkpoint(path / "checkpoint", "bert")
    plain = plain_onnx(checkpoint, TASK, path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, TASK, path / "made", 32))
    write_csv(path / "data.csv", sentences(60, 1))
    return bundled(artifact, path / "bundle", [text for text, _ in sentences(6, 2)]).parent


def packed(source: Path, out: Path, *options: str) -> Path:
    given = ("--layout", "npu", "--data", source / "data.csv", "--length", str(LENGTH), "--output-dir", out)
    done = paredown("pack", source / "bundle", *given, *options)
    assert done.returncode == 0, done.stderr
    return out


def check_golden(app: Path, inputs: dict[str, str]) -> onnx.ModelProto:
    """ONNX Runtime opens the model, in one shape, and gives the golden rows."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(app / "model.onnx", options, providers=["CPUExecutionProvider"])
    ports = {port.name: port for port in session.get_inputs()}
    assert {name: port.type for name, port in ports.items()} == inputs
    assert all(type(size) is int for port in [*ports.values(), *session.get_outputs()] for size in port.shape)
    golden = json.loads((app / "golden.json").read_text())
    for row in golden["rows"]:
        fill = [0] * (LENGTH - len(row["input_ids"]))
        ids, mask = row["input_ids"] + fill, [1] * len(row["input_ids"]) + fill
        given = {"input_ids": np.array([ids], np.int32), "attention_mask": np.array([mask], np.int32)}
        if "inputs_embeds" in ports:
            rows = np.load(app / "embedding.npy")[[ids]]
            given = {"inputs_embeds": rows, "attention_mask": given["attention_mask"].astype(np.float32)}
        (found,) = session.run(None, given)
        answer, want = np.asarray(found)[0], np.array(row["output"])
        assert np.abs(answer - want).max() <= golden["tolerance"]["onnxruntime"]
        assert answer.argmax() == want.argmax()
    return onnx.load(app / "model.onnx")


def kinds_of(model: onnx.ModelProto) -> set[int]:
    """Types that values are rounded to."""
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def test_qnn_has_16_bit_activations_and_int32_ids(source: Path, tmp_path: Path) -> None:
    app = packed(source, tmp_path / "app", "--profile", "qnn")
    assert {path.name for path in app.iterdir()} == FILES
    model = check_golden(app, {"input_ids": "tensor(int32)", "attention_mask": "tensor(int32)"})
    assert kinds_of(model) == {onnx.TensorProto.UINT8, onnx.TensorProto.UINT16}
    profiles()["qnn"].check(model, 16)
    readme = (app / "README.md").read_text()
    assert "- `input_ids`, int32, (1, 16): token ids" in readme
    assert "Output: `logits`, float32, (1, 2)." in readme
    assert "Nothing has been run on a device" in readme
    assert profiles()["qnn"].source in readme
    assert (app / "labels.txt").read_text().splitlines() == ["negative", "positive"]


def test_8_bits_where_they_are_asked_for(source: Path, tmp_path: Path) -> None:
    app = packed(source, tmp_path / "app", "--profile", "qnn", "--activations", "8")
    model = check_golden(app, {"input_ids": "tensor(int32)", "attention_mask": "tensor(int32)"})
    assert kinds_of(model) == {onnx.TensorProto.UINT8}


def test_the_application_looks_up_the_embeddings(source: Path, tmp_path: Path) -> None:
    app = packed(source, tmp_path / "app", "--profile", "vitisai", "--embedding", "outside")
    assert {path.name for path in app.iterdir()} == FILES | {"embedding.npy"}
    model = check_golden(app, {"inputs_embeds": "tensor(float)", "attention_mask": "tensor(float)"})
    assert "Gather" not in {node.op_type for node in model.graph.node}
    profiles()["vitisai"].check(model, 16)
    assert "embedding.npy" in (app / "README.md").read_text()


@pytest.mark.parametrize(
    "task",
    ["text-pair-classification", "multi-label-classification", "token-classification", "sentence-embedding",
     "question-answering", "image-classification"],
)  # fmt: skip
def test_other_tasks(task: str, tmp_path: Path) -> None:
    example = EXAMPLES[task]
    example.checkpoint(tmp_path / "checkpoint")
    loud(tmp_path / "checkpoint")
    example.files(tmp_path)
    config = tmp_path / "checkpoint" / "config.json"
    if task == "multi-label-classification":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "multi_label_classification"}))
    checkpoint = open_checkpoint(tmp_path / "checkpoint", TASKS[task]).for_task(TASKS[task])
    plain = plain_onnx(checkpoint, TASKS[task], tmp_path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, TASKS[task], tmp_path / "made", 32))
    rows = read_rows(TASKS[task], str(tmp_path / "validation.jsonl"), labelled=False).texts
    bundle = bundled(artifact, tmp_path / "bundle", rows[:4])
    (tmp_path / "app").mkdir()
    to_npu(bundle, tmp_path / "app", profile="qnn", data=str(tmp_path / "train.jsonl"))
    sizes = {
        port.name: port.shape for port in onnxruntime.InferenceSession(tmp_path / "app" / "model.onnx").get_inputs()
    }
    assert all(type(size) is int for shape in sizes.values() for size in shape)
    readme = (tmp_path / "app" / "README.md").read_text()
    assert "differ by at most" in readme
    assert ("are int64" in readme) == (task in WIDE)
    own, golden = (json.loads((folder / "golden.json").read_text()) for folder in (bundle, tmp_path / "app"))
    tolerance = golden["tolerance"]["onnxruntime"]  # 200: static INT8's by that of fp32
    assert tolerance == pytest.approx(200 * own["tolerance"]["onnxruntime"])
    assert f"{tolerance:.2g} was allowed" in " ".join(readme.split())


def test_ranges_are_from_rows_all_over_the_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both texts of pairs, which stand one after the other."""
    given = list[tuple[str, str]]()

    def caught(*_: object, texts: list[tuple[str, str]], **__: object) -> None:
        given.extend(texts)
        raise InputError("far enough")

    monkeypatch.setattr(npu, "in_child", caught)
    write_csv(tmp_path / "data.csv", sentences(300, 1))
    (tmp_path / "app").mkdir()
    with pytest.raises(InputError, match="far enough"):
        npu.to_npu(source / "bundle", tmp_path / "app", profile="qnn", data=str(tmp_path / "data.csv"))
    numbers = [int(where.rpartition(" ")[2]) for where, _ in given]
    assert len(set(numbers)) == npu.CALIBRATION_ROWS
    assert {number % 2 for number in numbers} == {0, 1}
    assert max(numbers) > 250


def test_what_is_missing_is_one_line(source: Path, tmp_path: Path) -> None:
    bundle, out = source / "bundle", tmp_path / "x"
    given = ("pack", bundle, "--output-dir", out, "--layout")
    data = ("--data", source / "data.csv")
    refused(paredown(*given, "npu"), "--profile NAME, one of qnn, vitisai, rknn")
    refused(paredown(*given, "npu", "--profile", "qnn"), "--data FILE")
    refused(paredown(*given, "mobile", "--profile", "qnn"), "--profile: for --layout npu, not mobile")
    refused(paredown(*given, "plain", "--text-column", "text"), "--text-column: for --layout npu, not plain")
    refused(paredown(*given, "npu", "--profile", "rknn", *data, "--activations", "16"), "profile rknn has 8 bits")
    refused(paredown(*given, "npu", "--profile", "qnn", *data, "--length", "33"), "at most 32 tokens")
    refused(paredown(*given, "npu", "--profile", "qnn", *data, "--length", "4"), "every golden row")
    refused(
        paredown(*given, "npu", "--profile", "vitisai", *data),
        "profile vitisai does not support Gather",
        "--embedding outside",
    )
    refused(paredown(*given, "npu", "--profile", "qnn", "--data", tmp_path / "none.csv"), "none.csv")
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"runtime": "openvino"}, "for onnxruntime fp32 bundles, .*, not openvino fp32"),
        ({"precision": "int8-dynamic"}, "not onnxruntime int8-dynamic; .* paredown choose RUN --candidate NAME"),
        (
            {"source": {"checkpoint": "c", "candidate": "x", "details": {"cascade": {}}}},
            "a cascade decides for each row",
        ),
    ],
)
def test_models_that_are_no_single_float_graph(changes: dict, why: str, source: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(source / "bundle", tmp_path / "bundle")
    change_manifest(bundle, **changes)
    (tmp_path / "app").mkdir()
    with pytest.raises(InputError, match=why):
        to_npu(bundle, tmp_path / "app", profile="qnn", data=str(source / "data.csv"))
    assert not any((tmp_path / "app").iterdir())


def test_a_mobile_model_is_refused(source: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(source / "bundle", tmp_path / "bundle")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    change_manifest(bundle, model="model/model.ort", files=files | {"model/model.ort": files["model/model.onnx"]})
    with pytest.raises(InputError, match=r"an \.onnx file is needed"):
        to_npu(bundle, tmp_path)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    example = EXAMPLES["image-classification"]
    example.checkpoint(tmp_path / "checkpoint")
    reader = tmp_path / "checkpoint" / "preprocessor_config.json"
    cropped = {"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    reader.write_text(json.dumps(json.loads(reader.read_text()) | cropped))
    example.files(tmp_path)
    checkpoint = open_checkpoint(tmp_path / "checkpoint", TASKS["image-classification"])
    plain = plain_onnx(checkpoint, TASKS["image-classification"], tmp_path / "plain.onnx")
    given = ExportJob(plain, checkpoint, TASKS["image-classification"], tmp_path / "made", 32)
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    bundle = bundled(RUNTIMES["onnxruntime"].export(given), tmp_path / "bundle", [json.loads(rows[0])["image"]])
    Image.new("L", (1, 200_000)).save(tmp_path / "narrow.png")
    bad = json.dumps({"image": str(tmp_path / "narrow.png")})
    (tmp_path / "data.jsonl").write_text(f"{rows[0]}\n{bad}\n")
    (tmp_path / "app").mkdir()
    with pytest.raises(InputError, match=r"data\.jsonl, row 2: .*1 x 200000 pixels is too narrow"):
        to_npu(bundle, tmp_path / "app", profile="qnn", data=str(tmp_path / "data.jsonl"))


def test_answers_that_are_lost_are_not_handed_over(source: Path, tmp_path: Path) -> None:
    """Ranges from one row that says nothing."""
    write_csv(tmp_path / "data.csv", [("the", "negative")])
    done = paredown(
        "pack", source / "bundle", "--layout", "npu", "--profile", "qnn", "--data", tmp_path / "data.csv",
        "--output-dir", tmp_path / "app",
    )  # fmt: skip
    assert done.returncode == 1
    assert "golden row" in done.stderr
    assert not (tmp_path / "app").exists()
