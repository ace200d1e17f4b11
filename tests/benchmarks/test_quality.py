import math

import numpy as np
import pytest
from paredown.benchmarks.quality import drop_upper_95, mcnemar_p, negative_flips, paired_drop, wilson


def pair(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    baseline = np.array([True] * (both + lost) + [False] * (won + neither))
    candidate = np.array([True] * both + [False] * lost + [True] * won + [False] * neither)
    return baseline, candidate


def test_wilson_is_the_textbook_interval() -> None:
    lo, hi = wilson(np.array([True] * 81 + [False] * 19))
    assert lo == pytest.approx(72.2, abs=0.05)  # Wilson score interval of 81/100
    assert hi == pytest.approx(87.5, abs=0.05)


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar_p(*pair(80, 10, 2, 8)) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar_p(*pair(80, 5, 5, 10)) == 1
    assert mcnemar_p(*pair(90, 0, 0, 10)) == 1


def test_the_drop_is_paired_and_its_bound_above_it() -> None:
    baseline, candidate = pair(800, 30, 20, 150)
    drop, error = paired_drop(baseline, candidate)
    assert drop == pytest.approx(1.0)
    assert error == pytest.approx(100 * math.sqrt(51 - 100 / 1002) / 1002)
    assert drop_upper_95(baseline, candidate) == pytest.approx(1.0 + 1.644854 * error)
    assert negative_flips(baseline, candidate) == 30


def test_two_that_never_differ_still_have_an_error() -> None:
    baseline, candidate = pair(900, 0, 0, 100)
    assert paired_drop(baseline, candidate)[0] == 0
    assert 0 < drop_upper_95(baseline, candidate) < 0.3


def test_the_bound_holds_at_its_rate() -> None:
    random = np.random.default_rng(0)
    misses = 0
    for _ in range(400):  # both are right on 80 %, so the true drop is 0
        draw = random.random(500)
        baseline = draw < 0.8
        candidate = (draw < 0.76) | (draw > 0.96)
        misses += drop_upper_95(baseline, candidate) < 0
    assert misses / 400 < 0.08
