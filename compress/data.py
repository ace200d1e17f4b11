"""Rows from a CSV, JSONL or Parquet file, or from a `datasets` name. Without torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .encoder import Encoder
from .errors import InputError, missing_extra, nearest

TEXT_COLUMNS = ("text", "sentence", "review", "content", "utterance")
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent", "sentiment")


@dataclass(frozen=True)
class Rows:
    """Texts with their labels (None when unlabelled): `labels[i]` is an index into the checkpoint's label names."""

    source: str
    texts: tuple[str, ...]
    labels: np.ndarray | None  # (rows,) int64

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
        return Rows(self.source, type(self.texts)(self.texts[i] for i in picked), labels)


def some_of(rows: int, count: int) -> np.ndarray:
    """`count` row numbers of `rows` (or all of them) in random order, the same ones each time."""
    return np.random.default_rng(0).permutation(rows)[:count]


def read(
    source: str,
    *,
    text: str | None = None,
    label: str | None = None,
    names: Sequence[str] = (),
    labelled: bool | None = True,
) -> Rows:
    """Read rows. Columns are `text` and `label`, or found among the usual names when None.

    `source` is a path ending in .csv, .jsonl or .parquet, or `name[:split]` of the `datasets` library (split defaults
    to "train"). `labelled=None`: labels if there are any. A label is one of `names`, or an index into them. Raises
    InputError that names the file and the row.
    """
    columns, records = _open(source)
    text_column = _find(source, columns, text, TEXT_COLUMNS, "text")
    if labelled is None:
        labelled = label is not None or any(name in columns for name in LABEL_COLUMNS)
    label_column = _find(source, columns, label, LABEL_COLUMNS, "label") if labelled else None
    texts: list[str] = []
    labels: list[int] = []
    known = {name: i for i, name in enumerate(names)}
    for where, record in records:
        value = record.get(text_column)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{source}, {where}: column '{text_column}' is empty; remove the row or fill it in")
        if not is_text(value):
            raise InputError(f"{source}, {where}: column '{text_column}' holds half a character (a lone surrogate)")
        texts.append(value)
        if label_column is not None:
            labels.append(_label(record.get(label_column), known, f"{source}, {where}", label_column, value))
    if not texts:
        raise InputError(f"{source}: no rows; a header line and at least one row are expected")
    return Rows(source, tuple(texts), np.array(labels, dtype=np.int64) if label_column is not None else None)


def read_unlabeled(source: str, *, text: str | None = None, label: str | None = None) -> Rows:
    """Rows without labels. InputError for a file that has them: it may be held-out data, given in the wrong place."""
    columns, _ = _open(source)
    found = next((name for name in (label, *LABEL_COLUMNS) if name and name in columns), None)
    if found is not None:
        raise InputError(
            f"{source}: unlabelled text is expected, and it has a column '{found}'; labelled rows go into train, and "
            "validation or test rows must not be learned from; remove the column if the rows are for learning"
        )
    return read(source, text=text, labelled=False)


def is_text(value: str) -> bool:
    """False for a string that UTF-8 cannot write, which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_names(source: str, label: str | None = None) -> tuple[str, ...]:
    """The distinct labels of the data, sorted (as numbers when all are): for a checkpoint that has no head yet."""
    columns, records = _open(source)
    column = _find(source, columns, label, LABEL_COLUMNS, "label")
    found = {"" if record.get(column) is None else str(record[column]).strip() for _, record in records}
    if "" in found:
        raise InputError(f"{source}: column '{column}' is empty in some row; every row needs a label")
    if all(map(_is_number, found)):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def column(source: str, name: str) -> list[str]:
    """A further column of the data as text, in the rows' order. Raises InputError."""
    columns, records = _open(source)
    _find(source, columns, name, (), "group")
    return ["" if record.get(name) is None else str(record[name]).strip() for _, record in records]


def require_two_classes(rows: Rows, names: Sequence[str]) -> None:
    """Raise InputError when every row has the same label: nothing can be learned or judged from it."""
    found = np.unique(rows.gold)
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


def _open(source: str) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    suffix = Path(source).suffix.lower()
    if suffix in READERS:
        path = Path(source)
        try:
            there = path.is_file()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from None
        if not there:
            raise InputError(f"{source}: no such file; give a .csv, .jsonl or .parquet file")
        return READERS[suffix](path)
    if "/" in source and Path(source).parent.is_dir() and (suffix or Path(source).exists()):
        raise InputError(f"{source}: unknown kind of file '{suffix}'; expected {', '.join(READERS)} or a datasets name")
    return _read_hub(source)


def _text_of(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); "
            f"convert it: iconv -f latin1 -t utf-8 {path.name} > utf8{path.suffix}"
        ) from None


def _read_csv(path: Path) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise InputError(f"{path}, line 1: not readable as CSV: {error}") from None
    if not columns:
        raise InputError(f"{path}: empty file; a header line and at least one row are expected")
    if len(set(columns)) != len(columns):
        raise InputError(f"{path}, line 1: a column name is there twice: {', '.join(columns)}")

    def rows() -> Iterator[tuple[str, dict]]:
        try:
            for record in reader:
                if None in record:
                    raise InputError(
                        f"{path}, line {reader.line_num}: more cells than columns; put texts with commas in quotes"
                    )
                yield f"line {reader.line_num}", record
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not readable as CSV: {error}") from None

    return columns, rows()


def _read_jsonl(path: Path) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    records: list[tuple[str, dict]] = []
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f'{path}, line {number}: an object like {{"text": ..., "label": ...}} is expected')
        records.append((f"line {number}", record))
    if not records:
        raise InputError(f"{path}: empty file; one JSON object a line is expected")
    return list(records[0][1]), iter(records)


def _read_parquet(path: Path) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "compress") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from None
    return table.column_names, ((f"row {i}", record) for i, record in enumerate(table.to_pylist(), start=1))


def _read_hub(source: str) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "compress") from None
    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the hub, the network and the data's own code each raise their own kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"'{source}' is neither a file here nor a data set that can be loaded: {reason}") from None
    if not isinstance(data, datasets.Dataset):
        raise InputError(f"'{source}': name one split, for example {name}:train")
    table: datasets.Dataset = data

    def rows() -> Iterator[tuple[str, dict]]:
        named = {c: f for c, f in table.features.items() if isinstance(f, datasets.ClassLabel)}
        for i in range(len(table)):
            record = dict(table[i])
            for column, feature in named.items():
                number = record[column]
                record[column] = feature.int2str(number) if isinstance(number, int) and number >= 0 else number
            yield f"row {i + 1}", record

    return list(table.column_names), rows()


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def encode(encoder: Encoder, rows: Rows) -> list[list[int]]:
    """Token ids of every row; InputError when no row has a token of its own (the model would see padding only)."""
    ids = encoder.ids(rows.texts)
    empty = len(encoder.ids([""])[0])
    unknown = encoder.tokenizer.token_to_id("[UNK]")
    if all(len(row) <= empty or (unknown is not None and set(row[1:-1]) == {unknown}) for row in ids):
        raise InputError(f"{rows.source}: no row has a token that the tokenizer knows; is it the right text column?")
    return ids
