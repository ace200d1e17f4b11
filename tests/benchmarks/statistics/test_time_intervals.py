"""Coverage of the intervals of times, by simulation: identical models, processes that differ, noise that persists."""

import numpy as np
import pytest
from candidates import timed

from paredown.benchmarks.measuring.latency import Measurement
from paredown.benchmarks.statistics.time_intervals import (
    Statistic,
    as_wide,
    by_process,
    carried,
    half_width,
    ratio,
    t975,
)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("process_effect", [0.0, 0.02, 0.04])
@pytest.mark.parametrize("statistic", ["median", "mean", "p95"])
def test_two_copies_of_one_model_differ_at_the_nominal_rate(
    statistic: Statistic, process_effect: float, correlation: float
) -> None:
    """Of 200 measurements about 10 may miss 1; three standard deviations either way are 1 and 19."""
    misses = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        machine = random.lognormal(0, 0.2, (6, 2))
        noise = {"process_effect": process_effect, "correlation": correlation}
        (a, processes), (b, _) = (timed(random, machine, **noise) for _ in "ab")
        _, lo, hi = ratio(a, b, processes, statistic)
        misses += not lo <= 1 <= hi
    assert 1 <= misses <= 19


def test_turns_as_the_unit_are_far_too_sure_when_processes_differ() -> None:
    """What the processes are for: the same samples without them."""
    misses = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        (a, _), (b, _) = (timed(random, np.ones((4, 6)), process_effect=0.1, turn_noise=0.01) for _ in "ab")
        _, lo, hi = ratio(a, b)
        misses += not lo <= 1 <= hi
    assert misses > 40


def test_the_interval_of_a_ratio_covers_it_and_the_machine_cancels() -> None:
    drift = np.linspace(1, 3, 12).reshape(6, 2)  # the machine slows down: within a process the ratio stays 2
    missed = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        slow, processes = timed(random, drift, speed=2.0, process_effect=0.02)
        fast, _ = timed(random, drift, process_effect=0.02)
        point, lo, hi = ratio(slow, fast, processes)
        assert lo < point < hi
        assert hi - lo < 0.7
        missed += not lo <= 2 <= hi
    assert missed <= 19


def test_the_interval_of_a_median_covers_it_at_the_nominal_rate() -> None:
    missed = 0
    for seed in range(200):
        turns, processes = timed(np.random.default_rng(seed), np.full((6, 2), 3.0), process_effect=0.04)
        found = Measurement.from_samples(turns, processes)
        assert found.lo <= found.p50 <= found.hi
        missed += not found.lo <= 3.0 <= found.hi
    assert missed <= 19


def test_a_thing_against_itself_is_exactly_one() -> None:
    turns, processes = timed(np.random.default_rng(0), np.ones((3, 2)))
    assert ratio(turns, [list(reversed(turn)) for turn in turns], processes) == (1, 1, 1)


def test_the_statistic_is_of_all_samples_of_a_process() -> None:
    turns = [[1.0, 9.0], [2.0, 3.0, 100.0], [7.0], [8.0]]
    assert by_process(turns, [0, 0, 1, 1]).tolist() == [3.0, 7.5]
    assert by_process(turns, [0, 0, 1, 1], "mean").tolist() == [23.0, 7.5]
    assert by_process(turns, [3, 3, 3, 3]).tolist() == by_process(turns, None).tolist() == [5.0, 3.0, 7.0, 8.0]


def test_a_single_turn_has_no_interval() -> None:
    assert ratio([[2.0]], [[1.0]]) == (2.0, 0.0, float("inf"))
    assert half_width(np.array([3.0])) == float("inf")
    assert half_width(np.ones((2, 4, 5))).shape == (2, 4)


def test_a_noisy_run_carries_the_end_that_is_nearest_to_one() -> None:
    assert carried(0.1, 0.05, 0.2, False) == 0.1
    assert carried(0.1, 0.05, 0.2, True) == 0.2
    assert carried(90.0, 18.0, 214.0, True) == 18.0
    assert carried(0.1, 0.005, 1.2, True) == 1.0


def test_the_quantile_of_students_t_is_the_textbook_one() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 11, 30, 31, 60, 1000):
        assert t975(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


def test_a_ratio_is_the_paired_t_interval_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(5)
    (a, processes), (b, _) = (timed(random, np.ones((5, 3)), process_effect=0.05) for _ in "ab")
    logs = np.log(by_process(a, processes) / by_process(b, processes))
    wanted = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert ratio(a, b, processes)[1:] == pytest.approx(np.exp([wanted.low, wanted.high]), rel=1e-3)


def test_an_interval_is_no_narrower_than_that_of_the_control() -> None:
    assert as_wide(2.0, 1.9, 2.1, [0.99, 1.01]) == (1.9, 2.1)
    lo, hi = as_wide(1.02, 1.004, 1.036, [0.951, 1.018])  # of two copies of one bundle, measured
    assert lo < 1 < hi
    assert hi / lo == pytest.approx(1.018 / 0.951)
    assert as_wide(1.0, 1.0, 1.0, [0.9, 1.1]) == (1.0, 1.0)
    assert as_wide(2.0, 1.0, 3.0, None) == (1.0, 3.0)
