import json
from pathlib import Path

import pytest
from conftest import paredown, refused, sentences, write_csv
from safetensors.torch import load_file, save_file

from paredown.compress.models.loading import Checkpoint


def test_weights_that_float16_cannot_hold_fail_the_export(copy_of_teacher: Path, tmp_path: Path) -> None:
    weights = load_file(copy_of_teacher / "model.safetensors")
    weights["classifier.weight"] *= 1e6
    save_file(weights, copy_of_teacher / "model.safetensors", metadata={"format": "pt"})
    done = paredown("export", copy_of_teacher, "--precision", "fp16", "--output-dir", tmp_path / "fp16")
    assert done.returncode == 1
    assert "> 0.05 (max_difference)" in done.stderr
    assert not (tmp_path / "fp16").exists()


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_int8_says_what_it_costs(method: str, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    options = ("--method", method, "--rows", 40, "--max-length", 32)
    out = tmp_path / "labelled"
    done = paredown("quantize", teacher.path, *options, "--train", files["train"], "--output-dir", out)
    assert done.returncode == 0, done.stderr
    judged = 40 if method == "dynamic" else 10
    assert f"points of accuracy on {judged} rows" in done.stdout
    cost = json.loads((out / "artifact.json").read_text())["details"]["int8_cost"]
    assert (cost["measure"], cost["rows"], cost["limit"]) == ("accuracy", judged, 0.5)
    other = write_csv(tmp_path / "other.csv", [(text, "a label of another task") for text, _ in sentences(40, 5)])
    for data in (files["unlabeled"], other):
        out = tmp_path / data.stem
        done = paredown("quantize", teacher.path, *options, "--train", data, "--max-kl", 0.5, "--output-dir", out)
        assert done.returncode == 0, done.stderr
        assert f"nats a row on {judged} rows" in done.stdout
        assert json.loads((out / "artifact.json").read_text())["details"]["int8_cost"]["limit"] == 0.5


def test_int8_of_openvino_says_what_it_costs(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    options = ("--method", "static", "--runtime", "openvino", "--rows", 40, "--max-length", 32)
    done = paredown("quantize", teacher.path, *options, "--train", files["train"], "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "points of accuracy on 10 rows" in done.stdout
    details = json.loads((tmp_path / "out" / "artifact.json").read_text())["details"]
    assert details["int8_cost"]["before"] == details["int8_cost"]["after"]
    assert details["int8_cost"]["distance"] > 0


def test_limits_of_int8_need_rows(teacher: Checkpoint, tmp_path: Path) -> None:
    out = ("--output-dir", tmp_path / "out")
    refused(paredown("quantize", teacher.path, "--max-drop", 1, *out), "--max-drop", "--train")
    refused(paredown("quantize", teacher.path, "--max-kl", -1, "--train", "t.csv", *out), "--max-kl")
