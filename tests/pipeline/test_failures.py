from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from paredown.compress.distributed.errors import ProcessLost
from paredown.pipeline.engine import Planned, do_all
from paredown.pipeline.failures import Failure, Ledger
from paredown.pipeline.job import Job, Step
from paredown.pipeline.progress import Report
from paredown.pipeline.store import Done, Store
from paredown.runtime.errors import InputError, StepError


def step(name: str, *after: Step, takes: bool = False) -> Step:
    """A step that stands on others by their keys."""
    inputs = {"name": name, "after": {one.name: one.key for one in after}}
    return Step(name, inputs, 0.0, lambda out, done, report: None, takes_what_is_there=takes)


def planned(*steps: Step) -> Planned:
    return Planned(cast("Job", None), lambda job: [*steps], [*steps])


def test_what_stands_on_a_failed_step_is_skipped_with_its_reason_and_what_measures_goes_on() -> None:
    a, b = step("a"), step("b")
    on_a, on_b = step("on-a", a), step("on-b", b)
    measured = step("measure", on_a, on_b, takes=True)
    profiled = step("profile", measured, takes=True)
    ledger, failure = Ledger(), Failure("a", "the loss is nan", Path("a"))
    assert ledger.admit(a) is a
    ledger.failed["a"] = failure
    assert ledger.admit(b) is b
    assert ledger.admit(on_a) is failure
    assert ledger.admit(on_b) is on_b
    assert str(failure) == "step a: the loss is nan"
    for planned in (measured, profiled):  # the second knows of the first alone
        found = ledger.admit(planned)
        assert isinstance(found, Step)
        assert found.inputs["without"] == ["a", "on-a"]
        assert found.key != planned.key
    whole = Ledger()
    assert all(whole.admit(one) is one for one in (a, b, on_a, on_b, measured, profiled))


def test_an_error_that_nobody_foresaw_costs_its_candidate_and_not_the_run(tmp_path: Path) -> None:
    def broken(out: Path, done: Mapping[str, Done], report: Report) -> None:
        raise RuntimeError("a kernel gave\nup")

    a = replace(step("a"), work=broken)
    found = do_all(planned(a, step("b"), step("on-a", a)), Store(tmp_path))
    assert set(found.done) == {"b"}
    assert {name: str(failure) for name, failure in found.failed.items()} == {
        "a": "step a: RuntimeError: a kernel gave up",
        "on-a": "step a: RuntimeError: a kernel gave up",
    }
    assert "in broken" in (Path(found.failed["a"].path) / "traceback.txt").read_text()
    # of what was given, or of the moment: not recorded
    for error, raised in (
        (InputError("no"), InputError),
        (MemoryError("no"), MemoryError),
        (ProcessLost(""), StepError),
    ):

        def ended(out: Path, done: Mapping[str, Done], report: Report, error: Exception = error) -> None:
            raise error

        with pytest.raises(raised):
            do_all(planned(replace(step("c"), work=ended)), Store(tmp_path))
    assert not list(tmp_path.glob("c-*"))


def test_models_that_share_a_step_stand_each_on_its_own_name() -> None:
    """Two names, one key: the work of each asks for the step by the name in its `after`."""
    ledger = Ledger()
    first = step("a-1-prune")
    same = replace(first, name="b-1-prune")
    assert first.key == same.key
    for each in (first, same, step("a-attributions", first), step("b-2-trim", same)):
        ledger.admit(each)
    assert ledger.direct["a-attributions"] == {"a-1-prune"}
    assert ledger.direct["b-2-trim"] == {"b-1-prune"}
