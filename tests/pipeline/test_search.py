import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, paredown, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.pipeline.engine import Planned, do_all
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import plan
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Model
from paredown.pipeline.search import _keep, found_models, search_step
from paredown.pipeline.store import Done, Store
from paredown.pipeline.trials import Found


def test_adding_a_model_to_a_recipe_repeats_nothing_of_the_others(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """Neither does renaming one; only what measures all models together is done again."""
    timed = "models:\n  - name: cut\n    steps:\n      - prune: {speedup: 2, recover: {epochs: 1}}\n"
    more = "  - name: second\n    steps:\n      - prune: {speedup: 3, recover: {epochs: 1}}\n"
    keys = []
    for number, models in enumerate((timed, timed.replace("name: cut", "name: other") + more)):
        recipe = write_recipe(tmp_path / f"{number}.yaml", teacher, files, **{"models:\n": models})
        keys.append({step.key: step.name for step in plan(prepare(read_recipe(recipe)))})
    again = {name for key, name in keys[0].items() if key not in keys[1]}
    assert all(name.startswith(("measure-", "profile")) or name.endswith("-check") for name in again), again


@pytest.fixture(scope="module")
def searched(
    same_process: None, teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A finished run with a search, and what it printed."""
    home = tmp_path_factory.mktemp("search")
    recipe = write_recipe(home / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    start, end = text.index("models:"), text.index("targets:")
    search = "search: {minutes: 0.7, target: {precision: fp32}}\n"
    one = text[end:].replace("  - {runtime: onnxruntime, precision: int8-dynamic}\n", "")
    recipe.write_text(text[:start] + search + one)
    done = paredown("run", recipe, "--output-dir", home / "run")
    assert done.returncode == 0, done.stderr
    return home, done.stdout


def test_a_search_trains_measures_and_says_why_it_dropped_the_rest(searched: tuple[Path, str]) -> None:
    home, printed = searched
    measurements = json.loads((home / "run" / "measurements.json").read_text())
    found = measurements["search"]
    assert found["trials"] >= 1
    assert len(found["trained"]) + len(found["dropped"]) == found["trials"]
    assert all(f"dropped: {name}: {reason}" in printed for name, reason in found["dropped"].items())
    assert f"more minutes would go into: {found['next']}" in printed
    assert {entry["model"] for entry in measurements["candidates"]} > {"teacher"}
    table = json.loads(next((home / "run" / "steps").glob("teacher-table-*/table.json")).read_text())
    table = LatencyTable.from_json(table)
    assert list(table.heads_ms.values()) == sorted(table.heads_ms.values())
    assert list(table.ffn_ms.values()) == sorted(table.ffn_ms.values())


def test_a_search_that_was_killed_pays_for_no_trial_twice(searched: tuple[Path, str]) -> None:
    home, _ = searched
    kept = next((home / "run" / "steps").glob("search-*"))
    before = json.loads((kept / "step.json").read_text())
    shutil.rmtree(kept)
    done = paredown("run", home / "recipe.yaml", "--output-dir", home / "run")
    assert done.returncode == 0, done.stderr
    started = [json.loads(line)["step"] for line in done.stderr.splitlines() if '"event": "start"' in line]
    assert started == ["search"]
    assert json.loads((kept / "step.json").read_text())["result"] == before["result"]


def test_a_student_that_the_user_named_is_read_again_from_what_a_search_and_a_recipe_write(tmp_path: Path) -> None:
    model = Model.model_validate({"name": "small", "steps": [{"distill": {"student": "elsewhere", "epochs": 2}}]})
    _keep(Found([model]), tmp_path, {}, lambda *_: None)
    assert found_models(Done(tmp_path, {}, 0.0)) == [model]
    with pytest.raises(ValueError, match="leave these out"):
        Model.model_validate({"name": "small", "steps": [{"distill": {"student": "elsewhere", "layers": 3}}]})


def test_a_finished_search_is_found_under_its_key(searched: tuple[Path, str]) -> None:
    home, _ = searched
    job = prepare(read_recipe(home / "recipe.yaml"))
    assert job.recipe.search is not None
    step = search_step(job, job.recipe.search, Found())
    assert Store(home / "run" / "steps").peek(step.name, step.key) is not None
    assert do_all(Planned(job, lambda _: [step], [step]), Store(home / "run" / "steps")).ran == 0
