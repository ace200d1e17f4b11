"""Real trackers, writing to this disk; what they raise is a warning."""

import json
import sys
import threading
from pathlib import Path

import pytest
from candidates import choice_of, result
from conftest import paredown, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.results import trackers as tracking
from paredown.pipeline.results.trackers import figures_of, track

LATENCY = {"p50": 1.5, "p95": 2.0, "p99": 3.0, "mean": 1.6, "n": 9, "p50_ci": [1.4, 1.6]}
SMALL = result("small/onnxruntime/fp32", size_mb=3.5, latency_ms=LATENCY)
OTHER = result("teacher/openvino/bf16", size_mb=91.0)
CHOICE = choice_of(SMALL, OTHER, candidates=[SMALL, OTHER])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "choice.json").write_text(json.dumps(CHOICE.to_json()))
    (tmp_path / "report.html").write_text("<p>")
    return tmp_path


def test_every_number_of_an_entry_has_a_name() -> None:
    numbers = {"p50": 1.5, "p95": 2.0, "p99": 3.0, "mean": 1.6, "n": 9}
    found = {"size_mb": 3.5} | {f"latency_ms/{name}": value for name, value in numbers.items()}
    assert dict(figures_of(SMALL)) == found
    assert dict(figures_of(result(size_mb=float("inf")))) == {}


def test_mlflow(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((run_dir / "mlruns").as_uri())
    assert track(["mlflow"], CHOICE, "sentiment", run_dir) == []
    runs = mlflow.search_runs(experiment_names=["sentiment"], output_format="list")
    assert {run.info.run_name for run in runs} == {"small-onnxruntime-fp32", "teacher-openvino-bf16"}
    assert max(run.data.metrics["size_mb"] for run in runs) == 91.0
    assert list((run_dir / "mlruns").rglob("report.html"))


def test_tensorboard(run_dir: Path) -> None:
    pytest.importorskip("tensorboard")
    assert track(["tensorboard"], CHOICE, "sentiment", run_dir) == []
    names = {path.parent.name for path in (run_dir / "tensorboard").glob("*/events.*")}
    assert names == {"small-onnxruntime-fp32", "teacher-openvino-bf16"}


def test_wandb(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(run_dir), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(key, value)
    assert track(["wandb"], CHOICE, "sentiment", run_dir) == []
    assert list(run_dir.rglob("offline-run-*"))


def test_a_sink_that_fails_is_a_warning(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "tensorboard").write_text("a file where a directory has to be")
    (problem,) = track(["tensorboard"], CHOICE, "sentiment", run_dir)
    assert problem.startswith("report_to tensorboard: ")
    assert "the run itself is whole" in capsys.readouterr().err


def test_a_sink_that_exits_or_does_not_come_back_is_a_warning_too(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    monkeypatch.setitem(tracking.SINKS, "wandb", lambda *_: sys.exit("no login"))
    monkeypatch.setitem(tracking.SINKS, "mlflow", lambda *_: never.wait())
    gone, late = track(["wandb", "mlflow"], CHOICE, "sentiment", run_dir)
    assert gone.startswith("report_to wandb: SystemExit: no login")
    assert late.startswith("report_to mlflow: not done after 0.2 s")
    never.set()


def test_the_recipe_names_the_sinks(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files)
    recipe.write_text(recipe.read_text() + "report_to: [mlflow, tensorboard]\n")
    assert read_recipe(recipe).report_to == ["mlflow", "tensorboard"]
    recipe.write_text(recipe.read_text().replace("[mlflow, tensorboard]", "[mlfow]"))
    done = paredown("run", recipe, "--dry-run")
    assert done.returncode == 2
    assert "report_to" in done.stderr
