import numpy as np
import pytest

from paredown.benchmarks.measuring.latency import (
    OFFLINE,
    PARALLEL,
    SINGLE,
    LatencySettings,
    Measurement,
    Timing,
    best_throughput,
    server_rate,
)


def test_a_measurement_has_unit_count_percentiles_and_interval() -> None:
    random = np.random.default_rng(0)
    turns = [random.lognormal(1, 0.3, 50).tolist() for _ in range(8)]
    flat = np.concatenate(turns)
    for processes in (None, [0, 0, 1, 1, 2, 2, 3, 3]):
        m = Measurement.from_samples(turns, processes)
        assert (m.unit, m.n) == ("ms", 400)
        assert m.p50 == pytest.approx(np.median(flat))
        assert m.p50 <= m.p95 <= m.p99
        assert m.lo <= m.median <= m.hi


def test_the_server_scenario_is_the_textbook_queue() -> None:
    """Exponential calls of 1 ms in the mean (M/M/1): the p99 of the whole stay is ln(100) / (1 - rate)."""
    calls = -np.log(1 - (np.arange(10_000) + 0.5) / 10_000)
    assert server_rate(calls.tolist(), 20.0) == pytest.approx(1e3 * (1 - np.log(100) / 20), rel=0.08)
    assert server_rate([1.0], 0.9) == 0
    assert server_rate([1.0, 2.0], 10.0) > server_rate([1.0, 2.0], 5.0)


def test_a_key_of_an_older_version_loads_and_says_that_it_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert LatencySettings.model_validate({"rounds": 3, "extra_processes": 2}) == LatencySettings(rounds=3)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("warning: latency.extra_processes has no effect")


@pytest.mark.parametrize(
    ("limit", "scenario", "instances", "threads", "rows", "per_s"),
    [
        (None, PARALLEL, 4, 2, 8, 3200),
        (9.0, OFFLINE, 1, 8, 8, 1000),
        (2.0, SINGLE, 1, 8, 1, 500),
        (0.1, SINGLE, 1, 8, 1, 500),
    ],
)
def test_the_best_serving_configuration_keeps_the_latency_limit(
    limit: float | None, scenario: str, instances: int, threads: int, rows: int, per_s: float
) -> None:
    timing = Timing({SINGLE: [[2.0] * 4] * 2, OFFLINE: [[8.0] * 4] * 2, PARALLEL: [[10.0] * 4] * 2})
    best = best_throughput(timing, LatencySettings(), 8, limit)
    assert (best.scenario, best.instances, best.threads, best.batch_size) == (scenario, instances, threads, rows)
    assert best.per_s == pytest.approx(per_s)


def test_a_runtime_that_has_one_instance_is_not_said_to_serve_in_several() -> None:
    for turns in ([], [[1.0]]):  # none at all; those before one of the instances ended
        timing = Timing({SINGLE: [[2.0]] * 2, OFFLINE: [[8.0]] * 2, PARALLEL: turns})
        assert best_throughput(timing, LatencySettings(), 8).instances == 1


@pytest.mark.parametrize(
    ("given", "cores", "found"),
    [({}, 2, (2, 1)), ({}, 1, (1, 1)), ({}, 16, (4, 4)), ({"threads": 8}, 16, (2, 8)), ({"instances": 3}, 16, (3, 5))],
)
def test_instances_share_the_cores(given: dict, cores: int, found: tuple[int, int]) -> None:
    assert LatencySettings(**given).parallel(cores) == found
