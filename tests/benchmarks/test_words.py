import pytest
from paredown.benchmarks.words import promise_line, trimmed


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
