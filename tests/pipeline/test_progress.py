"""How far a run is, and the time that is left."""

import pytest
from rich.console import Console

from paredown.pipeline import progress
from paredown.pipeline.progress import MODE, Reporter, duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setenv(MODE, "plain")
    return clock


def test_the_time_left_is_corrected_by_what_the_steps_before_took(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine half as fast as was guessed: after the first step all others are taken to be twice as long."""
    reporter = Reporter(3, {"first": 300, "second": 300, "third": 900})
    with reporter.step("first") as report:
        clock.now = 40
        report(0.0, "begins")
        clock.now = 600
    with reporter.step("second") as report:
        clock.now += 60
        report(0.0, "begins")
        clock.now += 240
        report(0.5, "half of it")
        clock.now += 300
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/3 first: 0%, begins; about 24 min left"  # 300 - 40 + 300 + 900
    assert lines[1] == "1/3 first: 600.0 s"
    assert lines[2] == "2/3 second: 0%, begins; about 39 min left"  # 600 - 60 + 1800
    assert lines[3] == "2/3 second: 50%, half of it; about 35 min left"  # 300 + 1800
    assert len(lines) == 5


def test_steps_that_are_there_already_take_no_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(4, {"failed": 100, "skipped": 100, "first": 100, "last": 100})
    reporter.cached("there")
    reporter.failed("failed", "out of memory", again=True)
    reporter.skipped("skipped", "failed")
    with reporter.step("first") as report:
        clock.now = 50
        report(0.5, "half")
    assert "4/4 first: 50%, half; about 2 min left" in capsys.readouterr().err  # 50 + 100


def test_in_a_search_it_is_the_searchs_time_that_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(1)
    reporter.limit(600)
    with reporter.step("trim") as report:
        clock.now += 120
        report(0.5, "half")
    assert "about 8 min of the search left" in capsys.readouterr().err


def test_without_a_guess_the_time_left_follows_from_the_share(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(1).step("trim") as report:
        clock.now = 40
        report(0.0, "begins")
        clock.now = 80
        report(0.5, "half [of it]")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["1/1 trim: 0%, begins", "1/1 trim: 50%, half [of it]; about 80 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (40, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (7500, "2 h 5 min")],
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_in_a_row_that_were_there_are_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(5)
    for name in ("a", "b"):
        reporter.cached(name)
    with reporter.step("c"):
        pass
    reporter.cached("d")
    reporter.skipped("e", "d failed")
    assert capsys.readouterr().err.splitlines() == [
        "2/5 2 steps were there already", "3/5 c: 0.0 s", "4/5 1 step was there already", "5/5 e: skipped"
    ]  # fmt: skip
    reporter = Reporter(3)
    for name in ("a", "b", "c"):
        reporter.cached(name)
    assert capsys.readouterr().err.splitlines() == ["3/3 3 steps were there already"]


def test_a_notebook_without_widgets_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich would warn for every bar."""
    monkeypatch.delenv(MODE, raising=False)
    monkeypatch.delenv("CI", raising=False)
    console = Console(force_jupyter=True, force_terminal=False)
    for there, shown in ((None, "plain"), (object(), "bar")):
        monkeypatch.setattr(progress, "find_spec", lambda name, there=there: there)
        assert progress.how(console) == shown
