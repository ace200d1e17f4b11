import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from candidates import timed

from paredown.benchmarks.measuring import interleaved, worker
from paredown.benchmarks.measuring import system_monitor as conditions
from paredown.benchmarks.measuring.interleaved import Protocol, Sitting, Workload, sit
from paredown.benchmarks.measuring.latency import (
    CONTROL,
    FEWER,
    OFFLINE,
    PARALLEL,
    SINGLE,
    LatencySettings,
    Scenario,
    Sweep,
    Timing,
)
from paredown.benchmarks.measuring.repetitions import failed, measure, merged, spread
from paredown.benchmarks.measuring.sweep import sweep
from paredown.benchmarks.measuring.system_monitor import QUIET, Busy, busy_now, quiet, used_by_others
from paredown.benchmarks.measuring.worker import Worker
from paredown.compress.models.loading import Checkpoint
from paredown.runtime.errors import StepError

QUICK = LatencySettings(threads=1, instances=2, processes=2, rounds=2, min_seconds=0.04, min_repeats=10, batch_size=3)
ROWS = [[2, 5, 3], [2, 6, 7, 8, 3], [2, *range(4, 20), 3]] * 4


def artefacts(run: Path, model: str) -> dict[str, Path]:
    """Artefact directories of one model of a finished run, by their names."""
    found = json.loads((run / "measurements.json").read_text())["candidates"]
    return {c["name"]: run / c["artifact"] for c in found if c["model"] == model}


def work(paths: dict[str, Path], rows: list[list[int]] = ROWS) -> Workload:
    """The same rows for every artefact."""
    return Workload(paths, dict.fromkeys(paths, rows))


@pytest.fixture
def two(finished: Path) -> dict[str, Path]:
    """Two artefacts that are quick to open."""
    found = artefacts(finished, "distil-1")
    return {name: found[f"distil-1/{name}"] for name in ("onnxruntime/fp32", "onnxruntime/int8-dynamic")}


@pytest.fixture
def busy_loop() -> Iterator[None]:
    """A core that another process uses; of the niceness of this one, so that it gets its share."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


def sittings_of(control_noise: float, *, processes: int = 6, seed: int = 1, speed: float = 1.0) -> list[Sitting]:
    """Sittings of one artefact and its control, whose processes differ by `control_noise`."""
    random = np.random.default_rng(seed)
    machine = random.lognormal(0, 0.1, (processes, 2))
    first, numbers = timed(random, machine, process_effect=control_noise)
    again, _ = timed(random, machine, process_effect=control_noise, speed=speed)
    found = []
    for number in range(processes):
        mine = [i for i, process in enumerate(numbers) if process == number]
        timings = {
            name: Timing({SINGLE: [turns[i] for i in mine]}, processes=[number, number])
            for name, turns in (("a", first), (CONTROL, again))
        }
        found.append(Sitting(timings, 1000.0 + 60 * number, 20.0, 0.1, None, 1.0, (1000, 10)))
    return found


def test_measuring_real_artefacts(finished: Path) -> None:
    paths = artefacts(finished, "distil-1")
    seen: list[float] = []
    measured = measure(work(paths), Protocol(QUICK), lambda share, text: seen.append(share))
    timings, found = measured.timings, measured.conditions
    assert found.processes == found.sittings == len(found.busy_before) == 2
    assert found.control is not None
    assert found.control.ratio > 0
    assert found.covers.startswith("2 processes in 2 sittings over ")
    assert set(timings) == {*paths, CONTROL}
    for name, timing in timings.items():
        if timing.cannot_run:
            assert name.endswith("bf16")
            continue
        assert timing.processes == [0, 0, 1, 1]
        for scenario in (SINGLE, OFFLINE, PARALLEL):
            if name == CONTROL and scenario != SINGLE:
                assert scenario not in timing.turns
                continue
            assert len(timing.turns[scenario]) == 4
            assert all(ms > 0 for turn in timing.turns[scenario] for ms in turn)
            assert timing.summary(scenario).n >= 8
        assert timing.memory_mb > 20
        assert timing.cold_start_s is not None
        assert timing.cold_start_s > timing.load_s / 10
    assert seen == sorted(seen)


def test_single_stream_is_that_of_the_number_of_threads_that_is_faster(
    two: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (interleaved, worker):
        monkeypatch.setattr(module, "cores", lambda: 2)  # threads may be more than cores
    settings = QUICK.model_copy(update={"threads": None, "instances": None})
    first = sit(work(two), Protocol(settings))
    both = [first, sit(work(two), Protocol(settings), before=[first])]
    again = [Sitting.from_json(json.loads(json.dumps(sitting.to_json()))) for sitting in both]
    timings = merged(both).timings
    assert timings == merged(again).timings
    for name, timing in timings.items():
        kept = SINGLE if timing.threads is None else FEWER
        assert timing.threads in (None, 1)
        assert FEWER not in timing.turns
        assert timing.turns[SINGLE] == [turn for sitting in again for turn in sitting.timings[name].turns[kept]]
    assert timings[CONTROL].threads == timings["onnxruntime/fp32"].threads


def test_one_sitting_that_something_disturbs_does_not_choose_the_threads() -> None:
    """Of a GPU, and of what cannot run, there is nothing to choose; a control goes with what it controls."""
    slow, fast = [[2.0] * 9] * 2, [[1.0] * 9] * 2

    def sitting(number: int, all_cores: list, fewer: list) -> Sitting:
        timings = {
            "first": Timing({SINGLE: all_cores, FEWER: fewer}, joules={SINGLE: [9.0], FEWER: [4.0]}),
            "other": Timing({SINGLE: fewer, FEWER: all_cores}, joules={SINGLE: [9.0], FEWER: [4.0]}),
            "on a GPU": Timing({SINGLE: slow, OFFLINE: slow}),
            "not here": Timing({SINGLE: []}, cannot_run="no such instructions"),
            CONTROL: Timing({SINGLE: fast, FEWER: slow}),
        }
        for timing in timings.values():
            timing.processes = [number] * 2
        return Sitting(timings, 1000.0, 20.0, 0.1, None, 1.0, (1000, 10), fewer=3)

    timings = merged([sitting(0, fast, [[400.0] * 9] * 2), sitting(1, slow, fast), sitting(2, slow, fast)]).timings
    assert [timing.threads for timing in timings.values()] == [3, None, None, None, 3]
    assert timings["first"].turns == {SINGLE: [*[[400.0] * 9] * 2, *fast, *fast]}
    assert timings["first"].joules == {SINGLE: [4.0] * 3}
    assert timings["other"].joules == {SINGLE: [9.0] * 3}
    assert timings["on a GPU"].turns == {SINGLE: slow * 3, OFFLINE: slow * 3}
    assert timings[CONTROL].turns == {SINGLE: slow * 3}


def test_what_is_much_slower_with_fewer_threads_is_not_timed_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn that says otherwise keeps it in; a control is asked what the first one is asked."""
    monkeypatch.setattr(interleaved, "cores", lambda: 2)

    def asked(name: str, *turns: tuple[float, float]) -> list[str]:
        found = Timing({SINGLE: [[all_cores] * 9 for all_cores, _ in turns], FEWER: [[few] * 9 for _, few in turns]})
        before = [Sitting({"first": found}, 1000.0, 20.0, 0.1, None, 1.0, (1000, 10), fewer=1)] if turns else []
        protocol = Protocol(QUICK.model_copy(update={"threads": None}))
        return [scenario.name for scenario in interleaved._asked(protocol, name, "first", before)]

    every = [SINGLE, FEWER, OFFLINE, PARALLEL]
    assert asked("first") == asked("first", (1, 0.8)) == asked("first", (1, 1.2), (1, 9)) == every
    assert asked("first", (1, 2), (1, 1.8)) == [SINGLE, OFFLINE, PARALLEL]
    assert asked("other", (1, 2)) == every
    assert asked(CONTROL, (1, 1)) == [SINGLE, FEWER]
    assert asked(CONTROL, (1, 2)) == [SINGLE]


def test_a_scenario_that_nothing_could_measure_is_left_out() -> None:
    """Parallel, on a system that cannot fork: an empty one would read as a damaged measurement."""
    alone = Timing({SINGLE: [[2.0] * 9] * 2, PARALLEL: []}, processes=[0, 0])
    found = merged([Sitting({"a": alone}, 1000.0, 20.0, 0.1, None, 1.0, (1000, 10))]).timings["a"]
    assert found.turns == {SINGLE: [[2.0] * 9] * 2}


def test_an_instance_that_ended_has_no_say() -> None:
    cut_short = Timing({SINGLE: [[2.0] * 9] * 2, FEWER: [[1.0] * 9]}, processes=[0, 0])
    found = merged([Sitting({"a": cut_short}, 1000.0, 20.0, 0.1, None, 1.0, (1000, 10), fewer=1)]).timings["a"]
    assert (found.threads, found.turns) == (None, {SINGLE: [[2.0] * 9] * 2})


def test_instances_run_at_the_same_time_and_end_with_the_process(two: dict[str, Path], tmp_path: Path) -> None:
    """Each is timed for as long as is asked, all of them in that time; none outlives the worker, however it ends."""
    (tmp_path / "rows").write_text(json.dumps(ROWS))
    for end in ("stop", "kill"):
        sitting = Worker("a", two["onnxruntime/fp32"], tmp_path / "rows", 1, (3, 1))
        sitting.receive()
        children = psutil.Process(sitting.process.pid).children()
        assert len(children) == 4
        answer = sitting.ask({"passes": [[[0, 1]]], "seconds": 0.5, "instances": 3})
        assert sum(answer["ms"]) > 1.2e3  # of three times half a second
        if end == "stop":
            burst = {"passes": [[[0, 1]]], "seconds": 0.1}
            children[3].kill()
            assert sitting.ask(burst | {"instances": 3})["ms"] == []
            assert sitting.ask(burst | {"instances": 1})["ms"]  # single-stream has a process of its own
            children[0].kill()
            assert sitting.ask(burst | {"instances": 1})["ms"] == []
            assert sitting.ask(burst | {"instances": 0})["ms"]
            sitting.stop()
        else:
            sitting.process.kill()
            sitting.process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive


def test_rows_of_a_batch_have_similar_lengths() -> None:
    lengths = [*range(5, 55)] * 2
    order = random.Random(1)
    passes = interleaved._passes(Scenario(OFFLINE, 10), lengths, 16, 1, order, 0.5)
    batches = [rows for one in passes for rows in one]
    assert max(max(lengths[i] for i in rows) - min(lengths[i] for i in rows) for rows in batches) == 4
    assert {i for rows in batches for i in rows} == set(range(100))
    few = interleaved._passes(Scenario(OFFLINE, 8), [3, 4], 40, 1, order, 0.5)  # fewer rows than a batch has
    assert {len(rows) for one in few for rows in one} == {8}


@pytest.mark.parametrize("count", [1, 5, 12, 13, 100, 1000])
def test_every_pass_has_rows_of_all_lengths(count: int) -> None:
    """So that a model that makes more passes in its time has read as many tokens a row."""
    order = random.Random(1)
    lengths = [int(2 ** order.uniform(1, 8)) for _ in range(count)]
    passes = interleaved._passes(Scenario(SINGLE), lengths, 100, 4, order, 0.3)
    assert len({len(one) for one in passes}) == 1
    assert len(passes[0]) == 25
    means = [np.mean([lengths[i] for (i,) in one]) for one in passes]
    assert np.std(means) <= 0.06 * np.mean(means)
    if count == 1000:
        assert len({i for one in passes for (i,) in one}) > 300


def test_sittings_together_read_batches_of_all_lengths() -> None:
    """Where a pass is a single batch, as of several instances of a slow model, sittings differ, and their mean is that
    of all rows."""
    lengths = list(range(1, 1001))
    first = [
        interleaved._passes(Scenario(PARALLEL, 8, instances=2), lengths, 48, 12, random.Random(n), 0.2 + n / 6)[0]
        for n in range(6)
    ]
    assert all(len(one) == 1 for one in first)
    means = [np.mean([lengths[i] for i in one[0]]) for one in first]
    assert np.mean(means) == pytest.approx(500, rel=0.1)
    assert np.diff(np.sort(means)).min() > 50


def test_calls_are_timed_in_whole_passes_of_shapes_that_have_run_before() -> None:
    """Over an encoder and a session that write down what they are asked."""
    calls: list[int] = []

    class Rows:
        def pad(self, rows: list[list[int]]) -> dict[str, np.ndarray]:
            return {"input_ids": np.array(rows)}

    watch = worker.Stopwatch(lambda batch: calls.append(batch["input_ids"].shape[1]), Rows(), [[1], [1, 2], [3]])  # type: ignore[arg-type]
    watch.prepare([[[0]], [[1]], [[2]]])
    assert calls == [1, 1]  # its shape was new
    calls.clear()
    ms, joules = watch.timed([[[0]], [[1]], [[2]]], 2e-3)
    assert joules is None
    assert len(ms) == len(calls) - 1 > 3  # the first call of two tokens is untimed


def test_a_sitting_survives_json_and_its_order_is_its_own(two: dict[str, Path]) -> None:
    once = sit(work(two), Protocol(QUICK))
    assert Sitting.from_json(json.loads(json.dumps(once.to_json()))) == once


def test_the_number_of_processes_is_fixed_before_measuring() -> None:
    """A control that is a slower model never contains 1: the run says that it is noisy, and measures no longer."""
    found = merged(sittings_of(0.01, speed=1.5))
    assert found.conditions.processes == 6
    assert found.noisy
    assert "1 is not inside" in (found.conditions.noisy_because or "")


@pytest.mark.parametrize(
    ("noise", "processes", "because"),
    [
        (0.01, 6, None),
        (0.3, 6, "by more than a factor of 1.3"),  # it contains 1, and any ratio would be within its noise
        (0.01, 1, "one process of each"),
    ],
)
def test_a_control_must_contain_one_and_be_narrow(noise: float, processes: int, because: str | None) -> None:
    found = merged(sittings_of(noise, processes=processes)).conditions
    assert found.control is not None
    lo, hi = found.control.ratio_ci
    assert lo <= 1 <= hi
    assert found.noisy == (because is not None)
    assert found.noisy_because is None or (because or "") in found.noisy_because


def test_a_quiet_machine_is_called_noisy_in_about_one_run_of_twenty() -> None:
    noisy = sum(merged(sittings_of(0.02, seed=seed)).noisy for seed in range(200))
    assert noisy <= 19


def test_the_conditions_of_all_sittings_are_merged() -> None:
    found = merged(sittings_of(0.01)).conditions
    assert found.busy_before == [0.1] * 6
    assert found.steal_share == 0.01
    assert found.seconds == 120
    assert found.covers == "6 processes in 6 sittings over 5 minutes; another day or machine can differ by more"
    alone = merged(sittings_of(0.01, processes=1)).conditions
    assert alone.covers.startswith("1 process in 20 seconds: what differs between processes is not covered")


def test_what_one_sitting_could_not_measure_cannot_run() -> None:
    sittings = sittings_of(0.01)
    for number, one in enumerate(sittings):
        one.timings["b"] = replace(one.timings["a"])
        if number == 3:
            one.timings["b"].fails("its process ended with -9")
    assert failed(sittings) == {"b": "its process ended with -9"}
    found = merged(sittings)
    assert found.timings["b"].cannot_run == "its process ended with -9"
    assert found.timings["b"].turns == {SINGLE: []}
    assert found.timings["b"].processes == []
    assert len(found.timings["a"].turns[SINGLE]) == 12


def test_work_is_spread_evenly_between_sittings() -> None:
    assert spread(list(range(6)), 4) == [[0, 1], [2, 3], [4, 5], []]
    assert spread([1.0, 1.0, 4.0, 2.0], 3, lambda seconds: seconds) == [[1.0, 1.0], [4.0, 2.0], []]
    assert spread([1, 2], 1) == [[1, 2]]
    assert spread([1, 2], 2) == [[1, 2], []]
    assert spread([], 3) == [[], [], []]


@pytest.mark.parametrize("when", ["opened", "measured"])
def test_a_worker_that_dies_is_left_out_and_the_others_go_on(
    when: str, two: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two

    class Killed(Worker):
        """The second one is killed while it opens, or before its second turn of the first sitting."""

        asked = 0

        def receive(self, seconds: float = 0.0) -> dict:
            if self.name == second:
                self.asked += 1
                if self.asked == (1 if when == "opened" else 3):
                    os.kill(self.process.pid, signal.SIGKILL)
                    self.process.wait()
                    assert self.process.stdout is not None
                    self.process.stdout.read()  # what it had said before
            return super().receive(seconds)

    monkeypatch.setattr(interleaved, "Worker", Killed)
    measured = measure(work(two), Protocol(QUICK))
    assert len(measured.timings[first].turns[SINGLE]) == len(measured.timings[CONTROL].turns[SINGLE]) == 4
    gone = measured.timings[second]
    assert gone.cannot_run is not None
    assert gone.cannot_run.startswith("its process ended with -9 while it was measured")
    assert gone.turns == {}


def test_a_worker_that_hangs_is_left_out_after_a_deadline(
    two: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two

    class Stopped(Worker):
        """The second one is stopped once it is open."""

        def ask(self, message: dict) -> dict:
            if self.name == second:
                os.kill(self.process.pid, signal.SIGSTOP)
                monkeypatch.setattr(worker, "DEADLINE_S", 0.3)
            try:
                return super().ask(message)
            finally:
                monkeypatch.setattr(worker, "DEADLINE_S", 60.0)

    monkeypatch.setattr(interleaved, "Worker", Stopped)
    found = sit(work(two), Protocol(QUICK))
    reason = found.timings[second].cannot_run
    assert reason is not None
    assert "did not answer for 0.3 s" in reason
    assert len(found.timings[first].turns[SINGLE]) == 2


def test_a_baseline_that_dies_is_named_with_its_last_words(untrained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"broken: its process ended with 1.*artifact\.json"):
        measure(work({"broken": tmp_path}), Protocol(QUICK))


def test_a_sweep_has_every_shape_that_was_asked_for(finished: Path) -> None:
    path = artefacts(finished, "distil-1")["distil-1/onnxruntime/fp32"]
    rows = [[2, 5, 3], [2, *range(4, 12), 3]]
    asked = QUICK.model_copy(update={"sweep": Sweep(batch_sizes=[1, 4], threads=[1], lengths=[4, 8, 16])})
    before = Sitting({"a": Timing({}), "b": Timing({}, cannot_run="its process ended")}, 0, 1, None, None, None, (1, 0))
    found = sweep(work({"a": path, "b": path}, rows), asked, before=[before])
    shapes = [(e.batch_size, e.threads, e.tokens) for e in found["a"]]
    assert shapes == [(1, 1, None), (4, 1, None), (1, 1, "1 to 4"), (1, 1, "9 to 16"), (1, 1, None)]
    assert all(e.throughput_per_s > 0 for e in found["a"])
    assert found["b"] == []
    assert sweep(work({"a": path}, rows), QUICK) == {"a": []}


@pytest.mark.skipif(Busy.now() is None, reason="this system does not tell")
def test_what_others_use_is_seen_and_waited_for(
    busy_loop: None, two: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conditions, "SAMPLE_S", 0.5)
    seen = busy_now()
    assert seen is not None
    assert seen > QUIET
    said: list[str] = []
    assert quiet(1.2, said.append) is not None
    assert len(said) in (1, 2, 3)
    assert said[0].startswith("waiting for quiet: other processes use ")
    name = next(iter(two))
    found = sit(work({name: two[name]}), Protocol(QUICK.model_copy(update={"wait_s": 0.6})))
    assert found.busy_before is not None
    assert found.busy_before > QUIET
    assert found.busy_during is not None
    assert found.busy_during > 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: other processes use ")
    assert lines[0].endswith("after 0.6 s of waiting")


def test_what_we_use_ourselves_is_not_others() -> None:
    before = Busy(100, 1000, 2, 5.0, 50.0)
    after = Busy(250, 1200, 2, 5.5, 51.0)
    assert used_by_others(before, after) == pytest.approx(1.5 - 0.5)
    assert used_by_others(before, before) is None
    assert used_by_others(None, after) is None


def test_where_the_load_cannot_be_read_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [10_000])  # as where it is not told
    assert Busy.now() is None
    monkeypatch.setattr(Busy, "now", staticmethod(lambda: None))
    assert quiet(100.0) is None
