"""What outputs answer, in the few kinds that a manifest names (`answer`): of a golden row, and for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .preprocessor import PAIR, Preprocessor

OUTSIDE = "O"  # the tag of a word that is in no span
AROUND = ".,;:!?()[]{}<>\"'`«»“”„’"  # not part of a span where it is only stuck to it
LONGEST = 30  # tokens of an answer, as in transformers' and SQuAD's own scripts

Span = tuple[str, int, int]  # label, first word, last word


@dataclass(frozen=True)
class Answer:
    """One kind of answer. `read`: a golden row's output and the labels -> the answer, as golden.json has it."""

    read: Callable[[np.ndarray, Sequence[str]], Any]
    has_unit: bool = False  # outputs are numbers in a unit of their own: the tolerance is in multiples of the largest
    decisive: bool = False  # the largest output of a row must stay the largest
    compared: int | None = None  # how many components of an output are compared as numbers; None: all


def _label(output: np.ndarray, labels: Sequence[str]) -> str | list[str]:
    """The likeliest label of (labels,), or of each token of (tokens, labels)."""
    best = output.argmax(axis=-1)
    return labels[int(best)] if output.ndim == 1 else [labels[int(i)] for i in best]


ANSWERS = {
    "label": Answer(_label, decisive=True),
    "labels": Answer(lambda output, labels: [name for name, x in zip(labels, output, strict=True) if x > 0]),
    "number": Answer(lambda output, labels: float(output[0]), has_unit=True),
    "vector": Answer(_label, has_unit=True),  # which component is the largest
    "ends": Answer(lambda output, labels: output.argmax(axis=0).tolist()),  # the likeliest token for either end
    "next_token": Answer(lambda output, labels: output[:, 1].astype(int).tolist(), compared=1),
    "text": Answer(lambda output, labels: None),  # two graphs: the tokenizer decodes the tokens
}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probability of each label by itself."""
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def classes(outputs: np.ndarray, labels: Sequence[str]) -> list[dict]:
    """outputs (rows, labels) -> one {label, score, scores} a row; scores are softmax probabilities."""
    return [
        {
            "label": labels[int(row.argmax())],
            "score": float(row.max()),
            "scores": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in softmax(outputs)
    ]


def several_labels(logits: np.ndarray, labels: Sequence[str]) -> list[dict]:
    """logits (rows, labels) -> one {labels, scores} a row: the labels whose probability is over 0.5."""
    return [
        {
            "labels": [label for label, p in zip(labels, row, strict=True) if p > 0.5],
            "scores": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in sigmoid(logits)
    ]


def values(outputs: np.ndarray) -> list[dict]:
    """outputs (rows, 1) -> one {value} a row."""
    return [{"value": float(row[0])} for row in outputs]


def vectors(outputs: np.ndarray) -> list[dict]:
    """outputs (rows, width) -> one {embedding} a row, to seven decimals, which is what float32 tells."""
    return [{"embedding": row} for row in outputs.astype(np.float64).round(7).tolist()]


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a row of tags, as conlleval reads them: an I- after another kind of span, or after O, begins one.

    Tags without a prefix (parts of speech) are a span each, so that F1 is the share of words that are right.
    """
    if not any(tag[1:2] == "-" for tag in tags):
        return {(tag, i, i) for i, tag in enumerate(tags) if tag != OUTSIDE}
    result, before, kind, begin = set(), OUTSIDE, "", 0
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, now = tag.partition("-")
        other = now != kind
        if before != OUTSIDE and (before in "ES" or prefix in "BSO" or other):
            result.add((kind, begin, i - 1))
        if prefix in "BS" or (prefix != OUTSIDE and (before in "ESO" or other)):
            begin = i
        before, kind = prefix, now
    return result


def entities(outputs: np.ndarray, labels: Sequence[str], texts: Sequence[str], encoder: Preprocessor) -> list[dict]:
    """outputs (tokens of all texts, labels) -> for each text {entities: [{label, text, start, end, score}]}.

    start and end are characters, the score is the mean probability of the words' tags. Free text has punctuation stuck
    to its words: it is left out of a span, and no word begins with it.
    """
    probabilities, answers, line = softmax(outputs), [], 0
    for text, words in zip(texts, encoder.words(texts, AROUND), strict=True):
        rows = probabilities[line : line + words.tokens]
        line += max(1, words.tokens)  # a text without tokens is asked about as one of padding
        best = [int(rows[first].argmax()) if first >= 0 else -1 for first in words.first]
        score = [float(rows[first].max()) if first >= 0 else 0.0 for first in words.first]
        found = []
        tags = [labels[tag] if tag >= 0 else OUTSIDE for tag in best]
        for label, a, b in sorted(spans(tags), key=lambda span: span[1]):
            start, end = _trimmed(text, words.spans[a], words.spans[b])
            mean = float(np.mean(score[a : b + 1]))
            found.append({"label": label, "text": text[start:end], "start": start, "end": end, "score": mean})
        answers.append({"entities": found})
    return answers


def _trimmed(text: str, first: tuple[int, int], last: tuple[int, int]) -> tuple[int, int]:
    start, end = first[0], last[1]
    if text[slice(*first)].strip(AROUND):
        start = first[1] - len(text[slice(*first)].lstrip(AROUND))
    if text[slice(*last)].strip(AROUND):
        end = last[0] + len(text[slice(*last)].rstrip(AROUND))
    return start, end


def contexts(texts: Sequence[str]) -> list[str]:
    return [text.partition(PAIR)[2] for text in texts]


def likeliest_part(logits: np.ndarray, places: np.ndarray) -> tuple[int, int, float]:
    """(tokens, 2) logits -> the likeliest answer: first character, end (0, 0 for none), probability of these two ends.

    Two tokens of the context, LONGEST apart at most; or the row's first token for both, which says that there is none.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=0)
    logs = shifted - np.log(np.exp(shifted).sum(axis=0))
    none = float(logs[0].sum())
    there = np.flatnonzero(places[:, 0] >= 0)
    if not len(there):
        return 0, 0, float(np.exp(none))
    both = logs[there, 0][:, None] + logs[there, 1][None, :]
    apart = np.arange(len(there))[None, :] - np.arange(len(there))[:, None]
    both[(apart < 0) | (apart >= LONGEST)] = -np.inf
    first, last = np.unravel_index(both.argmax(), both.shape)
    if both[first, last] <= none:
        return 0, 0, float(np.exp(none))
    return int(places[there[first], 0]), int(places[there[last], 1]), float(np.exp(both[first, last]))


def parts(outputs: np.ndarray, texts: Sequence[str], encoder: Preprocessor) -> list[dict]:
    """outputs (tokens of all texts, 2) -> for each row {answer, start, end, score}: characters of the context; "" where
    it does not say."""
    answers, line = [], 0
    for context, places in zip(contexts(texts), encoder.places(texts), strict=True):
        start, end, score = likeliest_part(outputs[line : line + len(places)], places)
        line += len(places)
        start, end = _bare(context, start, end)
        answers.append({"answer": context[start:end], "start": start, "end": end, "score": score})
    return answers


def _bare(context: str, start: int, end: int) -> tuple[int, int]:
    """Without blanks at the ends, which some tokenizers keep with a word."""
    found = context[start:end]
    return start + len(found) - len(found.lstrip()), end - (len(found) - len(found.rstrip()))


def continuations(outputs: np.ndarray, texts: Sequence[str], encoder: Preprocessor) -> list[dict]:
    """outputs (rows, new tokens) as `Decoder.continued` gives them -> {text} for each: what comes after its prompt.

    The prompt's tokens are decoded too and taken off again: many tokenizers drop a blank at the beginning of a text.
    """
    answers = []
    for prompt, row in zip(encoder.prompts(texts), outputs, strict=True):
        before = encoder.tokenizer.decode(prompt)
        both = encoder.tokenizer.decode([*prompt, *(int(token) for token in row[row >= 0])])
        answers.append({"text": both[len(before) :]})
    return answers


def written(sequences: np.ndarray, encoder: Preprocessor) -> list[str]:
    """(rows, tokens) int -> the texts; blanks at the ends do not count."""
    return [encoder.text(row).strip() for row in sequences]


def texts_of(sequences: np.ndarray, encoder: Preprocessor) -> list[dict]:
    """sequences (rows, tokens) int -> one {text} a row."""
    return [{"text": text} for text in written(sequences, encoder)]


def best_scores(answer: dict, count: int | None) -> dict:
    """The answer with the `count` highest of its scores, highest first; None: as it is."""
    if count is None or "scores" not in answer:
        return answer
    best = sorted(answer["scores"].items(), key=lambda item: -item[1])[:count]
    return answer | {"scores": dict(best)}
