"""The real program on terminals that know ASCII alone, and into pipes that nobody reads."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_csv

from paredown.compress.models.loading import Checkpoint

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def program(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paredown", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]


def test_texts_and_names_beyond_ascii(finished: Path, teacher: Checkpoint, tmp_path: Path) -> None:
    rows = [(f"good café {i} 映", "positive") for i in range(20)] + [(f"bad € {i}", "negative") for i in range(20)]
    others = [(f"{text} ü", label) for text, label in rows]
    train, validation = write_csv(tmp_path / "é.csv", rows), write_csv(tmp_path / "v.csv", others)
    env = os.environ | ASCII
    done = program("predict", finished / "bundle", "--text", "good café", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "good café"
    assert done.stdout.isascii()
    for words in (
        ["augment", "--train", train, "--output", tmp_path / "é.jsonl"],
        ["robustness", finished / "bundle", "--data", train],
        ["--help"],
        ["doctor"],
    ):
        done = program(*words, env=env)
        assert done.returncode == 0, done.stderr
    (tmp_path / "é").symlink_to(teacher.path)
    words = ["init", tmp_path / "é", "--train", train, "--validation", validation, "--output", tmp_path / "r.yaml"]
    done = program(*words, env=env)
    assert done.returncode == 2
    assert done.stderr.endswith("a name that is not in the encoding of this terminal, ascii; set LC_ALL=C.UTF-8\n")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("words", [["verify"], ["predict", "--text", "good"], ["pack", "--output-dir", "out"]])
def test_a_file_that_may_not_be_read(words: list[str], finished: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    (bundle / "tokenizer.json").chmod(0)
    if os.access(bundle / "tokenizer.json", os.R_OK):
        pytest.skip("this user may read everything")
    done = program(words[0], bundle, *words[1:], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {bundle / 'tokenizer.json'}: Permission denied\n")


@pytest.mark.parametrize("words", [["schema"], ["--help"], ["doctor"], ["verify", "BUNDLE"]])
def test_a_pipe_that_nobody_reads(words: list[str], finished: Path) -> None:
    named = [str(finished / "bundle") if word == "BUNDLE" else word for word in words]
    command = [sys.executable, "-m", "paredown", *named]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
