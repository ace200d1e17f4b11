"""Extractive question answering: the answer is a span of the second text; F1 over words, as SQuAD counts it. Without
torch.

A model gives two logits for every token: does the answer begin here, does it end here? Each is a choice among the
tokens of a row. The first token of a row stands for "the text does not say" (SQuAD 2.0, Rajpurkar et al. 2018).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import LONGEST, contexts, likeliest_part, parts
from paredown.runtime.preprocessor import Preprocessor

from . import perturbations
from .base import COMPARES_ROWS, NO_LABEL, PER_TOKEN_AXES, Feature, Match, Task, TaskWithoutClasses, Tensor
from .columns import QUESTIONS
from .rows import Rows
from .scores import kl, padded

ENDS = ("start", "end")  # the names of a model's two outputs
NOWHERE = -1e4  # a logit of what cannot be chosen, which half precision can hold too

Answer = tuple[int, str]  # where it begins in the context, characters; and its text


@dataclass(frozen=True)
class Asked:
    """The gold answers of some rows, and where their tokens stand in their contexts."""

    contexts: list[str]
    places: list[np.ndarray]  # `Preprocessor.places` of each row
    answers: list[tuple[Answer, ...]]  # none: the context does not say


def asked(rows: Rows, encoder: Preprocessor) -> Asked:
    """What `right` compares with, for this tokenizer and its longest input."""
    return Asked(contexts(rows.texts), encoder.places(rows.texts), list(rows.gold))


def ends(rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
    """Training targets: for each row (tokens, 2) int64, 1 where its first answer begins and where it ends, else 0;
    NO_LABEL throughout where the answer was truncated."""
    found = []
    for places, answers in zip(encoder.places(rows.texts), rows.gold, strict=True):
        marks = np.zeros((len(places), 2), dtype=np.int64)
        begin, text = answers[0] if answers else (0, "")
        inside = np.flatnonzero((places[:, 0] < begin + len(text)) & (places[:, 1] > begin))
        if not answers:
            marks[0] = 1
        elif len(inside) and places[inside[-1], 1] >= begin + len(text.rstrip()):
            marks[inside[0], 0] = marks[inside[-1], 1] = 1
        else:
            marks[:] = NO_LABEL
        found.append(marks)
    return found


def right(outputs: np.ndarray, gold: Asked) -> np.ndarray:
    """outputs (tokens of all rows, 2) -> (rows, 2) float64: F1 of the answer's words against the nearest gold answer,
    and 1. An answer where the context does not say counts as 0, and the other way round."""
    parts = np.split(outputs, np.cumsum([len(places) for places in gold.places])[:-1])
    rows = np.ones((len(parts), 2))
    for i, (part, context, places, answers) in enumerate(
        zip(parts, gold.contexts, gold.places, gold.answers, strict=True)
    ):
        start, end, _ = likeliest_part(part, places)
        rows[i, 0] = max(words_f1(context[start:end], text) for _, text in answers or ((0, ""),))
    return rows


def says(outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """(tokens of all rows, 2) -> (rows, 2): the probability that the context does not say, and that of the likeliest
    ends of an answer."""
    found = []
    for part in np.split(outputs, np.cumsum(lengths)[:-1]):
        chances = np.exp(part - part.max(axis=0))
        chances /= chances.sum(axis=0)
        found.append([chances[0].prod(), chances[1:].max(axis=0).prod() if len(part) > 1 else 0.0])
    return np.array(found)


def same_ends(ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """In which rows two models have the same likeliest ends, (rows,) bool."""
    cuts = np.cumsum(lengths)[:-1]
    pairs = zip(np.split(ours, cuts), np.split(theirs, cuts), strict=True)
    return np.array([bool((a.argmax(axis=0) == b.argmax(axis=0)).all()) for a, b in pairs])


def words_f1(said: str, true: str) -> float:
    """F1 over the words of two answers, as SQuAD's evaluation counts it: without case, punctuation and articles."""
    ours, theirs = _words(said), _words(true)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def _words(text: str) -> list[str]:
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


EACH_TOKEN = "its answer is a part of a text"


class QuestionAnswering(TaskWithoutClasses):
    """Extractive: the answer is a part of the second text."""

    name = "question-answering"
    heads = ("ForQuestionAnswering",)
    auto_class = "AutoModelForQuestionAnswering"
    adapters = ("joined_ends", "token_types")
    metric_name = "F1"  # over words
    answer = "ends"
    columns = QUESTIONS
    per_token = True
    output_axes = PER_TOKEN_AXES
    pipeline_tag = "question-answering"
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.STATIC: EACH_TOKEN,
        Feature.TRUNCATE: EACH_TOKEN,
        Feature.CASCADE: EACH_TOKEN,
        Feature.RECOMBINE: EACH_TOKEN,
        Feature.AUGMENT: "it changes, moves and removes words, and answers with them",
        Feature.EXPLAIN: EACH_TOKEN,
        Feature.FAIRNESS: COMPARES_ROWS,
        Feature.IDS_IN_REQUESTS: EACH_TOKEN,
    }
    must_match = (Match.LABELS, Match.TOKENS)

    def gold(self, rows: Rows, encoder: Preprocessor) -> Asked:
        return asked(rows, encoder)

    def training_targets(self, rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
        return ends(rows, encoder)

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        return [np.full((len(row), 2), NO_LABEL) for row in ids]

    def perturbed(
        self,
        texts: Sequence[str],
        change: perturbations.Change,
        share: float = perturbations.SHARE,
        seed: int = 0,
    ) -> tuple[str, ...]:
        """The question alone changes, so that the answer stays where it is."""
        return perturbations.all_changed(texts, change, share, seed, first=True)

    def correct(self, outputs: np.ndarray, gold: Asked) -> np.ndarray:
        return right(outputs, gold)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return says(outputs, lengths)

    def same_answers(self, ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int] = ()) -> np.ndarray:
        return same_ends(ours, theirs, lengths)

    def distances(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        """The mean of both ends, each a choice among the tokens."""
        return np.array([kl(a.T, b.T).mean() for a, b in zip(ours, theirs, strict=True)])

    def comparable(self, outputs: np.ndarray, gold: Asked) -> list[np.ndarray]:
        """By characters of the context: where its tokens begin, and where they end, (characters + 2, 2); NOWHERE
        between. The first row says that there is no answer."""
        found = []
        parts = np.split(outputs, np.cumsum([len(places) for places in gold.places])[:-1])
        for part, places, context in zip(parts, gold.places, gold.contexts, strict=True):
            there = places[:, 0] >= 0
            row = np.full((len(context) + 2, 2), NOWHERE, dtype=outputs.dtype)
            row[0] = part[0]
            for end in range(2):
                np.maximum.at(row[:, end], 1 + places[there, end], part[there, end])
            found.append(row)
        return found

    def regrets(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        return super().regrets([a.T for a in ours], [b.T for b in theirs])

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (tokens of all rows, 2) -> {answer, start, end, score} for each row."""
        return parts(outputs, texts, encoder)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        places = {name: ("INT64", [-1]) for name in ENDS}
        return {"answer": ("BYTES", [-1]), **places, "score": ("FP32", [-1]), self.output: ("FP32", [-1, -1, labels])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        wide, count = padded(outputs, lengths), [len(answers)]
        places = {name: ("INT64", np.array([a[name] for a in answers], np.int64), count) for name in ENDS}
        return {
            "answer": ("BYTES", [answer["answer"] for answer in answers], count),
            **places,
            "score": ("FP32", np.array([answer["score"] for answer in answers], np.float32), count),
            self.output: ("FP32", wide, list(wide.shape)),
        }

    def describe_answer(self, manifest: dict) -> str:
        return "for a part of the context"

    limits = f"an answer is {LONGEST} tokens long at most, and a long context is truncated."

    def labels_of(self, named: tuple[str, ...], width: int) -> tuple[str, ...]:
        return ENDS

    output_ends = ("start_logits", "end_logits")

    def fits_shape(self, shape: tuple[int, ...], rows: int, tokens: int, labels: int) -> bool:
        return shape == (rows, tokens, 2)

    def describe_shape(self, labels: Sequence[str]) -> str:
        return f"(rows, tokens, 2), or {' and '.join(self.output_ends)}, (rows, tokens) each"

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return True
