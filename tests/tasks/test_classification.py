"""Pairs of texts the whole way: do both say the same? One recipe, then its bundle behind every door."""

import csv
import json
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from conftest import BAD, FILLER, GOOD, LABELS, drawn_apart, paredown, refused
from same_process import SameProcess
from serving import client_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from paredown.benchmarks.measuring import interleaved
from paredown.compress.config import Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.run import _do_all
from paredown.pipeline.steps.adapt import adapt_steps, adapted
from paredown.pipeline.store import Store
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS

TASK = TASKS["text-pair-classification"]
RECIPE = """
name: agreement
task: text-pair-classification
checkpoint: ./teacher
data: {train: ./train.csv, validation: ./validation.csv, test: ./test.csv}
max_length: 32
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.8, ffn: 0.8, multiple: 8, recover: {epochs: 2, learning_rate: 0.003}}
      - trim: {frequent: 0}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """The second sentence decides, and the first one only distracts: nobody can tell without knowing which is which."""
    rng, found = random.Random(seed), []
    for i in range(count):
        words = (BAD, GOOD)[i % 2], (BAD, GOOD)[rng.randrange(2)]
        second, first = ([*rng.choices(FILLER, k=rng.randrange(1, 6)), rng.choice(kind)] for kind in words)
        found.append({"premise": " ".join(first), "hypothesis": " ".join(second), "label": LABELS[i % 2]})
    return found


def write(path: Path, made: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["premise", "hypothesis", "label"])
        writer.writeheader()
        writer.writerows(made)
    return path


def untrained(path: Path) -> Checkpoint:
    """A BERT that looks at its token types."""
    path.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.bert.embeddings.token_type_embeddings.weight.data.normal_(0, 0.5)
    model.save_pretrained(path)
    return open_checkpoint(path, TASK)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a trained teacher, and the recipe."""
    path = tmp_path_factory.mktemp("home")
    parts = {"train": (400, 0), "validation": (200, 1), "test": (200, 2)}
    for name, made in drawn_apart(rows, parts, lambda row: f"{row['premise']}|{row['hypothesis']}").items():
        write(path / f"{name}.csv", made)
    source = untrained(path / "untrained")
    train = read_rows(TASK, str(path / "train.csv"), names=LABELS)
    settings = Finetune(epochs=8, batch_size=16, learning_rate=5e-3, freeze_embeddings=False)
    model = finetune(load(source, TASK), TrainingData(source.encoder().ids(train.texts), train.gold), settings, seed=0)
    save(model, source, path / "teacher")
    (path / "recipe.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def ran(home: Path) -> Path:
    """The same directory with the recipe's run in `run`; what is slow is in one process, for no time is judged here."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_a_model_finds_the_types_that_transformers_would_give(home: Path) -> None:
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(home / "teacher").eval()
    checkpoint = open_checkpoint(home / "teacher", TASK)
    encoder = checkpoint.encoder()
    for first, second in (("the film", "a good plot"), ("was it", "is")):
        told = encoder.tokenizer.encode(first, second)
        inputs = {"input_ids": torch.tensor([told.ids]), "token_type_ids": torch.tensor([told.type_ids])}
        want = plain(**inputs).logits.detach().numpy()
        ours = forward(load(checkpoint, TASK), encoder.pad(encoder.ids([f"{first}{PAIR}{second}"])))["logits"]
        np.testing.assert_array_equal(ours, want)
        blind = plain(input_ids=inputs["input_ids"]).logits.detach().numpy()
        assert np.abs(blind - want).max() > 1e-4


@pytest.mark.slow
def test_the_run_keeps_what_the_types_say(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric_validation"] > 90
    assert choice["chosen"]["metric_validation"] > 75  # without the types: chance
    assert len([c for c in choice["candidates"] if c.get("metric_validation")]) == 7
    flips = json.loads((ran / "run" / "measurements.json").read_text())["candidates"]
    assert all(" | " in flip["text"] and PAIR not in flip["text"] for c in flips for flip in c["flips"])


@pytest.mark.slow
def test_predict_takes_both_texts(ran: Path) -> None:
    bundle = ran / "run" / "bundle"
    texts = ["--text", "the dull film", "--text-pair", "a lovely plot"]
    done = paredown("predict", bundle, *texts)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["text_pair"], found["label"]) == ("a lovely plot", "positive")
    refused(paredown("predict", bundle, *texts[:2]), "two texts a row", "1 first and 0 second")
    done = paredown("verify", bundle, "--data", ran / "test.csv", "--text-column", "premise,hypothesis")
    assert done.returncode == 0, done.stderr
    refused(paredown("verify", bundle, "--data", ran / "test.csv", "--text-column", "premise"), "FIRST,SECOND")


@pytest.mark.slow
def test_it_is_served(ran: Path, tmp_path: Path) -> None:
    ask = {"text": ["the dull film", "a good plot"], "text_pair": ["a lovely plot", "an awful film"]}
    tensors = [{"name": n, "datatype": "BYTES", "shape": [2], "data": texts} for n, texts in ask.items()]
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=ran / "run" / "bundle", sample_file=file, sample_share=1) as (client, _, _):
        found = client.post("/predict", json=ask).json()["predictions"]
        assert [answer["label"] for answer in found] == ["positive", "negative"]
        reply = client.post("/v2/models/agreement/infer", json={"inputs": tensors})
        assert reply.json()["outputs"][0]["data"] == ["positive", "negative"]
        names = [i["name"] for i in client.get("/v2/models/agreement").json()["inputs"]]
        assert names == ["text", "text_pair", "input_ids", "attention_mask"]
        client.post("/predict", json={"text": "a film", "text_pair": " "})  # answered, and of no use as a sample
        for wrong in (
            {"text": "a film"},
            {"text": "a film", "text_pair": ["a", "b"]},
            {"text": "a\x1eb", "text_pair": "c"},
        ):
            reply = client.post("/predict", json=wrong)
            assert reply.status_code == 400, wrong
            assert "text" in reply.json()["error"]
    sampled = read_rows(TASK, str(file), labelled=False).texts
    assert sampled[0] == PAIR.join(("the dull film", "a lovely plot"))
    assert len(sampled) == 4


@pytest.mark.slow
def test_stages_alone(home: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", home / "train.csv", "--validation", home / "validation.csv"]
    done = paredown("distill", home / "teacher", *data, "--layers", 1, "--epochs", 1, "--output-dir", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    lora = ["--peft", "lora", "--epochs", 1, "--output-dir", tmp_path / "tuned"]  # calls the inner model's forward
    done = paredown("finetune", home / "teacher", *data, *lora)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("accuracy ")[1].split()[0]) > 90
    done = paredown("export", tmp_path / "one", "--task", TASK.name, "--output-dir", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_adapting_keeps_both_texts(ran: Path, tmp_path: Path) -> None:
    adapt = "adapt:\n  - augment: {kinds: [typos, swap]}\nmodels:"
    text = (ran / "recipe.yaml").read_text().replace("models:", adapt).replace("./", f"{ran}/")
    (tmp_path / "recipe.yaml").write_text(text)
    job = prepare(read_recipe(tmp_path / "recipe.yaml"))
    done = _do_all(adapt_steps(job), Store(tmp_path / "run" / "steps")).done
    texts = adapted(job, done).train.texts
    assert len(texts) > 1.5 * len(job.train)
    assert all(text.count(PAIR) == 1 for text in texts)
    done = paredown("augment", "--task", TASK.name, "--train", ran / "test.csv", "--output", tmp_path / "more.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(read_rows(TASK, str(tmp_path / "more.jsonl"), names=LABELS)) > 200
    (tmp_path / "recipe.yaml").write_text(text.replace("max_length", "explain_rows: 4\nmax_length"))
    refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), "explain_rows", "not supported")
