from pathlib import Path

from paredown.pipeline.failures import Failure, Ledger
from paredown.pipeline.job import Step


def step(name: str, *after: Step, takes: bool = False) -> Step:
    """A step that stands on others by their keys."""
    inputs = {"name": name, "after": {one.name: one.key for one in after}}
    return Step(name, inputs, 0.0, lambda out, done, report: None, takes_what_is_there=takes)


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
