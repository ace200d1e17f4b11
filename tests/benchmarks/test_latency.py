import json
from pathlib import Path

import numpy as np
import pytest
from paredown.benchmarks.latency import CONTROL, OFFLINE, SINGLE, LatencySettings, Measurement, measure, ratio
from paredown.compress.checkpoint import Checkpoint
from paredown.export.errors import StepError

QUICK = LatencySettings(threads=1, processes=2, rounds=2, min_seconds=0.04, min_repeats=10, batch_size=3)


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
    assert misses <= 24


def test_measuring_real_artefacts(finished: Path, tmp_path: Path) -> None:
    choice = json.loads((finished / "measurements.json").read_text())
    paths = {c["name"]: finished / c["artifact"] for c in choice["candidates"] if c["model"] == "distil-1"}
    rows = [[2, 5, 3], [2, 6, 7, 8, 3], [2, *range(4, 20), 3]] * 4
    seen: list[float] = []
    timings = measure(paths, dict.fromkeys(paths, rows), QUICK, progress=lambda share, text: seen.append(share))
    assert set(timings) == {*paths, CONTROL}
    for name, timing in timings.items():
        if timing.cannot_run:
            assert name.endswith("bf16")
            continue
        for scenario in (SINGLE, OFFLINE):
            assert len(timing.turns[scenario]) == 4
            assert all(ms > 0 for turn in timing.turns[scenario] for ms in turn)
            assert timing.summary(scenario).n >= 8
        assert timing.memory_mb > 20
    assert seen == sorted(seen)


def test_a_worker_that_dies_is_named_with_its_last_words(untrained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"broken: its process ended with 1.*artifact\.json"):
        measure({"broken": tmp_path}, {"broken": [[2, 3]]}, QUICK)
