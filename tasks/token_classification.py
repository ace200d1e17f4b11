"""Token classification: spans of B-, I-, E- and S- tags, F1 over them, and labels of tokens. Without torch.

A word's tag is that of its first token; what the other tokens say is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import OUTSIDE, entities, softmax, spans
from paredown.runtime.preprocessor import Preprocessor

from . import perturbations
from .base import COMPARES_ROWS, NO_LABEL, PER_TOKEN_AXES, Feature, Match, Task, Tensor
from .columns import WORDS
from .rows import Rows
from .scores import mean_probabilities, padded

SURE = 20.0  # of a logit, above the others


@dataclass(frozen=True)
class Aligned:
    """The tags of some rows, and where a model's answers for them stand among those for all tokens."""

    names: tuple[str, ...]
    tags: list[np.ndarray]  # for each row (words,) int64
    places: list[np.ndarray]  # for each row (words,) int64: the line of the outputs; -1: the word was truncated


def aligned(rows: Rows, encoder: Preprocessor) -> Aligned:
    """The gold tags of rows for this tokenizer and its longest input."""
    places, begin = [], 0
    for words in encoder.words(rows.texts):
        first = np.array(words.first, dtype=np.int64)
        places.append(np.where(first < 0, -1, first + begin))
        begin += words.tokens
    return Aligned(rows.names, list(rows.gold), places)


def token_labels(rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
    """For each row (tokens,) int64: a word's tag at its first token, NO_LABEL elsewhere. Training targets."""
    found = []
    for words, tags in zip(encoder.words(rows.texts), rows.gold, strict=True):
        labels = np.full(words.tokens, NO_LABEL, dtype=np.int64)
        for first, tag in zip(words.first, tags, strict=True):
            if first >= 0:
                labels[first] = tag
        found.append(labels)
    return found


def found(outputs: np.ndarray, gold: Aligned) -> np.ndarray:
    """For each row (twice the spans found, spans predicted + there), (rows, 2) int64: F1 is the ratio of the sums.

    `outputs` (tokens of all rows, labels). A truncated word is predicted to be outside.
    """
    best = outputs.argmax(axis=-1)
    rows = np.zeros((len(gold.tags), 2), dtype=np.int64)
    for i, (tags, places) in enumerate(zip(gold.tags, gold.places, strict=True)):
        want = spans([gold.names[tag] for tag in tags])
        got = spans([gold.names[best[place]] if place >= 0 else OUTSIDE for place in places])
        rows[i] = 2 * len(want & got), len(want) + len(got)
    return rows


EACH_WORD = "it answers for each word"


class TokenClassification(Task):
    name = "token-classification"
    heads = ("ForTokenClassification",)
    auto_class = "AutoModelForTokenClassification"
    metric_name = "F1"  # over spans
    columns = WORDS
    per_token = True
    output_axes = PER_TOKEN_AXES
    pipeline_tag = "token-classification"
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.AUGMENT: "it changes, moves and removes words, and their tags with them",
        Feature.EXPLAIN: EACH_WORD,
        Feature.TRUNCATE: EACH_WORD,
        Feature.FAIRNESS: COMPARES_ROWS,
    }
    must_match = (Match.LABELS, Match.TOKENS)

    def row_labels(self, rows: Rows) -> None:
        return None

    def gold(self, rows: Rows, encoder: Preprocessor) -> Aligned:
        return aligned(rows, encoder)

    def training_targets(self, rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
        return token_labels(rows, encoder)

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        return [np.full(len(row), NO_LABEL) for row in ids]

    def keeps_labels(self, change: perturbations.Change) -> bool:
        return change in perturbations.KEEP_THE_WORDS

    def correct(self, outputs: np.ndarray, gold: Aligned) -> np.ndarray:
        return found(outputs, gold)

    def comparable(self, outputs: np.ndarray, gold: Aligned) -> list[np.ndarray]:
        """Those of its words, (words, labels); a truncated one is outside of every span, as `correct` has it."""
        outside = np.array([0.0 if name == OUTSIDE else -SURE for name in gold.names], dtype=outputs.dtype)
        return [np.where((places >= 0)[:, None], outputs[places], outside) for places in gold.places]

    def predicted(self, outputs: np.ndarray, gold: Aligned) -> tuple[np.ndarray, np.ndarray]:
        places = np.concatenate(gold.places)
        there = places >= 0
        return outputs.argmax(axis=-1)[places[there]], np.concatenate(gold.tags)[there]

    certainty = "tokens"

    def confidence(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """That of the least sure token but for the first and the last one, which are special; 1 without others."""
        sure = softmax(outputs).max(axis=-1)
        ends = np.cumsum(lengths, dtype=np.int64)
        begins = ends - np.array(lengths)
        sure[begins] = sure[ends - 1] = 1.0
        return np.minimum.reduceat(sure, begins)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return mean_probabilities(outputs, lengths)

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (tokens of all texts, labels) -> {entities: [{label, text, start, end, score}]} for each text."""
        return entities(outputs, labels, texts, encoder)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        wide = [-1, -1, labels]
        return {"label": ("BYTES", [-1, -1]), "scores": ("FP32", wide), self.output: ("FP32", wide)}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        names = np.array([labels[i] for i in outputs.argmax(axis=-1)], dtype=object)
        wide, named = padded(outputs, lengths), padded(names, lengths, "")
        return {
            "label": ("BYTES", named.ravel().tolist(), list(named.shape)),
            "scores": ("FP32", padded(softmax(outputs), lengths), list(wide.shape)),
            self.output: ("FP32", wide, list(wide.shape)),
        }

    limits = "words are separated by white space, and a word that is cut off has no label."
