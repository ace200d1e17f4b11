import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import SMALL, TASK, paredown, refused, write_recipe

from paredown.compress.config import Prune
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.pruning import prune as prune_module
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.compress.pruning.prune import shape_of
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import search_steps
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Search
from paredown.pipeline.run import _do_all
from paredown.pipeline.steps.search import (
    MOST_TRIALS,
    Trial,
    _affordable,
    _failed,
    _kinds,
    _models,
    _seconds,
    _study,
    _trials,
    _worth_training,
)
from paredown.pipeline.store import Store
from paredown.runtime.errors import InputError, StepError


def trial(number: int, ms: float, kl: float, agreement: float = 0.9) -> Trial:
    return Trial(number, Prune(speedup=2), ms, 10 / ms, kl, agreement)


def test_what_is_beaten_in_both_predictions_is_dropped_and_says_by_what() -> None:
    trials = [trial(0, 5, 0.1), trial(1, 2, 0.5), trial(2, 6, 0.2), trial(3, 1, 3.0, 0.5), trial(4, 9, 0.01)]
    chosen, dropped = _worth_training(trials, Search(minutes=1, speedup=1.5), commonest=0.55)
    assert [t.number for t in chosen] == [1, 0]
    assert "trial 1" in dropped["trial 2 (pruned to 2.00x)"] or "trial 0" in dropped["trial 2 (pruned to 2.00x)"]
    assert "nothing to recover: 50%" in dropped["trial 3 (pruned to 2.00x)"]
    assert "predicted 1.1x, the target is 1.5x" in dropped["trial 4 (pruned to 2.00x)"]


def test_training_stops_where_the_minutes_do() -> None:
    chosen = [trial(i, 1 + i, 1 / (1 + i)) for i in range(5)]
    seconds = {t.number: 100.0 for t in chosen}
    picked, epochs, late = _affordable(chosen, seconds, 650)
    assert ([t.number for t in picked], epochs) == ([0, 2, 4], 2.0)
    assert len(late) == 2
    picked, epochs, _ = _affordable(chosen, seconds, 60)
    assert (len(picked), epochs) == (1, 0.5)
    assert _affordable(chosen, seconds, 10)[1] == 0.0


def test_without_time_a_static_student_and_its_cascades_are_left_out() -> None:
    names = [model.name for model in _models([trial(0, 5, 0.1)], 1.0, TASK, static=True)]
    assert names == ["static", "found-0", "found-0-cascade"]
    (model,) = _models([trial(0, 5, 0.1)], 0.0, TASK, static=False)
    cut = model.steps[0].stage[1]
    assert isinstance(cut, Prune)
    assert cut.recover is None


def test_minutes_that_are_over_before_the_first_trial_are_refused(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)))
    model = load(teacher, TASK)
    table = LatencyTable("onnxruntime", "fp32", 1, 2.0, {n: float(n) for n in range(1, 5)}, {32: 2.0, 64: 4.0})
    study = _study(tmp_path / "study.log")
    with pytest.raises(InputError, match=r"search: minutes: 0\.001 were over before the first trial"):
        _trials(
            job, Search(minutes=0.001), model, table, shape_of(model), study, time.monotonic() - 1, lambda s, text: None
        )
    assert not study.trials


def test_minutes_spent_before_a_kill_stay_spent(tmp_path: Path) -> None:
    study = _study(tmp_path / "study.log")
    study.optimize(lambda trial: time.sleep(0.02) or (1.0, 1.0), n_trials=2)
    assert _seconds(_study(tmp_path / "study.log")) >= 0.04


class Killed(BaseException):
    """Nothing catches it: the trial stays as a kill leaves it."""


def test_a_search_that_was_killed_proposes_nothing_twice_and_keeps_why_a_trial_failed(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)))
    model, real = load(teacher, TASK), prune_module.prune
    table = LatencyTable("onnxruntime", "fp32", 1, 2.0, {n: float(n) for n in range(1, 5)}, {32: 2.0, 64: 4.0})
    settings = Search.model_validate({"minutes": 60, "target": {"precision": "fp32"}})

    def start(most: int, failing: int = 0) -> list[dict]:
        calls = 0

        def prune(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise StepError("a weight is not finite")
            if calls == most:
                raise Killed
            return real(*args, **more)

        study = _study(tmp_path / "study.log")
        with mock.patch.object(prune_module, "prune", prune), contextlib.suppress(Killed):
            _trials(job, settings, model, table, shape_of(model), study, time.monotonic(), lambda share, text: None)
        return [t.user_attrs["settings"] for t in study.trials if "settings" in t.user_attrs]

    for n in range(1, 4):
        assert len(start(3, failing=2 * (n == 2))) == 3 * n
    proposed = start(100)
    assert len(proposed) <= MOST_TRIALS
    assert len({json.dumps(point, sort_keys=True) for point in proposed}) == len(proposed)
    assert list(_failed(_study(tmp_path / "study.log")).values()) == ["a weight is not finite"]


@pytest.mark.parametrize(
    ("top", "layers", "kinds"), [(3.0, 6, ["time", "layers"]), (3.0, 1, ["time"]), (1.05, 6, ["layers"])]
)
def test_what_can_be_searched_over(top: float, layers: int, kinds: list[str]) -> None:
    assert _kinds(top, layers) == kinds


def test_where_nothing_is_to_be_gained_the_search_is_refused(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"search: pruning can make the checkpoint 1\.05 times as fast at most"):
        _kinds(1.05, 1)
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)))
    flat = LatencyTable("onnxruntime", "fp32", 1, 5e3, {n: 1.0 + n / 100 for n in range(1, 5)}, {32: 1.0, 64: 1.1})
    model, study = load(teacher, TASK), _study(tmp_path / "study.log")
    with mock.patch("paredown.pipeline.steps.search.MOST_TRIALS", 4):  # layers are left to be searched over
        found = _trials(
            job, Search(minutes=60), model, flat, shape_of(model), study, time.monotonic(), lambda s, t: None
        )
    assert sorted(str(t.settings.layers) for t in found) == ["1", "2"]


@pytest.fixture(scope="module")
def searched(teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run with a search, and what it printed; the latency table comes from a cache of its own."""
    home = tmp_path_factory.mktemp("search")
    recipe = write_recipe(home / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    start, end = text.index("models:"), text.index("targets:")
    search = "search: {minutes: 0.3, target: {precision: fp32}}\n"
    one = text[end:].replace("  - {runtime: onnxruntime, precision: int8-dynamic}\n", "")
    recipe.write_text(text[:start] + search + one)
    done = paredown("run", recipe, "--output-dir", home / "run")
    assert done.returncode == 0, done.stderr
    return home, done.stdout


def test_a_search_trains_what_it_finds_and_says_why_it_dropped_the_rest(searched: tuple[Path, str]) -> None:
    home, printed = searched
    measurements = json.loads((home / "run" / "measurements.json").read_text())
    found = measurements["search"]
    assert found["trials"] >= 4
    assert len(found["trained"]) + len(found["dropped"]) == found["trials"]
    assert all(f"dropped: {name}: {reason}" in printed for name, reason in found["dropped"].items())
    models = {entry["model"] for entry in measurements["candidates"]}
    assert "static" in models
    assert any(model.endswith("-cascade") for model in models)
    table = json.loads(next((home / "run" / "steps").glob("teacher-table-*/table.json")).read_text())
    table = LatencyTable.from_json(table)
    assert list(table.heads_ms.values()) == sorted(table.heads_ms.values())
    assert list(table.ffn_ms.values()) == sorted(table.ffn_ms.values())


def test_a_study_goes_on_where_it_was(searched: tuple[Path, str]) -> None:
    """The search's step is lost, the study's file is not: no trial is run twice."""
    home, _ = searched
    run = home / "run"
    journal = next((run / "search").iterdir())
    before = journal.read_bytes()
    shutil.rmtree(next((run / "steps").glob("search-*")))
    job = prepare(read_recipe(home / "recipe.yaml"))
    assert job.recipe.search is not None
    found = _do_all(search_steps(job, job.recipe.search), Store(run / "steps"))
    assert found.ran == 1
    assert journal.read_bytes()[: len(before)] == before
    settings = [t.user_attrs["settings"] for t in _study(journal).trials if "settings" in t.user_attrs]
    assert len({json.dumps(point, sort_keys=True) for point in settings}) == len(settings)
    assert found.done["search"].result["trials"] >= 4


def test_a_speedup_out_of_reach_is_refused_before_training(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    cut = "  - name: fast\n    steps:\n      - prune: {speedup: 500, target: {precision: fp32}}\n"
    recipe.write_text(text.replace("targets:", cut + "targets:"))
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    refused_last(done, "cannot be reached", "faster than")
    assert not list((tmp_path / "run" / "steps").glob("distil-1-*"))


def refused_last(done, *words: str) -> None:
    """As `refused`, with progress lines before the error."""
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))
    refused(done, *words)
