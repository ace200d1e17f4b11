"""Text generation with a decoder: each token is scored given those before it, and a prompt is continued. Without torch.

What a decoder predicts for each token is `causal_decoding.NEXT`; it is compared with the rows' own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import continuations
from paredown.runtime.causal_decoding import NAMES, NEXT
from paredown.runtime.preprocessor import Preprocessor

from . import perturbations
from .base import COMPARES_ROWS, OWN_EXPORT, Feature, Match, TaskWithoutClasses, Tensor
from .columns import PROSE
from .rows import Rows
from .scores import mean_probabilities


def own_tokens(rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
    """The ids of each row, (tokens,) int64: training targets, and what `right` compares with."""
    return [np.array(ids, dtype=np.int64) for ids in encoder.ids(rows.texts)]


def right(outputs: np.ndarray, gold: Sequence[np.ndarray]) -> np.ndarray:
    """outputs (tokens of all rows, 2) -> (rows, 2) float64: the tokens that were the likeliest where they came, and
    the tokens that came after another. The ratio of the sums is the next-token accuracy."""
    lines = zip(_of_rows(outputs, gold), gold, strict=True)
    return np.array([[(part[:-1, 1] == ids[1:]).sum(), max(0, len(ids) - 1)] for part, ids in lines], dtype=float)


def same_next(ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
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


def _of_rows(outputs: np.ndarray, gold: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(outputs, np.cumsum([len(ids) for ids in gold])[:-1])


EACH_TOKEN = "it answers for each token"


class TextGeneration(TaskWithoutClasses):
    """A decoder scores each token of a text and continues a prompt; it is exported with a key/value cache."""

    name = "text-generation"
    heads = ("ForCausalLM", "LMHeadModel")
    auto_class = "AutoModelForCausalLM"
    adapters = ("generation",)
    graph = "causal_lm"
    output = NEXT
    metric_name = "next-token accuracy"
    answer = "next_token"
    columns = PROSE
    per_token = True
    pipeline_tag = "text-generation"
    unsupported: ClassVar = {
        Feature.TRIM: "it would learn to generate without the tokens that were removed; the vocabulary stays",
        Feature.STATIC: EACH_TOKEN,
        Feature.TRUNCATE: EACH_TOKEN,
        Feature.CASCADE: EACH_TOKEN,
        Feature.TEACHERS: "its teacher runs in every step, and there is one: the checkpoint",
        Feature.SEARCH: "see docs/tasks.md for what is",
        Feature.TUNE: "try a few learning rates with finetune --patience",
        Feature.UPDATE: "see docs/tasks.md for what is",
        Feature.AUGMENT: "a text is its own label",
        Feature.RECOMBINE: "a text is its own label",
        Feature.EXPLAIN: EACH_TOKEN,
        Feature.FAIRNESS: COMPARES_ROWS,
        Feature.LENGTHS: "it answers in many calls",
        Feature.FIXED_SHAPES: "it answers in many calls",
        Feature.CACHED_SCORES: "a logit for each token of the vocabulary is too much to keep",
        Feature.REFERENCE: EACH_TOKEN,
        Feature.IDS_IN_REQUESTS: "a prompt is a text",
        Feature.OTHER_TOOLS: OWN_EXPORT,
    }
    must_match = (Match.LABELS, Match.TOKENS)
    generates = True

    def gold(self, rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
        return own_tokens(rows, encoder)

    def training_targets(self, rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
        return own_tokens(rows, encoder)

    def has_gold(self, rows: Rows) -> bool:
        """The tokens of a text are its labels."""
        return True

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        """Each row is its own target."""
        return [np.array(row, dtype=np.int64) for row in ids]

    def keeps_labels(self, change: perturbations.Change) -> bool:
        return False

    def correct(self, outputs: np.ndarray, gold: Sequence[np.ndarray]) -> np.ndarray:
        return right(outputs, gold)

    def further_metrics(self, outputs: np.ndarray, gold: Sequence[np.ndarray]) -> dict[str, float]:
        return perplexity(outputs, gold)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return mean_probabilities(outputs, lengths)

    def same_answers(self, ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int] = ()) -> np.ndarray:
        return same_next(ours, theirs, lengths)

    def difference(self, ours: np.ndarray, theirs: np.ndarray, unit: float | None = None) -> np.ndarray:
        """Of log-probabilities, not of token numbers."""
        return np.abs(ours[..., :1].astype(np.float64) - theirs[..., :1])

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, new tokens) as `Decoder.continued` gives them -> one {text} a row."""
        return continuations(outputs, texts, encoder)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        return {"text": ("BYTES", [-1])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        return {"text": ("BYTES", [answer["text"] for answer in answers], [len(answers)])}

    def describe_answer(self, manifest: dict) -> str:
        return f"continued by {manifest['generation']['max_new_tokens']} tokens at most, each time the likeliest"

    limits = "what it writes is likely, and need not be true."

    def labels_of(self, named: tuple[str, ...], width: int) -> tuple[str, ...]:
        return NAMES

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return True
