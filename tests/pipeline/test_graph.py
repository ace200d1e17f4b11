"""A run whose steps a scheduler starts, one process each, on one machine or on several that share a directory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import SMALL, paredown, refused, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import plan as planning
from paredown.pipeline.graph import Plan, do_step, dot, planned_run
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.runtime.errors import InputError, StepError

pytestmark = pytest.mark.usefixtures("same_process")


@pytest.fixture
def recipe(teacher: Checkpoint, files: dict, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)


def planned(recipe: Path, run_dir: Path) -> Plan:
    return planned_run(prepare(read_recipe(recipe), try_models=False), run_dir)


WORKER = """
import json, sys
from pathlib import Path
from paredown.pipeline.graph import do_step
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.store import Store

made, run = [], Store.run
def counted(self, name, key, inputs, work):
    return run(self, name, key, inputs, lambda out: (made.append(name), work(out))[1])

Store.run = counted
for name in sys.argv[3:]:
    do_step(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]), name)
print(json.dumps(made))
"""


def test_two_workers_make_each_step_once(recipe: Path, tmp_path: Path) -> None:
    """What does not measure, in two processes at the same time."""
    run_dir = tmp_path / "run"
    before = planned(recipe, run_dir)
    assert {step.state for step in before.steps} == {"to do"}
    assert not run_dir.exists()
    ready = []
    for step in before.steps:
        if "machine" not in step.inputs and set(step.after) <= set(ready):
            ready.append(step.name)
    command = [sys.executable, "-c", WORKER, recipe, run_dir, *ready]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    made = [name for worker in workers for name in json.loads(worker.communicate(timeout=300)[0])]
    assert sorted(made) == sorted(ready)
    after = {step.name: step for step in planned(recipe, run_dir).steps}
    assert {name for name, step in after.items() if step.state == "done"} == set(ready)
    assert {name: step.key for name, step in after.items()} == {step.name: step.key for step in before.steps}


def test_a_step_that_measures_is_done_alone_and_the_rest_is_there(finished: Path, tmp_path: Path) -> None:
    run_dir, given = tmp_path / "run", read_recipe(finished / "recipe.resolved.yaml")
    shutil.copytree(finished / "steps", run_dir / "steps", ignore=shutil.ignore_patterns("measure-1-*"))
    before = planned(finished / "recipe.resolved.yaml", run_dir)
    assert {step.name for step in before.steps if step.state == "to do"} == {"measure-1"}
    done = paredown("step", finished / "recipe.resolved.yaml", "measure-1", "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    after = planned(finished / "recipe.resolved.yaml", run_dir)
    assert {(step.key, step.state) for step in after.steps} == {(step.key, "done") for step in before.steps}
    assert do_step(given, run_dir, "measure-1", before) == (do_step(given, run_dir, "measure-1")[0], False)


def test_edges_are_complete(recipe: Path, tmp_path: Path) -> None:
    """What a step names by its key alone (scores, table, graph) comes before it too."""
    steps = {step.name: step for step in planned(recipe, tmp_path / "run").steps}
    texts = {name: json.dumps(step.inputs) for name, step in steps.items()}
    for name, step in steps.items():
        assert set(step.after) == {other for other in steps if other != name and steps[other].key in texts[name]}
    assert any("scores" in before for step in steps.values() for before in step.after)
    drawn = dot(planned(recipe, tmp_path / "run"))
    assert drawn.count("->") == sum(len(step.after) for step in steps.values())


def test_a_machine_that_would_do_another_step_refuses_and_names_the_difference(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = paredown("plan", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    last = plan["steps"][-1]["name"]

    def changed(change: Callable[[dict], None]) -> CompletedProcess[str]:
        other = json.loads(done.stdout)
        change(other)
        file.write_text(json.dumps(other))
        return paredown("step", recipe, last, "--output-dir", tmp_path / "run", "--plan", file)

    def older(plan: dict) -> None:
        for step in plan["steps"]:
            if "versions" in step["inputs"]:
                step["inputs"]["versions"]["torch"] = "1.0"

    def elsewhere(plan: dict) -> None:
        plan["machine"]["memory_gb"] = 1.5
        for step in plan["steps"]:
            if "machine" in step["inputs"]:
                step["inputs"]["machine"] = "0" * 64

    refused(changed(older), "versions.torch is", 'the plan has "1.0"', "plan again")
    refused(changed(elsewhere), "machine.memory_gb is", "the plan has 1.5")
    refused(changed(lambda plan: plan.update(schema=2)), "no plan")
    file.write_text("{}")
    refused(paredown("step", recipe, last, "--plan", file), "no plan", "paredown plan RECIPE")


def test_a_step_waits_for_those_before_it_and_for_no_failed_one(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, run_dir = read_recipe(recipe), tmp_path / "run"
    with pytest.raises(InputError, match="did you mean 'measure-"):
        do_step(given, run_dir, "measure-00")
    with pytest.raises(InputError, match=r"stands on .*: do .* first"):
        do_step(given, run_dir, "measure-1")

    def failing(*args: object) -> dict:
        raise StepError("no disk, no model")

    job = prepare(given, try_models=False)
    chain = next(step for step in planning.plan(job) if step.name.endswith("-distill"))
    for step in planned(recipe, run_dir).steps:
        if step.name in chain.inputs.get("after", {}) or step.key == chain.inputs["scores"]:
            do_step(given, run_dir, step.name)
    monkeypatch.setattr(planning, "compress", failing)
    for _ in range(2):  # it is recorded, and not tried again
        with pytest.raises(StepError, match=r"no disk, no model .*delete"):
            do_step(given, run_dir, chain.name)
    monkeypatch.undo()
    states = {step.name: step for step in planned(recipe, run_dir).steps}
    assert states[chain.name].state == "failed"
    later = [name for name, step in states.items() if chain.name in step.after and not step.timed]
    assert {states[name].state for name in later} == {"skipped"}
    with pytest.raises(StepError, match=f"step {later[0]} is not done: step {chain.name}: no disk"):
        do_step(given, run_dir, later[0])


def test_what_a_search_leaves_is_planned_after_it(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe, run_dir = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL), tmp_path / "run"
    recipe.write_text(recipe.read_text() + "search: {minutes: 0.02}\n")
    first = planned(recipe, run_dir)
    assert first.then == "what the search has found is exported and measured"
    assert first.steps[-1].name == "search"
    for step in first.steps:
        do_step(read_recipe(recipe), run_dir, step.name)
    later = planned(recipe, run_dir)
    assert later.then == ""
    names = {step.name for step in first.steps}
    assert names < {step.name for step in later.steps}
    assert {step.state for step in later.steps if step.name in names} == {"done"}
