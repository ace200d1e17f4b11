import numpy as np
import pytest
from conftest import LABELS, TASK

from paredown.compress.config import Int8
from paredown.compress.quantization.int8_cost import Int8Evaluator, cost, distances
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows

ROWS = 200
GOLD = np.arange(ROWS) % 2


def logits(right: np.ndarray, margin: float = 4.0) -> list[np.ndarray]:
    """Answers of two labels that are right where `right` is."""
    said = np.where(right, GOLD, 1 - GOLD)
    return list(margin * np.eye(2)[said])


def right_but(*wrong: int) -> np.ndarray:
    return ~np.isin(np.arange(ROWS), wrong)


def test_points_that_more_than_noise_explains_are_too_much() -> None:
    found = cost(logits(right_but(*range(10))), logits(right_but()), TASK, Int8(), GOLD)
    assert (found.measure, found.unit, found.value, found.rows) == ("accuracy", "points", 5.0, ROWS)
    assert found.agreement == 0.95
    assert found.too_much
    allowed = cost(logits(right_but(*range(10))), logits(right_but()), TASK, Int8(max_drop=5), GOLD)
    assert not allowed.too_much


def test_a_drop_within_its_noise_is_not_too_much_where_the_answers_hardly_move() -> None:
    """An unsure model: six answers that were right are wrong, three the other way round; no probability moves."""
    ours, theirs = right_but(*range(6)), right_but(6, 7, 8)
    found = cost(logits(ours, 0.01), logits(theirs, 0.01), TASK, Int8(), GOLD)
    assert found.value == 1.5 > found.limit
    assert found.distance < 1e-5
    assert not found.too_much


def test_a_drop_within_its_noise_is_too_much_where_the_answers_move_far() -> None:
    ours, theirs = right_but(*range(6)), right_but(6, 7, 8)
    found = cost(logits(ours), logits(theirs), TASK, Int8(), GOLD)
    assert found.value == 1.5
    assert found.distance > 0.01
    assert found.too_much
    assert not cost(logits(ours), logits(theirs), TASK, Int8(max_kl=1), GOLD).too_much


def test_answers_that_move_far_and_cost_no_point_are_not_too_much() -> None:
    ours, theirs = right_but(*range(20)), right_but(*range(20, 40))
    found = cost(logits(ours), logits(theirs), TASK, Int8(), GOLD)
    assert (found.value, found.agreement) == (0, 0.8)
    assert found.distance > 0.5
    assert not found.too_much
    assert cost(logits(ours), logits(theirs), TASK, Int8()).too_much  # the same answers, without labels


def test_a_standard_error_is_that_of_resampled_rows() -> None:
    random = np.random.default_rng(0)
    theirs, ours = random.random(ROWS) < 0.9, random.random(ROWS) < 0.85
    found = cost(logits(ours), logits(theirs), TASK, Int8(), GOLD)
    picks = random.integers(0, ROWS, (2000, ROWS))
    drops = 100 * (theirs[picks].mean(axis=1) - ours[picks].mean(axis=1))
    assert found.error == pytest.approx(drops.std(), rel=0.1)
    task = TASKS["multi-label-classification"]
    gold = (random.random((ROWS, 3)) < 0.4).astype(int)
    clean, noisy = (list(gold - 0.5 + random.normal(0, spread, (ROWS, 3))) for spread in (0.3, 0.4))
    found = cost(noisy, clean, task, Int8(), gold)
    assert (found.measure, found.unit) == ("F1", "points")
    gained = [task.correct(np.stack(answers), gold)[picks].sum(axis=1) for answers in (clean, noisy)]
    drops = 100 * (gained[0][:, 0] / gained[0][:, 1] - gained[1][:, 0] / gained[1][:, 1])
    assert found.error == pytest.approx(drops.std(), rel=0.15)


def test_distances_are_in_the_unit_of_the_answers() -> None:
    numbers = list(np.array([[1.0], [3.0]]))  # their standard deviation is 1
    found = cost([n + 0.5 for n in numbers], numbers, TASKS["text-regression"], Int8())
    assert (found.measure, found.unit, found.value, found.too_much) == ("squared error", "variances", 0.25, True)
    vectors = list(np.eye(3)[[0, 1]])
    found = cost(list(np.eye(3)[[0, 2]]), vectors, TASKS["sentence-embedding"], Int8())
    assert (found.measure, found.value) == ("1 - cosine", 0.5)
    several = TASKS["multi-label-classification"]
    moved = distances([np.array([2.0, 0.0])], [np.array([0.0, 0.0])], several)
    chance = 1 / (1 + np.exp(-2.0))
    assert moved[0] == pytest.approx(np.log(0.5 / chance) / 2 + np.log(0.5 / (1 - chance)) / 2)
    tokens = [np.array([[0.0, 0.0], [2.0, 0.0]])]
    assert distances([np.zeros((2, 2))], tokens)[0] == pytest.approx(
        (chance * np.log(2 * chance) + (1 - chance) * np.log(2 * (1 - chance))) / 2
    )
    ends = distances([np.zeros((4, 2))], [np.eye(4)[:, :2] * 50], TASKS["question-answering"])
    assert ends[0] == pytest.approx(np.log(4))


def test_answers_that_are_no_numbers_are_infinitely_far() -> None:
    found = cost([np.array([np.nan, 0.0])] * ROWS, logits(right_but()), TASK, Int8(), GOLD)
    assert found.distance == np.inf
    assert cost([np.array([np.nan, 0.0])] * ROWS, logits(right_but()), TASK, Int8()).too_much


def test_rows_that_judge_do_not_calibrate_and_pairs_stay_together() -> None:
    assert Int8Evaluator().parts(8) == ([0, 1, 2, 4, 5, 6], [3, 7])
    assert Int8Evaluator().parts(2) == ([0, 1], [0, 1])
    pairs = Rows("p", tuple("abcdefgh"), np.array([1.0, np.nan] * 4))
    assert Int8Evaluator(rows=pairs).parts(8) == ([0, 1, 2, 3, 4, 5], [6, 7])
    singles = Rows("s", tuple("abcdefgh"), np.full(8, np.nan))
    judge = Int8Evaluator(rows=singles)
    assert judge.parts(8)[1] == [3, 7]
    assert judge.gold(TASKS["sentence-embedding"], [3, 7]) is None


def test_without_labels_nobody_knows_what_is_right() -> None:
    assert Int8Evaluator().gold(TASK, [0]) is None
    assert Int8Evaluator(rows=Rows("r", ("a",), None, LABELS)).gold(TASK, [0]) is None
