import json
from pathlib import Path

import pytest
from candidates import JUDGED, candidate, measured

from paredown.benchmarks.measurements import CandidateMeasurement
from paredown.benchmarks.measuring.latency import SINGLE, Timing
from paredown.benchmarks.selection.choice import Cascade, Promise, known
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.pipeline.job import Candidate as JobCandidate
from paredown.pipeline.recipe.schema import Model, Target
from paredown.pipeline.results.candidate import promise_of, why_worse
from paredown.pipeline.results.measurements import _timing_of, read_measurements
from paredown.pipeline.results.publish import decide
from paredown.runtime.errors import InputError

NAME = "cut/onnxruntime/int8-dynamic"
UNPRUNED = candidate("teacher/onnxruntime/int8-dynamic", 6.0, timing={"turns": {SINGLE: [[6.0, 6.0]] * 4}})


def promised(*rounds: tuple[dict, dict]) -> Promise | None:
    """What an artefact that takes 2 ms promised, made by these (step, result)."""
    made = {f"cut-{i}": found for i, (_, found) in enumerate(rounds)}
    timing = {"turns": {SINGLE: [[2.0, 2.0]] * 4}}
    entry = candidate(NAME, 2.0, steps=[step for step, _ in rounds], made=made, timing=timing)
    return promise_of(entry, measured(UNPRUNED, entry))


def test_two_rounds_promise_their_product_and_what_comes_between_changes_nothing() -> None:
    once, twice = ({"stage": "prune"}, {"promised_speedup": 1.5}), ({"stage": "prune"}, {"promised_speedup": 2.0})
    found = promised(({"stage": "finetune"}, {}), once, twice, ({"stage": "trim"}, {"changed_tokens": 0.1}))
    assert found is not None
    assert (found.promised, found.measured) == pytest.approx((3.0, 3.0))


def test_a_step_that_promised_nothing_and_changed_the_speed_leaves_no_promise() -> None:
    timed = ({"stage": "prune"}, {"promised_speedup": 2.0})
    assert promised(timed, ({"stage": "prune"}, {"promised_speedup": None})) is None
    assert promised(({"stage": "distill"}, {}), timed) is None
    assert promised(({"stage": "prune", "target": {"precision": "fp32"}}, {"promised_speedup": 2.0})) is None
    assert promised(({"stage": "trim"}, {})) is None


def test_int8_that_loses_points_says_what_it_did_to_the_answers() -> None:
    parity = {"metric_drop": 1.5, "agreement": 0.96, "mean_difference": 0.25, "max_difference": 2.0}
    why = why_worse(candidate(NAME, 1.0, parity=parity))
    assert why is not None
    assert "loses 1.5" in why
    assert "4.0% of the answers" in why
    assert "0.25" in why
    assert why_worse(candidate(NAME, 1.0, parity=parity | {"metric_drop": -0.1})) is None
    assert why_worse(candidate("cut/onnxruntime/fp32", 1.0, parity=parity)) is None


PLAIN = candidate("teacher/onnxruntime/int8-dynamic", 2.0, lost=1)
SAME = candidate("teacher/onnxruntime/fp32", 4.0)


def test_both_opponents_stand_in_the_choice_with_intervals() -> None:
    cut = candidate("cut/onnxruntime/int8-dynamic", 1.0, lost=2, test_lost=3)
    choice = decide(measured(SAME, PLAIN, cut), ChooseSettings(max_drop=3))
    chosen = choice.chosen
    assert (chosen.name, choice.plain_int8) == (cut.name, PLAIN.name)
    assert chosen.speedup_vs_baseline == pytest.approx(10, rel=0.02)
    assert chosen.speedup_vs_plain_int8 == pytest.approx(2, rel=0.02)
    for key in ("speedup_ci", "speedup_vs_plain_int8_ci", "speedup_mean_ci", "speedup_p95_ci"):
        lo, hi = getattr(chosen, key)
        assert lo < hi
    assert known(chosen.cost_vs_baseline).ratio == pytest.approx(0.1, rel=0.1)
    assert choice.candidates[0].speedup_vs_baseline == 1


def test_a_serving_configuration_keeps_the_latency_limit_or_is_not_there() -> None:
    cut = candidate("cut/onnxruntime/int8-dynamic", 1.0)
    found = [
        decide(measured(SAME, cut, prices={"latency_limit_ms": limit}), ChooseSettings(max_drop=3)).candidates
        for limit in (5.0, 2.0, 0.1)
    ]
    assert [
        [entry.serving is not None for entry in entries if entry.name in (SAME.name, cut.name)] for entries in found
    ] == [
        [True, True],
        [False, True],
        [False, False],
    ]


def test_the_certificate_is_of_the_selected_one_alone_and_counts_how_many_were_held_against_its_rows(
    tmp_path: Path,
) -> None:
    cut = candidate("cut/onnxruntime/int8-dynamic", 1.0, lost=2, test_lost=3)
    measurements = measured(SAME, PLAIN, cut)
    choice = decide(measurements, ChooseSettings(max_drop=3), tmp_path)
    first = known(choice.certificate)
    assert (first.split, first.rows, first.drop, first.looks) == ("test", JUDGED, 0.75, 1)
    assert first == choice.chosen.certificate
    assert first.drop_upper_95 > first.drop
    sealed = [c for c in choice.candidates if c.name in (SAME.name, PLAIN.name)]
    assert all(c.metric_test is None and c.drop_test is None and c.certificate is None for c in sealed)
    assert choice.baseline.metric_test == 85
    looks = [{"name": n, "artifact": n, "test": "a", "at": "2026-01-01T00:00:00+00:00"} for n in ("x", "y")]
    (tmp_path / "certified.json").write_text(json.dumps(looks))
    third = known(decide(measurements, ChooseSettings(max_drop=3), tmp_path).certificate)
    assert third.looks == 3
    assert third.drop_upper_95 > first.drop_upper_95
    other = known(decide(measured(SAME, PLAIN, cut, test_digest="b"), ChooseSettings(max_drop=3), tmp_path).certificate)
    assert other.looks == 1  # other rows
    (tmp_path / "certified.json").write_text("[")
    with pytest.raises(InputError, match=r"certified\.json: damaged"):
        decide(measurements, ChooseSettings(max_drop=3), tmp_path)


def test_without_test_rows_there_is_no_certificate() -> None:
    unknown = {"correct_test": None, "metric_test": None}
    entries = [entry.model_copy(update=unknown) for entry in measured(SAME, PLAIN).candidates]
    choice = decide(measured(candidates=entries), ChooseSettings(max_drop=3))
    assert choice.certificate is None
    assert choice.chosen.metric_test is None


def cascade(share: float, ms: float) -> CandidateMeasurement:
    steps = [{"stage": "cascade", "first": "static", "then": "cut", "max_drop": 0.2}]
    details = {"cascade": {"answered_by_first": share, "first_metric": 90.0}}
    return candidate("both/onnxruntime/fp32", ms, steps=steps, details=details)


@pytest.mark.parametrize(
    ("share", "ms", "reason"),
    [
        (0.05, 1.0, "its first model answers 5.0% of the validation rows"),
        (0.5, 3.5, "no cheaper than its second model alone (cut/onnxruntime/fp32)"),
        (0.5, 1.0, None),
    ],
)
def test_a_cascade_that_does_not_pay_is_no_candidate(share: float, ms: float, reason: str | None) -> None:
    choice = decide(
        measured(SAME, candidate("cut/onnxruntime/fp32", 3.0, lost=1), cascade(share, ms)), ChooseSettings(max_drop=5)
    )
    both = next(c for c in choice.candidates if c.name == "both/onnxruntime/fp32")
    assert (reason is None) == (choice.chosen.name == "both/onnxruntime/fp32")
    assert (both.rejected_because or "").startswith(reason or "")
    assert both.cascade == Cascade(first="static", then="cut", answered_by_first=share, first_metric=90.0)
    assert both.speedup_statistic == "mean"


def test_a_noisy_run_states_the_weakest_ratio_that_its_intervals_carry() -> None:
    choice = decide(measured(SAME, PLAIN, noisy=True), ChooseSettings(max_drop=3))
    chosen = choice.chosen
    assert choice.noisy
    assert chosen.speedup_vs_baseline == known(chosen.speedup_ci)[0]
    assert known(chosen.cost_vs_baseline).ratio == known(chosen.cost_vs_baseline).ci[1]
    assert choice.candidates[0].speedup_vs_baseline == 1


def test_what_is_measured_for_comparison_is_never_selected() -> None:
    choice = decide(measured(SAME, PLAIN.model_copy(update={"reference": True})), ChooseSettings(max_drop=5))
    assert choice.chosen.name == SAME.name
    assert choice.plain_int8 == PLAIN.name
    rejected = next(c for c in choice.candidates if c.name == PLAIN.name).rejected_because
    assert rejected == "measured for comparison; add it to targets to let it be selected"


def test_a_candidate_whose_process_ended_is_listed_with_the_reason(finished: Path) -> None:
    gone = Timing({SINGLE: []}, cannot_run="its process ended with -9 while it was measured: no output")
    candidate = JobCandidate(Model(name="static"), Target.model_validate({"runtime": "onnxruntime"}))
    entry = _timing_of(candidate, {candidate.name: gone})
    assert entry == {"timing": None, "cannot_run": gone.cannot_run}
    found = read_measurements(finished)
    entries = [e.model_copy(update=entry) if e.name == candidate.name else e for e in found.candidates]
    choice = decide(found.model_copy(update={"candidates": entries}), found.choose)
    (listed,) = (found for found in choice.candidates if found.name == candidate.name)
    assert listed.rejected_because == f"cannot run here: {gone.cannot_run}"


def test_every_sitting_is_a_process_of_each_candidate(finished: Path) -> None:
    measurements = json.loads((finished / "measurements.json").read_text())
    processes = measurements["conditions"]["processes"]
    timing = measurements["candidates"][0]["timing"]
    assert sorted(set(timing["processes"])) == list(range(processes))
    assert processes == measurements["conditions"]["sittings"] == 3
    assert measurements["control"]["turns"].keys() == {"single_stream"} < timing["turns"].keys()
