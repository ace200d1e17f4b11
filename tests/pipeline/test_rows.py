import json
from pathlib import Path

import pytest
from paredown.benchmarks.choose import ChooseSettings
from paredown.benchmarks.latency import SINGLE, Timing
from paredown.pipeline.decide import decide
from paredown.pipeline.job import Candidate
from paredown.pipeline.measurements import _timing_of, read_measurements
from paredown.pipeline.recipe import Model, Target
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


def test_a_candidate_whose_process_ended_is_listed_with_the_reason(finished: Path) -> None:
    gone = Timing({SINGLE: []}, cannot_run="its process ended with -9 while it was measured: no output")
    candidate = Candidate(Model(name="static"), Target.model_validate({"runtime": "onnxruntime"}))
    entry = _timing_of(candidate, {candidate.name: gone})
    assert entry == {"timing": None, "cannot_run": gone.cannot_run}
    measurements = read_measurements(finished)
    for found in measurements["candidates"]:
        if found["name"] == candidate.name:
            found.update(entry)
    choice = decide(measurements, ChooseSettings.model_validate(measurements["choose"]))
    (listed,) = (found for found in choice["candidates"] if found["name"] == candidate.name)
    assert listed["rejected_because"] == f"cannot run here: {gone.cannot_run}"


def test_every_sitting_is_a_process_of_each_candidate(finished: Path) -> None:
    measurements = json.loads((finished / "measurements.json").read_text())
    processes = measurements["conditions"]["processes"]
    timing = measurements["candidates"][0]["timing"]
    assert sorted(set(timing["processes"])) == list(range(processes))
    assert processes == measurements["conditions"]["sittings"] == 3
    assert measurements["control"]["turns"].keys() == timing["turns"].keys()
