import numpy as np
import pytest
from paredown.benchmarks.choose import Budgets, ChooseSettings, Row, choose, costs_tie, pareto, values_tie
from paredown.benchmarks.quality import drop_upper_95, paired_drop
from paredown.export.errors import InputError, StepError

ROWS = 1000
BASE = np.arange(ROWS) < 850


def row(name: str, cost: float, right: int, *, steps: int = 1, noise: float = 0.001, **figures) -> Row:
    """A candidate that is right on the first `right` rows, so that every difference is one-sided."""
    correct = np.arange(ROWS) < right
    return Row(
        {
            "name": name,
            "metric_validation": right / ROWS * 100,
            "drop_validation": paired_drop(BASE, correct)[0],
            "drop_upper_95": drop_upper_95(BASE, correct),
            "cost_per_million": cost,
            "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
            "size_mb": 10.0,
            "memory_mb": 100.0,
            **figures,
        },
        steps,
        correct,
        noise,
    )


def settings(**values) -> ChooseSettings:
    return ChooseSettings.model_validate(values)


def pick(rows: list[Row], **values) -> str:
    return choose(rows, row("base", 1.0, 850), settings(**values))["chosen"]["name"]


def test_cheapest_is_the_cheapest_within_max_drop() -> None:
    rows = [row("a", 0.5, 850), row("b", 0.2, 842), row("c", 0.1, 820)]
    assert pick(rows, max_drop=1) == "b"
    assert pick(rows, max_drop=3) == "c"
    assert pick(rows, max_drop=0) == "a"
    with pytest.raises(StepError, match=r"nearest is b with a drop of 0\.80"):
        pick(rows[1:], max_drop=0.5)


def test_lambda_weighs_value_against_money() -> None:
    rows = [row("good", 1.0, 850), row("cheap", 0.1, 800)]
    assert pick(rows, rule="lambda", value_per_point=1.0) == "good"
    assert pick(rows, rule="lambda", value_per_point=0.1) == "cheap"
    with pytest.raises(InputError, match="value_per_point"):
        pick(rows, rule="lambda")


def test_knee_is_where_the_frontier_bends() -> None:
    rows = [row("tiny", 0.01, 600), row("bend", 0.1, 840), row("full", 1.0, 850), row("beaten", 0.5, 700)]
    assert pick(rows, rule="knee") == "bend"
    assert [r.figures["name"] for r in pareto(rows)] == ["tiny", "bend", "full"]


@pytest.mark.parametrize("rule", ["cheapest", "lambda", "knee"])
def test_budgets_are_hard_under_every_rule(rule: str) -> None:
    rows = [row("big", 0.1, 850, size_mb=50.0), row("unknown", 0.1, 850, memory_mb=None), row("fits", 0.9, 845)]
    budgets = {"size_mb": 20, "memory_mb": 500}
    choice = choose(rows, rows[0], settings(rule=rule, value_per_point=0.001, budgets=budgets))
    assert choice["chosen"]["name"] == "fits"
    reasons = {c["name"]: c.get("rejected_because") for c in choice["candidates"]}
    assert reasons["fits"] is None
    assert "size_mb 50 is over the budget of 20" in reasons["big"]
    assert "was not measured" in reasons["unknown"]
    with pytest.raises(StepError, match="keeps the budgets"):
        choose(rows, rows[0], settings(rule=rule, value_per_point=1, budgets={"p95_ms": 0.1}))


def test_the_upper_bound_can_be_a_budget() -> None:
    rows = [row("unsure", 0.1, 842), row("sure", 0.5, 850)]
    bound = rows[0].figures["drop_upper_95"]
    assert pick(rows, max_drop=1, budgets=Budgets(drop_upper_95=bound + 0.1).model_dump()) == "unsure"
    assert pick(rows, max_drop=1, budgets=Budgets(drop_upper_95=bound - 0.1).model_dump()) == "sure"


def test_a_tie_in_cost_goes_to_the_simpler_unless_it_is_measurably_worse() -> None:
    noisy = [row("simple", 0.101, 848, steps=1, noise=0.05), row("complex", 0.100, 849, steps=3, noise=0.05)]
    assert costs_tie(*noisy)
    assert values_tie(*noisy)
    assert pick(noisy, max_drop=5) == "simple"
    worse = [row("simple", 0.101, 820, steps=1, noise=0.05), noisy[1]]
    assert not values_tie(*worse)
    assert pick(worse, max_drop=5) == "complex"
    quiet = [row("simple", 0.101, 848, steps=1, noise=0.0001), row("complex", 0.100, 849, steps=3, noise=0.0001)]
    assert pick(quiet, max_drop=5) == "complex"


def test_what_cannot_run_is_listed_and_never_picked() -> None:
    absent = Row({"name": "bf16", "latency_ms": None, "cost_per_million": None}, 0, np.zeros(0, bool), 0.0, "no bf16")
    choice = choose([absent, row("a", 0.5, 850)], row("base", 1, 850), settings())
    assert choice["chosen"]["name"] == "a"
    assert choice["candidates"][0]["rejected_because"] == "no bf16"
    assert choice["runner_up"] is None
