"""Word-aligned tags: reading, alignment, spans (against seqeval), decoding, and learning them."""

import json
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tagging
from conftest import drawn_apart, paredown, refused
from projects import Project
from projects import write_jsonl as write_rows
from serving import client_of
from tagging import NAMES, TASK, sentences, write_conll, write_jsonl

from paredown.compress.config import Distill, Prune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.pruning.prune import prune
from paredown.compress.types import TrainingData
from paredown.export.predictor import Predictor
from paredown.pipeline.results.side_by_side import adopted, correct
from paredown.runtime.answers import spans
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import batches_of, per_row, run_rows
from paredown.tasks import token_classification


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("tags")
    return read_rows(TASK, str(write_jsonl(path / "train.jsonl", sentences(300, 1))), names=NAMES)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("tags")
    return read_rows(TASK, str(write_conll(path / "validation.conll", sentences(100, 2))), names=NAMES)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, rows) -> Checkpoint:
    return tagging.trained(tmp_path_factory.mktemp("tags"), rows)


def f1(model, checkpoint: Checkpoint, rows) -> float:
    encoder = checkpoint.encoder()
    outputs = run_rows(partial(forward, model), encoder.ids(rows.texts), 0, "logits")
    return TASK.metric(outputs, TASK.gold(rows, encoder))


def test_jsonl_and_conll_give_the_same_rows(tmp_path: Path) -> None:
    made = sentences(20, 3)
    a = read_rows(TASK, str(write_jsonl(tmp_path / "a.jsonl", made)), names=NAMES)
    b = read_rows(TASK, str(write_conll(tmp_path / "b.conll", made)), names=NAMES)
    assert a.texts == b.texts == tuple(" ".join(words) for words, _ in made)
    for x, y, (_, given) in zip(a.gold, b.gold, made, strict=True):
        assert x.tolist() == y.tolist()
        assert [NAMES[i] for i in x] == given


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"tokens": ["a", "b"], "tags": ["O"]}', ["line 1", "2 words", "1 tags"]),
        ('{"tokens": ["a"], "tags": ["B-plaec"]}', ["line 1", "B-plaec", "B-place"]),
        ('{"tokens": [1.5], "tags": ["O"]}', ["line 1", "tokens", "list of words"]),
        ('{"tokens": [], "tags": []}', ["line 1", "empty"]),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, line: str, words: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(InputError) as error:
        read_rows(TASK, str(tmp_path / "a.jsonl"), names=NAMES)
    assert all(word in str(error.value) for word in words), error.value


def test_spans_and_f1_are_those_of_seqeval() -> None:
    scoring = pytest.importorskip("seqeval.metrics")
    names = ("O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "E-b", "S-b")
    rng = random.Random(0)
    for _ in range(200):
        gold, got = ([[rng.choice(names) for _ in range(n)] for n in (7, 1, 4)] for _ in range(2))
        places = [np.arange(0, 7), np.arange(7, 8), np.arange(8, 12)]
        aligned = token_classification.Aligned(names, [np.array([names.index(t) for t in row]) for row in gold], places)
        outputs = np.eye(len(names))[[names.index(t) for row in got for t in row]]
        want = 100 * scoring.f1_score(gold, got, zero_division=0)
        assert TASK.metric(outputs, aligned) == pytest.approx(want)


def test_tags_without_prefixes_are_scored_word_by_word() -> None:
    assert spans(["NOUN", "VERB", "O"]) == {("NOUN", 0, 0), ("VERB", 1, 1)}


def test_a_label_stands_at_the_first_token_of_its_word(teacher: Checkpoint, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [(["bobs", "went", "newville"], ["B-person", "O", "B-place"])])
    rows = read_rows(TASK, str(path), names=NAMES)
    (labels,) = TASK.training_targets(rows, teacher.encoder())
    none = token_classification.NO_LABEL
    assert labels.tolist() == [none, 0, none, 3, 1, none, none]  # [CLS] bob ##s went new ##ville [SEP]
    (words,) = teacher.encoder().words(["bobs  went\tnewville"])
    assert words.first == [1, 3, 4]
    assert words.spans == [(0, 4), (6, 10), (11, 19)]


def test_words_that_are_cut_off_are_missed_not_forgotten(teacher: Checkpoint, rows) -> None:
    encoder = teacher.encoder(4)
    gold = TASK.gold(rows, encoder)
    perfect = np.zeros((sum(len(row) for row in encoder.ids(rows.texts)), len(NAMES)))
    for tags_of, places in zip(gold.tags, gold.places, strict=True):
        for tag, place in zip(tags_of, places, strict=True):
            perfect[place if place >= 0 else 0, tag if place >= 0 else 3] = 1
    assert (np.concatenate(gold.places) < 0).any()
    assert TASK.metric(perfect, gold) < 80


def test_every_line_is_a_real_token(teacher: Checkpoint, rows) -> None:
    ids = teacher.encoder().ids(rows.texts[:9])
    outputs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits", batch_size=4)
    assert outputs.shape == (sum(map(len, ids)), len(NAMES))
    for row, part in zip(ids, per_row(outputs, ids), strict=True):
        alone = run_rows(partial(forward, load(teacher, TASK)), [row], 0, "logits")
        np.testing.assert_allclose(part, alone, atol=1e-5)


def test_it_learns_and_so_do_a_cut_and_a_student(teacher: Checkpoint, rows, held_out) -> None:
    from paredown.compress.config import Recover
    from paredown.compress.distillation.distill import distill, train_student

    model = load(teacher, TASK)
    assert f1(model, teacher, held_out) > 90
    ids = teacher.encoder().ids(rows.texts)
    labels = TASK.training_targets(rows, teacher.encoder())
    lesson = Distill(layers=1, epochs=3, learning_rate=5e-3, label_weight=0.5, relation_weight=0.1, patience=2)
    student = distill(model, TrainingData(ids, labels), lesson, seed=0)
    assert f1(student, teacher, held_out) > 85
    cut = load(teacher, TASK)
    prune(cut, batches_of(ids[:64], 0), Prune(heads=0.5, ffn=0.5, multiple=8))
    train_student(cut, model, TrainingData(ids), Recover(epochs=2, learning_rate=2e-3), seed=0)
    assert f1(cut, teacher, held_out) > 85


def test_entities_are_characters_of_the_text(teacher: Checkpoint) -> None:
    encoder, text = teacher.encoder(), "  Bobs went to (New York), then saw ann."
    model = partial(forward, load(teacher, TASK))
    texts = [text, "then"]
    (answer, none) = TASK.decode(run_rows(model, encoder.ids(texts), 0, "logits"), NAMES, texts, encoder)
    assert [(e["label"], e["text"]) for e in answer["entities"]] == [
        ("person", "Bobs"), ("place", "New York"), ("person", "ann"),
    ]  # fmt: skip
    assert all(text[e["start"] : e["end"]] == e["text"] and 0 < e["score"] <= 1 for e in answer["entities"])
    assert none == {"entities": []}


# From a recipe to its bundle

RECIPE = """
name: places
task: token-classification
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.conll, test: ./test.jsonl, unlabeled: ./unlabeled.jsonl}
max_length: 32
lengths: [16]
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.6, ffn: 0.5, multiple: 8, recover: {epochs: 1, learning_rate: 0.003, label_weight: 0.5}}
      - trim: {frequent: 0}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 10}
"""
TEXT = "  Bobs went to (New York), then saw ann."


def data(path: Path) -> None:
    parts = {"train": (300, 1), "validation": (100, 2), "test": (100, 3), "unlabeled": (50, 4)}
    made = drawn_apart(sentences, parts, lambda row: " ".join(row[0]))
    write_conll(path / "validation.conll", made["validation"])
    for name in ("train", "test"):
        write_jsonl(path / f"{name}.jsonl", made[name])
    write_rows(path / "unlabeled.jsonl", [{"text": " ".join(words)} for words, _ in made["unlabeled"]])


def train_teacher(path: Path) -> None:
    tagging.trained(path, read_rows(TASK, str(path / "train.jsonl"), names=NAMES))


PROJECT = Project(RECIPE, data, train_teacher)


@pytest.mark.slow
def test_the_run_chooses_by_f1(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["chosen"]["metric"] == "F1"
    assert choice["baseline"]["metric_validation"] > 90
    assert len(choice["candidates"]) == 5
    for entry in choice["candidates"]:
        lo, hi = entry["metric_validation_ci"]
        assert lo <= entry["metric_validation"] <= hi
        assert entry["drop_upper_95"] >= entry["drop_validation"]
        assert 0 <= entry["mcnemar_p"] <= 1
    assert choice["baseline"]["drop_validation"] == 0
    assert choice["baseline"]["macro_f1"] is None
    assert choice["chosen"]["typos_drop"] is not None
    assert choice["chosen"]["length_drop"] is None  # its tags would be twice as many
    assert {part["rows"] for part in choice["chosen"]["slices"]["length"]} != {100}
    report = (ran / "run" / "report.html").read_text()
    assert "capitals: drop" in report
    assert "worst label" not in report
    assert "macro F1" not in report


@pytest.mark.slow
def test_a_changed_golden_answer_is_found(ran: Path, tmp_path: Path) -> None:
    from paredown.runtime.manifest import BundleError, read_manifest
    from paredown.runtime.selftest import check_golden, open_model

    bundle = shutil.copytree(ran / "run" / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    session, encoder = open_model(bundle, manifest)
    golden = json.loads((bundle / "golden.json").read_text())
    golden["rows"][0]["output"][1][0] += 1.0
    (bundle / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(BundleError, match="golden row 0"):
        check_golden(bundle, manifest, session, encoder)


@pytest.mark.slow
def test_predict_gives_entities(ran: Path) -> None:
    (answer,) = Predictor(ran / "run" / "bundle")([TEXT])
    assert ("person", "Bobs") in [(e["label"], e["text"]) for e in answer["entities"]]
    assert all(TEXT[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    done = paredown("predict", "run/bundle", "--text", TEXT, cwd=ran)
    assert done.returncode == 0, done.stderr
    assert "Bobs" in done.stdout


@pytest.mark.slow
def test_it_is_served(ran: Path) -> None:
    predictor = Predictor(ran / "run" / "bundle")
    texts = [TEXT, "ann", "then went to oslo"]
    with client_of(bundle=ran / "run" / "bundle") as (client, _, _):
        assert client.post("/predict", json={"text": TEXT}).json()["entities"] == predictor([TEXT])[0]["entities"]
        given = [{"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}]
        found = client.post("/v2/models/places/infer", json={"inputs": given}).json()
        made = {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in found["outputs"]}
        lengths = [len(row) for row in predictor.encoder.ids(texts)]
        assert made["scores"].shape == made["logits"].shape == (3, max(lengths), len(NAMES))
        assert [(row != "").sum() for row in made["label"]] == lengths
        about = client.get("/v2/models/places").json()
        assert next(out["shape"] for out in about["outputs"] if out["name"] == "label") == [-1, -1]


@pytest.mark.slow
def test_bench_and_triton(ran: Path, tmp_path: Path) -> None:
    options = ["--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2, "--threads", 1]
    paths = ["run/bundle"]
    done = paredown("bench", *paths, "--data", "test.jsonl", "--json", tmp_path / "b.json", *options, cwd=ran)
    assert done.returncode == 0, done.stderr
    chosen = json.loads((ran / "run" / "choice.json").read_text())["chosen"]
    first = json.loads((tmp_path / "b.json").read_text())["artifacts"][0]
    assert first["metric"] == pytest.approx(chosen["metric_test"])
    assert paredown("pack", "run", "--layout", "triton", "--output-dir", tmp_path / "t", cwd=ran).returncode == 0
    assert f"dims: [ -1, {len(NAMES)} ]" in (tmp_path / "t" / "places" / "config.pbtxt").read_text()


@pytest.mark.slow
def test_stages_alone(home: Path, tmp_path: Path) -> None:
    tagged = ["--task", "token-classification", "--train", "train.jsonl", "--validation", "validation.conll"]
    done = paredown("finetune", "untrained", *tagged, "--epochs", 1, "--output-dir", tmp_path / "a", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "F1" in done.stdout
    done = paredown(
        "distill", "teacher", *tagged, "--layers", 1, "--epochs", 1, "--output-dir", tmp_path / "b", cwd=home
    )
    assert done.returncode == 0, done.stderr
    done = paredown("export", "teacher", "--output-dir", tmp_path / "c", cwd=home)  # the checkpoint says its task
    assert done.returncode == 0, done.stderr
    static = ["--static", "--epochs", 20, "--learning-rate", 0.02, "--output-dir", tmp_path / "d"]
    done = paredown("distill", "teacher", *tagged, *static, cwd=home)
    assert done.returncode == 0, done.stderr
    done = paredown(
        "init", "teacher", *tagged[2:], "--output", tmp_path / "r.yaml", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task: token-classification" in (tmp_path / "r.yaml").read_text()


@pytest.mark.slow
def test_new_tags_are_learned_and_the_old_ones_are_kept(ran: Path, tmp_path: Path) -> None:
    """Also the class weights, the search and the check against an older bundle count words where they are meant to."""
    words = ["ann", "new", "then", "york"]  # each row once: rows that are the same cannot be held out
    rows = [
        (
            [*words, *["then"] * (i % 6), *["ann"] * (i // 6)],
            ["B-person", "B-food", "O", "B-place", *["O"] * (i % 6), *["B-person"] * (i // 6)],
        )
        for i in range(30)
    ]
    write_jsonl(tmp_path / "later.jsonl", rows + sentences(30, 9))
    tagged = ["--task", "token-classification", "--train", "train.jsonl", "--validation", "validation.conll"]
    quick = ["--learning-rate", 0.002, "--batch-size", 16, "--output-dir", tmp_path / "grown"]
    done = paredown("update", "teacher", *tagged, "--new", tmp_path / "later.jsonl", "--epochs", 30, *quick, cwd=ran)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "grown" / "update.json").read_text())
    assert found["new_labels"] == ["B-food"]
    assert found["new_after"] > found["new_before"] + 5
    assert found["forgetting"] < 10
    weighted = ["--class-weights", "balanced", "--patience", 1, "--epochs", 1, "--output-dir", tmp_path / "weighted"]
    assert paredown("finetune", tmp_path / "grown", *tagged, *weighted, cwd=ran).returncode == 0
    searched = ["--minutes", 1, "--trials", 2, "--epochs", 1, "--output-dir", tmp_path / "searched"]
    done = paredown("tune", "teacher", *tagged, *searched, cwd=ran)
    assert done.returncode == 0, done.stderr
    (bundle,) = adopted([ran / "run" / "bundle"], tmp_path / "scratch", TASK, 32)
    old = correct(bundle, read_rows(TASK, str(ran / "test.jsonl"), names=NAMES))
    swapped = read_rows(TASK, str(ran / "test.jsonl"), names=NAMES[::-1]).renamed(NAMES)
    assert np.array_equal(correct(bundle, swapped), old)


def test_augment_is_refused_for_words(home: Path) -> None:
    (home / "augment.yaml").write_text(RECIPE.replace("models:\n", "adapt: [{augment: {}}]\nmodels:\n", 1))
    refused(paredown("run", "augment.yaml", "--output-dir", "none", cwd=home), "augment", "tags")


def test_a_static_student_learns_tags_and_stands_in_a_cascade(home: Path, tmp_path: Path) -> None:
    """It has no layers, and sees the word before and the one after."""
    models = """models:
  - name: static
    steps: [{static: {width: 16, pairs: 64, convolution: 3, max_pooling: true, epochs: 30, learning_rate: 0.01}}]
  - {name: same}
  - {name: both, cascade: {first: static, then: same, max_drop: 1}}
targets: [{runtime: onnxruntime}]
"""
    begin, end = RECIPE.index("models:"), RECIPE.index("latency:")
    (home / "static.yaml").write_text(RECIPE[:begin] + models + RECIPE[end:])
    done = paredown("run", "static.yaml", "--output-dir", tmp_path / "run", cwd=home)
    assert done.returncode == 0, done.stderr
    found = {c["name"]: c for c in json.loads((tmp_path / "run" / "choice.json").read_text())["candidates"]}
    static, same, both = (found[f"{name}/onnxruntime/fp32"] for name in ("static", "same", "both"))
    assert static["metric_validation"] > 60
    assert both["metric_validation"] > same["metric_validation"] - 1.5


def test_answers_are_compared_word_by_word_whatever_tokens_a_model_has() -> None:
    outputs = np.arange(8.0).reshape(4, 2)
    gold = token_classification.Aligned(
        ("O", "B-X"), [np.array([0, 1]), np.array([1])], [np.array([0, -1]), np.array([3])]
    )
    first, second = TASK.comparable(outputs, gold)
    assert first.tolist() == [[0, 1], [0, -20]]
    assert second.tolist() == [[6, 7]]
