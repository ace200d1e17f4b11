"""Questions about a text the whole way: one recipe, then its bundle behind every door."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from conftest import drawn_apart, paredown, refused, write_tokenizer
from examples import questions as rows
from same_process import SameProcess
from serving import client_of

from paredown.benchmarks.measuring import interleaved
from paredown.compress.config import Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS

TASK = TASKS["question-answering"]
RECIPE = """
name: finder
task: question-answering
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl, unlabeled: ./more.jsonl}
max_length: 32
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.8, ffn: 0.8, multiple: 8, recover: {epochs: 2, learning_rate: 0.003, label_weight: 0.5}}
      - trim: {frequent: 0}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 2}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino, precision: int8-static}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


def untrained(path: Path) -> Checkpoint:
    path.mkdir()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=write_tokenizer(path), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model = transformers.BertForQuestionAnswering(config)
    model.bert.embeddings.token_type_embeddings.weight.data.normal_(0, 0.5)
    model.save_pretrained(path)
    return open_checkpoint(path, TASK)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a trained teacher, and the recipe."""
    path = tmp_path_factory.mktemp("home")
    parts = {"train": (400, 0), "validation": (200, 1), "test": (200, 2), "more": (60, 3)}
    for name, lines in drawn_apart(rows, parts, lambda row: row["context"]).items():
        if name == "more":
            lines = [{key: row[key] for key in ("question", "context")} for row in lines]
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    source = untrained(path / "untrained")
    train = read_rows(TASK, str(path / "train.jsonl"), names=source.labels)
    encoder = source.encoder(32)
    settings = Finetune(epochs=4, batch_size=16, learning_rate=5e-3, freeze_embeddings=False)
    model = finetune(
        load(source, TASK),
        TrainingData(encoder.ids(train.texts), TASK.training_targets(train, encoder)),
        settings,
        seed=0,
    )
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


def test_a_model_answers_as_in_transformers(home: Path) -> None:
    plain = transformers.AutoModelForQuestionAnswering.from_pretrained(home / "teacher").eval()
    checkpoint = open_checkpoint(home / "teacher", TASK)
    encoder = checkpoint.encoder()
    told = encoder.tokenizer.encode("good", "the sharp film")
    with torch.inference_mode():
        want = plain(input_ids=torch.tensor([told.ids]), token_type_ids=torch.tensor([told.type_ids]))
    ours = forward(load(checkpoint, TASK), encoder.pad(encoder.ids([f"good{PAIR}the sharp film"])))["logits"]
    np.testing.assert_array_equal(ours[..., 0], want.start_logits.numpy())
    np.testing.assert_array_equal(ours[..., 1], want.end_logits.numpy())


@pytest.mark.slow
def test_the_run_finds_answers(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric_validation"] > 85
    assert choice["chosen"]["metric_validation"] > 65
    assert {entry["metric"] for entry in choice["candidates"]} == {"F1"}
    whole = [c for c in choice["candidates"] if c.get("metric_validation") and c["name"].startswith("cut/")]
    assert len(whole) == 3
    assert all(c["typos_metric"] is not None for c in choice["candidates"])


@pytest.mark.slow
def test_the_bundle_answers(ran: Path) -> None:
    bundle = ran / "run" / "bundle"
    done = paredown("predict", bundle, "--text", "good", "--text-pair", "the dull plot and a sharp film")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answer"] == "sharp film"
    assert (found["start"], found["end"]) == (20, 30)
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "200 rows" in done.stdout


@pytest.mark.slow
def test_it_is_served(ran: Path, tmp_path: Path) -> None:
    ask = {"text": ["good", "good"], "text_pair": ["the dull plot and a sharp film", "the dull plot is in a scene"]}
    tensors = [{"name": n, "datatype": "BYTES", "shape": [2], "data": texts} for n, texts in ask.items()]
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=ran / "run" / "bundle", sample_file=file, sample_share=1) as (client, _, _):
        found = client.post("/predict", json=ask).json()["predictions"]
        assert [answer["answer"] for answer in found] == ["sharp film", ""]
        reply = client.post("/v2/models/finder/infer", json={"inputs": tensors}).json()
        outputs = {tensor["name"]: tensor for tensor in reply["outputs"]}
        assert outputs["answer"]["data"] == ["sharp film", ""]
        assert outputs["start"]["data"] == [20, 0]
        assert outputs["logits"]["shape"][::2] == [2, 2]
        about = client.get("/v2/models/finder").json()
        assert [tensor["name"] for tensor in about["inputs"]] == ["text", "text_pair"]
        assert {tensor["name"] for tensor in about["outputs"]} == set(outputs)
        ids = [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [2, 3]}]
        reply = client.post("/v2/models/finder/infer", json={"inputs": ids})
        assert reply.status_code == 400
        assert "expected by question-answering" in reply.json()["error"]
    assert len(read_rows(TASK, str(file), labelled=None).texts) == 4  # as unlabelled rows


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--validation", ran / "validation.jsonl"]
    lora = ["--peft", "lora", "--epochs", 1, "--output-dir", tmp_path / "tuned"]
    done = paredown("finetune", ran / "teacher", *data, *lora)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("F1 ")[1].split()[0]) > 80
    done = paredown("distill", ran / "teacher", *data, "--layers", 1, "--epochs", 1, "--output-dir", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    done = paredown("export", tmp_path / "one", "--task", TASK.name, "--output-dir", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr
    new = ["--new", ran / "test.jsonl", "--epochs", 1, "--output-dir", tmp_path / "more"]
    done = paredown("update", ran / "teacher", *data, *new)
    assert done.returncode == 0, done.stderr
    done = paredown("robustness", ran / "run" / "bundle", "--data", ran / "test.jsonl", "--task", TASK.name)
    assert done.returncode == 0, done.stderr
    refused(paredown("augment", *data[:4], "--output", tmp_path / "a.jsonl"), "not supported")
    weights = ["--class-weights", "balanced", "--output-dir", tmp_path / "x"]
    done = paredown("finetune", ran / "teacher", *data, *weights)
    assert done.returncode == 2
    assert "error: class_weights: for rows of one label" in done.stderr
