from itertools import pairwise

import numpy as np
import pytest
from candidates import row, settings

from paredown.benchmarks.selection.choice import Change, LimitChange, known
from paredown.benchmarks.selection.selection import Frontier, Row, choose, with_bounds
from paredown.benchmarks.selection.sensitivity import card, lambda_ranges


def moved(rows: list[Row], what: str, **values) -> LimitChange:
    return next(e for e in card(rows, rows[0], settings(**values), 0.1).limits if e.limit.startswith(what))


def test_lambda_ranges_cover_everything_and_say_what_the_rule_picks() -> None:
    rows = [row("tiny", 0.01, 600), row("bend", 0.1, 840), row("full", 1.0, 880), row("beaten", 0.9, 700)]
    ranges = lambda_ranges(rows)
    assert [r.name for r in ranges] == ["tiny", "bend", "full"]
    assert ranges[0].start == 0
    assert ranges[-1].to is None
    assert all(a.to == b.start for a, b in pairwise(ranges))
    # without noise gains meet at (0.1 - 0.01) / (84 - 60) and at 0.9 / 4; ties put the dearer one off
    assert ranges[1].start == pytest.approx(0.09 / 24, rel=0.2)
    assert 0.9 / 4 <= ranges[2].start <= 0.5
    for r in ranges:
        value = (r.start + r.to) / 2 if r.to else 2 * r.start
        assert choose(rows, rows[0], settings(rule="lambda", value_per_point=value)).chosen.name == r.name


def test_how_far_the_price_may_move() -> None:
    stored = row("big", 0.2, 850)  # all of it follows the hour
    small = row("small", 0.3, 850)
    small = Row(small.result, 1, small.correct, small.costs, unhurried=0.25)  # mostly storage
    price = card([stored, small], stored, settings(), 0.1).price_per_hour
    assert price.lower is None  # cheaper hours make the first one better still
    # 0.2 f > 0.05 f + 0.25 from f = 5/3 on; the two tie a little before that
    assert known(price.upper).at == pytest.approx(0.1 * 5 / 3, rel=0.02)
    assert known(price.upper).name == "small"


def test_how_far_the_limits_may_move() -> None:
    rows = [row("a", 0.5, 850), row("b", 0.2, 842, size_mb=30.0), row("c", 0.1, 820)]
    at = moved(rows, "max_drop", max_drop=1, confidence=0)
    assert at.model_dump(by_alias=True) == {
        "limit": "max_drop 1 point",
        "set": True,
        "tighter": {"at": 0.8, "name": "a"},
        "looser": {"at": 3.0, "name": "c"},
    }
    bounds = with_bounds(rows, row("base", 1.0, 850), settings(confidence=0.8))
    at = moved(bounds, "max_drop", max_drop=2)
    assert at.tighter == Change(at=bounds[1].drop_upper, name="a")
    assert at.looser == Change(at=bounds[2].drop_upper, name="c")
    at = moved(rows, "size_mb", max_drop=1, budgets={"size_mb": 20})
    assert (at.tighter, at.looser) == (Change(at=10.0, name=None), Change(at=30.0, name="b"))
    at = moved(rows, "size_mb", max_drop=1)
    assert (at.given, at.tighter, at.looser) == (False, Change(at=30.0, name="a"), None)
    at = moved(rows, "metric_validation", max_drop=5, gates=["metric_validation >= 84 points"])
    assert (known(at.tighter).name, at.looser) == ("a", Change(at=82.0, name="c"))


def test_the_frontier_is_what_the_rule_looks_at() -> None:
    rows = [row("a", 0.5, 850), row("b", 0.2, 842), row("out", 0.1, 820, memory_mb=None)]
    found = card(rows, rows[0], settings(budgets={"memory_mb": 200}), 0.1).frontier
    assert found.names == ["a", "b"]
    again = Frontier(**{key: np.array(value) for key, value in found if key != "names"})
    assert again.pick(1.0) == Frontier.of(rows[:2]).pick(1.0)


def test_what_the_sliders_read_is_what_the_rule_reads() -> None:
    """A candidate that breaks a limit which no slider moves is left out; one over a budget that one moves is not."""
    rows = [row("base", 1.0, 850, steps=0), row("a", 0.5, 848), row("big", 0.2, 842, size_mb=30.0)]
    rows.append(row("out", 0.1, 820, memory_mb=None))
    chosen = settings(confidence=0.85, budgets={"memory_mb": 200, "size_mb": 20})
    found = card(rows, rows[0], chosen, 0.1).cheapest
    assert found.names == ["base", "a", "big"]
    assert found.confidences == [0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99]
    for level, upper in zip(found.confidences, found.upper, strict=True):
        bounded = with_bounds(rows, rows[0], settings(confidence=level))
        assert upper == [r.drop_upper for r in bounded[:3]]
