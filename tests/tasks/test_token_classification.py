"""Word-aligned tags: reading, alignment, spans (against seqeval), decoding, and learning them."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tagging
from tagging import NAMES, TASK, sentences, write_conll, write_jsonl

from paredown.compress.config import Distill, Prune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.pruning.prune import prune
from paredown.compress.types import TrainingData
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
    assert token_classification.spans(["NOUN", "VERB", "O"]) == {("NOUN", 0, 0), ("VERB", 1, 1)}


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
