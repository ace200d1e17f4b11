"""What the report says would allow a cheaper candidate."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import paredown

from paredown.benchmarks.measurements import SearchSummary
from paredown.benchmarks.report.opportunities import choose_again, opportunities
from paredown.benchmarks.selection.choice import CandidateResult, Choice, Rule
from paredown.benchmarks.selection.constraints import Budgets
from paredown.benchmarks.selection.selection import ChooseSettings, rows_needed
from paredown.pipeline.results.measurements import read_measurements
from paredown.pipeline.results.publish import read_choice


@pytest.fixture
def measured(finished: Path) -> tuple:
    measurements = read_measurements(finished)
    return measurements, read_choice(finished, measurements)


def with_candidates(choice: Choice, *given: tuple[str, float, float, float]) -> Choice:
    """The choice of a candidate that costs 1, beside others: name, cost, drop and its bound; max_drop is 1."""
    rule = choice.rule.model_copy(update={"rule": "cheapest", "max_drop": 1.0})
    chosen = choice.chosen.model_copy(update={"cost_per_million": 1.0})

    def refused(name: str, cost: float, drop: float, upper: float) -> CandidateResult:
        reason = f"{'loses' if drop > 1 else 'could lose'} {upper:.2f} points, max_drop is 1"
        changed = {"cost_per_million": cost, "drop_validation": drop, "drop_upper": upper, "rejected_because": reason}
        changed["rejected_for"] = "loss"
        changed["runtime"] = name.split("/")[1]
        return chosen.model_copy(update={"name": name, **changed})

    others = [chosen, *(refused(*entry) for entry in given)]
    return choice.model_copy(update={"rule": rule, "chosen": chosen, "candidates": others})


def test_a_larger_loss_and_more_rows_are_said_with_what_they_would_gain(measured: tuple) -> None:
    measurements, choice = measured
    choice = with_candidates(
        choice.model_copy(update={"noisy": False}),
        ("near/onnxruntime/int8-dynamic", 0.5, 0.6, 1.31),
        ("no-cheaper-than-near/onnxruntime/int8-dynamic", 0.52, 1.2, 1.5),
        ("far/onnxruntime/int8-dynamic", 0.25, 2.0, 2.8),
        ("torch/pytorch/fp32", 0.1, 0.1, 1.2),
        ("dearer/onnxruntime/int8-dynamic", 2.0, 0.5, 1.2),
    )
    found = opportunities(measurements, choice)
    rows = measurements.rows.validation
    assert [(o.what, o.gain.split(", ")[1].split(";")[0]) for o in found] == [
        ("Allow a loss of 1.4 points", "2.0 times less"),
        ("Allow a loss of 2.8 points", "4.0 times less"),
        (f"{rows_needed(rows, 0.6, 1.31, 1.0):,} validation rows in place of {rows}", "2.0 times less"),
    ]
    assert "--max-drop 1.4" in found[0].how
    assert "near/" in found[0].how


def test_what_more_minutes_would_go_into_is_one_and_other_rules_have_no_limit(measured: tuple) -> None:
    measurements, choice = measured
    choice = with_candidates(choice, ("near/onnxruntime/int8-dynamic", 0.5, 0.6, 1.31))
    choice = choice.model_copy(update={"rule": choice.rule.model_copy(update={"rule": "knee"})})
    assert opportunities(measurements, choice) == []
    search = SearchSummary(trials=1, trained=[], dropped={}, next="pruning to 2.0x")
    (found,) = opportunities(measurements.model_copy(update={"search": search}), choice)
    assert found.how.endswith("pruning to 2.0x")


def test_each_loss_is_said_once_with_its_cheapest_candidate_and_none_far_beyond_the_limit(measured: tuple) -> None:
    measurements, choice = measured
    choice = with_candidates(
        choice,
        ("first/onnxruntime/int8-dynamic", 0.8, 1.2, 1.41),
        ("cheapest/onnxruntime/int8-dynamic", 0.5, 1.2, 1.44),
        ("over-a-budget/onnxruntime/int8-dynamic", 0.1, 1.2, 1.44),
        ("far/onnxruntime/int8-dynamic", 0.01, 8.0, 8.5),
    )
    over = choice.candidates[3].model_copy(update={"rejected_for": "limit"})
    choice = choice.model_copy(update={"candidates": [*choice.candidates[:3], over, choice.candidates[4]]})
    (found,) = opportunities(measurements, choice)
    assert found.what == "Allow a loss of 1.5 points"
    assert "expected: cheapest/" in found.how


def test_the_command_selects_as_this_choice_was_made(finished: Path, tmp_path: Path) -> None:
    """Whatever the recipe says: the rule, the confidence, limits that were added, changed or lifted."""
    recipe = ChooseSettings(
        rule="knee", budgets=Budgets(size_mb=50, p95_ms=9), gates=["p99_ms <= 20 ms", "memory_mb <= 900 MB"]
    )
    made = Rule(
        rule="cheapest", max_drop=100, confidence=0.9, value_per_point=None,
        gates=["p99_ms <= 4000 ms", "drop_upper_95 <= 100 points"], budgets={"size_mb": 4000},
    )  # fmt: skip
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    file = tmp_path / "run" / "measurements.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"choose": recipe.model_dump(mode="json")}))
    words = shlex.split(choose_again(made, recipe, 100))
    assert words[:3] == ["paredown", "choose", "RUN_DIR"]
    done = paredown("choose", tmp_path / "run", *words[3:])
    assert done.returncode == 0, done.stderr
    rule = json.loads((tmp_path / "run" / "choice.json").read_text())["rule"]
    assert sorted(rule.pop("gates")) == sorted(made.gates)
    assert rule == made.model_dump(mode="json", exclude={"gates"})


@pytest.mark.parametrize(("drop", "rows"), [(0.0, 4000), (0.5, 4000), (1.0, None), (1.5, None)])
def test_rows_needed(drop: float, rows: int | None) -> None:
    """A bound twice as far off as it may be wants four times the rows."""
    assert rows_needed(1000, drop, drop + 2 * (1 - drop) if drop < 1 else 3.0, 1.0) == rows
