"""Token types of two texts, whatever literal separators they hold: those that the tokenizer gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from bundling import bundled
from conftest import LABELS, write_tokenizer
from serving import client_of
from tokenizers import Tokenizer

from paredown.compress.config import Adversary, Distill, Finetune, Static
from paredown.compress.distillation.distill import distill
from paredown.compress.distillation.static_student import static_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.predictor import Predictor
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.preprocessor import MARK, PAIR
from paredown.tasks.registry import TASKS

TASK = TASKS["text-pair-classification"]
PAIRS = [
    ("the film", "a good plot"),
    ("the [SEP] film", "a good plot"),
    ("the film [SEP]", "[SEP] a good plot"),
    ("the film", "a good [SEP] plot"),
    ("the film", "a good plot [SEP]"),
    ("[SEP] the [SEP] film", "a [SEP] good [SEP] [SEP] plot"),
    ("was it very good and quite moving", "it was a dull film with a weak plot [SEP] and empty"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A BERT whose answers depend on its token types, and whose tokenizer knows special tokens in a text."""
    path = tmp_path_factory.mktemp("pairs")
    vocabulary = write_tokenizer(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.bert.embeddings.token_type_embeddings.weight.data.normal_(0, 0.5)
    model.save_pretrained(path)
    return open_checkpoint(path, TASK)


def wanted(source: Checkpoint, length: int) -> np.ndarray:
    """Logits of transformers with the tokenizer's own ids and types."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source.path).eval()
    tokenizer = Tokenizer.from_file(str(source.path / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    found = []
    for first, second in PAIRS:
        row = tokenizer.encode(first, second)
        inputs = {"input_ids": torch.tensor([row.ids]), "token_type_ids": torch.tensor([row.type_ids])}
        found.append(model(**inputs).logits[0].detach().numpy())
    return np.stack(found)


@pytest.mark.parametrize("length", [64, 12, 7])
def test_types_are_those_of_the_tokenizer(source: Checkpoint, length: int) -> None:
    encoder, model = source.encoder(length), load(source, TASK)
    rows = encoder.ids([PAIR.join(pair) for pair in PAIRS])
    ours = np.concatenate([forward(model, encoder.pad([row]))["logits"] for row in rows])
    np.testing.assert_array_equal(ours, wanted(source, length))
    together = forward(model, encoder.pad(rows))["logits"]
    np.testing.assert_allclose(together, ours, atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_artefact_its_bundle_and_its_server_give_them_too(runtime: str, source: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(source, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, source, TASK, tmp_path / "made", 64))
    texts = [PAIR.join(pair) for pair in PAIRS]
    out = bundled(artifact, tmp_path / "bundle", texts)
    want = np.exp(wanted(source, 64))
    want /= want.sum(axis=1, keepdims=True)
    ours = [[answer["scores"][label] for label in LABELS] for answer in Predictor(out)(*zip(*PAIRS, strict=True))]
    np.testing.assert_allclose(ours, want, atol=1e-5)
    ask = {"text": [first for first, _ in PAIRS], "text_pair": [second for _, second in PAIRS]}
    rows = source.encoder().ids(texts)
    batch = source.encoder().pad(rows)
    tensors = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in batch.items()
    ]
    with client_of(bundle=out) as (client, _, _):
        found = client.post("/predict", json=ask).json()["predictions"]
        reply = client.post("/v2/models/tiny/infer", json={"inputs": tensors}).json()
    (scores,) = (output["data"] for output in reply["outputs"] if output["name"] == "scores")
    np.testing.assert_allclose(np.array(scores).reshape(want.shape), want, atol=1e-5)
    served = [[answer["scores"][label] for label in LABELS] for answer in found]
    np.testing.assert_allclose(served, want, atol=1e-5)
    golden = json.loads((out / "golden.json").read_text())["rows"]
    assert any(token >= MARK for row in golden for token in row["input_ids"])


@pytest.mark.parametrize("kind", ["fgm", "pgd", "freelb"])
def test_training_with_perturbations_takes_them(source: Checkpoint, kind: str) -> None:
    rows = source.encoder().ids([PAIR.join(pair) for pair in PAIRS])
    gold = np.arange(len(rows)) % 2
    harder = Adversary.model_validate({"kind": kind})
    finetune(load(source, TASK), TrainingData(rows, gold), Finetune(epochs=1, adversarial=harder), seed=0)


def test_students_read_them(source: Checkpoint, tmp_path: Path) -> None:
    """Of fewer layers, of another width, and without layers: trained, saved and opened again."""
    encoder = source.encoder()
    rows = encoder.ids([PAIR.join(pair) for pair in PAIRS])
    teacher = load(source, TASK)
    fewer = distill(teacher, TrainingData(rows), Distill(layers=1, epochs=1))
    narrow = distill(teacher, TrainingData(rows), Distill(layers=1, width=16, epochs=1, hidden_weight=0))
    static = static_student(teacher, TrainingData(rows), Static(width=8, epochs=1))
    for name, student in (("fewer", fewer), ("narrow", narrow), ("static", static)):
        want = forward(student, encoder.pad(rows))["logits"]
        again = load(save(student, source, tmp_path / name), TASK)
        np.testing.assert_array_equal(forward(again, encoder.pad(rows))["logits"], want)
