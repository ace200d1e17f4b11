"""Rows: texts or images with their labels, as every task reads, trains on and scores them. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from paredown.runtime.errors import InputError

from .parsing import text_digest

Input = tuple[bytes, ...]  # the digest of a row's text; of a pair that is two rows, of both


@dataclass(frozen=True)
class Rows:
    """Texts with their labels (None when unlabelled): indices into `names`, one a text, or an array of one a word;
    where a text may have several, 1 and 0 for each of `names`; or numbers, which `names` has one name for; or texts.

    The words of a text are what blanks part. Two texts that make a row have PAIR between them. Two that are read each
    by itself are two rows: the first is labelled with how similar they are (inf: they belong together), the next one,
    and a text that has no other, with NaN. An image is a data URI that holds its file.
    """

    source: str
    texts: tuple[str, ...]
    # (rows,) int64 or float64, (rows, names) int64; of words: (rows,) of arrays (words,); of questions: of
    # tuples; of texts: of strings
    labels: np.ndarray | None
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None  # the value of the column that was asked for as `group`

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def gold(self) -> np.ndarray:
        """The labels of rows that must have them."""
        if self.labels is None:
            raise InputError(f"{self.source}: labels are needed here and the data has none")
        return self.labels

    @cached_property
    def digest(self) -> str:
        """sha256 over texts (of images: their files) and labels."""
        labels = None if self.labels is None else [np.asarray(label).tolist() for label in self.labels]
        return hashlib.sha256(json.dumps([self.texts, labels]).encode()).hexdigest()

    @property
    def begins(self) -> np.ndarray:
        """Numbers of the rows that are judged: all, but of texts that are read each by itself those that begin a
        pair."""
        if self.labels is None or self.labels.dtype != np.float64:
            return np.arange(len(self))
        return np.flatnonzero(~np.isnan(self.labels))

    @cached_property
    def starts(self) -> np.ndarray:
        """Numbers of the rows that an input begins with: all, but not the second of a sentence-embedding pair."""
        if self.labels is None or self.labels.dtype != np.float64:
            return np.arange(len(self))
        alone = np.isnan(self.labels)
        return np.flatnonzero(~np.concatenate([[False], alone[1:] & ~alone[:-1]]))

    @cached_property
    def inputs(self) -> list[Input]:
        """What each row says, as digests that case and white space do not change; one of a sentence-embedding pair."""
        digests, starts = [text_digest(text) for text in self.texts], self.starts.tolist()
        return [tuple(digests[i:j]) for i, j in zip(starts, [*starts[1:], len(digests)], strict=True)]

    def sample(self, count: int) -> Rows:
        """`count` rows (or all) from everywhere, always the same ones: files are often sorted by label. Pairs stay
        together."""
        picked = some_of(len(self.texts), count)
        begins = self.begins
        if 0 < len(begins) < len(self):
            first = begins[some_of(len(begins), max(1, count // 2))]
            picked = np.stack([first, first + 1], axis=1).ravel()
        return self.only(picked)

    def only(self, picked: np.ndarray) -> Rows:
        """The rows with these numbers, (count,) int64, in their order."""
        labels = None if self.labels is None else self.labels[picked]
        groups = None if self.groups is None else tuple(self.groups[i] for i in picked)
        return replace(self, texts=tuple(self.texts[i] for i in picked), labels=labels, groups=groups)

    def renamed(self, names: Sequence[str]) -> Rows:
        """The same rows, their labels counted as in `names`; one that is not there comes behind them all."""
        every = (*names, *(name for name in self.names if name not in names))
        if every == self.names or isinstance(self.gold[0], tuple | str):  # answers and texts are of no label
            return replace(self, names=every)
        number = np.array([every.index(name) for name in self.names], dtype=np.int64)
        labels = self.gold
        if labels.dtype == np.float64:
            return replace(self, names=every)
        if labels.ndim > 1:
            wide = np.zeros((len(self), len(every)), dtype=np.int64)
            wide[:, number] = labels
            labels = wide
        elif labels.dtype == object:
            labels = np.empty(len(self), dtype=object)
            labels[:] = [number[of_words] for of_words in self.gold]
        else:
            labels = number[labels]
        return replace(self, labels=labels, names=every)

    def label_counts(self) -> np.ndarray | None:
        """How many rows (words of tags) have each of `names`, (names,) int64; None of what has no labels to count."""
        labels = self.labels
        if labels is None or not len(labels) or labels.dtype == np.float64:
            return None
        if labels.ndim > 1:
            return labels.sum(axis=0)
        if labels.dtype == object and not isinstance(labels[0], np.ndarray):  # answers, texts
            return None
        every = self.every_label()
        return np.bincount(every[every >= 0], minlength=len(self.names))

    def every_label(self) -> np.ndarray:
        """All labels, those of words in one row, int64; where a text may have several, 1 and 0."""
        return np.concatenate([np.atleast_1d(label) for label in self.gold])


def some_of(rows: int, count: int) -> np.ndarray:
    """`count` row numbers of `rows` (or all of them) in random order, the same ones each time."""
    return np.random.default_rng(0).permutation(rows)[:count]
