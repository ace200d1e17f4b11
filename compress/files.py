"""Tables of rows: CSV, JSONL, Parquet, CoNLL files and `datasets` names, read row by row. Without torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import InputError, missing_extra

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")  # of a directory with one of them for each label
Table = tuple[list[str], Iterator[tuple[str, dict]]]  # columns, then (where it stands, the row)


def open_table(source: str) -> Table:
    """Columns and rows of a file, of a directory of images, or of a `datasets` name; InputError names the file and the
    line."""
    suffix = Path(source).suffix.lower()
    if suffix in READERS:
        path = Path(source)
        try:
            there = path.is_file()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from None
        if not there:
            raise InputError(f"{source}: no such file; give a file that ends in {', '.join(READERS)}")
        return READERS[suffix](path)
    images = sorted(path for path in Path(source).glob("*/*") if path.suffix.lower() in IMAGES)
    if images:
        records = ({"image": str(path.absolute()), "label": path.parent.name} for path in images)
        return ["image", "label"], ((f"{r['label']}/{Path(r['image']).name}", r) for r in records)
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


def _read_csv(path: Path) -> Table:
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


def _read_jsonl(path: Path) -> Table:
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


def _read_parquet(path: Path) -> Table:
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


def _read_hub(source: str) -> Table:
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
    images = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    table: datasets.Dataset = data
    for column in images:  # the file's bytes, not what they decode to
        table = table.cast_column(column, datasets.Image(decode=False))

    def rows() -> Iterator[tuple[str, dict]]:
        inner = {c: getattr(f, "feature", f) for c, f in table.features.items()}
        named = {c: f for c, f in inner.items() if isinstance(f, datasets.ClassLabel)}
        for i in range(len(table)):
            record = dict(table[i])
            for column, feature in named.items():
                record[column] = _named(feature, record[column])
            yield f"row {i + 1}", record

    return list(table.column_names), rows()


def _named(feature, value: object) -> object:
    """Names of the numbers of a class label, one or a list."""
    if isinstance(value, list):
        return [_named(feature, number) for number in value]
    return feature.int2str(value) if isinstance(value, int) and value >= 0 else value


def _read_conll(path: Path) -> Table:
    """A word and its tag a line, columns apart by blanks (the first and the last count), sentences apart by an empty
    line; lines of one column have no tags."""
    records: list[tuple[str, dict]] = []
    words: list[list[str]] = []
    for number, line in enumerate([*_text_of(path).split("\n"), ""], start=1):
        cells = line.split()
        if cells and cells[0] != "-DOCSTART-":
            words.append(cells)
        elif words:
            if len({min(len(cells), 2) for cells in words}) > 1:
                raise InputError(f"{path}, line {number - 1}: some words of this sentence have a tag, others have none")
            tags = {"tags": [cells[-1] for cells in words]} if len(words[0]) > 1 else {}
            records.append((f"line {number - len(words)}", {"tokens": [cells[0] for cells in words], **tags}))
            words = []
    if not records:
        raise InputError(f"{path}: empty file; a word and its tag a line are expected, an empty line after a sentence")
    return list(records[0][1]), iter(records)


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".conll": _read_conll,
}  # fmt: skip
