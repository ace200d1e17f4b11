import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import LABELS, write_csv

from paredown.compress.data import dataset
from paredown.compress.data.dataset import ColumnNames, read, read_rows
from paredown.compress.models.loading import Checkpoint
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.columns import LABELS as SEVERAL
from paredown.tasks.columns import NUMBERS, TEXT, Columns
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows

PREMISE = {"premise": "a", "hypothesis": "b", "label": "x"}
ROWS = [("a good film", "positive"), ("a bad film", "negative")]


def test_the_three_kinds_of_file_give_the_same_rows(tmp_path: Path) -> None:
    csv_file = write_csv(tmp_path / "a.csv", ROWS)
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_text('{"text": "a good film", "label": "positive"}\n\n{"text": "a bad film", "label": 0}\n')
    parquet = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [t for t, _ in ROWS], "label": [1, 0]}), parquet)
    for path in (csv_file, jsonl, parquet):
        rows = dataset.read(str(path), names=LABELS)
        assert rows.texts == ("a good film", "a bad film")
        assert rows.gold.tolist() == [1, 0]


def write_all(path: Path, records: list[dict]) -> list[Path]:
    """The same rows as CSV (None: an empty cell), JSONL and Parquet."""
    files = [path / f"rows.{suffix}" for suffix in ("csv", "jsonl", "parquet")]
    with files[0].open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    files[1].write_text("".join(json.dumps(record) + "\n" for record in records))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), files[2])
    return files


def test_words_that_other_readers_take_for_a_gap_are_words(tmp_path: Path) -> None:
    words = ["NA", "None", "null", "N/A"]
    for file in write_all(tmp_path, [{"text": word, "label": word} for word in words]):
        names = dataset.label_names(str(file))
        rows = dataset.read(str(file), names=names)
        assert list(rows.texts) == [names[i] for i in rows.gold] == words
    pairs = TASKS["text-pair-classification"]
    records = [{"premise": "None", "hypothesis": word, "label": "a"} for word in words]
    for file in write_all(tmp_path, records):
        assert read_rows(pairs, str(file), names=("a", "b")).texts == tuple(f"None{PAIR}{word}" for word in words)


@pytest.mark.parametrize(
    ("task", "good", "gap", "column"),
    [
        ("text-classification", {"text": "a", "label": "x"}, {"text": None}, "text"),
        ("text-classification", {"text": "a", "label": "x"}, {"text": " "}, "text"),
        ("text-classification", {"text": "a", "label": "x"}, {"label": None}, "label"),
        ("text-classification", {"text": "a", "label": 1}, {"label": None}, "label"),
        ("text-pair-classification", PREMISE, {"hypothesis": None}, "hypothesis"),
        ("text-pair-classification", PREMISE, {"premise": ""}, "premise"),
        ("text-regression", {"text": "a", "score": 1.5}, {"score": None}, "score"),
        ("text-to-text", {"text": "a", "target": "b"}, {"target": None}, "target"),
        ("sentence-embedding", {"sentence1": "a", "sentence2": "b", "score": 1.0}, {"sentence2": None}, "sentence2"),
    ],
)  # fmt: skip
def test_a_gap_is_named_by_its_row_and_column(task: str, good: dict, gap: dict, column: str, tmp_path: Path) -> None:
    for file in write_all(tmp_path, [good, good | gap]):
        place = {".csv": "line 3", ".jsonl": "line 2", ".parquet": "row 2"}[file.suffix]
        with pytest.raises(InputError, match=rf"^{file}, {place}: .*column '{column}'"):
            read_rows(TASKS[task], str(file), names=dataset.label_names(str(file), None, TASKS[task].columns))


@pytest.mark.parametrize("cell", ["1_00", "0,5", "inf", "true", "1.0.0", "NA"])
def test_what_is_no_number_is_none(cell: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a film", "1e-1"), ("a plot", cell)])
    with pytest.raises(InputError, match=f"line 3: a number is expected .* not '{cell}'"):
        read_rows(TASKS["text-regression"], str(path), label="label")
    path = write_csv(tmp_path / "a.csv", [("a film", "1e-1"), ("a plot", " -2.5 ")])
    assert read_rows(TASKS["text-regression"], str(path), label="label").gold.tolist() == [0.1, -2.5]


def test_columns_are_found_or_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence,intent,other\nhello,positive,x\n")
    assert dataset.read(str(path), names=LABELS).texts == ("hello",)
    assert dataset.read(str(path), named=dataset.ColumnNames("other"), names=LABELS).texts == ("x",)
    with pytest.raises(InputError, match=r"no column 'sentense'; did you mean 'sentence'\?"):
        dataset.read(str(path), named=dataset.ColumnNames("sentense"), names=LABELS)


@pytest.mark.parametrize(
    ("header", "columns", "task"),
    [
        ("text,text_pair,label", TEXT, "text-pair-classification"),
        ("premise,hypothesis,label", TEXT, "text-pair-classification"),
        ("text,text2,score", NUMBERS, "text-pair-regression"),
        ("sentence1,sentence2,labels", SEVERAL, None),
    ],
)
def test_a_second_text_is_not_ignored(header: str, columns: Columns, task: str | None, tmp_path: Path) -> None:
    """The head of a model for pairs is that of one for single texts: a task that is taken from it may be wrong."""
    file = tmp_path / "rows.csv"
    file.write_text(f"{header}\na,b,1\nc,d,0\n")
    first, second, _ = header.split(",")
    with pytest.raises(InputError, match=f"column '{second}' has second texts.*--text-column") as error:
        read(str(file), columns=columns)
    assert ("--task" in str(error.value)) == (task is not None)
    assert task is None or f"--task {task} " in str(error.value)
    alone = read(str(file), columns=columns, named=ColumnNames(first), labelled=False)
    assert alone.texts == ("a", "c")


def test_labels_are_optional_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nhello\n")
    assert dataset.read(str(path), labelled=None).labels is None
    with pytest.raises(InputError, match="no label column among text"):
        dataset.read(str(path), names=LABELS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty file"]),
        (b"text,label\n", ["no rows"]),
        (b"text,label\nhello,positve\n", ["line 2", "unknown label 'positve'", "'hello'", "did you mean 'positive'?"]),
        (b"text,label\nhello,7\n", ["line 2", "unknown label '7'"]),
        (b"text,label\n ,positive\n", ["line 2", "'text' is empty"]),
        (b"text,label\nok,positive\ncaf\xe9,positive\n", ["line 3", "not UTF-8", "iconv"]),
        (b"words,label\nhello,positive\n", ["no text column among words, label", "data.text"]),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        dataset.read(str(path), names=LABELS)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.jsonl", b"{nope\n", "line 1: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: an object"),
        ("a.parquet", b"PAR1 no", "not readable as Parquet"),
    ],
)
def test_bad_jsonl_and_parquet(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=word):
        dataset.read(str(tmp_path / name), names=LABELS)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        dataset.read(str(tmp_path / "none.csv"))
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match="unknown kind of file"):
        dataset.read(str(tmp_path / "a.xlsx"))


def test_one_class_is_refused(tmp_path: Path) -> None:
    rows = dataset.read(str(write_csv(tmp_path / "a.csv", [ROWS[0], ROWS[0]])), names=LABELS)
    with pytest.raises(InputError, match="only one class, 'positive'"):
        dataset.require_two_classes(rows, LABELS)


def test_rows_without_a_known_token_are_refused(tmp_path: Path, untrained: Checkpoint) -> None:
    path = write_csv(tmp_path / "a.csv", [("zzz qqq", "positive"), ("xxx", "negative")])
    with pytest.raises(InputError, match="no row has a token"):
        dataset.encode(untrained.encoder(), dataset.read(str(path), names=LABELS))


def test_label_names_sort_numbers_as_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a", "10"), ("b", "9")])
    assert dataset.label_names(str(path)) == ("9", "10")


def test_a_group_column_is_read_beside_and_sampled_with_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label,channel\n" + "".join(f"t{i},0,c{i}\n" for i in range(5)) + "t5,1,\n")
    rows = dataset.read(str(file), names=("a", "b"), named=dataset.ColumnNames(group="channel"))
    assert rows.groups == ("c0", "c1", "c2", "c3", "c4", "")
    few = rows.sample(3)
    assert few.groups is not None
    assert all(text[1:] == group[1:] or text == "t5" for text, group in zip(few.texts, few.groups, strict=True))
    with pytest.raises(InputError, match="did you mean 'channel'"):
        dataset.read(str(file), names=("a", "b"), named=dataset.ColumnNames(group="chanel"))


def test_labels_can_be_counted_in_another_order() -> None:
    rows = Rows("here", ("a", "b", "c"), np.array([0, 1, 2]), ("x", "y", "z"))
    other = rows.renamed(("y", "x", "w"))
    assert other.names == ("y", "x", "w", "z")
    assert [other.names[i] for i in other.gold] == ["x", "y", "z"]
    tags = np.empty(2, dtype=object)
    tags[:] = [np.array([0, 2]), np.array([1])]
    other = Rows("here", ("a b", "c"), tags, ("x", "y", "z")).renamed(("z",))
    assert [[other.names[i] for i in row] for row in other.gold] == [["x", "z"], ["y"]]


@pytest.mark.parametrize("column", ["label", "intent", "target", "y", "gold"])
def test_text_that_is_given_without_labels_has_none(column: str, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text(f'{{"text": "a good film", "{column}": "positive"}}\n')
    with pytest.raises(InputError, match=f"unlabelled text is expected, and it has a column '{column}'"):
        dataset.read_unlabeled(str(path))
    path.write_text('{"text": "a good film", "id": 3}\n')
    assert list(dataset.read_unlabeled(str(path)).texts) == ["a good film"]
