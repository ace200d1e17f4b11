import pytest
from candidates import CERTIFICATE, candidate, choice_of, measured, result

from paredown.benchmarks.measurements import Details
from paredown.benchmarks.report.text import (
    control_warning,
    int8_lines,
    int8_products,
    nearest_sentence,
    note,
    promise_line,
    sentence,
    short_times,
    table_rows,
    times,
    trimmed,
)
from paredown.benchmarks.selection.choice import CandidateResult, Choice, Promise

COST = {"measure": "accuracy", "unit": "points", "before": 2.5, "after": 0.25, "standard_error": 0.31, "rows": 300}
CASCADE = {"first": "static", "then": "cut", "answered_by_first": 0.62, "first_metric": 95.1}
LATENCY = {"p50": 0.95, "p95": 1.2, "p99": 1.5, "mean": 1.0, "n": 100, "p50_ci": [0.9, 1.0]}


def entry(name: str = "cut/onnxruntime/int8-dynamic", **changes) -> CandidateResult:
    figures = {
        "metric_validation": 78.2, "drop_validation": 0.5, "drop_upper": 0.9, "latency_ms": LATENCY, "size_mb": 13.3,
        "cost_per_million": 0.0263, "cost_vs_baseline": {"ratio": 0.17, "ci": [0.15, 0.2]},
        "speedup_vs_baseline": 7.7, "speedup_ci": [6.9, 8.4], "speedup_statistic": "median", "speedup_p95": 4.1,
        "speedup_p95_ci": [3.9, 4.4], "speedup_vs_plain_int8": 1.42, "speedup_vs_plain_int8_ci": [1.2, 1.6],
    }  # fmt: skip
    return result(name, **(figures | changes))


def choice(chosen: CandidateResult | None = None, **changes) -> Choice:
    return choice_of(chosen or entry(), entry("teacher/pytorch/fp32", size_mb=91.6), **changes)


def test_the_headline_has_both_opponents_with_intervals_and_speaks_from_the_certificate() -> None:
    assert sentence(choice()) == (
        "cut/onnxruntime/int8-dynamic is 7.7 times as fast as the checkpoint in PyTorch (95 %: 6.9 to 8.4), and 1.4 "
        "times as fast as its plain INT8 (95 %: 1.2 to 1.6). On 400 test rows it loses 0.6 points of accuracy, and not "
        "more than 2.1 points (95 % bound). 13 MB instead of 92, and costs 83 % less per million requests (95 %: 80 to "
        "85)."
    )


def test_a_noisy_run_has_ranges_and_never_a_bare_ratio() -> None:
    noisy = choice(entry(speedup_vs_baseline=99.0, speedup_ci=[99.0, 1140.0]), noisy=True)
    text = sentence(noisy)
    assert "99 to 1140 times as fast as the checkpoint" in text
    assert "1.2 to 1.6 times as fast as its plain INT8" in text
    assert "between 80 and 85 % less" in text
    assert "(95 %:" not in text
    assert [cells[4] for cells in table_rows(noisy)] == ["99 to 1140x"]
    assert short_times(7.7, [6.9, 8.4], False) == "7.7x"
    assert short_times(1.0, [1.0, 1.0], True) == "1.0x"
    assert short_times(9.99, [9.97, 10.2], True) == "10x"
    assert "the control is [0.25, 3.65]" in (control_warning(noisy) or "")
    assert control_warning(choice()) is None


def test_of_a_cascade_mean_and_p95_are_the_headline_and_its_first_model_stands_beside() -> None:
    text = sentence(choice(entry(cascade=CASCADE, speedup_statistic="mean")))
    assert "is in the mean 7.7 times as fast as the checkpoint in PyTorch (95 %: 6.9 to 8.4), at p95 4.1 times" in text
    assert "Its first model, static, answers 62 % of the validation rows, with 95.1 accuracy on these." in text


def test_without_rows_for_a_certificate_the_headline_says_so_and_more_looks_are_counted() -> None:
    assert "No rows were kept for a certificate: on validation, where it was selected" in sentence(
        choice(certificate=None)
    )
    looks = CERTIFICATE | {"drop": -0.3, "drop_upper_95": 2.4, "looks": 3}
    text = sentence(choice(certificate=looks))
    assert "it gains 0.3 points of accuracy, and loses not more than 2.4 points (95 % bound; 3 candidates" in text


def test_plain_int8_itself_is_not_held_against_itself() -> None:
    plain = choice(entry("teacher/onnxruntime/int8-dynamic"))
    assert "; it is the checkpoint in plain INT8." in sentence(plain)


def test_where_nothing_cheaper_passes_the_nearest_and_the_rows_that_would_settle_it_are_named() -> None:
    found = {"name": "cut", "drop_validation": 0.5, "drop_upper": 1.4, "validation_rows": 800, "rows_needed": 2600}
    text = nearest_sentence(choice(nearest=found))
    assert text is not None
    assert "The nearest is cut: it lost 0.5 points on 800 validation rows and could lose 1.4 (80 %" in text
    assert "about 2,600 validation rows would settle it" in text
    assert "more rows would not help" in (nearest_sentence(choice(nearest=found | {"rows_needed": None})) or "")


def test_products_left_in_float_stand_in_the_note() -> None:
    found = int8_products(details(products=27, left_in_float=[f"m{i}" for i in range(13)], int8_cost=COST))
    assert note(entry(int8_products=found), choice()) == "chosen; 13 of 27 matrix products in float"


def test_each_trimmed_vocabulary_is_said_once() -> None:
    made = {"cut-1-prune": {"parameters": 5}, "cut-2-trim": {"changed_tokens": 0.018}}
    entries = [candidate("cut/onnxruntime/fp32", 1.0, made=found) for found in ({}, made, made)]
    assert trimmed(measured(*entries)) == {"cut-2-trim": 0.018}


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
    promise = Promise(promised=1.5, measured=1.5, measured_ci=(interval[0], interval[1]), noisy=False)
    assert promise_line("cut", promise).endswith(f"[{interval[0]:.2f}, {interval[1]:.2f}]: {verdict}.")
    noisy = promise_line("cut", promise.model_copy(update={"noisy": True}))
    assert f"measured between {interval[0]:.2f} and {interval[1]:.2f}x" in noisy


def details(**found) -> Details:
    return Details.model_validate(found)


def test_products_left_in_float_are_counted_however_deep_they_are_said() -> None:
    mixed = {"products": 27, "left_in_float": ["a"] * 13, "int8_cost": COST}
    all_int8 = {"products": 27, "left_in_float": [], "int8_cost": COST | {"before": 0.25}}
    assert int8_products(details(**mixed)) == "13 of 27 matrix products in float"
    both = details(cascade={"first": all_int8, "then": mixed})
    assert int8_products(both) == "13 of 54 matrix products in float"
    assert [line.partition(":")[0] for line in int8_lines(both)] == ["first", "then"]
    for none_left in (details(**all_int8), details(cascade={"first": all_int8}), details(opset=17), details(), None):
        assert int8_products(none_left) is None


def test_what_int8_costs_in_words() -> None:
    (line,) = int8_lines(details(products=27, left_in_float=["a"] * 13, int8_cost=COST))
    start, end = line.split(", with ")
    assert start == "INT8 costs 0.25 ± 0.3 points of accuracy on 300 rows"
    assert end == "13 of 27 matrix products in float (all in INT8: 2.5)"
    by_kl = {"int8_cost": COST | {"measure": "KL", "unit": "nats a row", "after": 0.002}}
    assert int8_lines(details(decoder=by_kl)) == ["decoder: INT8 costs KL 0.002 nats a row on 300 rows"]
    assert int8_lines(details(fused={"attention": 6})) == []


@pytest.mark.parametrize(
    ("ratio", "noisy", "words"),
    [
        ((5.67, 5.3, 6.3), False, "5.7 times"),
        ((0.83, 0.8, 0.9), False, "0.83 times"),
        ((90.0, 18.2, 214.0), True, "18 to 214 times"),
        ((428.0, 18.2, 1140.0), True, "at least 18 times"),
        ((3.0, 2.1, float("inf")), True, "at least 2.1 times"),
        ((2.6, 0.4, 34.5), True, "0.40 to 34 times"),  # "at least 0.40 times" would say nothing
        ((0.08, 0.05, 0.12), True, "0.05 to 0.12 times"),
    ],
)
def test_a_ratio_of_a_noisy_run_is_its_range(ratio: tuple[float, float, float], noisy: bool, words: str) -> None:
    assert times(*ratio, noisy) == words
