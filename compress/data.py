"""Rows of texts and labels, from a file or from a `datasets` name. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .encoder import Encoder
from .errors import InputError, nearest
from .files import open_table

TEXT_COLUMNS = ("text", "sentence", "review", "content", "utterance")
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent", "sentiment")


@dataclass(frozen=True)
class Columns:
    """What a task reads: the usual names of its columns, and whether a label belongs to the text or to each word."""

    text: tuple[str, ...] = TEXT_COLUMNS
    label: tuple[str, ...] = LABEL_COLUMNS
    of_words: bool = False


TEXT = Columns()
WORDS = Columns(("tokens", "words", *TEXT_COLUMNS), ("tags", "ner_tags", "labels"), of_words=True)


@dataclass(frozen=True)
class Rows:
    """Texts with their labels (None when unlabelled): indices into `names`, one a text, or an array of one a word.

    The words of a text are what blanks part.
    """

    source: str
    texts: tuple[str, ...]
    labels: np.ndarray | None  # (rows,) int64; of words: (rows,) of arrays (words,) int64
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

    def sample(self, count: int) -> Rows:
        """`count` rows (or all) from everywhere, always the same ones: files are often sorted by label."""
        picked = some_of(len(self.texts), count)
        labels = None if self.labels is None else self.labels[picked]
        groups = None if self.groups is None else tuple(self.groups[i] for i in picked)
        texts = tuple(self.texts[i] for i in picked)
        return replace(self, texts=texts, labels=labels, groups=groups)

    def renamed(self, names: Sequence[str]) -> Rows:
        """The same rows, their labels counted as in `names`; one that is not there comes behind them all."""
        every = (*names, *(name for name in self.names if name not in names))
        number = np.array([every.index(name) for name in self.names], dtype=np.int64)
        labels = self.gold
        if labels.dtype == object:
            labels = np.empty(len(self), dtype=object)
            labels[:] = [number[tags] for tags in self.gold]
        else:
            labels = number[labels]
        return replace(self, labels=labels, names=every)

    def every_label(self) -> np.ndarray:
        """All labels, those of words in one row, int64."""
        return np.concatenate([np.atleast_1d(label) for label in self.gold])


def some_of(rows: int, count: int) -> np.ndarray:
    """`count` row numbers of `rows` (or all of them) in random order, the same ones each time."""
    return np.random.default_rng(0).permutation(rows)[:count]


def read(
    source: str,
    *,
    columns: Columns = TEXT,
    text: str | None = None,
    label: str | None = None,
    names: Sequence[str] = (),
    labelled: bool | None = True,
    group: str | None = None,
) -> Rows:
    """Read rows. Columns are `text` and `label`, or found among the usual names when None; `group` must be there.

    `source` is a path ending in .csv, .jsonl, .parquet or .conll, or `name[:split]` of the `datasets` library (split
    defaults to "train"). `labelled=None`: labels if there are any. A label is one of `names`, or an index into them.
    Words and their tags are lists, or a cell with blanks between them. Raises InputError that names the file and the
    row.
    """
    there, records = open_table(source)
    text_column = _find(source, there, text, columns.text, "text")
    if labelled is None:
        labelled = label is not None or any(name in there for name in columns.label)
    label_column = _find(source, there, label, columns.label, "label") if labelled else None
    if group is not None and group not in there:
        raise InputError(f"{source}: no column '{group}' (data.groups, --group); {nearest(group, there)}")
    texts: list[str] = []
    labels: list = []
    groups: list[str] = []
    known = {name: i for i, name in enumerate(names)}
    for row, record in records:
        where, value = f"{source}, {row}", record.get(text_column)
        if columns.of_words:
            value = " ".join(_words(value, where, text_column))
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: column '{text_column}' is empty; remove the row or fill it in")
        if not is_text(value):
            raise InputError(f"{where}: column '{text_column}' holds half a character (a lone surrogate)")
        texts.append(value)
        if group is not None:
            groups.append("" if record.get(group) is None else str(record[group]).strip())
        if label_column is not None:
            found = _tags if columns.of_words else _label
            labels.append(found(record.get(label_column), known, where, label_column, value))
    if not texts:
        raise InputError(f"{source}: no rows; a header line and at least one row are expected")
    gold = None
    if label_column is not None and columns.of_words:
        gold = np.empty(len(labels), dtype=object)
        gold[:] = labels
    elif label_column is not None:
        gold = np.array(labels, dtype=np.int64)
    return Rows(source, tuple(texts), gold, tuple(names), tuple(groups) if group is not None else None)


def read_unlabeled(source: str, *, columns: Columns = TEXT, text: str | None = None, label: str | None = None) -> Rows:
    """Rows without labels. InputError for a file that has them: it may be held-out data, given in the wrong place."""
    there, _ = open_table(source)
    found = next((name for name in (label, *columns.label) if name and name in there), None)
    if found is not None:
        raise InputError(
            f"{source}: unlabelled text is expected, and it has a column '{found}'; labelled rows go into train, and "
            "validation or test rows must not be learned from; remove the column if the rows are for learning"
        )
    return read(source, columns=columns, text=text, labelled=False)


def is_text(value: str) -> bool:
    """False for a string that UTF-8 cannot write, which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_names(source: str, label: str | None = None, columns: Columns = TEXT) -> tuple[str, ...]:
    """The distinct labels of the data, sorted (as numbers when all are): for a checkpoint that has no head yet."""
    there, records = open_table(source)
    column = _find(source, there, label, columns.label, "label")
    found: set[str] = set()
    for row, record in records:
        value = record.get(column)
        cells = _words(value, f"{source}, {row}", column) if columns.of_words else [value]
        found |= {"" if cell is None else str(cell).strip() for cell in cells}
    if "" in found:
        raise InputError(f"{source}: column '{column}' is empty in some row; every row needs a label")
    if all(map(_is_number, found)):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def require_two_classes(rows: Rows, names: Sequence[str]) -> None:
    """Raise InputError when every row has the same label: nothing can be learned or judged from it."""
    found = np.unique(rows.every_label())
    if len(found) < 2:
        raise InputError(f"{rows.source}: only one class, '{names[int(found[0])]}'; rows of at least two are needed")


def _label(value: object, known: dict[str, int], where: str, column: str, text: str) -> int:
    name = str(value).strip() if value is not None else ""
    if name in known:
        return known[name]
    if _is_number(name) and int(name) < len(known):
        return int(name)
    raise InputError(
        f"{where}: unknown label '{name}' in column '{column}' of the row {text[:60]!r}; {nearest(name, known)}"
    )


def _words(value: object, where: str, column: str) -> list[str]:
    """The words (or tags) of a cell: a list, or a string with blanks between them; no word holds a blank."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or not all(isinstance(word, str | int) for word in value):
        raise InputError(f"{where}: column '{column}': a list of words, or words with blanks between them, is expected")
    return ["".join(str(word).split()) or "_" for word in value]


def _tags(value: object, known: dict[str, int], where: str, column: str, text: str) -> np.ndarray:
    tags, words = _words(value, where, column), text.split()
    if len(tags) != len(words):
        raise InputError(f"{where}: {len(words)} words and {len(tags)} tags in column '{column}'; one a word is needed")
    return np.array([_label(tag, known, where, column, text) for tag in tags], dtype=np.int64)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def _find(source: str, columns: Sequence[str], given: str | None, usual: Sequence[str], what: str) -> str:
    if given is not None:
        if given not in columns:
            raise InputError(f"{source}: no column '{given}'; {nearest(given, columns)}")
        return given
    for name in usual:
        if name in columns:
            return name
    raise InputError(
        f"{source}: no {what} column among {', '.join(columns) or 'none'}; name it with data.{what} (--{what}-column)"
    )


def encode(encoder: Encoder, rows: Rows) -> list[list[int]]:
    """Token ids of every row; InputError when no row has a token of its own (the model would see padding only)."""
    ids = encoder.ids(rows.texts)
    empty = len(encoder.ids([""])[0])
    unknown = encoder.tokenizer.token_to_id("[UNK]")
    if all(len(row) <= empty or (unknown is not None and set(row[1:-1]) == {unknown}) for row in ids):
        raise InputError(f"{rows.source}: no row has a token that the tokenizer knows; is it the right text column?")
    return ids
