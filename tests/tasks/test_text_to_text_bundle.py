"""Texts that are written the whole way: one recipe, then its bundle behind every door."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from conftest import drawn_apart, paredown, refused
from same_process import SameProcess
from serving import client_of
from writing import TASK, make_writer, rows, write_rows

from paredown.benchmarks.measuring import interleaved
from paredown.compress.config import Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.export.artifact import read_artifact
from paredown.runtime.manifest import BundleError, check_files, read_manifest

RECIPE = """
name: good-words
task: text-to-text
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl, unlabeled: ./more.jsonl}
max_length: 16
max_new_tokens: 6
calibration_rows: 4
robustness_rows: 8
adapt:
  - finetune: {epochs: 2, batch_size: 16, learning_rate: 0.003, freeze_embeddings: false}
models:
  - name: shallow
    steps:
      - distill: {layers: 2, decoder_layers: 1, epochs: 1, label_weight: 0.5, learning_rate: 0.003}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino}
parity: {int8-dynamic: {min_agreement: 0, max_metric_drop: 60}}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 8, batch_size: 4}
choose: {max_drop: 90}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a teacher that has learned a little, and the recipe."""
    path = tmp_path_factory.mktemp("home")
    parts = {"train": (240, 0), "validation": (24, 1), "test": (24, 2), "more": (16, 3)}
    for name, made in drawn_apart(rows, parts, lambda row: row["text"]).items():
        write_rows(path / f"{name}.jsonl", made, labelled=name != "more")
    source = make_writer(path / "untrained")
    train, encoder = read_rows(TASK, str(path / "train.jsonl")), source.encoder(16)
    settings = Finetune(epochs=4, batch_size=16, learning_rate=5e-3, freeze_embeddings=False)
    model = finetune(
        load(source, TASK),
        TrainingData(encoder.ids(train.texts), TASK.training_targets(train, encoder)),
        settings,
        seed=0,
    )
    save(model, source, path / "teacher")
    (path / "recipe.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def ran(home: Path) -> Path:
    """The same directory with the recipe's run in `run`; what is slow is in one process, for no time is judged here."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.slow
def test_the_run_chooses_and_reports_bleu_beside_the_metric(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric"] == "ROUGE-L"
    assert choice["baseline"]["metric_validation"] > 20
    assert set(choice["chosen"]["beside_test"]) == {"BLEU", "exact"}
    assert len([c for c in choice["candidates"] if c.get("metric_validation") is not None]) == 7
    assert choice["chosen"]["typos_metric"] is not None
    assert choice["chosen"]["length_metric"] is None
    report = (ran / "run" / "report.html").read_text()
    assert "<th>BLEU</th>" in report
    entries = json.loads((ran / "run" / "measurements.json").read_text())["candidates"]
    exact = [e["parity"]["agreement"] for e in entries if e["precision"] == "fp32" and "parity" in e]
    assert exact == [1.0] * len(exact)
    int8 = next(e for e in entries if e["name"] == "teacher/onnxruntime/int8-dynamic")
    assert int8["details"]["decoder"]["agreement"] > 0.9


@pytest.mark.slow
def test_the_bundle_proves_itself_without_us_and_answers(ran: Path, tmp_path: Path) -> None:
    bundle = ran / "run" / "bundle"
    manifest = read_manifest(bundle)
    assert manifest["generation"]["max_new_tokens"] == 6
    assert manifest["labels"] == []
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = rows(1, 9)[0]
    done = paredown("predict", bundle, "--text", row["text"])
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout)["text"], str)
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "24 rows" in done.stdout
    refused(paredown("pack", bundle, "--layout", "triton", "--output-dir", tmp_path / "x"), "token by token")


@pytest.mark.slow
def test_a_decoder_that_was_changed_is_not_opened(ran: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    decoder = bundle / manifest["generation"]["decoder"]
    decoder.write_bytes(decoder.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="decoder"):
        check_files(bundle, manifest)


@pytest.mark.slow
def test_a_changed_text_is_found(ran: Path, tmp_path: Path) -> None:
    from paredown.runtime.selftest import check_golden, open_model

    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    session, encoder = open_model(bundle, manifest)
    assert check_golden(bundle, manifest, session, encoder) == 0
    golden = json.loads((bundle / "golden.json").read_text())
    for entry in golden["rows"]:
        entry["output"] = [5, 1, 0, 0, 0, 0]
        entry["answer"] = encoder.text(entry["output"])
    (bundle / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="have another text"):
        check_golden(bundle, manifest, session, encoder)


@pytest.mark.slow
def test_it_is_served(ran: Path) -> None:
    ask = [row["text"] for row in rows(2, 9)]
    with client_of(bundle=ran / "run" / "bundle") as (client, _, _):
        found = client.post("/predict", json={"text": ask}).json()["predictions"]
        tensors = [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ask}]
        reply = client.post("/v2/models/good-words/infer", json={"inputs": tensors}).json()
        outputs = {tensor["name"]: tensor for tensor in reply["outputs"]}
        assert outputs["text"]["data"] == [answer["text"] for answer in found]
        assert outputs["sequences"]["shape"] == [2, 6]
        assert outputs["sequences"]["datatype"] == "INT64"
        ids = [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [4, 1]}]
        reply = client.post("/v2/models/good-words/infer", json={"inputs": ids})
        assert reply.status_code == 200, reply.text
        about = client.get("/v2/models/good-words").json()
        assert {tensor["name"] for tensor in about["outputs"]} == {"text", "sequences"}


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "test.jsonl"]
    more = ["--validation", ran / "validation.jsonl", "--max-length", 16, "--epochs", 0.5]
    lora = ["--peft", "lora", "--max-new-tokens", 5, "--output-dir", tmp_path / "tuned"]
    done = paredown("finetune", ran / "teacher", *data, *more, *lora)
    assert done.returncode == 0, done.stderr
    assert "ROUGE-L" in done.stdout
    assert open_checkpoint(tmp_path / "tuned", TASK).generation["max_new_tokens"] == 5
    one = ["--layers", 1, "--output-dir", tmp_path / "one"]
    done = paredown("distill", tmp_path / "tuned", *data, *more, *one)
    assert done.returncode == 0, done.stderr
    onnx = ["--to", "openvino", "--precision", "int8-static", "--max-length", 16]
    done = paredown("export", tmp_path / "one", *data, *onnx, "--output-dir", tmp_path / "ov")
    assert done.returncode == 0, done.stderr
    assert "of the texts are the checkpoint's" in done.stdout
    assert read_artifact(tmp_path / "ov").files[::2] == ("encoder.xml", "decoder.xml")
    done = paredown("bench", tmp_path / "ov", ran / "run" / "bundle", "--task", TASK.name, "--data",
                    ran / "validation.jsonl", "--min-seconds", 0.05, "--min-repeats", 4, "--processes", 2,
                    "--rounds", 2, "--batch-size", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused(paredown("prune", ran / "teacher", *data, "--output-dir", tmp_path / "x"), "not supported")
    refused(paredown("export", ran / "teacher", "--task", TASK.name, "--precision", "fp16", "--output-dir",
                     tmp_path / "x"), "onnxruntime runs fp32, int8-dynamic")  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "distill: {layers: 2,",
            "prune: {ffn: 0.5}\n      - distill: {layers: 2,",
            "prune is not supported for text-to-text",
        ),
        ("max_length: 16", "max_length: 16\nlengths: [8]", "lengths is not supported for text-to-text"),
        ("precision: int8-dynamic", "precision: int8-static", "for text-to-text, onnxruntime runs"),
        ("task: text-to-text\n", "", "max_new_tokens is not supported for text-classification"),
    ],
)
def test_a_recipe_that_asks_for_more_is_refused(home: Path, tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in RECIPE
    (home / "other.yaml").write_text(RECIPE.replace(old, new))
    refused(paredown("run", home / "other.yaml", "--dry-run"), why)
