import math

import numpy as np
import pytest

from paredown.benchmarks.statistics.calibration import calibration, calibration_error
from paredown.benchmarks.statistics.metric_intervals import (
    _upper_bounds,
    by_key,
    drop_interval,
    drop_upper,
    drop_upper_95,
    macro_f1,
    macro_f1_drop,
    macro_f1_upper_bounds,
    mcnemar_p,
    mean_interval,
    metric_interval,
    negative_flips,
    paired_drop,
    upper_bounds,
    worst_flips,
)


def pair(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    baseline = np.array([True] * (both + lost) + [False] * (won + neither))
    candidate = np.array([True] * both + [False] * lost + [True] * won + [False] * neither)
    return baseline, candidate


def test_the_interval_of_accuracy_is_wilsons() -> None:
    stats = pytest.importorskip("scipy.stats")
    for right, rows, level in ((81, 100, 0.95), (400, 1000, 0.8), (7, 20, 0.99), (20, 20, 0.95)):
        lo, hi = metric_interval(np.arange(rows) < right, level)
        want = stats.binomtest(right, rows).proportion_ci(level, method="wilson")
        assert (lo, hi) == pytest.approx((100 * want.low, 100 * want.high))


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_near_the_end_the_limit_is_poissons(wrong: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    _, hi = metric_interval(np.arange(1000) >= wrong)
    assert hi == pytest.approx(100 - stats.chi2.ppf(0.05, 2 * wrong) / 20)  # Brown, Cai and DasGupta 2001


@pytest.mark.parametrize(("lost", "won", "rows"), [(9, 1, 53), (3, 0, 50), (12, 11, 400)])
def test_the_bound_of_accuracy_is_tangos(lost: int, won: int, rows: int) -> None:
    """The drop at which the score test, with the likeliest probabilities that have this drop, is just at its limit."""
    optimize = pytest.importorskip("scipy.optimize")

    def beyond(drop: float) -> float:
        def unlikely(q: float) -> float:
            counts, shares = (lost, won, rows - lost - won), (q + drop, q, 1 - 2 * q - drop)
            return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

        q = optimize.minimize_scalar(unlikely, bounds=(0, (1 - drop) / 2), method="bounded", options={"xatol": 1e-12}).x
        return (lost - won - rows * drop) / math.sqrt(rows * (2 * q + drop * (1 - drop))) + 1.959964

    baseline, candidate = pair(rows - lost - won, lost, won, 0)
    lo, hi = drop_interval(baseline, candidate)
    assert hi == pytest.approx(100 * optimize.brentq(beyond, (lost - won) / rows + 1e-9, 0.99), abs=1e-3)
    assert drop_interval(candidate, baseline) == pytest.approx((-hi, -lo))


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar_p(*pair(80, 10, 2, 8)) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar_p(*pair(80, 5, 5, 10)) == 1
    assert mcnemar_p(*pair(90, 0, 0, 10)) == 1


def test_the_drop_is_paired_and_its_bound_above_it() -> None:
    baseline, candidate = pair(800, 30, 20, 150)
    drop, error = paired_drop(baseline, candidate)
    assert drop == pytest.approx(1.0)
    assert error == pytest.approx(100 * math.sqrt(51 - 100 / 1002) / 1002)
    assert drop_upper_95(baseline, candidate) == pytest.approx(1.0 + 1.644854 * error, abs=0.05)
    assert (
        drop_upper(baseline, candidate, 0.8)
        < drop_upper_95(baseline, candidate)
        < drop_upper(baseline, candidate, 0.99)
    )
    lo, hi = drop_interval(baseline, candidate, 0.9)
    assert hi == pytest.approx(drop_upper_95(baseline, candidate))
    assert lo < drop < hi
    with pytest.raises(ValueError, match="confidence 1"):
        drop_upper(baseline, candidate, 1.0)
    assert negative_flips(baseline, candidate) == 30


def test_two_that_never_differ_still_have_an_error() -> None:
    baseline, candidate = pair(900, 0, 0, 100)
    assert paired_drop(baseline, candidate)[0] == 0
    assert 0 < drop_upper_95(baseline, candidate) < 0.3
    assert drop_upper(baseline, candidate, 0.8) == pytest.approx(-100 * math.log(0.2) / 1000, rel=0.35)  # the exact one


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
    said[said == 4], gold[gold == 0] = 7, 1  # a label that is only said, one that is only there
    assert macro_f1(said, gold)[0] == pytest.approx(100 * metrics.f1_score(gold, said, average="macro"))
    assert macro_f1(np.stack([gold, said]), gold).tolist() == [100, macro_f1(said, gold)[0]]


def test_the_bound_of_the_f1_drop_holds_at_its_rate() -> None:
    misses = 0
    for seed in range(200):  # both are right on 80 % of what is theirs to know, so the true drop is 0
        random = np.random.default_rng(seed)
        gold = (random.random(400) < 0.3).astype(int)
        ours, theirs = (np.where(random.random(400) < 0.8, gold, 1 - gold) for _ in "ab")
        drop, upper = macro_f1_drop(theirs, ours, gold)
        assert upper >= drop
        misses += upper < 0
    assert 2 <= misses <= 19  # 10, three standard deviations either way


def test_the_bound_of_the_f1_drop_is_that_of_a_bootstrap_where_rows_are_many() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    gold = random.integers(0, 3, 3000)
    theirs = np.where(random.random(3000) < 0.8, gold, random.integers(0, 3, 3000))
    ours = np.where(random.random(3000) < 0.2, random.integers(0, 3, 3000), theirs)
    both = stats.bootstrap(
        (theirs, ours, gold),
        lambda a, b, g: macro_f1(a, g)[0] - macro_f1(b, g)[0],
        paired=True, vectorized=False, n_resamples=600, method="BCa", confidence_level=0.9, random_state=0,
    )  # fmt: skip
    drop, upper = macro_f1_drop(theirs, ours, gold)
    assert upper - drop == pytest.approx(both.confidence_interval.high - drop, rel=0.12)


def candidates(rows: int, count: int, share: float, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    base = random.random(rows) < 0.85
    return base, [base ^ (random.random(rows) < share) for _ in range(count)]


def test_bounds_that_hold_together_are_wider_the_more_candidates_differ() -> None:
    base, others = candidates(1000, 20, 0.05)
    alone = drop_upper(base, others[0], 0.8)
    few, many = upper_bounds(base, others[:3], 0.8), upper_bounds(base, others, 0.8)
    assert alone < few[0] < many[0] <= drop_upper(base, others[0], 1 - 0.2 / 20)
    same = upper_bounds(base, [others[0]] * 20, 0.8)
    assert same == pytest.approx([alone] * 20)
    with_itself = upper_bounds(base, [*others[:3], base, base.copy()], 0.8)
    assert with_itself[:3] == pytest.approx(few)  # those that answer as the baseline does widen nothing
    assert 0 < with_itself[3] == with_itself[4] < 0.5
    assert upper_bounds(base, [], 0.8).shape == (0,)


def test_few_rows_that_differ_are_taken_as_independent() -> None:
    base, others = candidates(400, 5, 0.01)
    found = upper_bounds(base, others, 0.95)
    assert found == pytest.approx([drop_upper(base, other, 0.95 ** (1 / 5)) for other in others])
    assert upper_bounds(base, others, 0.999) == pytest.approx([drop_upper(base, o, 0.999 ** (1 / 5)) for o in others])


def test_bounds_hold_together_at_their_rate() -> None:
    held = 0
    for seed in range(300):  # nobody is worse
        random = np.random.default_rng(seed)
        base, common = random.random(500) < 0.8, random.random(500)
        others = []
        for _ in range(10):
            u = np.where(random.random(500) < 0.5, common, random.random(500))
            others.append(np.where(base, u >= 0.05, u < 0.2))
        held += bool((upper_bounds(base, others, 0.8) >= 0).all())
    assert 219 <= held <= 261  # 240, three standard deviations either way


def test_bounds_of_the_same_answers_come_out_of_the_cache() -> None:
    """The decision card asks for them again and again."""
    base, others = candidates(5000, 50, 0.03)
    first = upper_bounds(base, others, 0.8)
    before = _upper_bounds.cache_info().hits
    again = upper_bounds(base.copy(), [other.copy() for other in others], 0.8)
    assert _upper_bounds.cache_info().hits == before + 1
    assert again.tolist() == first.tolist()
    again[:] = 0  # what is handed out is a copy
    assert upper_bounds(base, others, 0.8).tolist() == first.tolist()


def test_bounds_of_macro_f1_hold_together() -> None:
    random = np.random.default_rng(0)
    gold = random.integers(0, 4, 800)
    base = np.where(random.random(800) < 0.8, gold, random.integers(0, 4, 800))
    others = [np.where(random.random(800) < 0.1, random.integers(0, 4, 800), base) for _ in range(8)]
    drops, uppers = macro_f1_upper_bounds(base, [*others, base], gold, 0.95)
    for drop, upper, other in zip(drops, uppers, others, strict=False):
        assert drop == pytest.approx(macro_f1(base, gold)[0] - macro_f1(other, gold)[0])
        assert upper > macro_f1_drop(base, other, gold)[1]
    assert drops[-1] == 0
    for rows in (gold, base, *others):
        rows[0] = 5
    assert macro_f1_drop(base, others[0], gold)[1] > uppers[0] + 30  # a label of one row: its F1 is not known


def test_groups_are_judged_one_by_one_worst_first() -> None:
    baseline, candidate = pair(80, 10, 2, 8)
    keys = ["kept"] * 80 + ["lost"] * 10 + ["won"] * 2 + ["never"] * 8
    parts = {part["name"]: part for part in by_key(baseline, candidate, keys)}
    assert next(iter(parts)) == "lost"
    assert (parts["lost"]["drop"], parts["lost"]["rows"], parts["lost"]["metric"]) == (100, 10, 0)
    assert parts["won"]["drop"] == -100
    assert parts["never"]["drop_ci"][0] < 0 < parts["never"]["drop_ci"][1]
    assert all(part["drop"] <= part["drop_upper_95"] <= part["drop_ci"][1] for part in parts.values())


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    correct = np.tile([True] * 8 + [False] * 2, 200)
    assert calibration_error(np.full(2000, 0.8), correct) == 0
    assert calibration_error(np.full(2000, 1.0), correct) == pytest.approx(20)
    assert calibration_error(np.full(2000, 0.9), correct) == pytest.approx(10, abs=0.3)
    assert calibration_error(np.where(correct, 1.0, 0.0), correct) == 0


def test_a_calibrated_model_has_no_calibration_error() -> None:
    """The plain estimate is 11 points at 20 rows and 2.4 at 500: a gate on it refused good models."""
    random, errors, refused = np.random.default_rng(0), [], 0
    for _ in range(200):
        sure = 0.5 + 0.5 * random.beta(5, 1.2, 100)
        right = random.random(100) < sure
        errors.append(calibration(sure, right).error)
        refused += calibration_error(sure, right) > 0
    assert np.mean(errors) < 2
    assert refused <= 19  # 10, three standard deviations above
    sure = 0.5 + 0.5 * random.beta(5, 1.2, 1000)
    found = calibration(sure, random.random(1000) < sure - 0.15)
    assert found.error == pytest.approx(15, abs=4)
    assert found.p == pytest.approx(0.001)


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
    lo, hi = metric_interval(base)
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
    assert metric_interval(none) == (0, 0)
    assert paired_drop(none, none)[0] == 0


def test_points_are_compared_by_exchanging_rows() -> None:
    stats = pytest.importorskip("scipy.stats")
    base = f1_rows(4, 300)
    few, many = base.copy(), base.copy()
    few[np.flatnonzero(base[:, 0])[:7], 0] -= 2
    few[np.flatnonzero(base[:, 0] < base[:, 1])[-2:], 0] += 2
    assert mcnemar_p(base, few) == pytest.approx(stats.binomtest(2, 9).pvalue)  # each is one span: McNemar's own
    random = np.random.default_rng(0)
    many[:, 0] = np.clip(base[:, 0] + 2 * random.integers(-1, 2, 300), 0, base[:, 1])
    exact = stats.permutation_test(
        (base[:, 0], many[:, 0]), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, random_state=0,
    )  # fmt: skip
    assert mcnemar_p(base, many) == pytest.approx(exact.pvalue, abs=0.03)


def test_skewed_points_have_skewed_intervals() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    gained = np.where(random.random(400) < 0.9, 1.0, random.random(400))
    rows = np.stack([gained, np.ones(400)], axis=1)
    lo, hi = metric_interval(rows)
    want = stats.bootstrap((100 * gained,), np.mean, method="BCa", random_state=0).confidence_interval
    assert (lo, hi) == pytest.approx((want.low, want.high), abs=0.4)
    assert hi - rows[:, 0].mean() * 100 < rows[:, 0].mean() * 100 - lo  # the long tail is below
    assert hi < 100
    perfect = np.ones((50, 2))
    lo, hi = metric_interval(perfect)
    assert hi == 100
    assert lo == pytest.approx(metric_interval(np.ones(50, bool))[0], abs=3)  # a row that is lost may not have come yet


def test_the_interval_of_a_mean_of_correlations() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 200)
    lo, hi = mean_interval(values)
    half = 1.972 * values.std(ddof=1) / math.sqrt(200)
    assert (lo, hi) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert mean_interval(np.ones(5)) == pytest.approx((1, 1))


def test_groups_of_points_are_judged_too() -> None:
    base, worse = f1_rows(5), f1_rows(5)
    lost = np.flatnonzero(worse[:200, 0])[:40]
    worse[lost, 0] -= 2
    first, second = by_key(base, worse, ["first"] * 200 + ["second"] * 200)
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["drop"] == pytest.approx(8000 / base[:200, 1].sum())
    assert first["drop_ci"] == pytest.approx(drop_interval(base[:200], worse[:200]))
    assert second["drop"] == 0 < second["drop_upper_95"]
