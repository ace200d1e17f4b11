import numpy as np
import pytest

from paredown.pipeline.finalists import DROPS, Chain, Judgement, chains, finalists

ROWS = 1000


def model(name: str, ms: float, wrong: int) -> Chain:
    """Right in all rows but the last `wrong` ones."""
    right = np.arange(ROWS) < ROWS - wrong
    return Chain((name,), ms, right, 1.0 - right)


def regrets(first: str, then: str) -> np.ndarray:
    """Nothing: thresholds are set by labels alone."""
    return np.zeros(ROWS)


def judge(chain: Chain) -> Judgement:
    drop = 100 * float(1 - chain.right.mean())
    return Judgement(drop, drop + 0.3, drop)


@pytest.fixture
def models() -> list[Chain]:
    """The quicker, the more rows are wrong: those of the slower are among them."""
    return [model("static", 0.01, 200), model("small", 0.2, 40), model("cut", 0.5, 6), model("whole", 1.0, 0)]


@pytest.fixture
def sure(models: list[Chain]) -> dict[str, np.ndarray]:
    return {chain.names[0]: np.linspace(1.0, 0.5, ROWS) for chain in models[:-1]}


def test_all_cascades_of_two_and_three_are_made(models: list[Chain], sure: dict[str, np.ndarray]) -> None:
    found = chains(models, sure, regrets, 1.0)
    names = {chain.names for chain in found}
    assert {("static",), ("small",), ("cut", "whole"), ("static", "small", "cut"), ("static", "cut", "whole")} <= names
    assert max(map(len, names)) == 3
    order = [model.names[0] for model in models]
    assert all(list(chain.names) == sorted(chain.names, key=order.index) for chain in found)
    assert {chain.max_drop for chain in found} == {0.0, *DROPS}


def test_a_cascade_answers_each_row_by_its_model_and_takes_that_time(models, sure) -> None:
    made = chains(models, sure, regrets, 1.0)
    found = next(c for c in made if c.names == ("static", "whole") and c.max_drop == DROPS[0])
    answered = 0.8 + DROPS[0] / 100  # the rows that static has right, and as many wrong ones as it may lose
    assert found.right.mean() == pytest.approx(1 - DROPS[0] / 100)
    assert found.ms == pytest.approx(0.01 + (1 - answered) * 1.0, abs=2e-3)
    assert found.distances.sum() == pytest.approx(ROWS * DROPS[0] / 100)


def test_a_model_that_answers_few_rows_stands_in_front_of_none(models) -> None:
    unsure = {"static": np.zeros(ROWS)}  # no threshold parts equals
    assert {chain.names for chain in chains(models, unsure, regrets, 1.0)} == {(c.names[0],) for c in models}


def test_models_of_nearly_one_speed_make_no_cascade(sure) -> None:
    pair = [model("cut", 0.5, 6), model("whole", 0.6, 0)]
    assert len(chains(pair, {"cut": sure["cut"]}, regrets, 1.0)) == 2


def test_the_fastest_of_each_kind_is_measured(models, sure) -> None:
    picked = finalists(chains(models, sure, regrets, 1.0), judge, max_drop=1.0)
    judged = list(picked.items())
    assert judged[0][0].ms == min(c.ms for c in chains(models, sure, regrets, 1.0) if judge(c).expected <= 1.0)
    assert any(verdict.upper <= 1.0 for _, verdict in judged)
    assert any(verdict.upper <= 0.75 for _, verdict in judged)  # a cascade: with some margin
    assert min(verdict.upper for _, verdict in judged) <= 0.5
    assert ("cut",) in {chain.names for chain, _ in judged}  # the fastest that is good enough alone
    assert [chain.ms for chain, _ in judged] == sorted(chain.ms for chain, _ in judged)


def test_a_single_model_whose_bound_is_too_high_is_not_measured_for_its_size() -> None:
    """It would fail its test, and what changes more answers would not be tested after it."""
    found = [model("cut", 0.5, 8), model("whole", 1.0, 0)]
    picked = finalists([*found, Chain(("static", "whole"), 0.4, found[1].right, 1.0 - found[1].right)], judge, 1.0)
    assert {chain.names for chain in picked} == {("static", "whole"), ("whole",)}


def test_where_all_lose_too_much_the_one_that_loses_least_is_measured() -> None:
    picked = finalists([model("a", 0.1, 300), model("b", 0.5, 100)], judge, max_drop=1.0)
    assert [chain.names for chain in picked] == [("b",)]
