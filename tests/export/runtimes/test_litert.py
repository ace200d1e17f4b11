"""LiteRT models answer as PyTorch does at each of their lengths; a bundle verifies."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundling import bundled
from conftest import TASK, make_checkpoint, paredown, refused

from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.export.artifact import Artifact, read_artifact
from paredown.export.opening import open_artifact
from paredown.export.runtimes import litert
from paredown.export.runtimes.base import ExportJob
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import run_rows

pytest.importorskip("ai_edge_litert", reason="needs LiteRT: pip install 'paredown[litert]'")
if litert.converter() is None:
    pytest.skip(f"needs litert-torch: make litert, and {litert.PYTHON}", allow_module_level=True)

ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3], [2]]
TEXTS = ["a good film", "bad", "a fine good film and a bad one"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", layers=1)


@pytest.fixture(scope="module")
def two_lengths(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("two") / "artifact"
    return litert.export(ExportJob(None, checkpoint, TASK, out, 32, lengths=(8,)))


def answers(artifact: Artifact) -> np.ndarray:
    return run_rows(open_artifact(artifact, 1), ROWS, artifact.pad_id, "logits")


def test_each_length_answers_as_pytorch(checkpoint: Checkpoint, two_lengths: Artifact) -> None:
    assert read_artifact(two_lengths.path) == two_lengths
    assert (two_lengths.lengths, two_lengths.batch_size) == ((8, 32), 1)
    wanted = run_rows(partial(forward, load(checkpoint, TASK)), ROWS, checkpoint.pad_id, "logits")
    np.testing.assert_allclose(answers(two_lengths), wanted, atol=1e-5)


def test_its_bundle_verifies_with_and_without_paredown(two_lengths: Artifact, tmp_path: Path) -> None:
    bundle = bundled(two_lengths, tmp_path / "bundle", TEXTS)
    assert set(read_manifest(bundle)["requirements"]) == {"ai-edge-litert", "tokenizers", "numpy"}
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = paredown("verify", bundle)
    assert done.returncode == 0, done.stderr
    done = paredown("pack", bundle, "--layout", "litert", "--output-dir", tmp_path / "app")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app" / "model.tflite").read_bytes() == (bundle / "model" / "model.tflite").read_bytes()
    readme = (tmp_path / "app" / "README.md").read_text()
    assert "0. `input_ids`, int32, (1, length): token ids, truncated to 32" in readme
    assert "Rows are padded to the next of 8, 32 tokens." in readme


def test_int8_is_exported_by_the_command(checkpoint: Checkpoint, two_lengths: Artifact, tmp_path: Path) -> None:
    words = ("export", checkpoint.path, "--to", "litert", "--precision", "int8-dynamic", "--max-length", "32")
    done = paredown(*words, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    artifact = read_artifact(tmp_path / "out")
    assert 0 < np.abs(answers(artifact) - answers(two_lengths)).max() < 0.05
    assert artifact.size_mb() < two_lengths.size_mb()


def test_a_converter_that_is_not_there(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(litert.PYTHON, str(tmp_path / "python"))
    with pytest.raises(InputError, match="python has none: make litert"):
        litert.export(ExportJob(None, checkpoint, TASK, tmp_path / "a", 32))
    monkeypatch.delenv(litert.PYTHON)
    refused(paredown("export", checkpoint.path, "--to", "litert", "--output-dir", tmp_path / "b"), "make litert")
