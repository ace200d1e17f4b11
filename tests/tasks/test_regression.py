"""Texts with a number, the whole way: one recipe, then its bundle behind every door."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_apart, paredown, refused
from examples import bert
from examples import numbers as rows
from projects import Project, finetuned, write_splits
from serving import client_of

from paredown.benchmarks.statistics.metric_intervals import by_key, negative_flips, paired_drop
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS
from paredown.tasks.scores import spread

TASK = TASKS["text-regression"]
RECIPE = """
name: stars
task: text-regression
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
    finetuned(path, TASK, "--epochs", 12, "--batch-size", 8, "--learning-rate", 2e-3)


PROJECT = Project(RECIPE, data, train_teacher)


def test_r2_is_the_share_of_the_variance_that_is_explained() -> None:
    gold, said = np.array([1.0, 2.0, 3.0, 6.0]), np.array([[1.0], [2.0], [4.0], [5.0]])
    assert TASK.metric(said, gold) == pytest.approx(100 * (1 - 2 / 14))
    assert TASK.metric(np.full((4, 1), 3.0), gold) == pytest.approx(0)


def test_the_spread_of_the_rows_is_that_of_r2() -> None:
    rng, found, errors = np.random.default_rng(0), [], []
    for _ in range(400):
        gold = rng.normal(5, 2, 300)
        rows = TASK.correct((gold + rng.normal(0, 0.6, 300))[:, None], gold)
        gained, possible = rows.T
        found.append(gained.sum() / possible.sum())
        errors.append((gained - found[-1] * possible).std() / possible.mean() / np.sqrt(300))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)


def test_no_unit_changes_what_is_sure() -> None:
    rng = np.random.default_rng(0)
    gold, noise = rng.normal(3, 1, 300), rng.normal(0, 0.5, (2, 300, 1))
    found = []
    for unit in (1e-3, 1e3):
        ours, theirs = (TASK.correct(unit * (gold[:, None] + part), unit * gold) for part in noise)
        found.append(paired_drop(theirs, ours))
        nearly = TASK.correct(unit * (gold[:, None] + noise[0] + 1e-7), unit * gold)
        assert negative_flips(ours, nearly) == 0
        alike = ["high" if number > 4 else "other" for number in gold]  # a constant would say little about the high
        (high,) = (part for part in by_key(theirs, ours, alike) if part["name"] == "high")
        assert 0 < high["metric"] < 100
    assert found[0] == pytest.approx(found[1])
    assert found[0][1] > 0.5
    assert spread(np.array([0.1] * 3)) == pytest.approx(0.1)


@pytest.mark.slow
def test_the_run_chooses_by_r2(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["chosen"]["metric"] == "R2"
    assert choice["baseline"]["metric_validation"] > 85
    assert choice["chosen"]["metric_validation"] > 70
    static = next(c for c in choice["candidates"] if c["name"] == "static/onnxruntime/fp32")
    assert static["metric_validation"] > 70  # a head that began at 0 has learned numbers around 1000
    assert static["macro_f1"] is None
    assert load(open_checkpoint(ran / "teacher", TASK), TASK).config.problem_type == "regression"


@pytest.mark.slow
def test_the_bundle_answers_behind_every_door(ran: Path) -> None:
    bundle, text = ran / "run" / "bundle", "a good fine plot"
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    found = json.loads(paredown("predict", bundle, "--text", text, "--text", "the film").stdout.splitlines()[0])
    assert 1100 < found["value"] < 1700
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": [text, "the film"]}
    with client_of(bundle=bundle) as (client, _, _):
        assert client.post("/predict", json={"text": text}).json()["value"] == pytest.approx(found["value"], rel=0.02)
        answer = client.post("/v2/models/stars/infer", json={"inputs": [tensor]}).json()
        assert [(out["name"], out["shape"]) for out in answer["outputs"]] == [("value", [2]), ("logits", [2, 1])]
        assert answer["outputs"][0]["data"][0] == pytest.approx(found["value"], rel=0.02)
        told = client.get("/v2/models/stars").json()["outputs"]
        edges = json.loads((bundle / "reference.json").read_text())["quantities"]["confidence"]["edges"]
        assert max(edges) - min(edges) > 100  # drift counts the numbers
        assert [out["name"] for out in told] == ["value", "logits"]


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--validation", ran / "validation.csv"]
    quick = ["--epochs", 1, "--output-dir"]
    done = paredown("update", ran / "teacher", *data, "--new", ran / "test.jsonl", *quick, tmp_path / "updated")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "updated" / "update.json").read_text())["forgetting"] < 10
    done = paredown("tune", ran / "teacher", *data, "--minutes", 0.02, "--trials", 1, *quick, tmp_path / "searched")
    assert done.returncode == 0, done.stderr
    done = paredown("augment", "--task", TASK.name, "--train", ran / "test.jsonl", "--output", tmp_path / "more.jsonl",
                    "--kind", "swap")  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (read_rows(TASK, str(file)) for file in (ran / "test.jsonl", tmp_path / "more.jsonl"))
    assert len(after) > 1.5 * len(before)
    assert (after.gold[: len(before)] == before.gold).all()
    done = paredown("bench", ran / "run" / "bundle", ran / "teacher", "--data", ran / "test.jsonl", "--task",
                    TASK.name, "--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("text,score\na film,3.5\na plot,four\n")
    with pytest.raises(InputError, match=r"odd.csv, line 3.*a number is expected.*'four'"):
        read_rows(TASK, str(tmp_path / "odd.csv"))
    data = ["--task", TASK.name, "--train", home / "train.jsonl", "--output-dir", tmp_path / "out"]
    done = paredown("finetune", home / "teacher", *data, "--class-weights", "balanced")
    assert done.returncode == 2
    assert "nor of a number" in done.stderr
    text = (home / "recipe.yaml").read_text().replace("./", f"{home}/")
    cascade = "  - name: both\n    cascade: {first: static, then: cut}\ntargets:"
    (tmp_path / "recipe.yaml").write_text(text.replace("targets:", cascade))
    refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), "'both'", "a row has a number")
    (tmp_path / "recipe.yaml").write_text(text.replace("text-regression", "text-classification"))
    refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), "text-regression", "--task")
