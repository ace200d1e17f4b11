"""ONNX Runtime's own format: the file that is written answers the golden rows, and its operators are listed."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import paredown
from manifests import change_manifest

from paredown.export.bundle.layouts.mobile import to_mobile
from paredown.runtime.errors import InputError


def test_the_model_answers_the_golden_rows(made: Path, tmp_path: Path) -> None:
    done = paredown("pack", made, "--layout", "mobile", "--output-dir", tmp_path / "app")
    assert done.returncode == 0, done.stderr
    app = tmp_path / "app"
    names = {"README.md", "golden.json", "labels.txt", "model.ort", "required_operators.config", "tokenizer.json"}
    assert {path.name for path in app.iterdir()} == names
    assert (app / "model.ort").read_bytes()[4:8] == b"ORTM"
    session = onnxruntime.InferenceSession(app / "model.ort", providers=["CPUExecutionProvider"])
    golden = json.loads((app / "golden.json").read_text())
    for row in golden["rows"]:
        ids = np.array([row["input_ids"]])
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert np.abs(np.asarray(found)[0] - row["output"]).max() < 1e-5
    assert "(rows, length)" in (app / "README.md").read_text()


def test_the_operators_are_those_of_the_model_without_paths_of_this_machine(made: Path, tmp_path: Path) -> None:
    assert paredown("pack", made, "--layout", "mobile", "--output-dir", tmp_path / "app").returncode == 0
    text = (tmp_path / "app" / "required_operators.config").read_text()
    assert str(tmp_path) not in text
    domains = {line.split(";")[0] for line in text.splitlines()}
    assert {"ai.onnx", "com.microsoft"} <= domains
    assert "Attention" in text


def test_other_runtimes_are_refused_and_nothing_is_left(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made, tmp_path / "bundle")
    change_manifest(bundle, runtime="openvino")
    (tmp_path / "app").mkdir()
    with pytest.raises(InputError, match="layout mobile: for onnxruntime bundles, not openvino"):
        to_mobile(bundle, tmp_path / "app")
    assert not any((tmp_path / "app").iterdir())
