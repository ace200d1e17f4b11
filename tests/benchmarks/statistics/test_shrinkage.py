import numpy as np
import pytest

from paredown.benchmarks.statistics.shrinkage import expected_drops


@pytest.mark.parametrize("misfit", [0.0, 0.3, 0.6])
def test_estimates_are_nearer_to_the_truth_than_counts_of_labels(misfit: float) -> None:
    """Models that lose 0.2 to 2 points, counted with an error of 0.8, and a static student that loses 10: the mean
    squared error of those near the limit is under two thirds of that of the counts, even where each model has a rate of
    its own that differs more than is assumed."""
    truth = np.array([0.2, 0.5, 0.8, 1.2, 2.0, 10.0])
    errors = np.array([0.5, 0.6, 0.7, 0.8, 0.8, 1.5])
    counted, estimated = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        distances = truth / 60 * np.exp(rng.normal(0, misfit, len(truth)))
        drops = rng.normal(truth, errors)
        counted.append(drops - truth)
        estimated.append(expected_drops(drops, errors, distances) - truth)
    before, after = (float(np.square(np.array(e)[:, :5]).mean()) for e in (counted, estimated))
    assert after < 2 / 3 * before


@pytest.mark.parametrize("exponent", [0.5, 0.67, 1.3])
@pytest.mark.parametrize("student", [10.0, 33.0])
def test_a_static_student_does_not_set_the_rate_of_pruned_models(exponent: float, student: float) -> None:
    """Where drops grow faster or slower than distance, estimates of pruned models are off by under 0.4 points in the
    mean, and nearer to the truth than counts: a rate shared by all was off by up to 1.0."""
    truth = np.array([0.5, 1.0, 2.0, student])
    errors = np.array([0.5, 0.7, 0.8, 1.2])
    counted, estimated = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        distances = (truth / 60) ** exponent * np.exp(rng.normal(0, 0.3, len(truth)))
        drops = rng.normal(truth, errors)
        counted.append(drops - truth)
        estimated.append(expected_drops(drops, errors, distances) - truth)
    before, after = np.array(counted)[:, :3], np.array(estimated)[:, :3]
    assert np.square(after).mean() < np.square(before).mean()
    assert abs(after.mean()) < 0.4


def test_the_order_of_the_distances_is_kept_where_labels_say_nothing() -> None:
    found = expected_drops(np.array([0.4, 0.4, 8.0]), np.array([0.8, 0.8, 1.5]), np.array([0.01, 0.03, 0.2]))
    assert found[0] < found[1] < found[2]


def test_many_labels_outweigh_the_distance() -> None:
    drops = np.array([0.1, 3.0])
    assert expected_drops(drops, np.full(2, 1e-3), np.array([0.05, 0.05])) == pytest.approx(drops, abs=0.01)


def test_the_same_outputs_lose_nothing_more_than_counted() -> None:
    assert expected_drops(np.zeros(2), np.full(2, 0.1), np.zeros(2)).tolist() == [0.0, 0.0]
    one, _ = expected_drops(np.array([0.0, 2.0]), np.array([0.1, 0.8]), np.array([0.0, 0.1]))
    assert one == 0.0


def test_a_rate_below_zero_counts_as_none() -> None:
    """A model that wins by chance does not make distance a gain."""
    found = expected_drops(np.array([-1.0, -0.5]), np.array([0.8, 0.8]), np.array([0.1, 0.02]))
    assert (found <= 0).all()
    assert (found >= [-1.0, -0.5]).all()
