"""A decoder the whole way: one recipe, then its bundle behind every door."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import transformers
from conftest import PROSE as TASK
from conftest import make_checkpoint, paredown, refused
from prose import rows, write_rows
from same_process import SameProcess
from serving import client_of

from paredown.benchmarks.measuring import interleaved
from paredown.compress.config import Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData

RECIPE = """
name: writer
task: text-generation
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl, unlabeled: ./more.jsonl}
max_length: 32
max_new_tokens: 12
models:
  - name: cut
    steps:
      - prune:
          layers: 2
          ffn: 0.7
          multiple: 8
          recover: {epochs: 2, learning_rate: 0.003, label_weight: 0.5, patience: 3}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 1}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int4-weight}
  - {runtime: openvino, precision: int8-weight}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a trained teacher, and the recipe."""
    path = tmp_path_factory.mktemp("home")
    for seed, (name, count) in enumerate({"train": 240, "validation": 80, "test": 80, "more": 40}.items()):
        write_rows(path / f"{name}.jsonl", rows(count, seed))
    source = make_checkpoint(path / "untrained", "llama")
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


@pytest.mark.slow
def test_the_run_judges_the_next_token(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric_validation"] > 75  # nobody knows the first word, nor where a text ends
    assert {entry["metric"] for entry in choice["candidates"]} == {"next-token accuracy"}
    assert all(1 < entry["beside_validation"]["perplexity"] < 15 for entry in choice["candidates"])
    assert choice["chosen"]["beside_test"]["perplexity"] > 1
    assert choice["chosen"]["new_tokens_per_s"] > 0
    assert {entry["precision"] for entry in choice["candidates"]} == {"fp32", "int4-weight", "int8-weight"}
    sizes = {entry["name"]: entry["size_mb"] for entry in choice["candidates"]}
    assert sizes["teacher/onnxruntime/int4-weight"] < sizes["teacher/onnxruntime/fp32"]
    assert "perplexity" in (ran / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_bundle_goes_on(ran: Path) -> None:
    bundle = ran / "run" / "bundle"
    done = paredown("predict", bundle, "--text", "the good film")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].startswith(" was quite dull and a bad plot")
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "80 rows" in done.stdout
    alone = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    assert json.loads((bundle / "manifest.json").read_text())["generation"]["max_new_tokens"] == 12
    quick = ["--min-seconds", 0.05, "--min-repeats", 5, "--processes", 2, "--rounds", 2, "--json", ran / "bench.json"]
    done = paredown("bench", bundle, "--data", ran / "test.jsonl", "--task", TASK.name, *quick)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((ran / "bench.json").read_text())["artifacts"]
    assert entry["metric"] == pytest.approx(json.loads((bundle / "choice.json").read_text())["chosen"]["metric_test"])
    refused(paredown("pack", bundle, "--layout", "triton", "--output-dir", ran / "triton"), "token by token")


@pytest.mark.slow
def test_what_was_scored_is_what_the_bundle_holds(ran: Path, tmp_path: Path) -> None:
    """Weights in 4 bits are scored as the artefact that is shipped computes them."""
    run = shutil.copytree(ran / "run", tmp_path / "run")
    done = paredown("choose", run, "--candidate", "teacher/onnxruntime/int4-weight")
    assert done.returncode == 0, done.stderr
    chosen = json.loads((run / "choice.json").read_text())["chosen"]
    assert chosen["precision"] == "int4-weight"
    for split in ("validation", "test"):
        done = paredown("verify", run, "--data", ran / f"{split}.jsonl")
        assert done.returncode == 0, done.stderr
        assert f"{split}.jsonl: {chosen[f'metric_{split}']:.2f} (80 rows)" in done.stdout


@pytest.mark.slow
def test_it_is_served(ran: Path, tmp_path: Path) -> None:
    texts = ["the good film", "very fine", "a"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=ran / "run" / "bundle", sample_file=file, sample_share=1) as (client, _, _):
        found = client.post("/predict", json={"text": texts}).json()["predictions"]
        assert found[0]["text"].startswith(" was quite dull")
        assert found[1]["text"].startswith(" with sharp the good")
        assert client.post("/predict", json={"text": texts[0]}).json()["text"] == found[0]["text"]
        reply = client.post("/v2/models/writer/infer", json={"inputs": [tensor]}).json()
        assert reply["outputs"] == [
            {"name": "text", "datatype": "BYTES", "shape": [3], "data": [answer["text"] for answer in found]}
        ]
        about = client.get("/v2/models/writer").json()
        assert [entry["name"] for entry in (*about["inputs"], *about["outputs"])] == ["text", "text"]
        ids = [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [2, 3]}]
        reply = client.post("/v2/models/writer/infer", json={"inputs": ids})
        assert reply.status_code == 400
        assert "is expected by text-generation" in reply.json()["error"]
    assert len(read_rows(TASK, str(file), labelled=None).texts) == 7  # as unlabelled rows


@pytest.mark.slow
def test_stages_alone(home: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", home / "train.jsonl", "--validation", home / "validation.jsonl"]
    done = paredown(
        "finetune", home / "teacher", *data, "--peft", "lora", "--epochs", 1, "--output-dir", tmp_path / "t"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("accuracy ")[1].split()[0]) > 75
    even = ["--even", "--ffn", 0.5, "--output-dir", tmp_path / "even"]
    done = paredown("prune", home / "teacher", *data, *even)
    assert done.returncode == 0, done.stderr
    plain, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "even", output_loading_info=True)
    assert plain.config.intermediate_size == 32
    assert not report["missing_keys"]
    student = ["--layers", 1, "--epochs", 1, "--patience", 2, "--output-dir", tmp_path / "one"]
    done = paredown("distill", home / "teacher", *data, *student)
    assert done.returncode == 0, done.stderr
    onnx = ["--task", TASK.name, "--precision", "int8-weight", "--max-new-tokens", 4, "--train", home / "train.jsonl"]
    done = paredown("export", tmp_path / "one", *onnx, "--output-dir", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "onnx" / "artifact.json").read_text())["generation"]["max_new_tokens"] == 4


def test_what_makes_no_sense_is_refused(home: Path, tmp_path: Path) -> None:
    out, task = ["--output-dir", tmp_path / "x"], ["--task", TASK.name]
    train = [*task, "--train", home / "train.jsonl"]
    heads = paredown("prune", home / "teacher", *train, "--heads", 0.5, *out)
    assert heads.returncode == 2
    assert "head pruning is not supported for 'llama'" in heads.stderr
    refused(paredown("trim", home / "teacher", *train, *out), "the vocabulary stays")
    refused(paredown("augment", *train, "--output", tmp_path / "a.jsonl"), "augment is not supported")
    static = paredown("distill", home / "teacher", *train, "--static", *out)
    refused(static, "a static student is not supported")
    weights = paredown("finetune", home / "teacher", *train, "--class-weights", "balanced", *out)
    assert weights.returncode == 2
    refused(paredown("quantize", home / "teacher", *task, *out), "int8-dynamic: for text-generation")
    refused(paredown("export", home / "teacher", *task, "--lengths", "16,32", *out), "--lengths")
    assert open_checkpoint(home / "teacher").labels == ("log_probability", "likeliest")
    for line in ("lengths: [16]", "search: {minutes: 1}", "teachers: [./untrained]", "explain_rows: 2"):
        recipe = home / "wrong.yaml"
        recipe.write_text(f"{RECIPE}\n{line}\n")
        refused(paredown("run", recipe, "--dry-run"), line.partition(":")[0])
