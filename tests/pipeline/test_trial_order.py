from pathlib import Path

from paredown.pipeline.trial_order import Ended, TrialOrder

ENDS = [Ended("static", 3, 10.0), Ended("pruned-2.0x", 3, 70.5), Ended("pruned-3.0x", 2, 90.0)]


def kept(file: Path) -> TrialOrder:
    order = TrialOrder(file)
    for end in ENDS:
        order.add(end)
    return order


def test_ends_are_told_again_in_their_order(tmp_path: Path) -> None:
    kept(tmp_path / "search" / "order")
    again = TrialOrder(tmp_path / "search" / "order")
    for end in ENDS:
        assert again.next == end
        again.add(end)
    assert again.next is None


def test_a_line_that_a_kill_has_truncated_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    kept(tmp_path / "order")
    (tmp_path / "order").write_bytes((tmp_path / "order").read_bytes()[:-20])
    assert TrialOrder(tmp_path / "order").ends == ENDS[:2]
    assert TrialOrder(tmp_path / "none").ends == []


def test_an_order_that_the_search_has_left_is_dropped(tmp_path: Path) -> None:
    kept(tmp_path / "order")
    other = TrialOrder(tmp_path / "order")
    other.add(ENDS[0])
    other.add(Ended("pruned-2.5x", 3, 60.0))
    assert other.next is None
    assert TrialOrder(tmp_path / "order").ends == [ENDS[0], Ended("pruned-2.5x", 3, 60.0)]
