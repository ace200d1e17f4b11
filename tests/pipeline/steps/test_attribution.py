import json
import shutil
from pathlib import Path

import pytest
from conftest import STATIC, paredown, refused, write_recipe

from paredown.compress.models.loading import Checkpoint


def test_every_candidate_says_how_far_its_words_are_the_teachers(finished: Path) -> None:
    entries = {e["name"]: e for e in json.loads((finished / "choice.json").read_text())["candidates"]}
    found = {name: e["attribution_agreement"] for name, e in entries.items() if e["metric_validation"] is not None}
    assert found["teacher/onnxruntime/int8-dynamic"] == pytest.approx(1)
    assert found["distil-1/onnxruntime/fp32"] == found["distil-1/openvino/fp32"]
    assert all(-1 <= value < 0.9999 for name, value in found.items() if not name.startswith("teacher"))
    rows = {e["name"]: e for e in json.loads((finished / "measurements.json").read_text())["candidates"]}
    first, then, both = (
        rows[f"{model}/onnxruntime/fp32"]["attribution_agreement"] for model in ("static", "distil-1", "both")
    )
    assert len(both) == 6
    assert all(mine in pair for mine, *pair in zip(both, first, then, strict=True))


def test_a_gate_on_it(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    done = paredown("choose", run_dir, "--max-drop", 50, "--gate", "attribution_agreement >= 0.9999 rho")
    assert done.returncode == 0, done.stderr
    choice = json.loads((run_dir / "choice.json").read_text())
    assert choice["chosen"]["name"].startswith("teacher/")
    entries = {e["name"]: e for e in choice["candidates"]}
    refused_by_it = [name for name, e in entries.items() if "attribution_agreement" in (e["rejected_because"] or "")]
    assert refused_by_it
    assert not any(name.startswith("teacher/") for name in refused_by_it)
    both = entries["both/onnxruntime/fp32"]  # by the gate, or where times made it dearer than its second model, by that
    assert both["rejected_because"] is not None
    assert both["attribution_agreement"] < 0.9999


def test_it_is_for_whole_texts(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    words = {STATIC: "", "max_length": "task: token-classification\nexplain_rows: 4\nmax_length"}
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **words)
    refused(paredown("run", recipe, "--output-dir", tmp_path / "run", "--dry-run"), "explain_rows", "not supported")
