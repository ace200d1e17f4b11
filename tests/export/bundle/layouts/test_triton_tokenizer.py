"""Triton's Python backend gives the tokens that the bundle's model takes. Its own module is inside Triton alone, so
tensor classes of ours stand in for it here: no Triton server has run this."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundling import SERVING, bundle_of
from conftest import TASK
from google.protobuf import text_format
from triton_protocol import official_config

from paredown.compress.models.loading import Checkpoint
from paredown.export.bundle.layouts.triton import text_configs, to_triton
from paredown.runtime.manifest import read_manifest
from paredown.runtime.selftest import open_model


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> np.ndarray:
        return self.array


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("triton_python_backend_utils")
    vars(module).update(
        Tensor=Tensor,
        TritonError=str,
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(tensors=output_tensors, error=error),
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "paredown_bundle"]:
        del sys.modules[name]


def texts(*rows: str) -> dict[str, Tensor]:
    return {"text": Tensor("text", np.array([[row.encode()] for row in rows], dtype=object))}


@pytest.mark.usefixtures("backend")
def test_texts_get_the_answers_of_the_golden_rows(untrained: Checkpoint, tmp_path: Path) -> None:
    bundle = bundle_of(untrained, TASK, tmp_path / "made", serving=SERVING)
    (bundle / "paredown_bundle" / "selftest.py").write_text("raise SystemExit('code of a stranger')\n")
    to_triton(bundle, tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny", "tiny_text", "tiny_tokenizer"]
    home = tmp_path / "models" / "tiny_tokenizer"
    spec = importlib.util.spec_from_file_location("model", home / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps({"input": [{"name": "text"}]})})
    golden = json.loads((bundle / "golden.json").read_text())["rows"]
    good, bad = model.execute([texts(*(row["text"] for row in golden), ""), texts("two \x1e texts")])
    batch = {tensor.name: tensor.as_numpy() for tensor in good.tensors}
    assert [row[: len(g["input_ids"])].tolist() for row, g in zip(batch["input_ids"], golden, strict=False)] == [
        row["input_ids"] for row in golden
    ]
    session, _ = open_model(bundle, read_manifest(bundle))
    answers = session(batch)["logits"]
    assert len(answers) == len(golden) + 1
    np.testing.assert_allclose(answers[: len(golden)], [row["output"] for row in golden], atol=1e-4)
    assert "no text may hold it" in bad.error


def test_triton_reads_the_configurations_and_every_tensor_has_a_source(untrained: Checkpoint, tmp_path: Path) -> None:
    manifest = read_manifest(bundle_of(untrained, TASK, tmp_path / "made", serving=SERVING))
    tokenizer, ensemble = (text_format.Parse(text, official_config()) for text in text_configs(manifest, ("text",)))
    assert (tokenizer.name, tokenizer.backend, tokenizer.max_batch_size) == ("tiny_tokenizer", "python", 4)
    assert (ensemble.name, ensemble.platform, ensemble.max_batch_size) == ("tiny_text", "ensemble", 4)
    known: set[Any] = {port.name for port in ensemble.input}
    for step, model in zip(ensemble.ensemble_scheduling.step, ("tiny_tokenizer", "tiny"), strict=True):
        assert step.model_name == model
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {port.name for port in ensemble.output} <= known
    assert {port.name for port in tokenizer.output} == set(manifest["inputs"])
