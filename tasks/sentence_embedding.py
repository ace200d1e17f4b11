"""Sentence embeddings: vectors of texts, scored by pairs (Spearman's correlation or MRR). Without torch.

A pair has a number that says how similar its texts are, or it is a question and the passage that answers it. A model
reads each text by itself: in `Rows` the two texts of a pair are two rows, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import vectors
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Preprocessor

from . import perturbations
from .base import COMPARES_ROWS, Feature, Match, Task, TaskWithoutClasses, Tensor
from .columns import SIMILAR as COLUMNS
from .rows import Rows
from .scores import spread

SPEARMAN, MRR = "Spearman", "MRR"  # the metrics of pairs with numbers, and of those without
SAME_DIRECTION = 0.98  # cosine of two models' vectors of a text from which on they count as the same
QUERIES = 1024  # that are compared with all passages at once


@dataclass(frozen=True)
class Pairs:
    """What `right` compares with."""

    first: np.ndarray  # (pairs,) int64: the rows that begin a pair; its other text comes next
    numbers: np.ndarray | None  # (pairs,) float64: how similar the two are; None: the second answers the first
    passage: np.ndarray  # (pairs,) int64: which of the different second texts a pair has


def pairs(rows: Rows, encoder: Preprocessor | None = None) -> Pairs:
    """The pairs of some rows; InputError where these are texts without a second one."""
    first = rows.begins
    if not len(first):
        raise InputError(
            f"{rows.source}: pairs of texts are needed here, and it has one text a row; the second column is "
            "'text_pair', 'passage' or the like, or both are named: data.text (--text-column): FIRST,SECOND"
        )
    numbers = rows.gold[first]
    _, passage = np.unique(np.array([rows.texts[i + 1] for i in first.tolist()], dtype=object), return_inverse=True)
    return Pairs(first, None if np.isinf(numbers).all() else numbers, passage)


def metric_of(rows: Rows, *others: Rows | None) -> str:
    """The metric that goes with these rows; InputError where other rows have pairs of the other kind."""
    name = _metric(rows)
    for other in others:
        if other is not None and len(other.begins) and _metric(other) != name:
            said = ("have numbers", "have none")
            ours, theirs = said if name == SPEARMAN else said[::-1]
            raise InputError(
                f"{other.source}: its pairs {theirs}, and those of {rows.source} {ours}; either all have a column "
                "with a number (data.label), or none"
            )
    return name


def right(outputs: np.ndarray, gold: Pairs) -> np.ndarray:
    """outputs (rows, width) -> (pairs, 2): what a pair adds to the metric, whose mean it is, and 1.

    With numbers: Spearman's correlation of cosine and number, plus the pair's influence on it (`spearman`).
    Without: one by the rank that the right passage has among all the different ones; equals are half before it.
    """
    unit = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)
    queries, passages = unit[gold.first], unit[gold.first + 1]
    if gold.numbers is not None:
        gained = spearman((queries * passages).sum(axis=1), gold.numbers)
    else:
        _, once = np.unique(gold.passage, return_index=True)
        gained = 1 / _places(queries, passages[once], gold.passage)
    return np.stack([gained, np.ones(len(gained))], axis=1).astype(np.float64)


def same_direction(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which texts two models give vectors (rows, width) of nearly one direction, (rows,) bool."""
    return cosines(ours, theirs) >= SAME_DIRECTION


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The cosine of the vectors of each row, (rows,)."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-12)


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1, equals having the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pseudo-values (rows,) of Spearman's correlation of two (rows,): their mean is it, and their variance over the
    rows is that of its estimate; all 0 where one of the two does not vary.

    The correlation plus each row's influence, which counts that the ranks of the other rows depend on this one too
    (Hoeffding 1948, doi 10.1214/aoms/1177730196, section 9; Borkowf 2002). Equals have the mean of their ranks.
    """
    n = len(x)
    u, v = ((ranks(values) - (n + 1) / 2) / n for values in (x, y))
    together, own_x, own_y = ((a * b).mean() for a, b in ((u, v), (u, u), (v, v)))
    if not own_x or not own_y:
        return np.zeros(n)
    size, r = np.sqrt(own_x * own_y), together / np.sqrt(own_x * own_y)
    both = u * v + _beyond(x, v) + _beyond(y, u) - 3 * together
    alone = [(a * a + 2 * _beyond(values, a)) / own - 3 for values, a, own in ((x, u, own_x), (y, v, own_y))]
    return r + both / size - r / 2 * (alone[0] + alone[1])


def agreement(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation of two attributions (words,) of the words of a text, NaN where one was not read.

    Over the words that both models read; equals have the mean of their ranks. None for fewer than three such words, or
    where either says the same of all of them.
    """
    read = np.isfinite(a) & np.isfinite(b)
    first, second = ranks(a[read]), ranks(b[read])
    if len(first) < 3 or not first.std() or not second.std():
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _beyond(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each row, half of the mean over all rows of sign(their value - its own) times their weight, (rows,)."""
    _, which = np.unique(values, return_inverse=True)
    sums = np.bincount(which, weights)
    upto = np.cumsum(sums)
    return ((sums.sum() - upto) - (upto - sums))[which] / (2 * len(values))


def _places(queries: np.ndarray, passages: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank, from 1, of the passage `right` (queries,) for each query."""
    found = []
    for start in range(0, len(queries), QUERIES):
        part = right[start : start + QUERIES]
        near = queries[start : start + QUERIES] @ passages.T
        own = near[np.arange(len(part)), part][:, None]
        found.append(1 + (near > own).sum(axis=1) + ((near == own).sum(axis=1) - 1) / 2)
    return np.concatenate(found)


def _metric(rows: Rows) -> str:
    return MRR if pairs(rows).numbers is None else SPEARMAN


A_VECTOR = "rows have a vector"
PAIRS_ONLY = "it works on rows of one text, and these are pairs"


class SentenceEmbedding(TaskWithoutClasses):
    """The answer is a vector of length 1, whose components the labels number."""

    name = "sentence-embedding"
    heads = ("Model",)
    auto_class = "AutoModel"
    adapters = ("pooling",)
    metric_name = "similarity"  # `for_rows` says which
    answer = "vector"
    columns = COLUMNS
    pipeline_tag = "sentence-similarity"
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.CASCADE: f"it asks how confident the first model is of one label, and {A_VECTOR}",
        Feature.WIDTH: "the student's vectors have to be as wide as the teacher's; prune layers, heads or ffn",
        Feature.LABEL_WEIGHT: "a pair's number is not of one text; set it to 0, or finetune afterwards",
        Feature.TEACHERS: "vectors of two models are not of one space",
        Feature.AUGMENT: PAIRS_ONLY,
        Feature.TUNE: PAIRS_ONLY,
        Feature.UPDATE: PAIRS_ONLY,
        Feature.EXPLAIN: A_VECTOR,
        Feature.FAIRNESS: COMPARES_ROWS,
    }
    must_match = (Match.LABELS, Match.WIDTH)
    vectors = True

    def for_rows(self, rows: Rows | None, *others: Rows | None) -> SentenceEmbedding:
        return self if rows is None else self.with_metric(metric_of(rows, *others))

    def gold(self, rows: Rows, encoder: Preprocessor) -> Pairs:
        return pairs(rows)

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        return [np.full((), np.nan)] * len(ids)

    def perturbed(
        self,
        texts: Sequence[str],
        change: perturbations.Change,
        share: float = perturbations.SHARE,
        seed: int = 0,
    ) -> tuple[str, ...]:
        """A passage that answers several questions stays one."""
        once = tuple(dict.fromkeys(texts))
        new = dict(zip(once, perturbations.all_changed(once, change, share, seed), strict=True))
        return tuple(new[text] for text in texts)

    def correct(self, outputs: np.ndarray, gold: Pairs) -> np.ndarray:
        return right(outputs, gold)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """The vectors as they are."""
        return outputs

    def same_choices(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return same_direction(ours, theirs)

    def unit(self, outputs: np.ndarray) -> float:
        return spread(outputs)

    distance_name = ("1 - cosine", "1")

    def distances(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        return 1 - cosines(np.stack(ours), np.stack(theirs))

    def regrets(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        return self.distances(ours, theirs)

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, width) -> one {embedding} a row."""
        return vectors(outputs)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        return {"embedding": ("FP32", [-1, labels])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        return {"embedding": ("FP32", outputs, list(outputs.shape))}

    def describe_answer(self, manifest: dict) -> str:
        return f"each a vector of {len(manifest['labels'])} numbers and of length 1, so that products are cosines"

    limits = "vectors of two models are not to be compared: embed again what was embedded by another."

    def listed_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """None: they are the numbers of a vector's components."""
        return ()

    def labels_of(self, named: tuple[str, ...], width: int) -> tuple[str, ...]:
        return tuple(map(str, range(width)))

    def new_head(self, labels: tuple[str, ...]) -> dict:
        """Vectors need no head."""
        return {}

    pools = True

    @property
    def output_names(self) -> tuple[str, ...]:
        """A vector of each text before those of its tokens."""
        return ("sentence_embedding", self.output, "token_embeddings", "last_hidden_state")

    def needs_pooling(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 3

    def fits_shape(self, shape: tuple[int, ...], rows: int, tokens: int, labels: int) -> bool:
        return (len(shape) == 2 and shape[0] == rows) or (len(shape) == 3 and shape[:2] == (rows, tokens))

    def describe_shape(self, labels: Sequence[str]) -> str:
        return "(rows, width) or (rows, tokens, width)"

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return True
