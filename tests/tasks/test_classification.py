"""Pairs of texts the whole way: do both say the same? One recipe, then its bundle behind every door."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, drawn_apart, paredown, refused
from examples import bert, labelled_pairs
from projects import Project, trained, write_splits
from serving import client_of

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint
from paredown.pipeline.engine import Planned, do_all
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
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
    """`labelled_pairs` under other names of columns."""
    names = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    return [{names[key]: value for key, value in row.items()} for row in labelled_pairs(count, seed)]


def data(path: Path) -> None:
    parts = {"train": (400, 0), "validation": (200, 1), "test": (200, 2)}
    made = drawn_apart(rows, parts, lambda row: f"{row['premise']}|{row['hypothesis']}")
    write_splits(path, made, as_csv=tuple(parts))


def train_teacher(path: Path) -> None:
    bert(path / "untrained", labels=LABELS)
    source = open_checkpoint(path / "untrained", TASK)
    trained(source, TASK, path / "train.csv", path / "teacher", epochs=8, batch_size=16, learning_rate=5e-3)


PROJECT = Project(RECIPE, data, train_teacher)


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
    done = do_all(Planned.of(job, adapt_steps), Store(tmp_path / "run" / "steps")).done
    texts = adapted(job, done).train.texts
    assert len(texts) > 1.5 * len(job.train)
    assert all(text.count(PAIR) == 1 for text in texts)
    done = paredown("augment", "--task", TASK.name, "--train", ran / "test.csv", "--output", tmp_path / "more.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(read_rows(TASK, str(tmp_path / "more.jsonl"), names=LABELS)) > 200
    (tmp_path / "recipe.yaml").write_text(text.replace("max_length", "explain_rows: 4\nmax_length"))
    refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), "explain_rows", "not supported")
