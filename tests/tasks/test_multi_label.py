"""Rows with several labels, or none, the whole way: one recipe, then its bundle behind every door."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_apart, paredown, refused
from examples import bert
from examples import several_labels as rows
from projects import Project, trained, write_splits
from serving import client_of

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS

TASK = TASKS["multi-label-classification"]
NAMES = ("blame", "praise", "question")
RECIPE = """
name: remarks
task: multi-label-classification
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.csv, test: ./test.jsonl, unlabeled: ./unlabeled.jsonl}
max_length: 32
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.8, ffn: 0.8, multiple: 8, recover: {epochs: 2, learning_rate: 0.003, label_weight: 0.5}}
      - trim: {frequent: 0}
  - name: static
    steps:
      - static: {epochs: 8, width: 8, pairs: 64, learning_rate: 0.02}
      - trim: {frequent: 0}
  - name: both
    cascade: {first: static, then: cut, max_drop: 2}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


def data(path: Path) -> None:
    parts = {"train": (600, 0), "test": (200, 1), "validation": (200, 7), "unlabeled": (60, 8)}
    made = drawn_apart(rows, parts, lambda row: row["text"])
    write_splits(path, made, as_csv=("validation",), without_labels={"unlabeled": ("text",)})


def train_teacher(path: Path) -> None:
    bert(path / "base", types=False)
    source = open_checkpoint(path / "base")
    train = path / "train.jsonl"
    trained(source, TASK, train, path / "teacher", NAMES, epochs=16, batch_size=8, learning_rate=2e-3)


PROJECT = Project(RECIPE, data, train_teacher)


def test_f1_counts_labels_of_all_rows_together() -> None:
    logits = np.array([[1.0, -1.0], [2.0, 3.0], [-1.0, -1.0]])
    gold = np.array([[1, 1], [1, 0], [0, 0]])
    assert TASK.metric(logits, gold) == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))  # 2 right, 1 too many, 1 missed


@pytest.mark.slow
def test_the_run_chooses_by_f1(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["chosen"]["metric"] == "F1"
    assert choice["baseline"]["metric_validation"] > 85
    assert choice["chosen"]["metric_validation"] > 70
    static = next(c for c in choice["candidates"] if c["name"] == "static/onnxruntime/fp32")
    assert static["metric_validation"] > 70  # learned the yes and the no of each label from the teacher
    assert static["macro_f1"] is None
    both, cut = (next(c for c in choice["candidates"] if c["name"] == f"{n}/onnxruntime/fp32") for n in ("both", "cut"))
    assert both["metric_validation"] > cut["metric_validation"] - 3
    assert both["latency_ms"]["mean"] < cut["latency_ms"]["mean"]
    assert open_checkpoint(ran / "teacher", TASK).labels == NAMES
    assert load(open_checkpoint(ran / "teacher"), TASK).config.problem_type == "multi_label_classification"


@pytest.mark.slow
def test_the_bundle_answers_behind_every_door(ran: Path) -> None:
    bundle, text = ran / "run" / "bundle", "a good fine plot with a bad dull actor"
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    found = json.loads(paredown("predict", bundle, "--text", text, "--text", "the film").stdout.splitlines()[0])
    assert found["labels"] == [name for name in NAMES if found["scores"][name] > 0.5]
    assert set(found["labels"]) >= {"blame", "praise"}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": [text, "the film"]}
    with client_of(bundle=bundle) as (client, _, _):
        assert client.post("/predict", json={"text": text}).json()["labels"] == found["labels"]
        outputs = client.post("/v2/models/remarks/infer", json={"inputs": [tensor]}).json()["outputs"]
        assert [out["shape"] for out in outputs] == [[2], [2, 3], [2, 3]]
        assert outputs[0]["data"][0] == ";".join(found["labels"])
        assert max(outputs[1]["data"][:3]) == pytest.approx(max(found["scores"].values()), abs=0.02)


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--validation", ran / "validation.csv"]
    quick = ["--epochs", 1, "--output-dir"]
    done = paredown("finetune", ran / "base", *data, *quick, tmp_path / "tuned", "--learning-rate", 0.005)
    assert done.returncode == 0, done.stderr
    assert open_checkpoint(tmp_path / "tuned").labels == NAMES
    done = paredown("update", ran / "teacher", *data, "--new", ran / "test.jsonl", *quick, tmp_path / "updated")
    assert done.returncode == 0, done.stderr
    assert "forgetting" in done.stdout
    searched = ["--minutes", 0.02, "--trials", 1, *quick, tmp_path / "searched"]
    done = paredown("tune", ran / "teacher", *data, *searched)
    assert done.returncode == 0, done.stderr
    rows = ["--data", ran / "test.jsonl", "--task", TASK.name]
    done = paredown("bench", ran / "run" / "bundle", ran / "teacher", *rows,
                    "--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_augmented_rows_keep_their_labels(home: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    done = paredown("augment", "--task", TASK.name, "--train", home / "test.jsonl", "--output", more, "--kind", "swap")
    assert done.returncode == 0, done.stderr
    before, after = (read_rows(TASK, str(file), names=NAMES) for file in (home / "test.jsonl", more))
    assert len(after) > 1.5 * len(before)
    assert (after.gold[: len(before)] == before.gold).all()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"text": "a film", "labels": [0, 1, 0]}', "not a 0 or 1 for every label"),
        ('{"text": "a film", "labels": [true]}', "a list of a row's labels"),
        ('{"text": "a film"}', "is missing"),
    ],
)
def test_rows_that_mean_something_else(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a plot", "labels": []}\n' + row + "\n")
    with pytest.raises(InputError, match=words):
        read_rows(TASK, str(tmp_path / "rows.jsonl"), names=NAMES)


@pytest.mark.slow
def test_what_is_refused(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--output-dir", tmp_path / "out"]
    done = paredown("finetune", ran / "teacher", *data, "--class-weights", "balanced")
    assert done.returncode == 2
    assert "class_weights: for rows of one label" in done.stderr
    (tmp_path / "new.jsonl").write_text('{"text": "a film", "labels": ["spam"]}\n' * 6)
    refused(paredown("update", ran / "teacher", *data, "--validation", ran / "validation.csv", "--new",
                     tmp_path / "new.jsonl"), "spam", "old rows do not say")  # fmt: skip
    (tmp_path / "odd.jsonl").write_text('{"text": "a film", "labels": ["prase"]}\n')
    refused(
        paredown("verify", ran / "run" / "bundle", "--data", tmp_path / "odd.jsonl"),
        "line 1",
        "did you mean 'praise'?",
    )
    text = (ran / "recipe.yaml").read_text().replace("./", f"{ran}/")
    other = text.replace("multi-label-", "text-").replace(".jsonl", ".csv")
    (tmp_path / "recipe.yaml").write_text(other)
    refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), "multi-label-classification", "--task")
