"""Vectors of texts the whole way: one recipe, then its bundle behind every door."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from conftest import drawn_apart, paredown, refused, write_tokenizer
from examples import POOLING
from examples import passages as rows
from same_process import SameProcess
from serving import client_of

from paredown.benchmarks.measuring import interleaved
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint
from paredown.tasks.registry import TASKS

TASK = TASKS["sentence-embedding"]
RECIPE = """
name: finder
task: sentence-embedding
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.csv, test: ./test.jsonl, unlabeled: ./more.jsonl, groups: kind}
max_length: 32
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.8, ffn: 0.8, multiple: 8, recover: {epochs: 2, learning_rate: 0.003}}
      - trim: {frequent: 0}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 2}
      - finetune: {epochs: 1, learning_rate: 0.001}
  - name: static
    steps:
      - static: {epochs: 8, width: 16, learning_rate: 0.01}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, an encoder in the layout of sentence-transformers, what `finetune` made of it, and the recipe."""
    path = tmp_path_factory.mktemp("home")
    parts = {"train": (400, 0), "test": (150, 1), "validation": (150, 7), "more": (60, 8)}
    made = drawn_apart(rows, parts, lambda row: row["query"])
    for name in ("train", "test"):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made[name]))
    cells = "".join(",".join(row.values()) + "\n" for row in made["validation"])
    (path / "validation.csv").write_text(f"query,passage,kind\n{cells}")
    alone = [{"text": row["query"], "kind": row["kind"]} for row in made["more"]]
    (path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alone))
    base = path / "base"
    (base / "1_Pooling").mkdir(parents=True)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=write_tokenizer(base), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(base)
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{name}", "path": where} for name, where in names.items()]
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    data = ["--task", TASK.name, "--train", "train.jsonl", "--validation", "validation.csv"]
    done = paredown("finetune", "base", *data, "--epochs", 6, "--batch-size", 16, "--learning-rate", 2e-3,
                    "--no-freeze-embeddings", "--output-dir", "teacher", cwd=path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MRR " in done.stdout
    (path / "recipe.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def ran(home: Path) -> Path:
    """The same directory with the recipe's run in `run`; what is slow is in one process, for no time is judged here."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_a_vector_is_that_of_sentence_transformers_layout(home: Path) -> None:
    """What is left beside the weights is enough for any other library: the mean of the encoder's own states."""
    checkpoint = open_checkpoint(home / "teacher", TASK)
    plain = transformers.AutoModel.from_pretrained(home / "teacher").eval()
    batch = checkpoint.encoder().pad(checkpoint.encoder().ids(["good film", "the dull and weak plot"]))
    ours = forward(load(checkpoint, TASK), batch)["logits"]
    mask = torch.from_numpy(batch["attention_mask"])
    with torch.inference_mode():
        hidden = plain(input_ids=torch.from_numpy(batch["input_ids"]), attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    np.testing.assert_allclose(ours, torch.nn.functional.normalize(mean).numpy(), atol=1e-6)
    assert json.loads((home / "teacher" / "1_Pooling" / "config.json").read_text()) == POOLING
    assert (home / "teacher" / "modules.json").read_bytes() == (home / "base" / "modules.json").read_bytes()


@pytest.mark.slow
def test_the_run_chooses_by_the_place_of_the_right_passage(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert {entry["metric"] for entry in choice["candidates"]} == {"MRR"}
    assert choice["baseline"]["metric_validation"] > 80
    assert choice["chosen"]["metric_validation"] > 65
    static = next(c for c in choice["candidates"] if c["name"] == "static/onnxruntime/fp32")
    assert static["metric_validation"] > 60
    assert static["macro_f1"] is None
    assert {part["name"] for part in static["slices"]["group"]} == {"short", "long"}
    assert sum(part["rows"] for part in static["slices"]["length"]) == 150
    whole = [c for c in choice["candidates"] if c.get("metric_validation") and c["name"].startswith("cut/")]
    assert len(whole) == 3
    assert all(c["typos_metric"] is not None for c in choice["candidates"])


@pytest.mark.slow
def test_the_bundle_answers_behind_every_door(ran: Path, tmp_path: Path) -> None:
    bundle, texts = ran / "run" / "bundle", ["a good dull film", "the plot"]
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "150 rows" in done.stdout
    done = paredown("predict", bundle, "--text", texts[0], "--text", texts[1])
    first, second = (json.loads(line)["embedding"] for line in done.stdout.splitlines())
    assert len(first) == len(second) == 32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=bundle, sample_file=file, sample_share=1) as (client, _, _):
        assert client.post("/predict", json={"text": texts[0]}).json()["embedding"] == pytest.approx(first, abs=0.05)
        reply = client.post("/v2/models/finder/infer", json={"inputs": [tensor]}).json()
        assert [(out["name"], out["datatype"], out["shape"]) for out in reply["outputs"]] == [
            ("embedding", "FP32", [2, 32])
        ]
        assert reply["outputs"][0]["data"][:32] == pytest.approx(first, abs=0.05)
        about = client.get("/v2/models/finder").json()
        assert about["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 32]}]
        assert about["drift"]["quantities"]["confidence"]
        refused_pair = client.post("/predict", json={"text": "a", "text_pair": "b"})
        assert refused_pair.status_code == 400
    assert len(read_rows(TASK, str(file), labelled=None).texts) == 3  # as unlabelled rows
    edges = json.loads((bundle / "reference.json").read_text())["quantities"]["confidence"]["edges"]
    assert -1 <= min(edges) < max(edges) <= 1  # towards the mean vector


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--validation", ran / "validation.csv"]
    lora = ["--peft", "lora", "--epochs", 1, "--patience", 3, "--output-dir", tmp_path / "tuned"]
    done = paredown("finetune", ran / "teacher", *data, *lora)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("MRR ")[1].split()[0]) > 80
    even = ["--even", "--ffn", 0.5, "--output-dir", tmp_path / "even"]
    done = paredown("prune", ran / "teacher", *data[:2], "--train", ran / "more.jsonl", *even)  # texts are enough
    assert done.returncode == 0, done.stderr
    assert transformers.AutoModel.from_pretrained(tmp_path / "even").config.intermediate_size == 32
    assert (tmp_path / "even" / "1_Pooling" / "config.json").is_file()
    to = ["--to", "openvino", "--train", ran / "more.jsonl", "--output-dir", tmp_path / "ir"]
    done = paredown("export", tmp_path / "even", "--task", TASK.name, *to)
    assert done.returncode == 0, done.stderr
    done = paredown("bench", ran / "run" / "bundle", tmp_path / "ir", "--data", ran / "test.jsonl", "--task",
                    TASK.name, "--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2,
                    "--json", tmp_path / "bench.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())["artifacts"]
    assert [(entry["metric_name"], entry["metric"] > 50) for entry in found] == [("MRR", True)] * 2
    done = paredown("init", ran / "teacher", "--task", TASK.name, "--train", ran / "more.jsonl", "--validation",
                    ran / "validation.csv", "--output", tmp_path / "recipe.yaml")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = paredown("run", tmp_path / "recipe.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_what_is_refused(home: Path, tmp_path: Path) -> None:
    text = (home / "recipe.yaml").read_text().replace("./", f"{home}/")

    def changed(old: str, new: str, *words: str) -> None:
        assert old in text
        (tmp_path / "recipe.yaml").write_text(text.replace(old, new))
        refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), *words)

    changed("targets:", "  - name: both\n    cascade: {first: static, then: cut}\ntargets:", "'both'", "a vector")
    changed("width: 16", "width: 16, label_weight: 1", "label_weight")
    changed("{layers: 1,", "{layers: 1, width: 16, hidden_weight: 0,", "as wide as the teacher's")
    changed("models:", "adapt:\n  - augment: {}\nmodels:", "augment", "pairs")
    changed("models:", f"teachers: [{home}/teacher]\nmodels:", "one teacher")
    changed(f"train: {home}/train.jsonl", f"train: {home}/more.jsonl", "finetune learns from pairs")
    changed(f"validation: {home}/validation.csv", f"validation: {home}/more.jsonl", "pairs of texts are needed")
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,text_pair,score\ngood,fine,1\nbad,fine,0\n")
    changed(f"test: {home}/test.jsonl", f"test: {numbers}", "numbers.csv: its pairs have numbers")
    data = ["--task", TASK.name, "--train", home / "train.jsonl", "--output-dir", tmp_path / "out"]
    refused(paredown("update", home / "teacher", *data, "--new", home / "test.jsonl"), "update is not supported")
    refused(paredown("distill", home / "teacher", *data, "--width", 16), "--width", "as wide as the teacher's")
