import pytest
from paredown.benchmarks.words import int8_lines, int8_products, promise_line, trimmed


def test_each_trimmed_vocabulary_is_said_once() -> None:
    made = {"cut-1-prune": {"parameters": 5}, "cut-2-trim": {"changed_tokens": 0.018}}
    measurements = {"candidates": [{"made": {}}, {"made": made}, {"made": made}, {}]}
    assert trimmed(measurements) == [{"name": "cut-2-trim", "changed": 0.018}]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([1.0, 1.27], "missed (aim: within 15 %)"),
        ([1.73, 2.0], "missed (aim: within 15 %)"),
        ([1.28, 1.72], "within 15 %"),
        ([1.0, 1.4], "the noise is too wide to tell"),
        ([1.4, 1.9], "the noise is too wide to tell"),
    ],
)
def test_a_promise_is_judged_by_the_whole_interval(interval: list[float], verdict: str) -> None:
    promise = {"name": "cut", "promised": 1.5, "measured": 1.5, "measured_ci": interval}
    assert promise_line(promise).endswith(f"[{interval[0]:.2f}, {interval[1]:.2f}]: {verdict}.")


COST = {"measure": "accuracy", "unit": "points", "before": 2.5, "after": 0.25, "standard_error": 0.31, "rows": 300}


def test_products_left_in_float_are_counted_however_deep_they_are_said() -> None:
    mixed = {"products": 27, "left_in_float": ["a"] * 13, "int8_cost": COST}
    all_int8 = {"products": 27, "left_in_float": [], "int8_cost": COST | {"before": 0.25}}
    assert int8_products(mixed) == "13 of 27 matrix products in float"
    assert int8_products({"cascade": {"first": all_int8, "then": mixed}}) == "13 of 54 matrix products in float"
    for none_left in (all_int8, {"cascade": {"first": all_int8, "then": all_int8}}, {"opset": 17}, {}, None):
        assert int8_products(none_left) is None


def test_what_int8_costs_in_words() -> None:
    mixed = {"products": 27, "left_in_float": ["a"] * 13, "int8_cost": COST}
    (line,) = int8_lines(mixed)
    start, end = line.split(", with ")
    assert start == "INT8 costs 0.25 ± 0.3 points of accuracy on 300 rows"
    assert end == "13 of 27 matrix products in float (all in INT8: 2.5)"
    by_kl = {"int8_cost": COST | {"measure": "KL", "unit": "nats a row", "after": 0.002}}
    assert int8_lines({"decoder": by_kl}) == ["decoder: INT8 costs KL 0.002 nats a row on 300 rows"]
    assert int8_lines({"fused": {"attention": 6}}) == []
