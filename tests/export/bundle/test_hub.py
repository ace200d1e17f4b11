"""The Hub layout: names, outputs, card, refusals and upload. What its receivers answer: tests/receivers."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
from bundling import bundled
from conftest import paredown, refused
from examples import EXAMPLES
from huggingface_hub import ModelCard
from manifests import change_manifest

from paredown.compress.models.loading import open_checkpoint
from paredown.export.artifact import Artifact
from paredown.export.bundle.layouts.hub import to_hub
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.runtime.selftest import open_encoder, read_manifest
from paredown.tasks.registry import TASKS

TEXTS = ["a good film", "the plot was dull and the actor was very weak"]
QUESTIONS = [f"good{PAIR}the plot was good and sharp", f"who{PAIR}an actor"]


def exported(task: str, out: Path, runtime: str = "onnxruntime", precision: str = "fp32") -> Artifact:
    """A tiny untrained model of a task."""
    EXAMPLES[task].checkpoint(out / "checkpoint")
    checkpoint = open_checkpoint(out / "checkpoint", TASKS[task])
    plain = plain_onnx(checkpoint, TASKS[task], out / "plain.onnx")
    encoder = checkpoint.encoder()
    rows = [encoder.pad(encoder.ids([text])) for text in TEXTS] if precision.startswith("int8") else ()
    job = ExportJob(plain, checkpoint, TASKS[task], out / "made", 32, precision=precision, calibration=rows)
    return RUNTIMES[runtime].export(job)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    return bundled(exported("text-classification", path, precision="int8-dynamic"), path / "bundle", TEXTS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    return bundled(exported("sentence-embedding", path, precision="fp16"), path / "bundle", TEXTS)


def laid_out(bundle: Path, out: Path) -> Path:
    done = paredown("pack", bundle, "--layout", "hub", "--output-dir", out)
    assert done.returncode == 0, done.stderr
    return out


def answers(file: Path, bundle: Path) -> dict[str, np.ndarray]:
    """Outputs of an ONNX file for the bundle's golden rows, one at a time."""
    session, reader = onnxruntime.InferenceSession(file), open_encoder(bundle, read_manifest(bundle))
    names, rows = [output.name for output in session.get_outputs()], golden(bundle)
    found = [session.run(names, reader.pad([row["input_ids"]])) for row in rows]
    return {name: np.array([np.asarray(row[i])[0] for row in found], object) for i, name in enumerate(names)}


def golden(bundle: Path) -> list[dict]:
    return json.loads((bundle / "golden.json").read_text())["rows"]


def test_a_classifier_is_there_under_each_name_and_opens_as_int8(classifier: Path, tmp_path: Path) -> None:
    out = laid_out(classifier, tmp_path / "out")
    assert sorted(path.name for path in (out / "onnx").iterdir()) == ["model.onnx", "model_quantized.onnx"]
    for file in (out / "onnx").iterdir():
        assert file.read_bytes() == (classifier / "model" / "model.onnx").read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q8"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    assert not any(path.suffix == ".py" for path in out.rglob("*"))
    card: Any = ModelCard((out / "README.md").read_text())
    assert card.data.library_name == "transformers.js"
    assert [result.metric_value for result in card.data.eval_results] == [100.0]
    for words in (
        "ORTModelForSequenceClassification",
        'pipeline("text-classification", "OWNER/tiny")',
        "\n\n## Size\n",
    ):
        assert words in card.text
    for words in ("selftest", "requirements.txt", "paredown_bundle", "model/model.onnx"):
        assert words not in card.text


def test_vectors_come_with_those_of_tokens_that_they_are_pooled_from(encoder: Path, tmp_path: Path) -> None:
    out = laid_out(encoder, tmp_path / "out")
    assert sorted(path.name for path in (out / "onnx").iterdir()) == ["model.onnx", "model_fp16.onnx"]
    found = answers(out / "onnx" / "model.onnx", encoder)
    assert list(found) == ["last_hidden_state", "sentence_embedding"]
    for tokens, vector, row in zip(*found.values(), golden(encoder), strict=True):
        np.testing.assert_allclose(np.asarray(vector, float), row["output"], atol=1e-6)
        mean = np.asarray(tokens, float).mean(axis=0)
        np.testing.assert_allclose(mean / np.linalg.norm(mean), row["output"], atol=1e-3)
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens", "include_prompt"]
    assert pooling["word_embedding_dimension"] == 32
    assert "\nlibrary_name: sentence-transformers\n" in (out / "README.md").read_text()


def test_the_first_token_is_found_where_it_is_the_vector(tmp_path: Path) -> None:
    EXAMPLES["sentence-embedding"].checkpoint(tmp_path / "checkpoint")
    said = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "checkpoint" / "1_Pooling" / "config.json").write_text(json.dumps(said))
    checkpoint = open_checkpoint(tmp_path / "checkpoint", TASKS["sentence-embedding"])
    plain = plain_onnx(checkpoint, TASKS["sentence-embedding"], tmp_path / "plain.onnx")
    job = ExportJob(plain, checkpoint, TASKS["sentence-embedding"], tmp_path / "made", 32)
    out = laid_out(bundled(RUNTIMES["onnxruntime"].export(job), tmp_path / "bundle", TEXTS), tmp_path / "out")
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_cls_token", "include_prompt"]
    assert 'pooling: "cls"' in (out / "README.md").read_text()


def test_int8_of_all_bits_has_the_name_that_sentence_transformers_gives_it(tmp_path: Path) -> None:
    artifact = exported("sentence-embedding", tmp_path, precision="int8-dynamic")
    artifact = replace(artifact, details=artifact.details | {"reduce_range": False})
    out = laid_out(bundled(artifact, tmp_path / "bundle", TEXTS), tmp_path / "out")
    names = ["model.onnx", "model_qint8_avx512_vnni.onnx", "model_quantized.onnx"]
    assert sorted(path.name for path in (out / "onnx").iterdir()) == names
    assert "its answers are worse" in (out / "README.md").read_text()


def test_the_two_ends_of_an_answer_are_outputs_of_their_own(tmp_path: Path) -> None:
    bundle = bundled(exported("question-answering", tmp_path), tmp_path / "bundle", QUESTIONS)
    found = answers(laid_out(bundle, tmp_path / "out") / "onnx" / "model.onnx", bundle)
    assert list(found) == ["start_logits", "end_logits"]
    for start, end, row in zip(*found.values(), golden(bundle), strict=True):
        np.testing.assert_allclose(np.stack([start, end], axis=-1).astype(float), row["output"], atol=1e-6)


def test_openvino_has_its_own_names(tmp_path: Path) -> None:
    artifact = exported("text-classification", tmp_path, "openvino", "int8-static")
    out = laid_out(bundled(artifact, tmp_path / "bundle", TEXTS), tmp_path / "out")
    stems = ("openvino_model", "openvino_model_qint8_quantized")
    assert sorted(path.name for path in (out / "openvino").iterdir()) == sorted(
        f"{stem}{suffix}" for stem in stems for suffix in (".bin", ".xml")
    )
    assert "OVModelForSequenceClassification" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "takes one shape"),
        ({"length_policy": {"truncate": "right", "pad": "right", "pad_to": [32]}}, "takes one shape"),
        ({"precision": "bf16"}, "for models in .onnx and .xml files, not onnxruntime bf16"),
    ],
)
def test_what_the_receivers_cannot_call_is_refused(changes: dict, words: str, classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    change_manifest(bundle, **changes)
    refused(paredown("pack", bundle, "--layout", "hub", "--output-dir", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_models_that_generate_text_and_bundles_without_a_config_are_refused(tmp_path: Path) -> None:
    writer = bundled(exported("text-to-text", tmp_path / "writer"), tmp_path / "one", TEXTS)
    refused(paredown("pack", writer, "--layout", "hub", "--output-dir", tmp_path / "out"), "text-to-text")
    artifact = exported("text-classification", tmp_path / "old")
    (artifact.path / "config.json").unlink()
    old = bundled(artifact, tmp_path / "two", TEXTS)
    refused(paredown("pack", old, "--layout", "hub", "--output-dir", tmp_path / "out"), "config.json: missing")


class Hub(BaseHTTPRequestHandler):
    """What the Hub answers to an upload: https://huggingface.co/docs/hub/api."""

    asked: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        path, body = self.path, self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((path, body))
        said: dict = {
            "url": "https://huggingface.co/me/tiny",
            "commitUrl": "https://huggingface.co/me/tiny/commit/1",
            "commitOid": "1",
        }
        if "preupload" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            said = {"files": [file | {"shouldIgnore": False, "oid": None} for file in files]}
        self._say(said)

    def do_GET(self) -> None:
        """The files that are there: of an earlier upload."""
        there = ["onnx/model_fp16.onnx", "onnx/model.onnx", "extra.txt"]
        tree = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in there]
        self._say(tree if "/tree/" in self.path else {"id": "me/tiny", "sha": "0" * 40, "siblings": []})

    def _say(self, said: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing goes to the terminal."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """A Hub on this machine, with somebody logged in; its requests."""
    asked: list[tuple[str, bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"asked": asked}))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("config", ["[", "[]"])
def test_a_damaged_config_is_one_line(classifier: Path, tmp_path: Path, config: str) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    (bundle / "config.json").write_text(config)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        to_hub(bundle, tmp_path / "out")


def test_code_of_a_foreign_config_is_not_published(classifier: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(classifier, tmp_path / "bundle")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((bundle / name).read_text()) | {"auto_map": {"AutoConfig": "code.Config"}}
        (bundle / name).write_text(json.dumps(content | {"architectures": [1]}))
    (tmp_path / "out").mkdir()
    to_hub(bundle, tmp_path / "out")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in (tmp_path / "out" / name).read_text()


def test_push_replaces_an_earlier_upload_in_a_private_repository(classifier: Path, tmp_path: Path, hub: list) -> None:
    done = paredown("pack", classifier, "--layout", "hub", "--output-dir", tmp_path / "out", "--push", "me/tiny")
    assert done.returncode == 0, done.stderr
    made = json.loads(next(body for path, body in hub if path.endswith("/repos/create")))
    assert (made["name"], made["organization"], made["visibility"]) == ("tiny", "me", "private")
    commit = next(body for path, body in hub if "/commit/" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    assert [line["value"]["path"] for line in lines if line["key"] == "deletedFile"] == ["onnx/model_fp16.onnx"]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert sent == {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_a_push_that_cannot_be_is_one_line(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ("pack", classifier, "--layout", "hub", "--output-dir", out, "--push")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    refused(paredown(*command, "me/tiny"), "not logged in", "hf auth login")
    refused(paredown(*command, "tiny"), "OWNER/tiny")
    refused(paredown(*command, "me/a b"), "--push me/a b")
    refused(paredown("pack", classifier, "--output-dir", out, "--push", "me/tiny"), "for --layout hub, not plain")
    assert not out.exists()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    done = paredown(*command, "me/tiny")
    assert done.returncode == 1
    (line,) = re.findall(r"error: .*", done.stderr)
    assert f"hf upload me/tiny {out}" in line
    assert (out / "onnx" / "model.onnx").is_file()
