"""ExecuTorch programs answer as PyTorch does, at every length; its bundle verifies and is laid out for applications."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundling import bundled
from conftest import IMAGES, TASK, make_checkpoint, paredown, refused

from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.export.artifact import Artifact, read_artifact
from paredown.export.bundle.layouts.executorch import to_executorch
from paredown.export.opening import open_artifact
from paredown.export.runtimes import executorch
from paredown.export.runtimes.base import ExportJob
from paredown.pipeline.recipe.schema import default_targets
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import run_rows

pytest.importorskip("executorch", reason="needs ExecuTorch: pip install 'paredown[executorch]'")

ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3], [2]]
TEXTS = ["a good film", "bad", "a fine good film and a bad one"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", layers=1)


def exported(checkpoint: Checkpoint, out: Path, precision: str = "fp32", **shape) -> Artifact:
    return executorch.export(ExportJob(None, checkpoint, TASK, out, 32, precision, **shape))


@pytest.fixture(scope="module")
def any_length(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(checkpoint, tmp_path_factory.mktemp("any") / "artifact")


@pytest.fixture(scope="module")
def bundle(any_length: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(any_length, tmp_path_factory.mktemp("bundle") / "bundle", TEXTS)


def answers(artifact: Artifact) -> np.ndarray:
    return run_rows(open_artifact(artifact, 1), ROWS, artifact.pad_id, "logits")


def pytorch(checkpoint: Checkpoint) -> np.ndarray:
    return run_rows(partial(forward, load(checkpoint, TASK)), ROWS, checkpoint.pad_id, "logits")


def test_a_program_of_any_length_answers_as_pytorch(checkpoint: Checkpoint, any_length: Artifact) -> None:
    assert (any_length.lengths, any_length.batch_size) == ((), 1)
    assert any_length.details["xnnpack_parts"] > 0
    np.testing.assert_allclose(answers(any_length), pytorch(checkpoint), atol=1e-5)


def test_one_length_and_a_batch_size_are_fixed_in_the_program(checkpoint: Checkpoint, tmp_path: Path) -> None:
    artifact = exported(checkpoint, tmp_path / "a", lengths=(32,), batch_size=2)
    assert read_artifact(artifact.path) == artifact
    assert (artifact.lengths, artifact.batch_size) == ((32,), 2)
    np.testing.assert_allclose(answers(artifact), pytorch(checkpoint), atol=1e-5)


def test_images_run_one_by_one(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "vit", layers=1)
    artifact = executorch.export(ExportJob(None, checkpoint, IMAGES, tmp_path / "a", 32))
    rows = artifact.encoder().random_rows(3, None)
    found = run_rows(open_artifact(artifact, 1), rows, 0, "logits")
    wanted = run_rows(partial(forward, load(checkpoint, IMAGES)), rows, 0, "logits")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_int8_is_near_and_smaller(checkpoint: Checkpoint, any_length: Artifact, tmp_path: Path) -> None:
    artifact = exported(checkpoint, tmp_path / "a", "int8-dynamic")
    difference = np.abs(answers(artifact) - pytorch(checkpoint)).max()
    assert 0 < difference < 0.05
    assert artifact.size_mb() < any_length.size_mb()


def test_it_is_no_default_target() -> None:
    assert "executorch" not in {target.runtime for target in default_targets()}


def test_its_bundle_verifies_with_and_without_paredown(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert set(manifest["requirements"]) == {"executorch", "torch", "tokenizers", "numpy"}
    assert not {"coremltools", "pandas", "torchao"} & set(manifest["environment"])  # of the exporter
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = paredown("verify", bundle)
    assert done.returncode == 0, done.stderr
    done = paredown("predict", bundle, "--text", TEXTS[0])
    assert done.returncode == 0, done.stderr
    golden = json.loads((bundle / "golden.json").read_text())["rows"][0]
    assert golden["answer"] in done.stdout


def test_another_file_is_not_opened(any_length: Artifact, tmp_path: Path) -> None:
    other = replace(any_length, path=tmp_path)
    (tmp_path / "model.pte").write_bytes(b"\0\0\0\0TFL3" + bytes(64))
    with pytest.raises(InputError, match=r"not a \.pte file: 'ET12' is expected at byte 4"):
        open_artifact(other, 1)


def test_the_layout_of_an_application(bundle: Path, tmp_path: Path) -> None:
    done = paredown("pack", bundle, "--layout", "executorch", "--output-dir", tmp_path / "app")
    assert done.returncode == 0, done.stderr
    files = {path.name: path for path in (tmp_path / "app").iterdir()}
    assert sorted(files) == ["README.md", "golden.json", "labels.txt", "model.pte", "tokenizer.json"]
    assert files["labels.txt"].read_text().splitlines() == read_manifest(bundle)["labels"]
    readme = files["README.md"].read_text()
    assert "1. `attention_mask`, int64, (1, length): 1 for a token, 0 for padding" in readme
    assert "Output: `logits`, float32, (1, 2)." in readme
    refused(paredown("pack", bundle, "--layout", "triton", "--output-dir", tmp_path / "no"), "not executorch")


def test_the_layout_refuses_other_bundles(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = read_manifest(bundle) | {"runtime": "onnxruntime"}
    monkeypatch.setattr("paredown.export.bundle.layouts.on_device.read_manifest", lambda _: other)
    with pytest.raises(InputError, match=r"not onnxruntime; add the target \{runtime: executorch\}"):
        to_executorch(bundle, tmp_path)


def test_exported_by_the_command(checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = ("export", checkpoint.path, "--to", "executorch", "--max-length", "32", "--output-dir", tmp_path / "out")
    done = paredown(*words, "--lengths", "32")
    assert done.returncode == 0, done.stderr
    assert "executorch fp32" in done.stdout
    assert read_artifact(tmp_path / "out").lengths == (32,)
    refused(paredown(*words, "--precision", "int8-static"), "executorch runs fp32, int8-dynamic")
