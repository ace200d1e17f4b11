from pathlib import Path

import pytest

from paredown.benchmarks.scaling import AXES, BASE, exponent, kind_of, measured, page


def test_the_exponent_is_the_power_of_the_size() -> None:
    assert exponent([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert exponent([10.0, 1000.0], [5.0, 5.0]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("teacher-scores", "scores"),
        ("cut-1-prune", "prune"),
        ("cut-1-prune-recover", "recover"),
        ("static-1-static", "static"),
        ("measure-2", "measure"),
        ("cut-onnxruntime-int8-dynamic", "export"),
        ("cut-onnxruntime-int8-dynamic-evaluate", "evaluate"),
    ],
)
def test_a_step_is_of_one_kind(step: str, kind: str) -> None:
    assert kind_of(step) == kind


def test_the_page_has_a_table_for_each_axis_with_two_points() -> None:
    points = [
        {
            "sizes": BASE | {axis: size},
            "seconds": float(size),
            "by_kind": {"scores": size / 2},
            "memory_mb": 900.0,
            "machine": "a machine",
        }
        for axis in ("rows", "tokens")
        for size in AXES[axis][1:3]
    ]
    text = page(points)
    assert "## Rows" in text
    assert "| exponent | 1.00 | 0.00 | 1.00 |" in text
    assert "## Candidates" not in text
    assert "Measured on: a machine. One" in text
    assert "At 16,000 rows, scores takes 100 % of" in text


@pytest.mark.slow
def test_a_point_is_a_run_and_its_seconds_are_those_of_its_steps(tmp_path: Path) -> None:
    point = measured(tmp_path, BASE | {"rows": 200, "candidates": 4})
    assert point["by_kind"].keys() >= {"scores", "static", "prune", "recover", "export", "evaluate", "measure"}
    assert 0 < sum(point["by_kind"].values()) < point["seconds"]
    assert point["memory_mb"] > 100
