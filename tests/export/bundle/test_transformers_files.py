"""transformers opens the bundle's configuration and tokenizer, which hold data alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from bundling import bundled
from conftest import TASK, make_checkpoint

from paredown.compress.models.architectures import STATIC
from paredown.export.artifact import Artifact
from paredown.export.bundle.transformers_files import write_config
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.manifest import read_manifest
from paredown.runtime.selftest import selftest

TEXTS = ["a good film", "the plot was dull and the actor was very weak", "unheard of"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Of a checkpoint whose files name code and the place that it came from."""
    path = tmp_path_factory.mktemp("artifact")
    source = make_checkpoint(path / "checkpoint", layers=1)
    plain = plain_onnx(source, TASK, path / "plain.onnx")
    made = RUNTIMES["onnxruntime"].export(ExportJob(plain, source, TASK, path / "made", 12))
    config = json.loads((made.path / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "code.Config"}, "_name_or_path": "/home/me", "inner": [{"auto_map": {}}]}
    (made.path / "config.json").write_text(json.dumps(config))
    said = {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "sep_token": "[SEP]", "mask_token": "[NONE]"}
    (made.path / "tokenizer_config.json").write_text(json.dumps(said))
    return made


def test_transformers_opens_config_and_tokenizer(artifact: Artifact, tmp_path: Path) -> None:
    bundle = bundled(artifact, tmp_path / "bundle", TEXTS)
    config = transformers.AutoConfig.from_pretrained(bundle)
    assert (config.model_type, config.id2label) == ("bert", {0: "negative", 1: "positive"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    rows = json.loads((bundle / "golden.json").read_text())["rows"]
    found = tokenizer([row["text"] for row in rows], truncation=True)
    assert list(found) == read_manifest(bundle)["inputs"]
    assert found["input_ids"] == [row["input_ids"] for row in rows]
    assert len(tokenizer(" ".join(TEXTS * 9), truncation=True)["input_ids"]) == 12
    assert tokenizer.pad(found)["input_ids"][0][-1] == tokenizer.pad_token_id == read_manifest(bundle)["pad_id"]


def test_they_hold_data_alone_and_are_the_same_each_time(artifact: Artifact, tmp_path: Path) -> None:
    one, two = (bundled(artifact, tmp_path / name, TEXTS) for name in ("one", "two"))
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        text = (one / name).read_text()
        assert text == (two / name).read_text()
        assert not {word for word in ("auto_map", "code.", "/home/me", "[NONE]") if word in text}
        assert name in read_manifest(one)["files"]


def test_a_bundle_without_them_is_read_as_before(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name in (*artifact.files, "tokenizer.json"):
        (tmp_path / "made" / name).write_bytes((artifact.path / name).read_bytes())
    bundle = bundled(replace(artifact, path=tmp_path / "made"), tmp_path / "bundle", TEXTS)
    assert not (bundle / "config.json").exists()
    assert selftest(bundle)["name"] == "tiny"


@pytest.mark.parametrize(("vector", "width"), [(0, 64), (384, 384)])
def test_a_static_student_is_a_bert_without_layers(artifact: Artifact, tmp_path: Path, vector: int, width: int) -> None:
    known = {"model_type": STATIC, "architectures": ["StaticForSequenceClassification"], "hidden_size": 64,
             "vector_size": vector, "vocab_size": 30, "max_position_embeddings": 512, "pad_token_id": 0}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(known))
    (tmp_path / "out").mkdir()
    write_config(replace(artifact, path=tmp_path, details={"cascade": {}}), tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 0, width)
    assert config.architectures == ["BertForSequenceClassification"]
    assert config.label2id == {"negative": 0, "positive": 1}
    assert config.paredown.keys() == {"model", "cascade"}
