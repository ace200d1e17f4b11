"""Answers to a file of rows, to lines of the standard input, and to texts of the command line."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import paredown, refused

TEXTS = ["a good film", "a dull, awful film", 'sharp "and" moving']


@pytest.fixture(scope="module")
def answers(finished: Path) -> list[dict]:
    """As the command line's own texts are answered."""
    done = paredown("predict", finished / "bundle", *[part for text in TEXTS for part in ("--text", text)])
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file whose text column has a name of its own, and no labels."""
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["id", "review"], *([i, text] for i, text in enumerate(TEXTS))])
    return file


def nearly(found: list[dict], wanted: list[dict]) -> None:
    """The same texts, labels and scores; INT8 answers a little otherwise in other company."""
    assert [(row["text"], row["label"]) for row in found] == [(row["text"], row["label"]) for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=0.2)


def test_a_file_of_rows_as_json_lines(finished: Path, rows: Path, answers: list[dict], tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    done = paredown("predict", finished / "bundle", "--data", rows, "--text-column", "review", "--output", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    nearly([json.loads(line) for line in out.read_text().splitlines()], answers)


def test_a_file_of_rows_as_csv(finished: Path, rows: Path, answers: list[dict], tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    words = ("--text-column", "review", "--output", out, "--top-k", 1)
    assert paredown("predict", finished / "bundle", "--data", rows, *words).returncode == 0
    with out.open(newline="") as opened:
        found = list(csv.DictReader(opened))
    assert list(found[0]) == ["text", "label", "score", "scores"]
    for ours, theirs in zip(found, answers, strict=True):
        assert (ours["text"], ours["label"]) == (theirs["text"], theirs["label"])
        assert list(json.loads(ours["scores"])) == [theirs["label"]]


def test_lines_of_the_standard_input(finished: Path, answers: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{text}\n" for text in TEXTS)))
    done = paredown("predict", finished / "bundle", "--data", "-")
    nearly([json.loads(line) for line in done.stdout.splitlines()], answers)


def test_the_standard_input_is_utf8_whatever_the_locale_says(finished: Path) -> None:
    def asked(given: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "paredown", "predict", str(finished / "bundle"), "--data", "-"]
        environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
        return subprocess.run(command, input=given, capture_output=True, env=environment, check=False)

    done = asked("a g\u00f6\u00f6d film\n".encode())
    assert (done.returncode, json.loads(done.stdout)["text"]) == (0, "a g\u00f6\u00f6d film"), done.stderr
    broken = asked(b"fine\n\xff\n")
    assert broken.returncode == 2
    assert broken.stderr.startswith(b"error: --data -, line 2: half a character")
    assert broken.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ["give one of --text, --data, and --image"]),
        (("--text", "a", "--data", "b.csv"), ["give one of --text, --data"]),
        (("--data", "no.csv"), ["no.csv"]),
        (("--data", "-"), ["the standard input is empty"]),
        (("--data", "-", "--text-column", "a"), ["--text-column is of a file"]),
        (("--text", "a", "--text-column", "a"), ["--text-column is of a file"]),
        (("--data", "rows.csv", "--text-pair", "a"), ["--text-pair is the second text of each --text"]),
        (("--text", "a", "--output", "answers.txt"), ["ends in .csv or .jsonl"]),
        (("--text", "a", "--output", "no/answers.csv"), ["no such directory"]),
        (("--text", "a", "--top-k", "0"), ["--top-k"]),
    ],
)
def test_what_cannot_be_answered(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    refused(paredown("predict", finished / "bundle", *words, cwd=tmp_path), *said)
    assert not list(tmp_path.iterdir())
