"""Token classification the whole way: one recipe, then its bundle behind every door."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tagging
from conftest import drawn_apart, paredown, refused
from serving import client_of
from tagging import NAMES, TASK, sentences, write_conll, write_jsonl

from paredown.compress.data.dataset import read_rows
from paredown.export.bundle.archive import unpack
from paredown.export.predictor import Predictor
from paredown.pipeline.results.side_by_side import adopted, correct

RECIPE = """
name: places
task: token-classification
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.conll, test: ./test.jsonl, unlabeled: ./unlabeled.jsonl}
max_length: 32
lengths: [16]
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.6, ffn: 0.5, multiple: 8, recover: {epochs: 1, learning_rate: 0.003, label_weight: 0.5}}
      - trim: {frequent: 0}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 10}
"""
TEXT = "  Bobs went to (New York), then saw ann."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a trained teacher, the recipe, and its run in `run`."""
    path = tmp_path_factory.mktemp("home")
    parts = {"train": (300, 1), "validation": (100, 2), "test": (100, 3), "unlabeled": (50, 4)}
    made = drawn_apart(sentences, parts, lambda row: " ".join(row[0]))
    train = write_jsonl(path / "train.jsonl", made["train"])
    write_conll(path / "validation.conll", made["validation"])
    write_jsonl(path / "test.jsonl", made["test"])
    texts = [{"text": " ".join(words)} for words, _ in made["unlabeled"]]
    (path / "unlabeled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    tagging.trained(path, read_rows(TASK, str(train), names=NAMES))
    (path / "recipe.yaml").write_text(RECIPE)
    done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def test_the_run_chooses_by_f1(home: Path) -> None:
    choice = json.loads((home / "run" / "choice.json").read_text())
    assert choice["chosen"]["metric"] == "F1"
    assert choice["baseline"]["metric_validation"] > 90
    assert len(choice["candidates"]) == 5
    for entry in choice["candidates"]:
        lo, hi = entry["metric_validation_ci"]
        assert lo <= entry["metric_validation"] <= hi
        assert entry["drop_upper_95"] >= entry["drop_validation"]
        assert 0 <= entry["mcnemar_p"] <= 1
    assert choice["baseline"]["drop_validation"] == 0
    assert choice["baseline"]["macro_f1"] is None
    assert choice["chosen"]["typos_drop"] is not None
    assert choice["chosen"]["length_drop"] is None  # its tags would be twice as many
    assert {part["rows"] for part in choice["chosen"]["slices"]["length"]} != {100}
    report = (home / "run" / "report.html").read_text()
    assert "capitals: drop" in report
    assert "worst label" not in report
    assert "macro F1" not in report


def test_the_bundle_gives_the_reported_f1(home: Path) -> None:
    chosen = json.loads((home / "run" / "choice.json").read_text())["chosen"]
    done = paredown("verify", "run/bundle.tar.gz", "--data", "test.jsonl", cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"{chosen['metric_test']:.2f} (100 rows)" in done.stdout


def test_it_proves_itself_without_paredown(home: Path, tmp_path: Path) -> None:
    bundle = unpack(home / "run" / "bundle.tar.gz", tmp_path / "bundle")
    command = [sys.executable, str(bundle / "selftest.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("OK: places"), done.stderr


def test_a_changed_golden_answer_is_found(home: Path, tmp_path: Path) -> None:
    from paredown.runtime.manifest import BundleError, read_manifest
    from paredown.runtime.selftest import check_golden, open_model

    bundle = shutil.copytree(home / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    session, encoder = open_model(bundle, manifest)
    golden = json.loads((bundle / "golden.json").read_text())
    golden["rows"][0]["output"][1][0] += 1.0
    (bundle / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="golden row 0"):
        check_golden(bundle, manifest, session, encoder)


def test_predict_gives_entities(home: Path) -> None:
    (answer,) = Predictor(home / "run" / "bundle")([TEXT])
    assert ("person", "Bobs") in [(e["label"], e["text"]) for e in answer["entities"]]
    assert all(TEXT[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    done = paredown("predict", "run/bundle", "--text", TEXT, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "Bobs" in done.stdout


def test_it_is_served(home: Path) -> None:
    predictor = Predictor(home / "run" / "bundle")
    texts = [TEXT, "ann", "then went to oslo"]
    with client_of(bundle=home / "run" / "bundle") as (client, _, _):
        assert client.post("/predict", json={"text": TEXT}).json()["entities"] == predictor([TEXT])[0]["entities"]
        given = [{"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}]
        found = client.post("/v2/models/places/infer", json={"inputs": given}).json()
        made = {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in found["outputs"]}
        lengths = [len(row) for row in predictor.encoder.ids(texts)]
        assert made["scores"].shape == made["logits"].shape == (3, max(lengths), len(NAMES))
        assert [(row != "").sum() for row in made["label"]] == lengths
        about = client.get("/v2/models/places").json()
        assert next(out["shape"] for out in about["outputs"] if out["name"] == "label") == [-1, -1]


def test_bench_and_triton(home: Path, tmp_path: Path) -> None:
    options = ["--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2, "--threads", 1]
    paths = ["run/bundle"]
    done = paredown("bench", *paths, "--data", "test.jsonl", "--json", tmp_path / "b.json", *options, cwd=home)
    refused(done, "token-classification", "--task")
    options += ["--task", "token-classification"]
    done = paredown("bench", *paths, "--data", "test.jsonl", "--json", tmp_path / "b.json", *options, cwd=home)
    assert done.returncode == 0, done.stderr
    chosen = json.loads((home / "run" / "choice.json").read_text())["chosen"]
    first = json.loads((tmp_path / "b.json").read_text())["artifacts"][0]
    assert first["metric"] == pytest.approx(chosen["metric_test"])
    assert paredown("pack", "run", "--layout", "triton", "--output-dir", tmp_path / "t", cwd=home).returncode == 0
    assert f"dims: [ -1, {len(NAMES)} ]" in (tmp_path / "t" / "places" / "config.pbtxt").read_text()


def test_stages_alone(home: Path, tmp_path: Path) -> None:
    tagged = ["--task", "token-classification", "--train", "train.jsonl", "--validation", "validation.conll"]
    done = paredown("finetune", "untrained", *tagged, "--epochs", 1, "--output-dir", tmp_path / "a", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "F1" in done.stdout
    done = paredown(
        "distill", "teacher", *tagged, "--layers", 1, "--epochs", 1, "--output-dir", tmp_path / "b", cwd=home
    )
    assert done.returncode == 0, done.stderr
    done = paredown("export", "teacher", *tagged[:2], "--output-dir", tmp_path / "c", cwd=home)
    assert done.returncode == 0, done.stderr
    refused(paredown("distill", "teacher", *tagged, "--static", "--output-dir", tmp_path / "d", cwd=home), "--static")
    done = paredown(
        "init", "teacher", *tagged, "--output", tmp_path / "r.yaml", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task: token-classification" in (tmp_path / "r.yaml").read_text()


@pytest.mark.slow
def test_new_tags_are_learned_and_the_old_ones_are_kept(home: Path, tmp_path: Path) -> None:
    """Also the class weights, the search and the check against an older bundle count words where they are meant to."""
    rows = [(["ann", "new", "then", "york"], ["B-person", "B-food", "O", "B-place"])] * 30
    write_jsonl(tmp_path / "later.jsonl", rows + sentences(30, 9))
    tagged = ["--task", "token-classification", "--train", "train.jsonl", "--validation", "validation.conll"]
    quick = ["--learning-rate", 0.002, "--batch-size", 16, "--output-dir", tmp_path / "grown"]
    done = paredown("update", "teacher", *tagged, "--new", tmp_path / "later.jsonl", "--epochs", 8, *quick, cwd=home)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "grown" / "update.json").read_text())
    assert found["new_labels"] == ["B-food"]
    assert found["new_after"] > found["new_before"] + 5
    assert found["forgetting"] < 10
    weighted = ["--class-weights", "balanced", "--patience", 1, "--epochs", 1, "--output-dir", tmp_path / "weighted"]
    assert paredown("finetune", tmp_path / "grown", *tagged, *weighted, cwd=home).returncode == 0
    searched = ["--minutes", 1, "--trials", 2, "--epochs", 1, "--output-dir", tmp_path / "searched"]
    done = paredown("tune", "teacher", *tagged, *searched, cwd=home)
    assert done.returncode == 0, done.stderr
    (bundle,) = adopted([home / "run" / "bundle"], tmp_path / "scratch", TASK, 32)
    old = correct(bundle, read_rows(TASK, str(home / "test.jsonl"), names=NAMES))
    swapped = read_rows(TASK, str(home / "test.jsonl"), names=NAMES[::-1]).renamed(NAMES)
    assert np.array_equal(correct(bundle, swapped), old)


def test_augment_is_refused_for_words(home: Path) -> None:
    (home / "augment.yaml").write_text(RECIPE.replace("models:\n", "adapt: [{augment: {}}]\nmodels:\n", 1))
    refused(paredown("run", "augment.yaml", "--output-dir", "none", cwd=home), "augment", "tags")


def test_what_answers_for_a_whole_text_is_refused(home: Path) -> None:
    text = RECIPE.replace("  - name: cut\n", "  - {name: s, steps: [{static: {}}]}\n  - name: cut\n", 1)
    (home / "static.yaml").write_text(text)
    refused(paredown("run", "static.yaml", "--output-dir", "none", cwd=home), "'s'", "static", "token-classification")
