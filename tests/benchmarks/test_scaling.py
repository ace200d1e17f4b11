import pytest

from paredown.benchmarks.scaling import AXES, BASE, exponent, kind_of, page


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
        {"sizes": BASE | {axis: size}, "seconds": float(size), "by_kind": {"scores": size / 2}, "memory_mb": 900.0}
        for axis in ("rows", "tokens")
        for size in AXES[axis][:2]
    ]
    text = page(points)
    assert "## Rows" in text
    assert "| exponent | 1.00 | 0.00 | 1.00 |" in text
    assert "## Candidates" not in text
