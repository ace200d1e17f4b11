"""Questions about a text: cells, tokens, the choice of two ends, and F1 over words."""

import collections
import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
import torch

from paredown.compress.data.dataset import read_rows
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


def test_what_is_taught_is_what_decodes_to_the_answer(teacher, tmp_path: Path) -> None:
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


def test_an_answer_that_was_cut_off_is_not_taught_and_counts_as_missed(teacher, tmp_path: Path) -> None:
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


def test_the_end_is_not_before_the_start_and_not_far_behind_it() -> None:
    places = np.array([[-1, -1], *([i, i + 1] for i in range(40))])
    logits = np.full((41, 2), -5.0)
    logits[10, 0], logits[5, 1], logits[12, 1] = 5, 6, 4
    assert question_answering.best(logits, places)[:2] == (9, 12)
    logits[12, 1], logits[40, 1] = -5, 9  # 31 tokens
    start, end, _ = question_answering.best(logits, places)
    assert (start, end) != (9, 40)
    assert end - start <= question_answering.LONGEST
    logits[0] = 20
    assert question_answering.best(logits, places)[:2] == (0, 0)
    assert question_answering.best(logits[:1], places[:1])[:2] == (0, 0)  # nothing of the context is left


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


def test_two_models_answer_alike_row_by_row() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 7, 2))
    theirs[:3] = ours[:3] + 1.0
    assert TASK.same_answers(ours, theirs, [3, 4]).tolist()[0]
    theirs[3:] = -ours[3:]
    assert TASK.same_answers(ours, theirs, [3, 4]).tolist() == [True, False]
    chances = TASK.probabilities(ours, [3, 4])
    assert chances.shape == (2, 2)
    assert ((chances >= 0) & (chances <= 1)).all()
