"""Files of every kind that is read: the same rows whatever the kind, the path or the directory; the rest is refused as
a file that is here."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from paredown.compress.data import dataset
from paredown.compress.data import readers as files
from paredown.runtime.errors import InputError
from paredown.tasks.columns import WORDS

ROWS = [{"text": "a good film", "label": "positive"}, {"text": "a bad film", "label": "negative"}]
NAMES = ("negative", "positive")
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
NUMBERS = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "negative"])}
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a directory of its own, and no hub: what asks it fails the test."""

    def asked(source: str, shown: str | None = None):
        raise AssertionError(f"asked the hub for {source}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "_read_hub", asked)
    return tmp_path


def numbered(path: str) -> None:
    """As `datasets` writes it: numbers, and their names in the schema."""
    rows = {"text": [row["text"] for row in ROWS], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features=NUMBERS).to_parquet(path)


def write(name: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = path.with_suffix("") if path.suffix == ".gz" else path
    content = {
        ".csv": CSV,
        ".tsv": CSV.replace(",", "\t"),
        ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        ".json": json.dumps(ROWS, indent=1),
    }
    if bare.suffix == ".parquet":
        numbered(name)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(content[bare.suffix].encode()))
    else:
        path.write_text(content[bare.suffix])


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.json.gz", "a.tsv.gz", "A.CSV", "sub/a.json"],
)
def test_every_kind_gives_the_same_rows(name: str) -> None:
    write(name if name != "A.CSV" else "a.csv")
    if name == "A.CSV":
        Path("a.csv").rename(name)
    for source in (name, f"./{name}", str(Path(name).absolute())):
        rows = dataset.read(source, names=NAMES)
        assert (rows.texts, rows.gold.tolist()) == (("a good film", "a bad film"), [1, 0])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "json.gz"])
def test_a_directory_of_shards_is_its_files_one_after_another(kind: str) -> None:
    for shard in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(f"shards/{shard}.{kind}")
    Path("shards/README.md").write_text("# rows\n")
    Path("shards/dataset_info.json").write_text("{}")
    for source in ("shards", "./shards", "shards:train", str(Path("shards").absolute())):
        assert dataset.read(source, names=NAMES).gold.tolist() == [1, 0, 1, 0]
    assert dataset.read("shards:test", names=NAMES).gold.tolist() == [1, 0]
    with pytest.raises(InputError, match="no files of the split 'validation'; it has test, train"):
        dataset.read("shards:validation", names=NAMES)


def test_shards_that_do_not_belong_together() -> None:
    write("mixed/a.csv")
    write("mixed/b.jsonl")
    with pytest.raises(InputError, match=r"files of several kinds, \.csv, \.jsonl"):
        dataset.read("mixed", names=NAMES)
    write("other/a.csv")
    Path("other/b.csv").write_text("words,label\nx,positive\n")
    with pytest.raises(InputError, match=r"b\.csv: its columns are words, label; those of a\.csv are text, label"):
        dataset.read("other", names=NAMES)


def test_what_save_to_disk_has_written() -> None:
    rows = datasets.Dataset.from_dict({"text": [row["text"] for row in ROWS], "label": [0, 1]}, features=NUMBERS)
    rows.save_to_disk("saved")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk("parts")
    for source in ("saved", "./saved", "parts", "parts:test"):
        assert dataset.read(source, names=NAMES).gold.tolist() == [1, 0]
    with pytest.raises(InputError, match="no split 'dev'"):
        dataset.read("parts:dev", names=NAMES)


@pytest.mark.parametrize("name", ["a.xlsx", "a.txt", "a.bin", "noend", "a.parquet.gz", "a.gz", "a.conllu"])
def test_what_is_here_is_never_asked_of_the_hub(name: str) -> None:
    Path(name).write_bytes(b"x")
    for source in (name, f"./{name}"):
        with pytest.raises(InputError, match="unknown kind of file"):
            dataset.read(source)


@pytest.mark.parametrize("name", ["a.tsv", "a.json", "a.csv.gz", "a.xlsx", "a.zip", "none/a.json"])
def test_a_file_that_is_missing_is_said_to_be(name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        dataset.read(name)


def test_names_of_a_parquet_file_count_and_not_their_numbers() -> None:
    numbered("a.parquet")
    assert dataset.label_names("a.parquet") == ("positive", "negative")  # in the data set's own order
    assert dataset.read("a.parquet", names=NAMES).gold.tolist() == [1, 0]
    assert dataset.read("a.parquet", names=("LABEL_0", "LABEL_1")).gold.tolist() == [0, 1]  # a model without names
    with pytest.raises(InputError, match="unknown label 'positive'"):
        dataset.read("a.parquet", names=("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(InputError, match="unknown label 'positive'"):
        dataset.read("a.parquet", names=("yes", "no"))


@pytest.mark.parametrize("kind", [datasets.Sequence, datasets.LargeList, datasets.List])
def test_tags_of_a_parquet_file_have_their_names(kind) -> None:
    features = datasets.Features(
        {"tokens": kind(datasets.Value("string")), "ner_tags": kind(datasets.ClassLabel(names=["O", "B-x", "I-x"]))}
    )
    rows = {"tokens": [["a", "good", "film"]], "ner_tags": [[0, 1, 2]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet("n.parquet")
    assert dataset.label_names("n.parquet", columns=WORDS) == ("O", "B-x", "I-x")
    assert dataset.read("n.parquet", columns=WORDS, names=("B-x", "I-x", "O")).gold[0].tolist() == [2, 0, 1]


def test_a_schema_that_says_nothing_sensible_is_passed_over() -> None:
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]})
    for said in (b"{", b"[]", b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}', b"\xff"):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": said}), "a.parquet")
        assert dataset.read("a.parquet", names=NAMES).gold.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("encoding", "text", "named"),
    [
        ("utf-16", "a “good” film – 5 €", "utf-16"),
        ("utf-16-le", "a good film, too", "utf-16le"),
        ("utf-16-be", "a good film, too", "utf-16be"),
        ("utf-32", "a good film", "utf-32"),
        ("cp1252", "a “good” film – 5 €", "cp1252"),
        ("latin-1", "ein größerer Film", "cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "it's a file.csv", "sub/rows.csv", "rows.csv.gz"])
def test_the_advice_about_an_encoding_works(name: str, encoding: str, text: str, named: str) -> None:
    raw = f'text,label\n"{text}",positive\na dull film,negative\n'.encode(encoding)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(InputError, match=f"not UTF-8.*-f {named} -t utf-8") as caught:
        dataset.read(name, names=NAMES)
    command = re.search(r"convert it: (.*)$", str(caught.value))
    assert command
    subprocess.run(command[1], shell=True, check=True)
    written = command[1].rpartition("> ")[2].strip("'").replace("'\"'\"'", "'")
    assert dataset.read(written, names=NAMES).texts[0] == text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("фильм хороший".encode("cp1251"), "for ENCODING"),
        ("映画は良い".encode("shift-jis"), "for ENCODING"),
        ("größer, größer, größer".encode() + b" caf\xe9", "the rest of the file is: mend the text there"),
    ],
)
def test_an_encoding_that_cannot_be_told_is_not_made_up(raw: bytes, words: str) -> None:
    Path("a.csv").write_bytes(b'text,label\n"' + raw * 3 + b'",positive\n')
    with pytest.raises(InputError, match=words):
        dataset.read("a.csv", names=NAMES)


def test_columns_apart_by_something_else() -> None:
    Path("a.csv").write_text(CSV.replace(",", ";"))
    with pytest.raises(InputError, match="apart by semicolons") as caught:
        dataset.read("a.csv", names=NAMES)
    subprocess.run(str(caught.value).partition("write commas: ")[2], shell=True, check=True)
    assert dataset.read("commas-a.csv", names=NAMES).gold.tolist() == [1, 0]
    Path("b.csv").write_text(CSV.replace(",", "\t"))
    with pytest.raises(InputError, match=r"tabs: name the file \.tsv"):
        dataset.read("b.csv", names=NAMES)
    Path("c.tsv").write_text(CSV.replace(",", "|"))
    with pytest.raises(InputError, match="apart by bars") as caught:
        dataset.read("c.tsv", names=NAMES)
    subprocess.run(str(caught.value).partition("write commas: ")[2], shell=True, check=True)
    assert dataset.read("commas-c.csv", names=NAMES).gold.tolist() == [1, 0]
    Path("d.tsv").write_text(CSV)
    with pytest.raises(InputError, match=r"commas: name the file \.csv"):
        dataset.read("d.tsv", names=NAMES)


def test_a_cell_may_be_a_document() -> None:
    long = "the film " * 50_000
    Path("a.csv").write_text(f"text,label\n{long},positive\n")
    assert len(dataset.read("a.csv", names=NAMES).texts[0]) > 400_000


def test_quotes_of_tab_separated_files() -> None:
    Path("a.tsv").write_text('text\tlabel\n"a ""good"" film"\tpositive\n')
    assert dataset.read("a.tsv", names=NAMES).texts == ('a "good" film',)
    Path("b.tsv").write_text('text\tlabel\n"good" film\tpositive\nthe "bad" one\tnegative\n')  # as in GLUE
    assert dataset.read("b.tsv", names=NAMES).texts == ('"good" film', 'the "bad" one')
    Path("c.tsv").write_text('text\tlabel\n"a film\tpositive\nanother"\tnegative\n')
    with pytest.raises(InputError, match="they quote the cell, or they are letters"):
        dataset.read("c.tsv", names=NAMES)


def test_a_list_and_lines_of_objects_are_told_by_their_content() -> None:
    Path("a.jsonl").write_text(json.dumps(ROWS))
    Path("b.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name in ("a.jsonl", "b.json"):
        assert dataset.read(name, names=NAMES).gold.tolist() == [1, 0]
    Path("c.json").write_text(json.dumps({"version": 1, "data": ROWS}, indent=1))
    with pytest.raises(InputError, match="one JSON object over several lines"):
        dataset.read("c.json", names=NAMES)


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv")
    Path("b.csv.gz").write_bytes(b"x")
    with pytest.raises(InputError, match="not readable as gzip"):
        dataset.read("b.csv.gz", names=NAMES)

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)  # root reads everything
    with pytest.raises(InputError, match=r"a\.csv: Permission denied"):
        dataset.read("a.csv", names=NAMES)
