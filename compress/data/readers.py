"""Tables from files: CSV, TSV, JSON, Parquet, CoNLL, directories of them, and `datasets` names. Without torch.

What lies on this machine is read here or refused; only a name that is no file here is asked of the hub.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from paredown.runtime.errors import InputError, missing_extra
from paredown.tasks.labels import ClassName

from .conll import sentences

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")  # of a directory with one of them for each label
# What no data set of the hub is called: files that people have, and that are not read here.
OTHER_FILES = (
    ".txt", ".xlsx", ".xls", ".ods", ".zip", ".gz", ".bz2", ".xz", ".zst", ".arrow", ".feather", ".pkl", ".npy", ".npz",
    ".xml", ".yaml", ".yml", ".html", ".db", ".sqlite", ".conllu", ".tar", ".avro", ".orc", ".ndjson",
)  # fmt: skip
# What parts of a data set are called in the names of its files, as `datasets` has it.
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "evaluation": "validation", "test": "test", "testing": "test",
}  # fmt: skip
Table = tuple[list[str], Iterator[tuple[str, dict]]]  # columns, then (where it stands, the row)

csv.field_size_limit(2**31 - 1)  # a document is a cell


def open_table(source: str) -> Table:
    """Columns and rows of a file, of a directory of images or of files, or of a `datasets` name; InputError names the
    file and the line."""
    path = Path(source)
    name, _, split = source.rpartition(":")
    try:
        if path.is_dir():
            return _read_directory(path, "")
        if not path.exists() and name and Path(name).is_dir():
            return _read_directory(Path(name), split)
        there, known = path.is_file(), reader_of(path)
        if path.exists() and (known is None or not there):
            raise InputError(f"{source}: unknown kind of file '{path.suffix}'; expected {_kinds()} or a datasets name")
        if known is not None:
            if not there:
                raise InputError(f"{source}: no such file; give a file that ends in {_kinds()}")
            return known(path)
        if path.suffix.lower() in OTHER_FILES:
            raise InputError(f"{source}: no such file, and of a kind that is not read: expected {_kinds()}")
        if "/" in source and path.suffix and path.parent.is_dir():
            raise InputError(
                f"{source}: no such file; unknown kind of file '{path.suffix}': expected {_kinds()} or a datasets name"
            )
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    return _read_hub(source)


def _kinds() -> str:
    return ", ".join(READERS) + " (of text also with .gz)"


def reader_of(path: Path) -> Callable[[Path], Table] | None:
    """What reads a file of this name; None for a kind that is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        return READERS.get(suffixes[0]) if suffixes[0] != ".parquet" else None
    return READERS.get(suffixes[-1]) if suffixes else None


def _read_directory(path: Path, split: str) -> Table:
    """Images in a directory for each label; or the rows of all files of a split, in the order of their names."""
    images = sorted(file for file in path.glob("*/*") if file.suffix.lower() in IMAGES)
    if images and not split:
        records = ({"image": str(file.absolute()), "label": file.parent.name} for file in images)
        return ["image", "label"], ((f"{r['label']}/{Path(r['image']).name}", r) for r in records)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _read_saved(path, split)
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and reader_of(file)
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        and not (file.suffix == ".json" and file.stem in ("dataset_info", "dataset_infos", "state", "config"))
    ]
    if not files or images or any(file.stem == "metadata" for file in files) or _has_settings(path):
        return _read_hub(str(path.resolve()) + (f":{split}" if split else ""), str(path))
    parts = {file: _split_of(file.relative_to(path)) for file in files}
    found = sorted({part for part in parts.values() if part})
    wanted = split or "train"
    if found:
        files = [file for file in files if parts[file] == wanted]
    if not files or (split and not found):
        raise InputError(f"{path}: no files of the split '{wanted}'; it has {', '.join(found) or 'one split, train'}")
    kinds = sorted({"".join(file.suffixes[-2:] if file.suffix == ".gz" else [file.suffix]) for file in files})
    if len(kinds) > 1:
        raise InputError(f"{path}: files of several kinds, {', '.join(kinds)}; name one of them, or a directory of one")
    columns, _ = _read_one(files[0])
    for file in files[1:]:
        others, _ = _read_one(file)
        if set(others) != set(columns):
            raise InputError(
                f"{file}: its columns are {', '.join(others)}; those of {files[0].name} are {', '.join(columns)}"
            )

    def rows() -> Iterator[tuple[str, dict]]:
        for file in files:
            for where, record in _read_one(file)[1]:
                yield f"{file.relative_to(path)}, {where}", record

    return columns, rows()


def _read_one(file: Path) -> Table:
    reader = reader_of(file)
    assert reader is not None
    return reader(file)


def _split_of(file: Path) -> str:
    words = re.split(r"[-._ /0-9]+", file.as_posix().lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _has_settings(path: Path) -> bool:
    """Whether a README.md says which files are the data, as data sets of the hub do."""
    try:
        head = (path / "README.md").read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    except OSError:
        return False
    return head.startswith("---") and re.search(r"^configs:", head, re.MULTILINE) is not None


def _bytes_of(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not readable as gzip: {error}; is the download whole?") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _text_of(path: Path) -> str:
    """The text of a UTF-8 file, its line ends as newlines."""
    raw = _bytes_of(path)
    other = _wide_encoding(raw)
    if other is None:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
            raise InputError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); {_advice(path, raw)}") from None
    raise InputError(f"{path}, line 1: not UTF-8 but {other.upper()}; {_converting(path, other)}")


def _lines_of(path: Path) -> list[str]:
    return _text_of(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _wide_encoding(raw: bytes) -> str | None:
    """utf-16 or utf-32, by its byte order mark, or by the zeros between letters."""
    if raw.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = raw[:4000]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= 8 and max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
        return "utf-16be" if even > odd else "utf-16le"
    return None


def _advice(path: Path, raw: bytes) -> str:
    """What to do about a file that is not UTF-8: it may be so but for some bytes, or Windows-1252, or something that
    cannot be told from here."""
    text = raw.decode("utf-8", "surrogateescape")
    odd = sum("\udc80" <= letter <= "\udcff" for letter in text)
    if sum(letter > "\x7f" for letter in text) - odd > odd:
        return "the rest of the file is: mend the text there (it was pasted from a file in another encoding)"
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        western = False
    else:  # in Western languages most letters are ASCII
        western = odd < 0.25 * (len(raw) - raw.count(b",") - raw.count(b"\n"))
    if western:
        return "Windows-1252, it seems, Excel's encoding in Western languages; " + _converting(path, "cp1252")
    return "put the encoding that it was written in (iconv -l lists them) for ENCODING; " + _converting(
        path, "ENCODING"
    )


def _converting(path: Path, encoding: str) -> str:
    given = str(path) if not str(path).startswith("-") else f"./{path}"
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    out = shlex.quote(str(plain.with_name(f"utf8-{plain.name}")))
    if plain != path:
        return f"convert it: gzip -dc {shlex.quote(given)} | iconv -f {encoding} -t utf-8 > {out}"
    return f"convert it: iconv -f {encoding} -t utf-8 {shlex.quote(given)} > {out}"


def _read_csv(path: Path) -> Table:
    return _delimited(path, _text_of(path), ",", csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
    """Columns apart by tabs, cells in quotes as pandas writes them, or without any quoting; InputError where a file is
    both."""
    text = _text_of(path)
    if '"' not in text:
        return _delimited(path, text, "\t", csv.QUOTE_NONE)
    try:
        columns, records = _delimited(path, text, "\t", csv.QUOTE_MINIMAL)
        quoted = list(records)
    except InputError:
        return _delimited(path, text, "\t", csv.QUOTE_NONE)
    wide = next((w for w, r in quoted if any("\t" in str(c) or "\n" in str(c) for c in r.values())), None)
    tabs = {line.count("\t") for line in text.replace("\r\n", "\n").split("\n") if line}
    if wide is not None and len(tabs) == 1:
        raise InputError(
            f"{path}, up to {wide}: a quote that begins a cell, and another one lines later: they quote the cell, or "
            "they are letters; write the file as CSV"
        )
    return columns, iter(quoted)


def _delimited(path: Path, text: str, delimiter: str, quoting: int) -> Table:
    kind = "CSV" if delimiter == "," else "TSV"
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    try:
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise InputError(f"{path}, line 1: not readable as {kind}: {error}") from None
    if not columns:
        raise InputError(f"{path}: empty file; a header line and at least one row are expected")
    if len(set(columns)) != len(columns):
        raise InputError(f"{path}, line 1: a column name is there twice: {', '.join(columns)}")
    first = [line for line in text.split("\n", 6)[:6] if line.strip()]
    other = next((mark for mark in ";\t|," if mark != delimiter and all(mark in line for line in first)), None)
    if len(columns) == 1 and other is not None:
        name = {"\t": "tabs: name the file .tsv", ",": "commas: name the file .csv", ";": "semicolons", "|": "bars"}[
            other
        ]
        more = "" if other in "\t," else f"; write commas: {_with_commas(path, other)}"
        raise InputError(f"{path}, line 1: its columns are apart by {name}{more}")

    def rows() -> Iterator[tuple[str, dict]]:
        try:
            for record in reader:
                if None in record:
                    mend = "put texts with commas in quotes" if kind == "CSV" else "no text may hold a tab"
                    raise InputError(f"{path}, line {reader.line_num}: more cells than columns; {mend}")
                yield f"line {reader.line_num}", record
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not readable as {kind}: {error}") from None

    return columns, rows()


def _with_commas(path: Path, delimiter: str) -> str:
    code = "import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter=sys.argv[1]))"
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    out = shlex.quote(str(plain.with_name(f"commas-{plain.stem}.csv")))
    read = f"< {shlex.quote(str(path))}" if plain == path else ""
    pipe = "" if plain == path else f"gzip -dc {shlex.quote(str(path))} | "
    return f"{pipe}python3 -X utf8 -c {shlex.quote(code)} {shlex.quote(delimiter)} {read} > {out}".replace("  ", " ")


def _read_json(path: Path) -> Table:
    """Objects: one a line, or one list of them."""
    text = _text_of(path)
    records = _list_of(path, text) if text.lstrip().startswith("[") else _lines_of_json(path, text)
    if not records:
        raise InputError(f"{path}: empty file; one JSON object a line is expected")
    return list(records[0][1]), iter(records)


def _list_of(path: Path, text: str) -> list[tuple[str, dict]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        first, _, _ = text.partition("\n")
        try:
            json.loads(first)
        except ValueError:
            raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
        raise InputError(f'{path}, line 1: an object like {{"text": ..., "label": ...}} is expected') from None
    except RecursionError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    for number, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            place = f"{path}, row {number}" if "\n" in text.strip() or len(found) > 1 else f"{path}, line 1"
            raise InputError(f'{place}: an object like {{"text": ..., "label": ...}} is expected')
    return [(f"row {number}", record) for number, record in enumerate(found, start=1)]


def _lines_of_json(path: Path, text: str) -> list[tuple[str, dict]]:
    records: list[tuple[str, dict]] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not records and _is_object(text):
                raise InputError(
                    f"{path}: one JSON object over several lines; one object a line is expected, or a list of objects"
                ) from None
            raise InputError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f'{path}, line {number}: an object like {{"text": ..., "label": ...}} is expected')
        records.append((f"line {number}", record))
    return records


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "compress") from None
    try:
        table = pyarrow.parquet.ParquetFile(path).read()  # no columns out of the names of directories
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet: {(str(error) or repr(error)).splitlines()[0]}") from None
    names = list(table.column_names)
    if len(set(names)) != len(names):
        raise InputError(f"{path}: a column name is there twice: {', '.join(names)}")
    classes = _classes_of(table.schema.metadata or {})
    return names, _with_names(((f"row {i}", record) for i, record in enumerate(table.to_pylist(), start=1)), classes)


def _classes_of(metadata: dict[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Names of the labels of columns, as `datasets` writes them into the schema of a file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names_in(feature))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _names_in(feature: object) -> list[str]:
    if isinstance(feature, list):
        return _names_in(feature[0]) if len(feature) == 1 else []
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return [str(name) for name in names] if isinstance(names, list) else []
    return _names_in(feature.get("feature"))


def _with_names(rows: Iterator[tuple[str, dict]], classes: dict[str, Sequence[str]]) -> Iterator[tuple[str, dict]]:
    """The rows, with the names of the classes in place of their numbers."""
    made = {c: [ClassName(name, i, len(names)) for i, name in enumerate(names)] for c, names in classes.items()}
    for where, record in rows:
        for column, names in made.items():
            record[column] = _named(names, record.get(column))
        yield where, record


def _named(names: Sequence[ClassName], value: object) -> object:
    """Names of the numbers of a class label, one or a list."""
    if isinstance(value, list):
        return [_named(names, number) for number in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def _read_hub(source: str, shown: str | None = None) -> Table:
    try:
        import datasets
    except ImportError:
        if shown is not None or Path(source).exists():
            raise missing_extra("datasets", "compress") from None
        raise InputError(
            f"'{source}' is no file here ({_kinds()}); a data set of the hub needs the package datasets: "
            "pip install 'paredown[compress]'"
        ) from None
    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the hub, the network and the data's own code each raise their own kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{shown}: cannot be read as data" if shown else f"'{source}' is neither a file here nor a data set"
        raise InputError(f"{what}{'' if shown else ' that can be loaded'}: {reason}") from None
    return _of_datasets(data, shown or source)


def _read_saved(path: Path, split: str) -> Table:
    """What `save_to_disk` of `datasets` has written."""
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "compress") from None
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # each its own kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as a data set that was saved: {reason}") from None
    if isinstance(data, dict):
        wanted = split or "train"
        if wanted not in data:
            raise InputError(f"{path}: no split '{wanted}'; it has {', '.join(map(str, data))}; name one: {path}:SPLIT")
        data = data[wanted]
    elif split:
        raise InputError(f"{path}:{split}: one data set without splits; give {path}")
    return _of_datasets(data, str(path))


def _of_datasets(data, source: str) -> Table:
    import datasets

    if not isinstance(data, datasets.Dataset):
        raise InputError(f"'{source}': name one split, for example {source}:train")
    images = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    table: datasets.Dataset = data
    for column in images:  # the file's bytes, not what they decode to
        table = table.cast_column(column, datasets.Image(decode=False))
    inner = {c: getattr(f, "feature", f) for c, f in table.features.items()}
    classes: dict[str, Sequence[str]] = {
        c: list(f.names) for c, f in inner.items() if isinstance(f, datasets.ClassLabel)
    }
    records = ((f"row {i + 1}", dict(table[i])) for i in range(len(table)))
    return list(table.column_names), _with_names(records, classes)


def _read_conll(path: Path) -> Table:
    records = sentences(str(path), _lines_of(path))
    if not records:
        raise InputError(f"{path}: empty file; a word and its tag a line are expected, an empty line after a sentence")
    return list(records[0][1]), iter(records)


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
}
