"""Images the whole way: one recipe, a ViT and a convolutional student, then the bundle behind every door."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import paredown, refused
from picturing import NAMES, TASK, examples, picture, png, untrained, write_folder, write_rows
from PIL import Image
from projects import Project, trained
from serving import client_of

from paredown.compress.data.dataset import read_rows
from paredown.export.bundle.archive import unpack
from paredown.export.predictor import Predictor

UNSUPPORTED = "not supported for image-classification"
RECIPE = """
name: halves
task: image-classification
checkpoint: ./teacher
data: {train: ./train.csv, validation: ./validation.csv, test: ./test}
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {speedup: 1.1, multiple: 8, rows: 64, recover: {epochs: 1, learning_rate: 0.001, label_weight: 0.5}}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 2}
  - name: net
    steps:
      - distill: {student: ./net, epochs: 4, learning_rate: 0.01, hidden_weight: 0, freeze_embeddings: false}
      - prune: {channels: 0.75, multiple: 4, rows: 64, recover: {epochs: 1, learning_rate: 0.005}}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: onnxruntime, precision: int8-static}
  - {runtime: openvino, precision: int8-static}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""
# a model of so few rows and numbers changes more answers under INT8 than one that is worth compressing
RECIPE += "parity: {int8-static: {min_agreement: 0.5, max_metric_drop: 50}}\n"


def data(path: Path) -> None:
    write_rows(path / "train.csv", 160, seed=0)
    write_rows(path / "validation.csv", 80, seed=1)
    write_folder(path / "test", 80, seed=2)


def train_teacher(path: Path) -> None:
    """A trained ViT, and an untrained convolutional network beside it."""
    untrained(path / "net", "resnet")
    source = untrained(path / "untrained")
    trained(source, TASK, path / "train.csv", path / "teacher", epochs=10, batch_size=16, learning_rate=3e-3)


PROJECT = Project(RECIPE, data, train_teacher)


@pytest.mark.slow
def test_the_run_sees_images(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric_test"] > 75
    whole = {c["name"]: c for c in choice["candidates"] if c.get("metric_validation")}
    assert len(whole) == 17
    assert whole["net/onnxruntime/fp32"]["metric_validation"] > 70
    assert choice["chosen"]["metric_validation"] > 70
    assert all(c["typos_metric"] is None for c in whole.values())
    report = (ran / "run" / "report.html").read_text()
    assert "decoding and resizing of images" in report


@pytest.mark.slow
def test_the_bundle_proves_itself_without_tokenizers_and_torch(ran: Path, tmp_path: Path) -> None:
    bundle = unpack(ran / "run" / "bundle.tar.gz", tmp_path / "bundle")
    names = {path.name for path in bundle.iterdir()}
    assert "preprocessor_config.json" in names
    assert (bundle / "paredown_bundle" / "images.py").is_file()
    assert "tokenizer.json" not in names
    required = {line.split("==")[0] for line in (bundle / "requirements.txt").read_text().splitlines()}
    assert {"pillow", "numpy"} < required
    assert "tokenizers" not in required
    blocked = "import sys; sys.modules.update(dict.fromkeys(('tokenizers', 'torch', 'transformers', 'paredown')))"
    code = f"{blocked}; sys.argv = ['selftest.py']; import runpy; runpy.run_path('selftest.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OK: halves" in done.stdout
    golden = json.loads((bundle / "golden.json").read_text())["rows"]
    assert all(row["text"].startswith("data:image/png;base64,") and row["input_ids"] is None for row in golden)
    reference = json.loads((bundle / "reference.json").read_text())
    assert set(reference["quantities"]) == {"brightness", "contrast", "confidence", "label"}
    card = (bundle / "README.md").read_text()
    assert "--image FILE" in card
    assert "tokens" not in card


@pytest.mark.slow
def test_the_bundle_answers(ran: Path, tmp_path: Path) -> None:
    bundle, files = ran / "run" / "bundle", sorted((ran / "test").glob("*/*.png"))
    chosen = [files[0], files[-1]]
    done = paredown("predict", bundle, *[part for file in chosen for part in ("--image", file)])
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["image"] for answer in found] == list(map(str, chosen))
    assert found[0]["label"] in NAMES
    done = paredown("verify", bundle, "--data", ran / "test")
    assert done.returncode == 0, done.stderr
    assert "80 rows" in done.stdout
    refused(paredown("predict", bundle, "--text", "a film"), "reads images", "--image")
    refused(paredown("predict", bundle, "--image", tmp_path / "no.png"), "--image", "No such file")
    (tmp_path / "broken.png").write_bytes(chosen[0].read_bytes()[:-100])
    refused(paredown("predict", bundle, "--image", tmp_path / "broken.png"), "a broken image")
    done = paredown("pack", bundle, "--layout", "triton", "--output-dir", tmp_path / "triton")
    assert done.returncode == 0, done.stderr
    assert "TYPE_FP32 dims: [ 3, 16, 16 ]" in (tmp_path / "triton" / "halves" / "config.pbtxt").read_text()


@pytest.mark.slow
def test_it_is_served(ran: Path, tmp_path: Path) -> None:
    bundle, file = ran / "run" / "bundle", tmp_path / "samples.jsonl"
    raw = [png_of for png_of, _ in examples(4, seed=5)]
    uris = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in raw]
    wanted = [answer["label"] for answer in Predictor(bundle)(uris)]
    with client_of(bundle=bundle, sample_file=file, sample_share=1) as (client, _, _):
        for given in (uris, [uri.partition(",")[2] for uri in uris]):
            reply = client.post("/predict", json={"image": given})
            assert [answer["label"] for answer in reply.json()["predictions"]] == wanted, reply.text
        assert client.post("/predict", json={"image": uris[0]}).json()["label"] == wanted[0]
        about = client.get("/v2/models/halves").json()
        assert about["inputs"] == [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 16, 16]},
        ]

        def infer(tensor: dict, body: bytes = b"") -> dict:
            head = json.dumps({"inputs": [tensor]}).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))} if body else {}
            return client.post("/v2/models/halves/infer", content=head + body, headers=headers).json()

        binary = b"".join(len(one).to_bytes(4, "little") + one for one in raw)
        tensor = {"name": "image", "datatype": "BYTES", "shape": [4]}
        as_files = infer(tensor | {"parameters": {"binary_data_size": len(binary)}}, binary)
        as_text = infer(tensor | {"data": uris})
        pixels = np.concatenate(Predictor(bundle).encoder.ids(uris))
        tensor = {"name": "pixel_values", "datatype": "FP32", "shape": list(pixels.shape)}
        as_pixels = infer(tensor | {"data": pixels.ravel().tolist()})
        for reply in (as_files, as_text, as_pixels):
            assert reply["outputs"][0]["data"] == wanted, reply
        assert "FP32 of shape [rows, 3, 16, 16]" in infer(tensor | {"shape": [1], "data": [0.5]})["error"]
    samples = read_rows(TASK, str(file), labelled=None)
    assert samples.texts == (*uris, *uris, uris[0], *uris, *uris)  # unlabelled rows for the next distillation


@pytest.mark.slow
def test_a_server_refuses_what_it_should_not_decode(ran: Path) -> None:
    limits = {"image_bytes": 20_000, "image_pixels": 10_000}
    whole, bomb = png(picture(40, 40)), io.BytesIO()
    Image.new("1", (4000, 4000)).save(bomb, "PNG")
    with client_of(bundle=ran / "run" / "bundle", **limits) as (client, _, _):

        def ask(raw: bytes) -> tuple[int, str]:
            reply = client.post("/predict", json={"image": base64.b64encode(raw).decode()})
            return reply.status_code, reply.json().get("error", "")

        assert ask(whole)[0] == 200
        for raw, status, why in (
            (bomb.getvalue(), 413, "4000 x 4000 pixels"),
            (whole + bytes(20_000), 413, "at most 20000 are taken"),
            (whole + bytes(60_000), 413, "at most 20000 bytes are taken"),
            (whole[:-200], 400, "a broken image"),
            (b"a text", 400, "not an image"),
            (b"", 400, "not an image"),
        ):
            code, error = ask(raw)
            assert (code, why in error) == (status, True), (code, error)
        for body, why in (
            ({"image": "file:///etc/passwd"}, "base64"),
            ({"image": "/etc/passwd"}, "base64"),
            ({"text": "a film"}, "reads images"),
            ({"image": []}, "at least one row"),
            ({"image": "AAAA", "text": "a"}, "either"),
            ({}, "either"),
        ):
            reply = client.post("/predict", json=body)
            assert (reply.status_code, why in reply.text) == (400, True), reply.text
        assert ask(whole)[0] == 200


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.csv", "--validation", ran / "validation.csv"]
    steps = [
        ("finetune", ran / "teacher", "--peft", "lora", "--epochs", 1),
        ("prune", ran / "teacher", "--ffn", 0.5, "--heads", 0.8, "--recover-epochs", 1),
        ("distill", ran / "teacher", "--layers", 1, "--epochs", 1, "--relation-weight", 0.5),
        ("finetune", ran / "net", "--epochs", 3, "--learning-rate", 0.01),
        ("distill", ran / "net", "--student", ran / "net", "--hidden-weight", 0, "--epochs", 1),
        ("update", ran / "teacher", "--new", ran / "test", "--epochs", 1, "--ewc", 1),
    ]
    for number, (verb, *arguments) in enumerate(steps):
        done = paredown(verb, *arguments, *data, "--output-dir", tmp_path / str(number))
        assert done.returncode == 0, (verb, done.stderr)
    for target in ("onnx", "openvino"):
        done = paredown("export", tmp_path / "3", *data[:4], "--to", target, "--output-dir", tmp_path / target)
        assert done.returncode == 0, done.stderr
    done = paredown("quantize", tmp_path / "3", *data[:4], "--method", "static", "--output-dir", tmp_path / "int8")
    assert done.returncode == 0, done.stderr
    models = [tmp_path / "onnx", tmp_path / "int8", tmp_path / "3", ran / "run" / "bundle"]
    quick = ["--min-seconds", 0.05, "--processes", 2]
    done = paredown("bench", *models, "--data", ran / "test", "--task", TASK.name, *quick)
    assert done.returncode == 0, done.stderr
    recipe = tmp_path / "recipe.yaml"
    done = paredown("init", ran / "teacher", *data, "--output", recipe)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(recipe.read_text())["task"] == TASK.name


def test_what_is_about_words_is_refused(home: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", home / "train.csv"]
    out = ["--output-dir", tmp_path / "x"]
    refused(paredown("trim", home / "teacher", *data, *out), UNSUPPORTED)
    refused(paredown("distill", home / "teacher", *data, "--static", *out), UNSUPPORTED)
    refused(
        paredown("finetune", home / "teacher", *data, "--adversarial", "fgm", *out),
        UNSUPPORTED,
    )
    refused(paredown("augment", *data, "--output", tmp_path / "a.jsonl"), UNSUPPORTED)
    refused(
        paredown("robustness", home / "teacher", "--data", home / "test", *data[:2]),
        UNSUPPORTED,
    )
    refused(
        paredown("export", home / "teacher", *data[:2], "--lengths", "8", *out),
        UNSUPPORTED,
    )
    done = paredown("prune", home / "net", *data, "--ffn", 0.5, *out)
    assert done.returncode == 2
    assert "ffn: not supported for 'resnet'; give channels" in done.stderr
    for old, new, why in (
        ("distill: {layers: 1, epochs: 2}", "trim: {}", UNSUPPORTED),
        ("distill: {layers: 1, epochs: 2}", "static: {}", UNSUPPORTED),
        (
            "distill: {layers: 1, epochs: 2}",
            "distill: {layers: 1, adversarial: {}}",
            UNSUPPORTED,
        ),
        ("hidden_weight: 0, ", "", "set hidden_weight and relation_weight to 0"),
        ("checkpoint: ./teacher", "checkpoint: ./net", "speedup: not supported for 'resnet'; give channels"),
        ("calibration_rows: 32", "lengths: [8]", UNSUPPORTED),
        ("calibration_rows: 32", "explain_rows: 4", "image-classification"),
        ("runtime: openvino, precision: int8-static", "runtime: tensorrt_rtx, precision: fp16", "on CPUs so far"),
    ):
        recipe = home / "other.yaml"
        assert old in RECIPE
        recipe.write_text(RECIPE.replace(old, new))
        refused(paredown("run", recipe, "--dry-run", "--output-dir", tmp_path / "run"), why)
