"""Rows of a task from a file or a `datasets` name. Without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paredown.runtime.causal_decoding import NAMES
from paredown.runtime.errors import InputError, nearest
from paredown.runtime.preprocessor import PAIR, Preprocessor
from paredown.tasks.base import Task
from paredown.tasks.columns import GOLD_COLUMNS, SECOND, TEXT, TEXT_COLUMNS, Columns
from paredown.tasks.labels import LabelColumn, distinct, indicator_row, refuse_indicators, written
from paredown.tasks.parsing import answers_of, image_of, listed, number, tags, text_of, words
from paredown.tasks.rows import Rows

from .readers import open_table


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns of a file; None: found among the usual names, and no group."""

    text: str | None = None  # rows of two texts: both columns with a comma between them; the second may be missing
    label: str | None = None
    group: str | None = None  # has to be there


_USUAL = ColumnNames()


def read(  # noqa: C901
    source: str,
    *,
    columns: Columns = TEXT,
    named: ColumnNames = _USUAL,
    names: Sequence[str] = (),
    labelled: bool | None = True,
) -> Rows:
    """Read rows with the columns of a task, under the names `named`.

    `source` is a path ending in .csv, .jsonl, .parquet or .conll, or `name[:split]` of the `datasets` library (split
    defaults to "train"); of images also a directory with one for each label. `labelled=None`: labels if there are any.
    A label is one of `names`, or an index into them. Words and their tags are lists, or a cell with blanks between
    them. Raises InputError that names the file and the row.
    """
    text, label, group = named.text, named.label, named.group
    there, records = open_table(source)
    text_columns = _text_columns(source, there, text, columns)
    pairs = bool(columns.partner) and len(text_columns) == 2
    if labelled is None:
        labelled = pairs if columns.partner else has_labels(there, label, columns)
    if columns.own:
        labelled = False
    numbered = not columns.partner or (pairs and has_labels(there, label, columns))
    label_column = _find(source, there, label, columns.label, "label") if labelled and numbered else None
    if group is not None and group not in there:
        raise InputError(f"{source}: no column '{group}' (data.groups, --group); {nearest(group, there)}")
    texts: list[str] = []
    labels: list = []
    groups: list[str] = []
    seen = LabelColumn(names, label_column or "")
    for row, record in records:
        where = f"{source}, {row}"
        if columns.images:
            parts = [image_of(record.get(text_columns[0]), Path(source).parent, f"{where}: column '{text_columns[0]}'")]
        else:
            parts = [text_of(record, column, columns.of_words, where) for column in text_columns]
        value = PAIR.join(parts)
        texts += parts if columns.partner else [value]
        if group is not None:
            of_group = "" if record.get(group) is None else str(record[group]).strip()
            groups += [of_group] * (len(parts) if columns.partner else 1)
        if columns.partner:
            similarity = math.inf  # they belong together
            if label_column is not None:
                similarity = number(record.get(label_column), where, label_column, parts[0])
            labels += [similarity, math.nan] if pairs else [math.nan]
            continue
        if label_column is not None:
            cell = record.get(label_column)
            if columns.written:
                labels.append(text_of(record, label_column, False, where))
            elif columns.answers:
                labels.append(answers_of(cell, value.partition(PAIR)[2], where, label_column))
            elif columns.number:
                labels.append(number(cell, where, label_column, value))
            elif columns.of_words:
                labels.append([seen.add(tag, where, value) for tag in tags(cell, where, label_column, value)])
            elif columns.several:
                labels.append([seen.add(name, where, value) for name in listed(cell, where, label_column)])
            else:
                labels.append(seen.add(cell, where, value))
    if not texts:
        raise InputError(f"{source}: no rows; a header line and at least one row are expected")
    if label_column is not None and columns.named and not columns.partner:
        labels = _numbered(labels, seen, columns, source)
    gold = None
    if label_column is not None and (columns.of_words or columns.answers or columns.written):
        gold = np.empty(len(labels), dtype=object)
        gold[:] = labels
    elif label_column is not None or (columns.partner and labelled):
        gold = np.array(labels, dtype=np.float64 if columns.number or columns.partner else np.int64)
    return Rows(source, tuple(texts), gold, tuple(names), tuple(groups) if group is not None else None)


def read_rows(
    task: Task, source: str, *, text: str | None = None, label: str | None = None, group: str | None = None, **how: Any
) -> Rows:
    """`read` with the columns of a task."""
    task = task.with_columns(text, label)
    named = ColumnNames(task.text_column, task.label_column, group)
    return read(source, columns=task.columns, named=named, **how)


def read_unlabeled_rows(task: Task, source: str) -> Rows:
    """`read_unlabeled` with the columns of a task."""
    return read_unlabeled(source, columns=task.columns, text=task.text_column, label=task.label_column)


def label_names_of(task: Task, source: str) -> tuple[str, ...]:
    """`label_names` with the columns of a task."""
    return label_names(source, task.label_column, task.columns)


def class_names(task: Task, source: str, label: str | None = None) -> tuple[str, ...]:
    """`label_names` where labels are names; () where they are not, or the data has none."""
    columns, column = task.columns, task.with_columns(None, label).label_column
    if not (columns.named and has_labels(open_table(source)[0], column, columns)):
        return ()
    return label_names(source, column, columns)


def _numbered(labels: list, named: LabelColumn, columns: Columns, source: str) -> list:
    """The labels of all rows as indices; of each word, where words have them; as 0 and 1, where a row may have
    several."""
    index = named.numbers()
    if columns.of_words:
        return [np.array([index[tag] for tag in row], dtype=np.int64) for row in labels]
    if columns.several:
        refuse_indicators(labels, len(named.names), source, named.column)
        return [indicator_row(row, index, len(named.names)) for row in labels]
    return [index[name] for name in labels]


def _text_columns(source: str, there: Sequence[str], given: str | None, columns: Columns) -> list[str]:
    """The column of the text, or the two columns of texts that make a row, or that belong together."""
    if columns.partner:
        first, _, second = (part.strip() for part in (given or "").partition(","))
        one = _find(source, there, first or None, columns.text, "text")
        usual = columns.partner if given is None else (second,)
        return [one, *[name for name in usual if name in there and name != one][:1]]
    if not columns.second:
        if given is None:
            _refuse_second(source, there, columns)
        return [_find(source, there, given, columns.text, "text")]
    first, _, second = (given or "").partition(",")
    if given is not None and not (first.strip() and second.strip()):
        raise InputError(f"{source}: data.text (--text-column) '{given}': two columns are expected: FIRST,SECOND")
    one = _find(source, there, first.strip() or None, columns.text, "text")
    return [one, _find(source, [c for c in there if c != one], second.strip() or None, columns.second, "text")]


def _refuse_second(source: str, there: Sequence[str], columns: Columns) -> None:
    """InputError where a task reads single texts and a column that has the name of a second text would be ignored."""
    second = next((name for name in SECOND if name in there), None)
    if second is not None and columns.text == TEXT_COLUMNS and not columns.own:
        task = "text-pair-regression" if columns.number else "text-pair-classification"
        pairs = "" if columns.several else f"for rows of two texts give --task {task} (`task:` of a recipe); "
        raise InputError(
            f"{source}: column '{second}' has second texts, and single texts are read; {pairs}"
            "for one of the two name its column with data.text (--text-column)"
        )


def read_unlabeled(source: str, *, columns: Columns = TEXT, text: str | None = None, label: str | None = None) -> Rows:
    """Rows without labels. InputError for a file that has them: it may be held-out data, given in the wrong place."""
    there, _ = open_table(source)
    found = next((name for name in (label, *columns.label, *GOLD_COLUMNS) if name and name in there), None)
    if found is not None:
        raise InputError(
            f"{source}: unlabelled text is expected, and it has a column '{found}'; labelled rows go into train, and "
            "validation or test rows must not be learned from; remove the column if the rows are for learning"
        )
    return read(source, columns=columns, named=ColumnNames(text), labelled=False)


def has_labels(there: Sequence[str], label: str | None, columns: Columns) -> bool:
    """Whether a label's column is asked for, or there is one of the usual names among the columns `there`."""
    return label is not None or any(name in there for name in columns.label)


def label_names(source: str, label: str | None = None, columns: Columns = TEXT) -> tuple[str, ...]:
    """The distinct labels of the data, in the data set's own order where it has one, else sorted (as numbers when all
    are): for a checkpoint that has no head yet. Of numbers, the name of their column; of answers, the names of their
    ends; of texts to write, none; of texts alone, what is said of a token."""
    if columns.own:
        return NAMES
    there, records = open_table(source)
    if columns.partner:
        return ()  # the components of a vector, which the checkpoint knows
    column = _find(source, there, label, columns.label, "label")
    if columns.answers:
        return ("start", "end")  # questions.ENDS
    if columns.written:
        return ()
    if columns.number:
        return (column,)
    found: dict[str, tuple[str, str]] = {}  # a label's text -> itself, with its number; where it came first
    rows: list[Sequence[str]] = []
    for row, record in records:
        value, where = record.get(column), f"{source}, {row}"
        cells = words(value, where, column) if columns.of_words else [value]
        cells = listed(value, where, column) if columns.several else cells
        names = [written(cell, where, column) for cell in cells]
        for name in names:
            found.setdefault(name, (name, where))
        rows += [names] if columns.several else []
    odd = next((name for name in sorted(found) if columns.several and ";" in name), None)
    if odd is not None:
        raise InputError(f"{source}: column '{column}': a label with a semicolon, '{odd}'; rename it")
    known = tuple(map(str, distinct(found, source, column)))
    if columns.several:
        refuse_indicators(rows, len(known), source, column)
    return known


def require_two_classes(rows: Rows, names: Sequence[str]) -> None:
    """Raise InputError when every row has the same label: nothing can be learned or judged from it."""
    if rows.labels is None and set(names) == set(NAMES):  # of texts alone
        if len(set(rows.texts)) < 2:
            raise InputError(f"{rows.source}: every row has the same text; rows that differ are needed")
        return
    if rows.gold.dtype == np.float64:
        numbers = rows.gold[np.isfinite(rows.gold)]
        if len(numbers) and len(np.unique(numbers)) < 2:
            raise InputError(f"{rows.source}: every row has the number {numbers[0]:g}; rows that differ are needed")
        if np.isinf(rows.gold).any() and len({rows.texts[i + 1] for i in rows.begins.tolist()}) < 2:
            raise InputError(f"{rows.source}: every row has the same second text; rows that differ are needed")
        return
    if isinstance(rows.gold[0], tuple | str):
        if len(set(rows.gold)) < 2:
            raise InputError(f"{rows.source}: every row has the same answer; rows that differ are needed")
        return
    found = np.unique(rows.gold, axis=0) if rows.gold.ndim > 1 else np.unique(rows.every_label())
    if len(found) < 2 and found.ndim > 1:
        raise InputError(f"{rows.source}: every row has the same labels; rows that differ in them are needed")
    if len(found) < 2:
        raise InputError(f"{rows.source}: only one class, '{names[int(found[0])]}'; rows of at least two are needed")


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


def encode(encoder: Preprocessor, rows: Rows) -> list[list[int]]:
    """Token ids of every row; InputError when no row has a token of its own (the model would see padding only)."""
    ids = encoder.ids(rows.texts)
    check_known(encoder, rows, ids)
    return ids


def check_known(encoder: Preprocessor, rows: Rows, ids: Sequence[Sequence[int]] = ()) -> None:
    """InputError when no row has a token of its own. `ids`: of the rows, where they are known."""
    if encoder.shape:  # an image has pixels of its own, and was checked when it was read
        return
    ids = ids or encoder.ids(rows.texts)
    bare = encoder.ids([PAIR if PAIR in rows.texts[0] else ""])[0]  # what stands around texts
    unknown = encoder.tokenizer.token_to_id("[UNK]")
    if all(len(row) <= len(bare) or (unknown is not None and set(row) - set(bare) == {unknown}) for row in ids):
        raise InputError(f"{rows.source}: no row has a token that the tokenizer knows; is it the right text column?")
