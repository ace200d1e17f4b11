import pytest
from paredown.benchmarks.words import promise_line, times, trimmed


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
