import pytest
from paredown.benchmarks.latency import SINGLE
from paredown.pipeline.rows import promise_of, why_worse

INT8 = {"runtime": "onnxruntime", "precision": "int8-dynamic"}
UNCUT = {"teacher/onnxruntime/int8-dynamic": {"timing": {"turns": {SINGLE: [[6.0, 6.0]] * 4}}}}


def promised(*rounds: tuple[dict, dict]) -> dict | None:
    """What an artefact that takes 2 ms promised, made by these (step, result)."""
    made = {f"cut-{i}": result for i, (_, result) in enumerate(rounds)}
    timing = {"turns": {SINGLE: [[2.0, 2.0]] * 4}}
    return promise_of({**INT8, "steps": [step for step, _ in rounds], "made": made, "timing": timing}, UNCUT)


def test_two_rounds_promise_their_product_and_what_comes_between_changes_nothing() -> None:
    once, twice = ({"stage": "prune"}, {"promised_speedup": 1.5}), ({"stage": "prune"}, {"promised_speedup": 2.0})
    found = promised(({"stage": "finetune"}, {}), once, twice, ({"stage": "trim"}, {"changed_tokens": 0.1}))
    assert found is not None
    assert (found["promised"], found["measured"]) == pytest.approx((3.0, 3.0))


def test_a_step_that_promised_nothing_and_changed_the_speed_leaves_no_promise() -> None:
    timed = ({"stage": "prune"}, {"promised_speedup": 2.0})
    assert promised(timed, ({"stage": "prune"}, {"promised_speedup": None})) is None
    assert promised(({"stage": "distill"}, {}), timed) is None
    assert promised(({"stage": "prune", "target": {"precision": "fp32"}}, {"promised_speedup": 2.0})) is None
    assert promised(({"stage": "trim"}, {})) is None


def test_int8_that_loses_points_says_what_it_did_to_the_answers() -> None:
    parity = {"metric_drop": 1.5, "agreement": 0.96, "mean_difference": 0.25, "max_difference": 2.0}
    why = why_worse({**INT8, "parity": parity})
    assert why is not None
    assert "loses 1.5" in why
    assert "4.0% of the answers" in why
    assert "0.25" in why
    assert why_worse({**INT8, "parity": parity | {"metric_drop": -0.1}}) is None
    assert why_worse({"precision": "fp32", "parity": parity}) is None
