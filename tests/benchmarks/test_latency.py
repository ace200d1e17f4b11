import json
from pathlib import Path

import numpy as np
import pytest
from paredown.benchmarks.intervals import ratio
from paredown.benchmarks.latency import (
    CONTROL,
    OFFLINE,
    SINGLE,
    LatencySettings,
    Measurement,
    Sweep,
    measure,
    server_rate,
)
from paredown.benchmarks.sweep import sweep
from paredown.compress.checkpoint import Checkpoint
from paredown.export.errors import StepError

QUICK = LatencySettings(
    threads=1, processes=2, rounds=2, min_seconds=0.04, min_repeats=10, batch_size=3, extra_processes=1
)


def test_a_measurement_has_unit_count_percentiles_and_interval() -> None:
    random = np.random.default_rng(0)
    turns = [random.lognormal(1, 0.3, 50).tolist() for _ in range(8)]
    m = Measurement.from_samples(turns)
    flat = np.concatenate(turns)
    assert (m.unit, m.n) == ("ms", 400)
    assert m.p50 == pytest.approx(np.median(flat))
    assert m.p50 <= m.p95 <= m.p99
    assert m.lo <= m.median <= m.hi


def test_the_ratio_of_a_thing_to_itself_contains_one_and_turns_are_compared_with_their_own_round() -> None:
    random = np.random.default_rng(1)
    drift = np.linspace(1, 3, 10)  # the machine slows down: within a round the ratio stays 2
    slow = [(d * random.lognormal(0, 0.05, 30) * 2).tolist() for d in drift]
    fast = [(d * random.lognormal(0, 0.05, 30)).tolist() for d in drift]
    point, lo, hi = ratio(slow, fast)
    assert lo < 2 < hi
    assert hi - lo < 0.3
    assert point == pytest.approx(2, rel=0.1)
    _, lo, hi = ratio(fast, [list(reversed(turn)) for turn in fast])
    assert lo <= 1 <= hi


def test_intervals_cover_at_their_nominal_rate() -> None:
    """Two copies of one model: the interval of their ratio misses 1 in about one run of twenty."""
    misses = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        a, b = ([(random.lognormal(0, 0.08) * random.lognormal(1, 0.1, 20)).tolist() for _ in range(12)] for _ in "ab")
        _, lo, hi = ratio(a, b)
        misses += not lo <= 1 <= hi
    assert misses <= 19


def test_turns_of_one_process_hang_together() -> None:
    """Four processes, each with a luck of its own: resampling turns alone would be far too sure."""
    misses = {True: 0, False: 0}
    processes = [i // 6 for i in range(24)]
    for seed in range(100):
        random = np.random.default_rng(seed)
        a, b = (
            [(luck * random.lognormal(1, 0.02, 10)).tolist() for luck in np.repeat(random.lognormal(0, 0.1, 4), 6)]
            for _ in "ab"
        )
        for known in misses:
            _, lo, hi = ratio(a, b, processes if known else None)
            misses[known] += not lo <= 1 <= hi
    assert misses[True] < 20 < misses[False]


def test_the_server_scenario_is_the_textbook_queue() -> None:
    """Exponential calls of 1 ms in the mean (M/M/1): the p99 of the whole stay is ln(100) / (1 - rate)."""
    calls = -np.log(1 - (np.arange(10_000) + 0.5) / 10_000)
    assert server_rate(calls.tolist(), 20.0) == pytest.approx(1e3 * (1 - np.log(100) / 20), rel=0.08)
    assert server_rate([1.0], 0.9) == 0
    assert server_rate([1.0, 2.0], 10.0) > server_rate([1.0, 2.0], 5.0)


def test_measuring_real_artefacts(finished: Path, tmp_path: Path) -> None:
    choice = json.loads((finished / "measurements.json").read_text())
    paths = {c["name"]: finished / c["artifact"] for c in choice["candidates"] if c["model"] == "distil-1"}
    rows = [[2, 5, 3], [2, 6, 7, 8, 3], [2, *range(4, 20), 3]] * 4
    seen: list[float] = []
    measured = measure(paths, dict.fromkeys(paths, rows), QUICK, progress=lambda share, text: seen.append(share))
    timings, conditions = measured.timings, measured.conditions
    lo, hi = conditions["control"]["ratio_ci"]
    assert conditions["processes"] == 4 or (conditions["processes"] in (2, 3) and lo <= 1 <= hi)
    turns = 2 * conditions["processes"]
    assert set(timings) == {*paths, CONTROL}
    for name, timing in timings.items():
        if timing.cannot_run:
            assert name.endswith("bf16")
            continue
        for scenario in (SINGLE, OFFLINE):
            assert len(timing.turns[scenario]) == len(timing.processes) == turns
            assert all(ms > 0 for turn in timing.turns[scenario] for ms in turn)
            assert timing.summary(scenario).n >= 8
        assert timing.memory_mb > 20
        assert timing.cold_start_s is not None
        assert timing.cold_start_s > timing.load_s / 10
    assert conditions["processes"] > 2 or seen == sorted(seen)


@pytest.mark.slow
def test_it_measures_longer_while_the_control_does_not_contain_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control that is a slower model altogether never does."""
    from paredown.benchmarks import latency

    found = {c["name"]: c for c in json.loads((finished / "measurements.json").read_text())["candidates"]}
    fast = finished / found["distil-1/onnxruntime/fp32"]["artifact"]
    slow = finished / found["teacher/pytorch/fp32"]["artifact"]
    begin = latency.Worker
    monkeypatch.setattr(
        latency, "Worker", lambda name, path, *rest: begin(name, slow if name == CONTROL else path, *rest)
    )
    settings = QUICK.model_copy(update={"processes": 1, "rounds": 4, "extra_processes": 1})
    measured = measure({"fast": fast}, {"fast": [[2, 5, 6, 3]] * 4}, settings)
    assert measured.conditions["processes"] == 2
    assert measured.conditions["control"]["ratio_ci"][0] > 1
    assert len(measured.timings["fast"].turns[SINGLE]) == 8


def test_a_sweep_has_every_shape_that_was_asked_for(finished: Path) -> None:
    found = json.loads((finished / "measurements.json").read_text())["candidates"]
    path = finished / next(c["artifact"] for c in found if c["name"] == "distil-1/onnxruntime/fp32")
    rows = [[2, 5, 3], [2, *range(4, 12), 3]]
    asked = QUICK.model_copy(update={"sweep": Sweep(batch_sizes=[1, 4], threads=[1], lengths=[4, 8, 16])})
    (entries,) = sweep({"a": path}, {"a": rows}, asked).values()
    shapes = [(e["batch_size"], e["threads"], e["tokens"]) for e in entries]
    assert shapes == [(1, 1, None), (4, 1, None), (1, 1, "1 to 4"), (1, 1, "9 to 16"), (1, 1, None)]
    assert all(e["throughput_per_s"] > 0 for e in entries)
    assert sweep({"a": path}, {"a": rows}, QUICK) == {"a": []}


def test_a_worker_that_dies_is_named_with_its_last_words(untrained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"broken: its process ended with 1.*artifact\.json"):
        measure({"broken": tmp_path}, {"broken": [[2, 3]]}, QUICK)
