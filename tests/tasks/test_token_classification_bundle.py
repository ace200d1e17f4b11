"""Token classification the whole way: one recipe, then its bundle behind every door."""

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tagging
from conftest import drawn_apart, paredown, refused
from same_process import SameProcess
from serving import client_of
from tagging import NAMES, TASK, sentences, write_conll, write_jsonl

from paredown.benchmarks.measuring import interleaved
from paredown.compress.data.dataset import read_rows
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
    """Data, a trained teacher, and the recipe."""
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
    return path


@pytest.fixture(scope="module")
def ran(home: Path) -> Path:
    """The same directory with the recipe's run in `run`; what is slow is in one process, for no time is judged here."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.slow
def test_the_run_chooses_by_f1(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
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
    report = (ran / "run" / "report.html").read_text()
    assert "capitals: drop" in report
    assert "worst label" not in report
    assert "macro F1" not in report


@pytest.mark.slow
def test_a_changed_golden_answer_is_found(ran: Path, tmp_path: Path) -> None:
    from paredown.runtime.manifest import BundleError, read_manifest
    from paredown.runtime.selftest import check_golden, open_model

    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    session, encoder = open_model(bundle, manifest)
    golden = json.loads((bundle / "golden.json").read_text())
    golden["rows"][0]["output"][1][0] += 1.0
    (bundle / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="golden row 0"):
        check_golden(bundle, manifest, session, encoder)


@pytest.mark.slow
def test_predict_gives_entities(ran: Path) -> None:
    (answer,) = Predictor(ran / "run" / "bundle")([TEXT])
    assert ("person", "Bobs") in [(e["label"], e["text"]) for e in answer["entities"]]
    assert all(TEXT[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    done = paredown("predict", "run/bundle", "--text", TEXT, cwd=ran)
    assert done.returncode == 0, done.stderr
    assert "Bobs" in done.stdout


@pytest.mark.slow
def test_it_is_served(ran: Path) -> None:
    predictor = Predictor(ran / "run" / "bundle")
    texts = [TEXT, "ann", "then went to oslo"]
    with client_of(bundle=ran / "run" / "bundle") as (client, _, _):
        assert client.post("/predict", json={"text": TEXT}).json()["entities"] == predictor([TEXT])[0]["entities"]
        given = [{"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}]
        found = client.post("/v2/models/places/infer", json={"inputs": given}).json()
        made = {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in found["outputs"]}
        lengths = [len(row) for row in predictor.encoder.ids(texts)]
        assert made["scores"].shape == made["logits"].shape == (3, max(lengths), len(NAMES))
        assert [(row != "").sum() for row in made["label"]] == lengths
        about = client.get("/v2/models/places").json()
        assert next(out["shape"] for out in about["outputs"] if out["name"] == "label") == [-1, -1]


@pytest.mark.slow
def test_bench_and_triton(ran: Path, tmp_path: Path) -> None:
    options = ["--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2, "--threads", 1]
    paths = ["run/bundle"]
    done = paredown("bench", *paths, "--data", "test.jsonl", "--json", tmp_path / "b.json", *options, cwd=ran)
    refused(done, "token-classification", "--task")
    options += ["--task", "token-classification"]
    done = paredown("bench", *paths, "--data", "test.jsonl", "--json", tmp_path / "b.json", *options, cwd=ran)
    assert done.returncode == 0, done.stderr
    chosen = json.loads((ran / "run" / "choice.json").read_text())["chosen"]
    first = json.loads((tmp_path / "b.json").read_text())["artifacts"][0]
    assert first["metric"] == pytest.approx(chosen["metric_test"])
    assert paredown("pack", "run", "--layout", "triton", "--output-dir", tmp_path / "t", cwd=ran).returncode == 0
    assert f"dims: [ -1, {len(NAMES)} ]" in (tmp_path / "t" / "places" / "config.pbtxt").read_text()


@pytest.mark.slow
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
def test_new_tags_are_learned_and_the_old_ones_are_kept(ran: Path, tmp_path: Path) -> None:
    """Also the class weights, the search and the check against an older bundle count words where they are meant to."""
    words = ["ann", "new", "then", "york"]  # each row once: rows that are the same cannot be held out
    rows = [
        (
            [*words, *["then"] * (i % 6), *["ann"] * (i // 6)],
            ["B-person", "B-food", "O", "B-place", *["O"] * (i % 6), *["B-person"] * (i // 6)],
        )
        for i in range(30)
    ]
    write_jsonl(tmp_path / "later.jsonl", rows + sentences(30, 9))
    tagged = ["--task", "token-classification", "--train", "train.jsonl", "--validation", "validation.conll"]
    quick = ["--learning-rate", 0.002, "--batch-size", 16, "--output-dir", tmp_path / "grown"]
    done = paredown("update", "teacher", *tagged, "--new", tmp_path / "later.jsonl", "--epochs", 30, *quick, cwd=ran)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "grown" / "update.json").read_text())
    assert found["new_labels"] == ["B-food"]
    assert found["new_after"] > found["new_before"] + 5
    assert found["forgetting"] < 10
    weighted = ["--class-weights", "balanced", "--patience", 1, "--epochs", 1, "--output-dir", tmp_path / "weighted"]
    assert paredown("finetune", tmp_path / "grown", *tagged, *weighted, cwd=ran).returncode == 0
    searched = ["--minutes", 1, "--trials", 2, "--epochs", 1, "--output-dir", tmp_path / "searched"]
    done = paredown("tune", "teacher", *tagged, *searched, cwd=ran)
    assert done.returncode == 0, done.stderr
    (bundle,) = adopted([ran / "run" / "bundle"], tmp_path / "scratch", TASK, 32)
    old = correct(bundle, read_rows(TASK, str(ran / "test.jsonl"), names=NAMES))
    swapped = read_rows(TASK, str(ran / "test.jsonl"), names=NAMES[::-1]).renamed(NAMES)
    assert np.array_equal(correct(bundle, swapped), old)


def test_augment_is_refused_for_words(home: Path) -> None:
    (home / "augment.yaml").write_text(RECIPE.replace("models:\n", "adapt: [{augment: {}}]\nmodels:\n", 1))
    refused(paredown("run", "augment.yaml", "--output-dir", "none", cwd=home), "augment", "tags")


def test_what_answers_for_a_whole_text_is_refused(home: Path) -> None:
    text = RECIPE.replace("  - name: cut\n", "  - {name: s, steps: [{static: {}}]}\n  - name: cut\n", 1)
    (home / "static.yaml").write_text(text)
    refused(paredown("run", "static.yaml", "--output-dir", "none", cwd=home), "'s'", "static", "token-classification")
