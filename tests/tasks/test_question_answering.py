"""Questions about a text: cells, tokens, the choice of two ends, and F1 over words."""

import collections
import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import drawn_apart, paredown, refused
from examples import bert
from examples import questions as rows
from projects import Project, trained, write_splits
from serving import client_of

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint
from paredown.compress.models.output_kinds import OutputKind, answers
from paredown.compress.training.losses import chosen_tokens, supervised
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks import question_answering
from paredown.tasks.question_answering import NO_LABEL
from paredown.tasks.registry import TASKS

TASK = TASKS["question-answering"]
CONTEXT = "the good film and a dull plot"


def read(path: Path, **label: object):
    path.write_text(json.dumps({"question": "good", "context": CONTEXT, **label}) + "\n")
    return read_rows(TASK, str(path), names=("start", "end"))


@pytest.mark.parametrize(
    ("cell", "want"),
    [
        ({"text": ["good film", "film"], "answer_start": [4, 9]}, ((4, "good film"), (9, "film"))),
        ([{"text": "a dull", "answer_start": 18}], ((18, "a dull"),)),
        ({"text": [], "answer_start": []}, ()),
        (["dull plot"], ((20, "dull plot"),)),
        ("film", ((9, "film"),)),
        ("", ()),
    ],
)
def test_answers_are_read_as_squad_has_them_and_as_plain_text(cell: object, want: tuple, tmp_path: Path) -> None:
    rows = read(tmp_path / "rows.jsonl", answers=cell)
    assert rows.gold[0] == want
    assert rows.texts == (f"good{PAIR}{CONTEXT}",)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ({"text": ["film"], "answer_start": [4]}, "no 'film' at character 4"),
        ("the end", "no 'the end'"),
        ({"text": ["film", "plot"], "answer_start": [9]}, "one length"),
        (None, "no answer is an empty cell"),
        (7, "no answer is an empty cell"),
    ],
)
def test_an_answer_that_is_not_there_is_refused(cell: object, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why) as error:
        read(tmp_path / "rows.jsonl", answers=cell)
    assert "rows.jsonl, " in str(error.value)


def test_a_target_decodes_to_the_answer(teacher, tmp_path: Path) -> None:
    """[CLS] good [SEP] the good film and a dull plot [SEP]: the marks as logits give the answer back."""
    encoder = teacher.encoder(32)
    for cell, first, last, said in (("good film", 4, 5, "good film"), ("plot", 9, 9, "plot"), ("", 0, 0, "")):
        rows = read(tmp_path / "rows.jsonl", answers=cell)
        (marks,) = TASK.training_targets(rows, encoder)
        assert np.argwhere(marks[:, 0] == 1).ravel().tolist() == [first]
        assert np.argwhere(marks[:, 1] == 1).ravel().tolist() == [last]
        logits = 9.0 * marks
        (found,) = TASK.decode(logits, ("start", "end"), rows.texts, encoder)
        assert (found["answer"], CONTEXT[found["start"] : found["end"]]) == (said, said)
        assert found["score"] > 0.9
        assert TASK.metric(logits, TASK.gold(rows, encoder)) == 100


def test_a_truncated_answer_is_no_target_and_counts_as_missed(teacher, tmp_path: Path) -> None:
    rows = read(tmp_path / "rows.jsonl", answers="dull plot")
    (marks,) = TASK.training_targets(rows, teacher.encoder(10))  # "dull" is there, "plot" is not
    assert (marks == NO_LABEL).all()
    assert TASK.metric(np.zeros((10, 2)), TASK.gold(rows, teacher.encoder(10))) < 100
    batch = {"labels": torch.tensor(marks[None]), "attention_mask": torch.ones(1, 10)}
    assert float(supervised(torch.randn(1, 10, 2), batch, OutputKind.SPAN)) == 0


def test_ends_are_a_choice_among_real_tokens() -> None:
    logits, mask = torch.randn(2, 5, 2), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    lines = answers(logits, mask, OutputKind.SPAN).softmax(-1)
    assert lines.shape == (4, 5)
    torch.testing.assert_close(lines[1], logits[0, :, 1].softmax(-1))
    torch.testing.assert_close(lines[2, :3], logits[1, :3, 0].softmax(-1))
    assert float(lines[2:, 3:].sum()) == 0
    marks = torch.zeros(2, 5, 2, dtype=torch.long)
    marks[0, 3, 0] = marks[0, 4, 1] = 1
    marks[1] = NO_LABEL
    assert chosen_tokens(marks).tolist() == [3, 4, NO_LABEL, NO_LABEL]
    want = -(lines[0, 3].log() + lines[1, 4].log()) / 2
    got = supervised(logits, {"labels": marks, "attention_mask": mask}, OutputKind.SPAN)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("said", "true", "want"),
    [("The Good, film!", "good film", 1), ("good", "good film", 2 / 3), ("", "", 1), ("film", "", 0), ("the", "", 1)],
)
def test_f1_of_words_is_squads(said: str, true: str, want: float) -> None:
    assert question_answering.words_f1(said, true) == pytest.approx(want)


def squads_own_f1(a_gold: str, a_pred: str) -> float:
    """compute_f1 of SQuAD 2.0's evaluation script, word for word."""

    def normalize_answer(s: str) -> str:
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", s).split())

    def get_tokens(s: str) -> list[str]:
        return normalize_answer(s).split() if s else []

    gold_toks, pred_toks = get_tokens(a_gold), get_tokens(a_pred)
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def test_f1_of_words_is_that_of_squads_script() -> None:
    rng = np.random.default_rng(0)
    words = ["The", "an", "film", "Film,", "was", "(dull)", "1990s", "a"]
    for _ in range(300):
        said, true = (" ".join(rng.choice(words, rng.integers(0, 8))) for _ in range(2))
        assert question_answering.words_f1(said, true) == pytest.approx(squads_own_f1(true, said))


def test_two_models_are_compared_row_by_row() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 7, 2))
    theirs[:3] = ours[:3] + 1.0
    assert TASK.same_answers(ours, theirs, [3, 4]).tolist()[0]
    theirs[3:] = -ours[3:]
    assert TASK.same_answers(ours, theirs, [3, 4]).tolist() == [True, False]
    chances = TASK.probabilities(ours, [3, 4])
    assert chances.shape == (2, 2)
    assert ((chances >= 0) & (chances <= 1)).all()


# From a recipe to its bundle

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


def data(path: Path) -> None:
    parts = {"train": (400, 0), "validation": (200, 1), "test": (200, 2), "more": (60, 3)}
    made = drawn_apart(rows, parts, lambda row: row["context"])
    write_splits(path, made, without_labels={"more": ("question", "context")})


def train_teacher(path: Path) -> None:
    bert(path / "untrained", "QuestionAnswering")
    source = open_checkpoint(path / "untrained", TASK)
    trained(source, TASK, path / "train.jsonl", path / "teacher", epochs=4, batch_size=16, learning_rate=5e-3)


PROJECT = Project(RECIPE, data, train_teacher)


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


def test_answers_are_compared_by_characters_whatever_tokens_a_model_has() -> None:
    """One model has two tokens for "abcd", the other one: it begins where the first one does."""
    task, context = TASKS["question-answering"], "abcd ef"
    two = question_answering.Asked([context], [np.array([[-1, -1], [0, 2], [2, 4], [5, 7]])], [()])
    one = question_answering.Asked([context], [np.array([[-1, -1], [0, 4], [5, 7]])], [()])
    (ours,) = task.comparable(np.array([[0, 0], [1, 1], [2, 2], [3, 3.0]]), two)
    (theirs,) = task.comparable(np.array([[0, 0], [5, 1], [1, 5.0]]), one)
    assert ours.shape == theirs.shape == (len(context) + 2, 2)
    assert ours[[0, 1, 3, 6], 0].tolist() == [0, 1, 2, 3]
    assert ours[[0, 3, 5, 8], 1].tolist() == [0, 1, 2, 3]
    assert task.regrets([theirs], [theirs]) == 0
    assert 0.4 < task.regrets([ours], [theirs])[0] < 0.5  # of its start the teacher is sure that it is another one
