"""The steps of a model are read from their markers."""

import json
from pathlib import Path

from paredown.pipeline.results.lineage import recorded_steps


def key(letter: str) -> str:
    return letter * 64


def test_a_step_stands_on_all_whose_keys_are_in_its_inputs(tmp_path: Path) -> None:
    """By their keys: a step that two models share has the name of the first. Steps that were deleted, damaged ones and
    others are not among them."""
    for name, letter, inputs in (
        ("twin-export", "a", {"graph": key("b"), "after": {"twin-1-prune": key("c"), "gone": key("0")}}),
        ("twin-graph", "b", {"after": {"twin-1-prune": key("c")}}),
        ("first-1-prune", "c", {"scores": key("d"), "table": key("e"), "calibration": [[key("9"), 8]]}),
        ("scores", "d", {"teachers": [key("8")]}),
        ("table", "e", {}),
        ("other", "f", {"after": {"twin-export": key("a")}}),
        ("adapt-1-finetune", "7", {}),
    ):
        folder = tmp_path / f"{name}-{key(letter)[:16]}"
        folder.mkdir()
        (folder / "step.json").write_text(json.dumps({"key": key(letter), "inputs": inputs}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "step.json").write_text("[")
    starts = [tmp_path / f"twin-export-{'a' * 16}", tmp_path / f"adapt-1-finetune-{'7' * 16}", tmp_path / "missing"]
    steps, named = recorded_steps(tmp_path, starts)
    assert steps == {
        "twin-export": key("a"),
        "twin-graph": key("b"),
        "first-1-prune": key("c"),
        "scores": key("d"),
        "table": key("e"),
        "adapt-1-finetune": key("7"),
    }
    assert {key("8"), key("9")} <= named
