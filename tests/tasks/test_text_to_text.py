"""Text-to-text generation: reading, targets, ROUGE-L, decoding, distillation, and the way to a bundle."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn_apart, paredown, refused
from projects import Project, trained, write_splits
from serving import client_of
from writing import TASK, make_writer, write_rows
from writing import rows as rows_of_texts

from paredown.compress.config import Distill, Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.distillation.distill import distill
from paredown.compress.models.architectures import SEQ2SEQ
from paredown.compress.models.inference import forward, teacher_scores
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.models.seq2seq import depths
from paredown.compress.training.collate import stack
from paredown.compress.training.losses import NO_LABEL
from paredown.compress.training.seq2seq_targets import along, targets_of, training_rows
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.export.artifact import read_artifact
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError, check_files, read_manifest
from paredown.runtime.seq2seq_decoding import writer
from paredown.tasks import text_to_text

ROWS = [[5, 9, 1], [4, 6, 8, 3, 11, 12, 7, 1], [10, 1]]


@pytest.mark.parametrize(
    ("said", "true", "want"),
    [
        ("The film, good!", "the film good", 1),
        ("good film", "the good film", 0.8),
        ("film good", "good film", 0.5),
        ("", "", 1),
        ("", "film", 0),
        ("хороший фильм", "фильм", 2 / 3),
    ],
)
def test_rouge_l_is_of_words_in_their_order(said: str, true: str, want: float) -> None:
    assert text_to_text.rouge_l(said, true) == pytest.approx(want)


def test_rouge_l_is_googles() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = np.random.default_rng(0)
    words = ["The", "film", "was", "dull,", "good!", "42", "a", "plot-line"]
    for _ in range(200):
        said, true = (" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(2))
        assert text_to_text.rouge_l(said, true) == pytest.approx(scorer.score(true, said)["rougeL"].fmeasure)


def test_rows_are_texts_and_their_targets(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("source,summary\na long text,short\nanother,one\n")
    rows = read_rows(TASK, str(path))
    assert rows.gold.tolist() == ["short", "one"]
    assert rows.sample(1).renamed(("a",)).gold.tolist() in (["short"], ["one"])
    path.write_text("source,summary\na long text,\n")
    with pytest.raises(InputError, match="line 2: column 'summary' is empty"):
        read_rows(TASK, str(path))


def test_what_is_scored_is_the_text(tmp_path: Path) -> None:
    encoder = make_writer(tmp_path / "c").encoder(32)
    rows = read_rows(TASK, str(write_rows(tmp_path / "rows.jsonl", rows_of_texts(4, 0))))
    gold, targets = TASK.gold(rows, encoder), TASK.training_targets(rows, encoder)
    sequences = np.zeros((4, 9), dtype=np.int64)
    for row, target in zip(sequences, targets, strict=True):
        row[: len(target)] = target
    assert TASK.metric(sequences, gold) == 100
    assert TASK.further_metrics(sequences, gold)["exact"] == 100
    assert [a["text"] for a in TASK.decode(sequences, (), rows.texts, encoder)] == rows.gold.tolist()
    assert TASK.probabilities(sequences, [])[:, 0].tolist() == [len(t) + 1 for t in targets]
    other = sequences.copy()
    other[1, 0] = 7
    assert TASK.same_answers(other, sequences).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_a_model_writes_what_it_would_without_a_cache(kind: str, tmp_path: Path) -> None:
    checkpoint = make_writer(tmp_path / "c", kind, spread=0.4)
    model, batch = load(checkpoint, TASK), checkpoint.encoder(32).pad(ROWS)
    found = forward(model, batch)["sequences"]
    assert found.shape == (3, 64)
    said = torch.zeros(3, 1, dtype=torch.long)
    with torch.inference_mode():
        for _ in range(8):
            given = {name: torch.from_numpy(array) for name, array in batch.items()}
            logits = model(**given, decoder_input_ids=said, use_cache=False).logits[:, -1]
            logits[:, 0] = -torch.inf
            said = torch.cat([said, logits.argmax(-1, keepdim=True)], dim=1)
    for ours, theirs in zip(found, said[:, 1:].numpy(), strict=True):
        count = int((ours != 0).sum())
        np.testing.assert_array_equal(ours[: min(count, 8)], theirs[: min(count, 8)])


def test_the_loop_stops_where_every_row_has_ended_and_refuses_no_numbers() -> None:
    calls = []

    def encoder(batch: dict) -> dict:
        return {"cross.0.key": np.zeros((2, 1, 3, 2)), "cross.0.value": np.zeros((2, 1, 3, 2))}

    def decoder(batch: dict) -> dict:
        calls.append(batch["past.0.key"].shape[2])
        logits = np.zeros((2, 5))
        logits[:, 0] = 9  # padding is never written
        logits[0, [3, 1][min(len(calls) - 1, 1)]] = 1
        logits[1, [3, 4, 1][min(len(calls) - 1, 2)]] = bad
        past = np.zeros((2, 1, len(calls), 2))
        return {"logits": logits, "present.0.key": past, "present.0.value": past}

    rules: dict = {"start_id": 2, "eos_id": 1, "pad_id": 0, "max_new_tokens": 6}
    batch = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}
    bad = 1.0
    found = writer(encoder, decoder, rules)(batch)["sequences"]
    assert found.tolist() == [[3, 1, 0, 0, 0, 0], [3, 4, 1, 0, 0, 0]]
    assert calls == [0, 1, 2]
    bad = np.nan
    with pytest.raises(ValueError, match="not finite"):
        writer(encoder, decoder, rules)(batch)


def test_rows_learn_along_their_own_text_or_the_teachers(tmp_path: Path) -> None:
    model = load(make_writer(tmp_path / "c", spread=0.4), TASK)
    said = teacher_scores(model, ROWS)
    own = np.array([7, 6, 1])
    rows = along(model, ROWS, [own, np.array(NO_LABEL), own], said)
    assert rows[0]["targets"].tolist() == rows[0]["labels"].tolist() == [7, 6, 1]
    assert rows[0]["decoder_input_ids"].tolist() == [0, 7, 6]
    assert rows[1]["targets"].tolist() == targets_of(model, said)[1].tolist()
    assert set(rows[1]["labels"].tolist()) == {NO_LABEL}
    batch = stack(rows, 0)
    assert batch["labels"].shape == batch["targets"].shape == batch["decoder_input_ids"].shape
    assert batch["input_ids"].shape == (3, 8)
    assert (batch["targets"][0, 3:] == NO_LABEL).all()


def test_it_learns_and_its_student_has_fewer_layers(tmp_path: Path) -> None:
    checkpoint = make_writer(tmp_path / "c")
    encoder = checkpoint.encoder(32)
    rows = read_rows(TASK, str(write_rows(tmp_path / "rows.jsonl", rows_of_texts(64, 0))))
    model, ids, labels = load(checkpoint, TASK), encoder.ids(rows.texts), TASK.training_targets(rows, encoder)

    def loss() -> float:
        with torch.inference_mode():
            return float(model(**stack(training_rows(model, ids, labels), 0)).loss)

    before = loss()
    settings = Finetune(
        epochs=2, batch_size=8, learning_rate=5e-3, freeze_embeddings=False, patience=9, evaluations_per_epoch=1
    )
    finetune(model, TrainingData(ids, labels, validation=(ids[:8], labels[:8])), settings, seed=0)
    assert loss() < 0.8 * before
    student = distill(
        model, TrainingData(ids[:16], labels[:16]), Distill(layers=2, decoder_layers=1, epochs=1, batch_size=8)
    )
    assert depths(student) == (2, 1)
    saved = save(student, checkpoint, tmp_path / "student")
    again = load(saved, TASK)
    batch = encoder.pad(ids[:3])
    np.testing.assert_array_equal(forward(again, batch)["sequences"], forward(student, batch)["sequences"])
    assert (again.config.num_layers, again.config.num_decoder_layers) == (2, 1)
    with pytest.raises(InputError, match="the first one in"):
        distill(model, TrainingData(ids[:16]), Distill(layers=[1], epochs=1))
    with pytest.raises(InputError, match="width"):
        distill(model, TrainingData(ids[:16]), Distill(layers=1, width=16, hidden_weight=0))


def test_a_checkpoint_that_cannot_write_is_refused(tmp_path: Path) -> None:
    path = make_writer(tmp_path / "c").path
    rules = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps({**rules, "max_new_tokens": 7}))
    assert open_checkpoint(path, TASK).generation["max_new_tokens"] == 7
    (path / "generation_config.json").write_text(json.dumps({**rules, "eos_token_id": [1, 2]}))
    with pytest.raises(InputError, match="'eos_token_id' is"):
        open_checkpoint(path, TASK)
    (path / "generation_config.json").write_text(json.dumps({**rules, "eos_token_id": 4}))
    with pytest.raises(InputError, match="does not end with the token 4"):
        open_checkpoint(path, TASK)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "bart"}))
    with pytest.raises(InputError, match="supported: t5, mt5, marian"):
        open_checkpoint(path, TASK)
    (path / "config.json").write_text(json.dumps({**config, "model_type": "marian"}))
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="two SentencePiece models"):
        open_checkpoint(path, TASK)


# From a recipe to its bundle

RECIPE = """
name: good-words
task: text-to-text
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl, unlabeled: ./more.jsonl}
max_length: 16
max_new_tokens: 6
calibration_rows: 4
robustness_rows: 8
adapt:
  - finetune: {epochs: 2, batch_size: 16, learning_rate: 0.003, freeze_embeddings: false}
models:
  - name: shallow
    steps:
      - distill: {layers: 2, decoder_layers: 1, epochs: 1, label_weight: 0.5, learning_rate: 0.003}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino}
parity: {int8-dynamic: {min_agreement: 0, max_metric_drop: 60}}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 8, batch_size: 4}
choose: {max_drop: 90}
"""


def data(path: Path) -> None:
    parts = {"train": (240, 0), "validation": (24, 1), "test": (24, 2), "more": (16, 3)}
    made = drawn_apart(rows_of_texts, parts, lambda row: row["text"])
    write_splits(path, made, without_labels={"more": ("text",)})


def train_teacher(path: Path) -> None:
    """It has learned a little."""
    source = make_writer(path / "untrained")
    trained(source, TASK, path / "train.jsonl", path / "teacher", epochs=4, batch_size=16, learning_rate=5e-3)


PROJECT = Project(RECIPE, data, train_teacher)


@pytest.mark.slow
def test_the_run_chooses_and_reports_bleu_beside_the_metric(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric"] == "ROUGE-L"
    assert choice["baseline"]["metric_validation"] > 20
    assert set(choice["chosen"]["beside_test"]) == {"BLEU", "exact"}
    assert len([c for c in choice["candidates"] if c.get("metric_validation") is not None]) == 7
    assert choice["chosen"]["typos_metric"] is not None
    assert choice["chosen"]["length_metric"] is None
    report = (ran / "run" / "report.html").read_text()
    assert "<th>BLEU</th>" in report
    entries = json.loads((ran / "run" / "measurements.json").read_text())["candidates"]
    exact = [e["parity"]["agreement"] for e in entries if e["precision"] == "fp32" and "parity" in e]
    assert exact == [1.0] * len(exact)
    int8 = next(e for e in entries if e["name"] == "teacher/onnxruntime/int8-dynamic")
    assert int8["details"]["decoder"]["agreement"] > 0.9


@pytest.mark.slow
def test_the_bundle_proves_itself_without_us_and_answers(ran: Path, tmp_path: Path) -> None:
    bundle = ran / "run" / "bundle"
    manifest = read_manifest(bundle)
    assert manifest["generation"]["max_new_tokens"] == 6
    assert manifest["labels"] == []
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = rows_of_texts(1, 9)[0]
    done = paredown("predict", bundle, "--text", row["text"])
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout)["text"], str)
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "24 rows" in done.stdout
    refused(paredown("pack", bundle, "--layout", "triton", "--output-dir", tmp_path / "x"), "token by token")


@pytest.mark.slow
def test_a_decoder_that_was_changed_is_not_opened(ran: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    decoder = bundle / manifest["generation"]["decoder"]
    decoder.write_bytes(decoder.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="decoder"):
        check_files(bundle, manifest)


@pytest.mark.slow
def test_a_changed_text_is_found(ran: Path, tmp_path: Path) -> None:
    from paredown.runtime.selftest import check_golden, open_model

    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    session, encoder = open_model(bundle, manifest)
    assert check_golden(bundle, manifest, session, encoder) == 0
    golden = json.loads((bundle / "golden.json").read_text())
    for entry in golden["rows"]:
        entry["output"] = [5, 1, 0, 0, 0, 0]
        entry["answer"] = encoder.text(entry["output"])
    (bundle / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="have another text"):
        check_golden(bundle, manifest, session, encoder)


@pytest.mark.slow
def test_it_is_served(ran: Path) -> None:
    ask = [row["text"] for row in rows_of_texts(2, 9)]
    with client_of(bundle=ran / "run" / "bundle") as (client, _, _):
        found = client.post("/predict", json={"text": ask}).json()["predictions"]
        tensors = [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ask}]
        reply = client.post("/v2/models/good-words/infer", json={"inputs": tensors}).json()
        outputs = {tensor["name"]: tensor for tensor in reply["outputs"]}
        assert outputs["text"]["data"] == [answer["text"] for answer in found]
        assert outputs["sequences"]["shape"] == [2, 6]
        assert outputs["sequences"]["datatype"] == "INT64"
        ids = [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [4, 1]}]
        reply = client.post("/v2/models/good-words/infer", json={"inputs": ids})
        assert reply.status_code == 200, reply.text
        about = client.get("/v2/models/good-words").json()
        assert {tensor["name"] for tensor in about["outputs"]} == {"text", "sequences"}


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "test.jsonl"]
    more = ["--validation", ran / "validation.jsonl", "--max-length", 16, "--epochs", 0.5]
    lora = ["--peft", "lora", "--max-new-tokens", 5, "--output-dir", tmp_path / "tuned"]
    done = paredown("finetune", ran / "teacher", *data, *more, *lora)
    assert done.returncode == 0, done.stderr
    assert "ROUGE-L" in done.stdout
    assert open_checkpoint(tmp_path / "tuned", TASK).generation["max_new_tokens"] == 5
    one = ["--layers", 1, "--output-dir", tmp_path / "one"]
    done = paredown("distill", tmp_path / "tuned", *data, *more, *one)
    assert done.returncode == 0, done.stderr
    onnx = ["--to", "openvino", "--precision", "int8-static", "--max-length", 16]
    done = paredown("export", tmp_path / "one", *data, *onnx, "--output-dir", tmp_path / "ov")
    assert done.returncode == 0, done.stderr
    assert "of the texts are the checkpoint's" in done.stdout
    assert read_artifact(tmp_path / "ov").files[::2] == ("encoder.xml", "decoder.xml")
    done = paredown("bench", tmp_path / "ov", ran / "run" / "bundle", "--task", TASK.name, "--data",
                    ran / "validation.jsonl", "--min-seconds", 0.05, "--min-repeats", 4, "--processes", 2,
                    "--rounds", 2, "--batch-size", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused(paredown("prune", ran / "teacher", *data, "--output-dir", tmp_path / "x"), "not supported")
    refused(paredown("export", ran / "teacher", "--task", TASK.name, "--precision", "fp16", "--output-dir",
                     tmp_path / "x"), "onnxruntime runs fp32, int8-dynamic")  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "distill: {layers: 2,",
            "prune: {ffn: 0.5}\n      - distill: {layers: 2,",
            "prune is not supported for text-to-text",
        ),
        ("max_length: 16", "max_length: 16\nlengths: [8]", "lengths is not supported for text-to-text"),
        ("precision: int8-dynamic", "precision: int8-static", "for text-to-text, onnxruntime runs"),
        ("task: text-to-text\n", "", "max_new_tokens is not supported for text-classification"),
    ],
)
def test_a_recipe_that_asks_for_more_is_refused(home: Path, tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in RECIPE
    (home / "other.yaml").write_text(RECIPE.replace(old, new))
    refused(paredown("run", home / "other.yaml", "--dry-run"), why)
