"""Texts that go on: each token is judged by what came before it, and a prompt is continued. Without torch.

What a decoder says about each token is `decode.NEXT`; the rows' own tokens are what it is held against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paredown.runtime.preprocessor import Encoder

from .rows import Rows


def own_tokens(rows: Rows, encoder: Encoder) -> list[np.ndarray]:
    """The ids of each row, (tokens,) int64: what is taught, and what `right` compares with."""
    return [np.array(ids, dtype=np.int64) for ids in encoder.ids(rows.texts)]


def right(outputs: np.ndarray, gold: Sequence[np.ndarray]) -> np.ndarray:
    """outputs (tokens of all rows, 2) -> (rows, 2) float64: the tokens that were the likeliest where they came, and
    the tokens that came after another. The ratio of the sums is the next-token accuracy."""
    lines = zip(_of_rows(outputs, gold), gold, strict=True)
    return np.array([[(part[:-1, 1] == ids[1:]).sum(), max(0, len(ids) - 1)] for part, ids in lines], dtype=float)


def alike(ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """After which tokens two models have the same likeliest one, bool; not after the last of a row, where nobody knows
    what comes and few have learned it."""
    return np.delete(ours[:, 1] == theirs[:, 1], np.cumsum(lengths, dtype=np.int64) - 1)


def perplexity(outputs: np.ndarray, gold: Sequence[np.ndarray]) -> dict[str, float]:
    """exp of the mean negative log-likelihood of a token, given those before it in its row."""
    return {"perplexity": float(np.exp(nats(outputs, [len(ids) for ids in gold])))}


def nats(outputs: np.ndarray, lengths: Sequence[int]) -> float:
    """Mean negative log-likelihood of the tokens that come after another, of rows that are `lengths` tokens long."""
    count = sum(lengths) - len(lengths)
    return float(-outputs[:, 0].sum(dtype=np.float64) / count) if count else 0.0  # the last of a row counts 0


def decode(outputs: np.ndarray, texts: Sequence[str], encoder: Encoder) -> list[dict]:
    """outputs (rows, new tokens) as `Decoder.continued` gives them -> {text} for each: what comes after its prompt.

    The prompt's tokens are decoded too and taken off again: many tokenizers drop a blank at the beginning of a text.
    """
    answers = []
    for prompt, row in zip(encoder.prompts(texts), outputs, strict=True):
        before = encoder.tokenizer.decode(prompt)
        both = encoder.tokenizer.decode([*prompt, *(int(token) for token in row[row >= 0])])
        answers.append({"text": both[len(before) :]})
    return answers


def _of_rows(outputs: np.ndarray, gold: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(outputs, np.cumsum([len(ids) for ids in gold])[:-1])
