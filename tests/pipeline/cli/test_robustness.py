import json
from pathlib import Path

from conftest import BAD, GOOD, paredown, refused

from paredown.compress.models.loading import Checkpoint


def test_teacher_and_bundle_side_by_side(teacher: Checkpoint, finished: Path, files: dict, tmp_path: Path) -> None:
    groups = tmp_path / "groups.txt"
    groups.write_text(f"{', '.join(GOOD)}\n{', '.join(BAD)}\n")  # words of one side for each other: nothing changes
    done = paredown(
        "robustness", teacher.path, finished / "bundle", "--data", files["test"], "--synonyms", groups, "--share", 0.3,
        "--json", tmp_path / "f.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    first, second = (entry["metrics"] for entry in found["models"])
    assert list(first) == ["as they are", "typos", "case", "length", "deletion", "swap", "synonyms"]
    assert first["case"]["lost"] == 0  # the tokenizer has no capitals
    assert first["as they are"]["lost"] == 0
    assert first["typos"]["lost"] > 2  # an unknown word says nothing
    assert first["synonyms"]["lost"] < first["typos"]["lost"]
    assert first["typos"]["drop"] is None
    lo, hi = second["typos"]["drop_95"]
    assert lo <= second["typos"]["drop"] <= hi
    refused(paredown("robustness", teacher.path, "--data", files["test"], "--synonyms", tmp_path / "no"), "no")
    refused(paredown("robustness", teacher.path, "--data", files["test"], "--json", tmp_path / "no" / "f"), "--json")
