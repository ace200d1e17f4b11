from functools import partial

import numpy as np
import pytest

from paredown.benchmarks.statistics.thresholds import lost_rows, threshold_for


def test_the_threshold_is_the_lowest_that_keeps_the_loss() -> None:
    """Ten rows, surest first; the quick model is wrong on the 6th and the 9th, the slow one never. No regrets: only
    labels count."""
    sure, every, none = np.linspace(0.99, 0.6, 10), np.ones(10, dtype=bool), np.zeros(10)
    right = every.copy()
    right[[5, 8]] = False
    rule = partial(threshold_for, sure, right, every, none)
    assert rule(0.0) == pytest.approx((sure[4] + sure[5]) / 2)  # five rows are safe
    assert rule(10.0) == pytest.approx((sure[7] + sure[8]) / 2)  # one lost row of ten: eight
    assert rule(20.0) == pytest.approx(sure[9], abs=1e-4)
    assert rule(20.0) < sure[9]
    tied = np.repeat(sure[:5], 2)  # pairs of equals: one of each of the last three pairs is lost
    lost = every.copy()
    lost[[5, 7, 9]] = False
    assert tied[6] < threshold_for(tied, lost, every, none, 10.0) < tied[5]
    tied[5] += 1e-6  # nearly equals: either may come out as the surer one elsewhere
    assert threshold_for(tied, lost, every, none, 0.0) > tied[5]
    right[0] = False  # the surest row of all is wrong
    assert threshold_for(sure, right, every, none, 0.0) > 1


def rows_of_two_models(rng: np.random.Generator, rows: int, overconfidence: float) -> tuple[np.ndarray, ...]:
    """Two labels: the first model's confidence, what both have right, and the regrets. The second model knows the rows'
    logits with some noise and exaggerates them; the first one with four times as much noise."""
    truth = rng.normal(0, 3, rows)
    gold = rng.random(rows) < 1 / (1 + np.exp(-truth))
    quick, slow = truth + rng.normal(0, 2, rows), truth + rng.normal(0, 0.5, rows)
    regrets = np.where((quick > 0) == (slow > 0), 0.0, np.tanh(np.abs(overconfidence * slow) / 2))
    return 1 / (1 + np.exp(-np.abs(quick))), (quick > 0) == gold, (slow > 0) == gold, regrets


@pytest.mark.parametrize("overconfidence", [1.0, 3.0])
@pytest.mark.parametrize("max_drop", [0.1, 0.5, 1.0])
def test_on_other_rows_no_more_is_lost_than_was_allowed(max_drop: float, overconfidence: float) -> None:
    """The mean over many sets of 1,000 rows, by 100,000 others. A threshold by counts alone (regrets of 0) loses 1.4 to
    5 times as much, and up to 4 times what was allowed."""
    losses = {"counts": [], "rule": []}
    others = rows_of_two_models(np.random.default_rng(99), 100_000, overconfidence)
    for seed in range(150):
        sure, first, then, regrets = rows_of_two_models(np.random.default_rng(seed), 1000, overconfidence)
        for name, known in (("counts", np.zeros(1000)), ("rule", regrets)):
            answers = others[0] >= threshold_for(sure, first, then, known, max_drop)
            losses[name].append(100 * (others[2] & answers).mean() - 100 * (others[1] & answers).mean())
    counts, rule = (float(np.mean(losses[name])) for name in ("counts", "rule"))
    assert rule <= max_drop + 0.05
    assert counts > 1.2 * rule
    assert np.std(losses["rule"]) < np.std(losses["counts"])


def test_of_points_the_rows_that_lose_some_are_told_from_those_that_lose_none() -> None:
    """F1: 8 rows of one span each. The quick model finds another one in the last two, and one too many in the sixth."""
    then = np.array([[2, 2]] * 8)
    first = then.copy()
    first[6:] = 0, 2
    first[5] = 2, 3
    lost = lost_rows(first, then)
    assert np.array_equal(lost[:5], np.zeros(5))
    f1 = 100 * first[:, 0].sum() / first[:, 1].sum()
    assert 100 * lost.mean() == pytest.approx(100 - f1, rel=0.15)  # to first order
    assert 0 < lost[5] < lost[6]
    sure = np.linspace(0.99, 0.6, 8)
    assert sure[5] < threshold_for(sure, first, then, np.zeros(8), 0.0) < sure[4]
    assert threshold_for(sure, first, then, np.zeros(8), 100.0) < sure[7]
    assert lost_rows(np.zeros((3, 2)), np.zeros((3, 2))).tolist() == [0, 0, 0]
