import math

import numpy as np
import pytest
from paredown.benchmarks.quality import (
    by_key,
    calibration_error,
    drop_upper_95,
    macro_f1,
    macro_f1_drop,
    mcnemar_p,
    negative_flips,
    paired_drop,
    wilson,
    worst_flips,
)


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


def test_macro_f1_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    gold, said = random.integers(0, 5, 300), random.integers(0, 5, 300)
    assert macro_f1(said, gold)[0] == pytest.approx(100 * metrics.f1_score(gold, said, average="macro"), rel=1e-6)


def test_the_bound_of_the_f1_drop_holds_at_its_rate() -> None:
    misses = 0
    for seed in range(100):  # both are right on 80 % of what is theirs to know, so the true drop is 0
        random = np.random.default_rng(seed)
        gold = (random.random(400) < 0.3).astype(int)
        ours, theirs = (np.where(random.random(400) < 0.8, gold, 1 - gold) for _ in "ab")
        drop, upper = macro_f1_drop(theirs, ours, gold)
        assert upper >= drop
        misses += upper < 0
    assert misses <= 12


def test_groups_are_judged_one_by_one_worst_first() -> None:
    baseline, candidate = pair(80, 10, 2, 8)
    keys = ["kept"] * 80 + ["lost"] * 10 + ["won"] * 2 + ["never"] * 8
    parts = {part["name"]: part for part in by_key(baseline, candidate, keys)}
    assert next(iter(parts)) == "lost"
    assert (parts["lost"]["drop"], parts["lost"]["rows"], parts["lost"]["metric"]) == (100, 10, 0)
    assert parts["won"]["drop"] == -100
    assert parts["never"]["drop_ci"][0] < 0 < parts["never"]["drop_ci"][1]
    assert all(part["drop"] < part["drop_upper_95"] < part["drop_ci"][1] for part in parts.values())


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    correct = np.array([True] * 8 + [False] * 2)
    assert calibration_error(np.full(10, 0.8), correct) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.full(10, 1.0), correct) == pytest.approx(20)
    assert calibration_error(np.where(correct, 1.0, 0.0), correct) == 0


def test_the_worst_flips_are_those_that_it_is_surest_of() -> None:
    baseline, candidate = np.array([True, True, True, False]), np.array([False, True, False, False])
    assert worst_flips(baseline, candidate, np.array([0.6, 0.9, 0.8, 0.99]), 5) == [2, 0]
    assert worst_flips(baseline, candidate, np.array([0.6, 0.9, 0.8, 0.99]), 1) == [2]


def f1_rows(seed: int, rows: int = 400, quality: float = 0.8) -> np.ndarray:
    """(points gained, points possible) of rows with up to four spans."""
    rng = np.random.default_rng(seed)
    there = rng.integers(0, 4, size=rows)
    return np.stack([2 * rng.binomial(there, quality), 2 * there], axis=1).astype(float)


def test_points_have_intervals_and_paired_errors() -> None:
    base = f1_rows(1)
    metric = 100 * base[:, 0].sum() / base[:, 1].sum()
    lo, hi = wilson(base)
    assert lo < metric < hi
    assert 4 < hi - lo < 9  # about 600 spans at 80 %: plus and minus 3.2
    worse = base.copy()
    lost = np.flatnonzero(base[:, 0])[:40]
    worse[lost, 0] -= 2
    drop, error = paired_drop(base, worse)
    assert drop == pytest.approx(100 * 80 / base[:, 1].sum())
    assert error < (hi - lo) / 4  # paired: most rows are the same on both sides
    assert drop_upper_95(base, worse) > drop
    assert mcnemar_p(base, worse) < 0.001
    assert negative_flips(base, worse) == 40


def test_the_same_points_tie_and_are_not_surer_than_a_row() -> None:
    base = f1_rows(2)
    drop, error = paired_drop(base, base.copy())
    assert drop == 0
    assert error == pytest.approx(100 / 402)
    assert mcnemar_p(base, base) == 1
    assert negative_flips(base, base) == 0


def test_points_of_ones_agree_with_the_formulas_for_bools() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(500) < 0.8
    b = a ^ (rng.random(500) < 0.05)
    as_points = [np.stack([x, np.ones(500)], axis=1).astype(float) for x in (a, b)]
    for bools, pointed in zip(paired_drop(a, b), paired_drop(*as_points), strict=True):
        assert pointed == pytest.approx(bools, rel=0.2, abs=0.1)


def test_rows_in_which_nothing_can_be_gained_are_worth_nothing() -> None:
    none = np.zeros((5, 2))
    assert wilson(none) == (0, 0)
    assert paired_drop(none, none)[0] == 0
