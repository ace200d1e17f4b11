import pytest
from candidates import result

from paredown.benchmarks.selection.choice import CandidateResult, Latency
from paredown.benchmarks.selection.constraints import FIGURES, Budgets, broken, excess, gate_of, limits_of, value_of

LATENCY = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "mean": 1.0, "n": 9, "p50_ci": [0.9, 1.1]}
ENTRY = result(latency_ms=LATENCY, throughput_per_s=100.0, negative_flips=4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("p99_ms <= 2.5 ms", "p99_ms 3 is over the budget of 2.5"),
        ("p99_ms<=3ms", None),
        ("throughput_per_s >= 200 rows/s", "throughput_per_s 100 is under the budget of 200"),
        ("negative_flips <= 4 rows", None),
        ("label_drop <= 1 points", "label_drop was not measured, and the budget needs it"),
        ("group_drop_upper_95 <= 1e1 points", "group_drop_upper_95 was not measured"),
        ("drop_validation <= -0.5 points", "drop_validation was not measured"),
    ],
)
def test_a_gate_is_kept_or_says_what_breaks_it(text: str, reason: str | None) -> None:
    found = broken(ENTRY, [gate_of(text)])
    assert found == reason or (reason is not None and found is not None and found.startswith(reason))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99_ms <= 20", ["has no unit", "p99_ms <= 20 ms"]),
        ("p99_ms <= 20 s", ["has the unit 's'", "p99_ms <= 20 ms"]),
        ("p99_ms 20 ms", ["has no direction", "p99_ms <= 20 ms"]),
        ("p99_ms < 20 ms", ["less is better", "p99_ms <= 20 ms"]),
        ("p99_ms >= 20 ms", ["less is better", "p99_ms <= 20 ms"]),
        ("throughput_per_s <= 20 rows/s", ["more is better", "throughput_per_s >= 20 rows/s"]),
        ("p99_ms <= ms", ["has no number"]),
        ("p99 <= 20 ms", ["unknown figure 'p99'", "did you mean 'p99_ms'?"]),
        ("p99_ms <= 1e999 ms", ["too large"]),
        ("", ["is no gate"]),
        ("<= 20 ms", ["is no gate"]),
    ],
)
def test_a_gate_without_unit_or_direction_is_an_error_that_shows_the_right_one(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"write|did you mean|leave the gate out") as caught:
        gate_of(text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_limits_read_as_they_are_written() -> None:
    limits = limits_of(Budgets(p95_ms=20), ["throughput_per_s >= 5 rows/s"])
    assert [str(limit) for limit in limits] == ["p95_ms <= 20 ms", "throughput_per_s >= 5 rows/s"]
    assert all(gate_of(str(limit)) == limit for limit in limits)
    assert set(Budgets.model_fields) <= set(FIGURES)
    assert value_of(ENTRY, "p99_ms") == 3.0
    one = gate_of("drop_validation <= 1 points")
    assert str(one) == "drop_validation <= 1 point"
    assert gate_of(str(one)) == one


def test_a_budget_is_a_number() -> None:
    assert Budgets.model_validate({"p95_ms": 20}).p95_ms == 20
    for odd in (True, "20", float("inf")):
        with pytest.raises(ValueError, match="p95_ms"):
            Budgets.model_validate({"p95_ms": odd})


def test_excess_tells_the_nearest_miss() -> None:
    limits = limits_of(Budgets(size_mb=10, cost_per_million=1), [])
    near, far = result(size_mb=11.0, cost_per_million=0.5), result(size_mb=30.0, cost_per_million=2.0)
    assert 0 < excess(near, limits) < excess(far, limits) < excess(result(size_mb=1.0), limits)


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_a_field_of_a_candidate(figure: str) -> None:
    first, *rest = FIGURES[figure].path or (figure,)
    assert first in CandidateResult.model_fields
    assert set(rest) <= set(Latency.model_fields)
