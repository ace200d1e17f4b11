import pytest
from hypothesis import given
from hypothesis import strategies as st

from paredown.serve.scheduling import batch_planner
from paredown.serve.scheduling.batch_planner import SLACK, measure, split


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 64), st.integers(1, 500))
def test_every_row_once_in_calls_of_like_lengths(lengths: list[int], slack: int, most: int) -> None:
    calls = split(lengths, slack, most)
    assert sorted(i for call in calls for i in call) == list(range(len(lengths)))
    for call in calls:
        longest = max(lengths[i] for i in call)
        assert all(longest - lengths[i] < slack for i in call)
        assert len(call) == 1 or len(call) * longest <= most


def test_rows_of_one_length_share_a_call() -> None:
    assert split([7] * 10, 4, 1000) == [list(range(10))]
    assert split([7] * 10, 4, 1000, rows=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_measured_slack_is_within_its_bounds() -> None:
    shapes = []
    slack, seconds = measure(lambda rows: shapes.append((len(rows), len(rows[0]))), [1, 2, 3], 32)
    assert SLACK[0] <= slack <= SLACK[1]
    assert seconds > 0
    assert set(shapes) == {(1, 16), (8, 16), (1, 32), (4, 32)}


def test_a_model_that_takes_long_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(batch_planner, "BUDGET_S", 0)
    measure(calls.append, [1], 32)
    assert len(calls) == 4
