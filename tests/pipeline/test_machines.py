"""A run on several machines, here without them: what is refused, and what one without a result leaves of the others.
On a cluster: test_ray_cluster.py."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from candidates import candidate, measured
from conftest import SMALL, paredown, refused, write_recipe

import paredown as api
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.compress.models.loading import Checkpoint
from paredown.export.hardware import fingerprint
from paredown.pipeline import machines
from paredown.pipeline.job import Job, prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.results.publish import decide
from paredown.pipeline.run import Outcome
from paredown.pipeline.store import DiskError
from paredown.runtime.errors import InputError, StepError


@pytest.fixture
def recipe(teacher: Checkpoint, files: dict, tmp_path: Path) -> Path:
    path = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
    path.write_text(path.read_text() + "\nmeasure_on: [{label: edge}, {label: server}]\n")
    return path


def test_machines_that_are_elsewhere_need_a_cluster(recipe: Path, tmp_path: Path) -> None:
    given = ["run", recipe, "--output-dir", tmp_path / "run"]
    refused(paredown(*given), "is not the one labelled edge or the one labelled server; reach them with --on ray")
    refused(paredown(*given, "--dry-run"), "a list, and steps are planned for one machine")
    refused(paredown("plan", recipe), "a list, and steps are planned for one machine", "a recipe for each")
    refused(paredown("step", recipe, "teacher-origin"), "a list, and steps are planned for one machine")
    refused(paredown(*given, "--baseline", tmp_path), "each machine of measure_on has one: leave it out")
    recipe.write_text(recipe.read_text().replace("{label: edge}", f"{{fingerprint: '{fingerprint()[:8]}'}}"))
    refused(paredown(*given), "is not the one labelled server; reach it with --on ray")
    with pytest.raises(InputError, match="run_on_each"):
        api.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "steps").exists()
    recipe.write_text(recipe.read_text().partition("\nmeasure_on")[0])
    with pytest.raises(InputError, match="a list of machines is expected"):
        api.run_on_each(recipe, tmp_path / "run")


def test_results_of_one_machine_and_of_several_are_not_mixed(recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "choice.json").write_text("{}")
    refused(paredown("run", recipe, "--output-dir", run_dir), "choice.json: the results of a run on one machine")
    (run_dir / "choice.json").unlink()
    (run_dir / "machines" / "edge").mkdir(parents=True)
    recipe.write_text(recipe.read_text().partition("\nmeasure_on")[0])
    refused(paredown("run", recipe, "--output-dir", run_dir), "machines: the results of a run on several machines")


@pytest.fixture
def results(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the run of each machine comes to, instead of one: an outcome, or an error that is raised."""
    found: dict[str, Any] = {}

    @contextmanager
    def opened(given: Any, run_dir: Path, *_: Any) -> Iterator[tuple[list[tuple[Job, None]], None]]:
        run_dir.mkdir(exist_ok=True)
        job = prepare(given, try_models=False)
        yield [(job.measured_on(one), None) for one in given.machines], None

    def run_job(job: Job, run_dir: Path, *_: Any) -> Any:
        (one,) = job.recipe.machines
        if isinstance(found[one.name], Exception):
            raise found[one.name]
        return replace(found[one.name], run_dir=run_dir, job=job)

    monkeypatch.setattr(machines, "opened", opened)
    monkeypatch.setattr(machines, "run_job", run_job)
    return found


def outcome() -> Outcome:
    name = "small/onnxruntime/fp32"
    measurements = measured(candidate(name, 1.0))
    choice = decide(measurements, ChooseSettings())
    models = {entry.name: entry.name for entry in choice.candidates}
    return Outcome(Path(), choice, measurements, 1, 1, True, None, 1.0, [], models)  # type: ignore[arg-type]


def test_a_machine_without_a_result_ends_nothing_of_the_others(
    recipe: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    results |= {"edge": StepError("no candidate keeps the budgets"), "server": outcome()}
    done = paredown("run", recipe, "--output-dir", run_dir)
    assert done.returncode == 1
    assert "error: edge: no candidate keeps the budgets; the results of server are in" in done.stderr
    assert "Chosen: small/onnxruntime/fp32" in done.stdout
    assert "One for all: none\n  edge has no choice: no candidate keeps the budgets\n" in done.stdout
    assert json.loads((run_dir / "one_for_all.json").read_text())["name"] is None
    results["edge"] = outcome()
    done = paredown("run", recipe, "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    assert (
        "One for all: small/onnxruntime/fp32\n  every machine's own choice\n  edge: its own choice; 10x" in done.stdout
    )
    assert (run_dir / "machines" / "edge" / "steps").resolve() == run_dir / "steps"
    given = read_recipe(recipe)
    assert machines.run_on_each(given, run_dir).one_for_all.machines.keys() == {"edge", "server"}
    results["edge"] = DiskError("the disk is full")
    with pytest.raises(DiskError):
        machines.run_on_each(given, run_dir)
    (run_dir / "machines" / "server" / "steps").unlink()
    (run_dir / "machines" / "server" / "steps").mkdir()
    results["edge"] = outcome()
    with pytest.raises(InputError, match=r"a link to .* is expected; remove it"):
        machines.run_on_each(given, run_dir)
