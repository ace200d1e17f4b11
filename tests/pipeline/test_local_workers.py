"""Steps side by side on one machine, of which more cores are pretended than it has."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import SMALL, write_recipe
from polling import until

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import local_workers
from paredown.pipeline.engine import HERE, Engine, Lost, Planned, Results, do_all
from paredown.pipeline.job import Job, Step, prepare
from paredown.pipeline.local_workers import LocalWorkers, _Places
from paredown.pipeline.plan import plan
from paredown.pipeline.progress import Reporter
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.resources import cores_of, times, trains
from paredown.pipeline.store import Done, Failed, Store
from paredown.runtime.errors import InputError, StepError

WAIT_S = 300
# INT8 fails the parity gate, in whichever process that is.
GATE = "parity: {int8-dynamic: {max_difference: 1.0e-9, min_agreement: 0, max_metric_drop: 100}}\n"
STRICT = {"targets:\n": f"{GATE}targets:\n"}
FEW = {"models:\n  - name: distil-1\n    steps:\n      - distill: {layers: 1, epochs: 2, learning_rate: 0.005}\n"
       "      - trim: {frequent: 0}\n": ""}  # fmt: skip


def job_of(path: Path, teacher: Checkpoint, files: dict, **changes: str) -> Job:
    return prepare(read_recipe(write_recipe(path, teacher, files, **SMALL, **changes)), try_models=False)


@pytest.fixture
def few(teacher: Checkpoint, files: dict, tmp_path: Path) -> Planned:
    """The steps of the checkpoint alone."""
    return Planned.of(job_of(tmp_path / "recipe.yaml", teacher, files, **FEW), plan)


def done_by(engine: Engine, planned: Planned, root: Path) -> Results:
    return do_all(planned, Store(root), engine)


def test_steps_side_by_side_are_those_of_one_process(
    teacher: Checkpoint, files: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same keys and the same files; several at once; and nothing beside a step that trains or measures."""
    job = job_of(tmp_path / "recipe.yaml", teacher, files, **STRICT)
    planned = Planned.of(job, plan)
    alone = {step.name for step in planned.steps if cores_of(step) is None}
    beside = done_by(LocalWorkers(4), planned, tmp_path / "beside")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    running, most = set[str](), 0
    for event in events:
        if event["event"] == "start":
            assert not running & alone, (event, running)
            assert event["step"] not in alone or not running, (event, running)
            running.add(event["step"])
            most = max(most, len(running))
        elif event["event"] in ("done", "failed"):
            running.discard(event["step"])
    assert most > 1
    assert {"measure-1", "profile"} <= alone & beside.done.keys()
    intervals = {name: marker(done) for name, done in beside.done.items()}
    for name in alone & intervals.keys():
        begin, end = intervals[name]
        for other, (began, ended) in intervals.items():
            assert other == name or ended - began < 1 or began + 1 > end or ended < begin + 1, (name, other)
    timed = [step for step in planned.steps if times(step)]
    kept = [step for step in planned.steps if step not in timed and step.inputs["stage"] != "further"]
    one = done_by(HERE, Planned(job, plan, kept), tmp_path / "one")
    names = {step.name for step in kept}
    assert one.done.keys() == beside.done.keys() & names
    assert one.failed.keys() == beside.failed.keys() & names
    assert "teacher-onnxruntime-int8-dynamic-evaluate" in one.failed
    for name, failure in one.failed.items():
        assert failure.reason == beside.failed[name].reason
    for name, done in one.done.items():
        mine, theirs = (json.loads((found.path / "step.json").read_text()) for found in (done, beside.done[name]))
        assert (mine["key"], mine["files"]) == (theirs["key"], theirs["files"]), name


def marker(done: Done) -> tuple[float, float]:
    """When a step began and ended, to a second."""
    end = datetime.fromisoformat(done.at).timestamp()
    return end - done.seconds, end


def ended(places: _Places, step: Step, kill: Callable[[], Any]) -> tuple[Step, Done | Failed | Lost, bool]:
    """What becomes of a step whose process `kill` is called for as often as it has a new one."""
    places.beside = True
    places.start(step, {})
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        kill()
        for found in places.wait():
            return found
    raise AssertionError("it did not come")


def test_a_step_whose_process_is_killed_is_done_once_more(
    few: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_workers, "TOLD_S", 0.02)  # each process is killed before it has done the step
    step, store = few.steps[0], Store(tmp_path / "steps")
    killed: list[int] = []

    def kill(most: int) -> None:
        for worker in places.running:
            if worker.process.pid not in killed and len(killed) < most:
                killed.append(worker.process.pid)
                worker.process.kill()

    with LocalWorkers(4).workers(store, Reporter(1)) as places:
        places.add(few)
        _, found, new = ended(places, step, lambda: kill(2))
        assert isinstance(found, Failed)
        assert "its process ended with SIGKILL twice" in found.reason
        assert len(killed) == 2
        assert new
        assert store.failure(step.name, step.key) is not None
        assert f"{step.name}: its process ended with SIGKILL; it is done again, with nothing" in capsys.readouterr().err
        other = few.steps[1]
        killed.clear()
        _, found, new = ended(places, other, lambda: kill(1))
        assert (isinstance(found, Done), new, len(killed)) == (True, True, 1)
        (idle,) = places.idle
        assert psutil.pid_exists(idle.process.pid)
    assert not psutil.pid_exists(idle.process.pid)


ALONE = """
import sys
from pathlib import Path
from paredown.pipeline import local_workers
from paredown.pipeline.engine import Planned, do_all
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import plan
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.store import Store

local_workers.FEWEST_STEPS = 1
do_all(Planned.of(prepare(read_recipe(Path(sys.argv[1])), try_models=False), plan), Store(Path(sys.argv[2])),
       local_workers.LocalWorkers(4))
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_has_started_it(few: Planned, tmp_path: Path, sign: signal.Signals) -> None:
    """They end while they do a step; what they have begun is removed, by the next run where this one was killed."""
    root = tmp_path / "steps"
    command = [sys.executable, "-c", ALONE, tmp_path / "recipe.yaml", root]
    driver = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    try:
        workers = until(lambda: busy(driver.pid, root), WAIT_S, 0.01)
    finally:
        driver.send_signal(sign)
    driver.wait(timeout=WAIT_S)
    until(lambda: not any(alive(worker) for worker in workers), WAIT_S, 0.01)
    if sign != signal.SIGINT:
        Store(root).clean()
    assert not [path for path in root.glob(".tmp-*") if path.is_dir()]  # a lock may stay; it is nobody's


def busy(driver: int, root: Path) -> list[psutil.Process]:
    """The processes of a run, as soon as one of them makes a step."""
    made = {scratch.name.rpartition("-")[2] for scratch in root.glob(".tmp-*-*") if scratch.is_dir()}
    found = psutil.Process(driver).children()
    return found if made & {str(process.pid) for process in found} else []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def places(few: Planned, tmp_path: Path) -> Iterator[_Places]:
    with LocalWorkers(4).workers(Store(tmp_path), Reporter(1)) as places:
        places.add(few)
        yield places


class Busy:
    """A process that only pretends to do a step."""

    def memory(self) -> int:
        return 0

    def kill(self) -> None: ...


class Silent:
    def end(self, error: object) -> None: ...


def run_beside(places: _Places, *steps: Step, again: bool = False) -> None:
    silent: Any = Silent()
    places.running = {Busy(): local_workers._Running(step, silent, again) for step in steps}  # type: ignore[dict-item]


def test_as_many_run_at_once_as_cores_and_memory_allow(
    few: Planned, places: _Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, exported, evaluated, first = (
        next(step for step in few.steps if step.inputs["stage"] == stage)
        for stage in ("graph", "export", "evaluate", "measure")
    )
    after = next(step for step in few.steps if step.inputs["stage"] == "further")
    monkeypatch.setattr(local_workers, "free_memory", lambda: places.memory)
    assert places.choose([graph, exported, evaluated, evaluated]) is graph
    assert not places.beside, "there is memory for one"
    monkeypatch.setattr(local_workers, "free_memory", lambda: 100 * places.memory)
    assert places.choose([]) is None
    assert places.choose([graph, exported]) is graph
    assert not places._worth(graph), "two are not worth the start of a process"
    places.choose([graph, exported, evaluated, evaluated])
    assert places._worth(graph)
    run_beside(places, graph, graph, graph)
    assert places.choose([exported]) is exported
    run_beside(places, graph, graph, graph, graph)
    assert places.choose([exported]) is None
    run_beside(places, evaluated)
    assert places.choose([first]) is None, "it takes all cores"
    assert places.choose([after]) is None, "what comes after a measurement waits for it"
    run_beside(places, graph, again=True)
    assert places.choose([exported]) is None, "nothing runs beside a second try"
    run_beside(places)
    assert places.choose([after, first]) is first
    monkeypatch.setattr(local_workers, "free_memory", lambda: places.memory // 2)
    assert places.choose([graph]) is graph, "one always runs"
    run_beside(places, graph)
    assert places.choose([exported]) is None


def test_trainings_come_before_the_exports_of_what_they_train(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    two = {"  - name: distil-1\n": "  - name: distil-2\n    steps:\n      - distill: {layers: 2}\n  - name: distil-1\n"}
    planned = Planned.of(job_of(tmp_path / "recipe.yaml", teacher, files, **two), plan)
    order = local_workers._order(planned.steps)
    names = [step.name for step in sorted(planned.steps, key=lambda step: order[step.name])]
    last = max(names.index(s.name) for s in planned.steps if trains(s) and s.inputs["stage"] != "attributions")
    assert all(name.startswith("teacher") for name in names[: names.index("teacher-scores")])
    assert names.index("teacher-onnxruntime-fp32-evaluate") < names.index("distil-1-1-distill") <= last
    assert last < min(names.index(name) for name in ("distil-1-graph", "distil-2-graph"))
    measuring = [step.name for step in planned.steps if step.inputs["stage"] in ("measure", "profile", "further")]
    assert names[-len(measuring) :] == measuring, "in the order of the plan"


def test_what_ends_a_step_in_its_process_is_raised_in_this_one() -> None:
    errors = [
        local_workers._error({"error": kind, "message": "why"})
        for kind in ("InputError", "StepError", "MemoryError", "KeyError")
    ]
    assert [type(error) for error in errors] == [InputError, StepError, MemoryError, RuntimeError]
    full = local_workers._error({"error": "OSError", "errno": 28, "message": "full", "filename": "f"})
    assert isinstance(full, OSError)
    assert (full.errno, full.filename) == (28, "f")
    assert local_workers._error({"new": True}) is None
