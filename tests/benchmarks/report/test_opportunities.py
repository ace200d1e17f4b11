"""What the report says would allow a cheaper candidate."""

from pathlib import Path

import pytest

from paredown.benchmarks.measurements import SearchSummary
from paredown.benchmarks.report.opportunities import opportunities
from paredown.benchmarks.selection.choice import CandidateResult, Choice
from paredown.benchmarks.selection.selection import rows_needed
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
        ("far/onnxruntime/int8-dynamic", 0.25, 3.0, 3.8),
        ("torch/pytorch/fp32", 0.1, 0.1, 1.2),
        ("dearer/onnxruntime/int8-dynamic", 2.0, 0.5, 1.2),
    )
    found = opportunities(measurements, choice)
    rows = measurements.rows.validation
    assert [(o.what, o.gain.split(", ")[1].split(";")[0]) for o in found] == [
        ("Allow a loss of 1.4 points", "2.0 times less"),
        ("Allow a loss of 3.8 points", "4.0 times less"),
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


@pytest.mark.parametrize(("drop", "rows"), [(0.0, 4000), (0.5, 4000), (1.0, None), (1.5, None)])
def test_rows_needed(drop: float, rows: int | None) -> None:
    """A bound twice as far off as it may be wants four times the rows."""
    assert rows_needed(1000, drop, drop + 2 * (1 - drop) if drop < 1 else 3.0, 1.0) == rows
