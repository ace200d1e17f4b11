import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import SMALL, paredown, write_recipe
from same_process import SameProcess

from paredown.benchmarks.measuring import interleaved
from paredown.compress.config import Prune, Recover, Static, Truncate
from paredown.compress.models.loading import Checkpoint
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.pipeline.engine import Planned, Plans, Results, do_all
from paredown.pipeline.failures import Failure
from paredown.pipeline.finalists import Chain
from paredown.pipeline.job import Job, chain_of, prepare
from paredown.pipeline.plan import plan, trial_steps
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Model, Recipe, Search
from paredown.pipeline.search import Explorer, Found, add_cascades, search_step, with_models
from paredown.pipeline.store import Done, Store
from paredown.runtime.errors import InputError

ROWS = 2000
TABLE = LatencyTable("onnxruntime", "int8-dynamic", 1, 1.0, {12: 0.5}, {1536: 1.0})


class Simulated(Explorer):
    """A search whose models lose what a formula says: more with the speed-up, less with every training."""

    hardness = 0.6  # points lost at twice the speed, after one training

    def __init__(self, job: Job, minutes: float, failing: str = "") -> None:
        super().__init__(job, Search(minutes=minutes), self.trained, TABLE, full_ms=10.0, top=8.0)
        self.failing, self.asked = failing, []
        self.trimming: dict[int, float] = {}  # distance by the number of frequent tokens
        self.epoch_s = 60.0

    def trained(self, plans: Plans) -> Results:
        done, pruned = {}, 1.0
        for step in plans(self.job):
            settings = step.inputs.get("settings", {})
            pruned *= settings.get("speedup") or 1.0
            epochs, share = settings.get("epochs", 0), 0.05 if "pairs" in settings else 0.6 * self._share(pruned)
            found = {
                "distances": [0.1, 0.2, 0.3],
                "distance": self.trimming.get(settings.get("frequent"), 0.0),
                "drop": 0.0,
            }
            done[step.name] = Done(Path(step.key), found, 60.0 * epochs * share if epochs else 1.0)
        model = next(name for name in reversed(done) if not name.startswith(("window-", "vocabulary-")))
        if self.failing and model.startswith(self.failing):
            failure = Failure(model, "the loss is not finite", Path("steps"))
            return Results({}, {model: failure}, 1)
        return Results(done, {}, len(done))

    def _evaluated(self, model: Model, done: Mapping[str, Done]) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]:
        speedup, trainings, static = 1.0, 0, False
        for settings in chain_of(model).values():
            speedup *= settings.speedup or 1.0 if isinstance(settings, Prune) else 1.0
            trainings += isinstance(settings, Recover)
            static |= isinstance(settings, Static)
        pruned = sum(isinstance(s, Prune) for s in chain_of(model).values())
        lost = self._loses(speedup) * 0.8 ** (trainings - pruned)
        ends = next((s for s in chain_of(model).values() if isinstance(s, Truncate)), None)
        if ends is not None:
            lost += self.max_drop * 3 / (ends.first + ends.last)
        wrong = round(ROWS * (0.1 + (5.0 if static else lost) / 100))
        right = np.ones(ROWS, dtype=bool)
        right[:wrong] = False
        outputs = np.where(right[:, None], [4.0, 0.0], [0.0, 0.1])
        return list(outputs), right, self.job.task.confidence(outputs, [])

    def _loses(self, speedup: float) -> float:
        """Points that a model of this speed-up loses after one training of each pruning."""
        return self.hardness * (speedup - 1) ** 2

    def _distances(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        return (np.stack(outputs)[:, 0] < 1).astype(float)


@pytest.fixture(scope="module")
def job(teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare(read_recipe(write_recipe(tmp_path_factory.mktemp("job") / "recipe.yaml", teacher, files, **SMALL)))


def fastest(explorer: Explorer) -> float:
    good = [t.speedup for t in explorer.trials if explorer._expected(t) <= explorer.max_drop and t.distance < 0.15]
    return max(good, default=1.0)


def test_the_search_ends_next_to_the_fastest_model_that_is_good_enough(job: Job) -> None:
    explorer = Simulated(job, minutes=600)
    found = explorer.explore()
    best = fastest(explorer)
    bad = min(t.speedup for t in explorer.trials if t.drop > explorer.max_drop and t.speedup > best)
    assert 1.5 < best < bad <= 1.3 * best
    assert found.next.startswith("little: the fastest good model is")
    assert found.next.endswith("proposals of Optuna, one after another, led to nothing better")
    assert len(found.trained) + len(found.dropped) == len(explorer.trials)


class Plateau(Simulated):
    """Models of 1.9 to 4 times lose the same, a little too much; faster ones fail."""

    def _loses(self, speedup: float) -> float:
        return 0.2 if speedup < 1.9 else 1.4 if speedup < 4 else 9.0


def test_of_models_that_lose_the_same_the_fastest_is_trained_further_and_nothing_is_done_twice(job: Job) -> None:
    explorer = Plateau(job, minutes=600)
    explorer.explore()
    steps = [trial.model.steps for trial in explorer.trials]
    assert all(one not in steps[:i] for i, one in enumerate(steps))
    further = next(trial for trial in explorer.trials if trial.trainings == 2)
    once = [t.speedup for t in explorer.trials[: explorer.trials.index(further)] if 1.9 <= t.speedup < 4]
    assert further.speedup == max(once) > 2


def test_cascades_of_the_models_that_were_trained_are_measured(job: Job) -> None:
    """Their parts are, and the inner one of a cascade of three stands before it, as a recipe has to have them."""
    found = Simulated(job, minutes=60).explore()
    known = {"trimmed"}
    for model in found.models:
        assert model.cascade is not None or model.steps[-1].stage[0] == "trim"
        assert model.cascade is None or {model.cascade.first, model.cascade.then} <= known
        known.add(model.name)
    assert any(model.cascade and model.cascade.first == "static" for model in found.models)
    Recipe.model_validate(with_models(job, found.models).recipe.model_dump())


def test_the_same_models_with_other_thresholds_are_another_cascade() -> None:
    models = [Model(name=name) for name in ("static", "cut", "whole")]
    right = np.ones(3, dtype=bool)
    for drop in (0.2, 0.5, 0.2):
        add_cascades(models, Chain(("static", "cut", "whole"), 1.0, right, np.zeros(3), drop))
    made = {m.name: (m.cascade.then, m.cascade.max_drop) for m in models if m.cascade}
    assert made == {
        "cut-then-whole": ("whole", 0.2),
        "static-then-cut-then-whole": ("cut-then-whole", 0.2),
        "cut-then-whole-2": ("whole", 0.5),
        "static-then-cut-then-whole-2": ("cut-then-whole-2", 0.5),
    }


def test_more_minutes_never_find_a_slower_model_and_the_time_limit_is_kept(job: Job) -> None:
    speeds = []
    for minutes in (2, 5, 10, 20, 40, 80):
        explorer = Simulated(job, minutes)
        explorer.explore()
        assert sum(explorer.seconds.values()) <= 60 * minutes * 1.1
        speeds.append(fastest(explorer))
    assert speeds == sorted(speeds)
    assert speeds[-1] > speeds[0]


def test_a_model_is_pruned_from_the_trained_one_before_it(job: Job) -> None:
    explorer = Simulated(job, minutes=60)
    explorer.explore()
    first, second = (t.model for t in explorer.trials[1:3])
    assert second.steps[: len(first.steps)] == first.steps
    shared = {step.key for step in trial_steps(job, first)} & {step.key for step in trial_steps(job, second)}
    names = [step.name for step in trial_steps(job, first) if step.key in shared]
    assert f"{first.name}-1-prune" in names
    assert f"{first.name}-1-prune-recover" in names


def test_of_long_texts_the_shortest_good_window_is_what_pruning_starts_from(job: Job) -> None:
    """Sentences of 6 to 16 tokens: windows of 4 (three quarters of `max_drop` are lost) and 8 (three eighths)."""
    with mock.patch("paredown.pipeline.search.WINDOWS", (4, 8)):
        explorer = Simulated(job, minutes=60)
        found = explorer.explore()
    base = explorer.base
    assert base is not None
    assert base.model.steps[0].truncate == Truncate(first=2, last=6)
    assert 1.3 < base.speedup < 2
    pruned = [trial for trial in explorer.trials if any(step.prune for step in trial.model.steps)]
    assert pruned[0].speedup > 1.5 * base.speedup
    for trial in pruned:
        assert trial.model.steps[0] == base.model.steps[0]
        assert trial.speedup > base.speedup
    assert len(found.trained) + len(found.dropped) == len(explorer.trials)


@pytest.mark.parametrize(("lost", "frequent"), [(0.0, {2000}), (0.01, {8000}), (0.1, set())])
def test_the_vocabulary_is_the_smallest_that_costs_little(job: Job, lost: float, frequent: set[int]) -> None:
    """Of the answers' probability `lost` is lost with 2,000 frequent tokens, half of that with more."""
    explorer = Simulated(job, minutes=60)
    most = lost * job.recipe.choose.max_drop
    explorer.trimming = {2000: most, 8000: most / 2, 16000: most / 2}
    found = explorer.explore()
    trims = [step.trim.frequent for model in found.models for step in model.steps if step.trim]
    assert set(trims) == frequent


def test_a_tokenizer_that_cannot_be_trimmed_stays_whole(job: Job) -> None:
    class Untrimmable(Simulated):
        def trained(self, plans: Plans) -> Results:
            if any(step.inputs.get("stage") == "vocabulary" for step in plans(self.job)):
                raise InputError("tokenizer.json: a model of kind 'Other'")
            return super().trained(plans)

    found = Untrimmable(job, minutes=60).explore()
    assert found.trained
    assert not any(step.trim for model in found.models for step in model.steps)


def test_a_failed_trial_is_named_and_ends_nothing_else(job: Job) -> None:
    found = Simulated(job, minutes=60, failing="pruned").explore()
    assert "not finite" in next(reason for name, reason in found.dropped.items() if name.startswith("pruned"))
    assert [model.name for model in found.models][:2] == ["static", "trimmed"]


def test_without_time_nothing_is_trained_and_the_reason_is_given(job: Job) -> None:
    explorer = Simulated(job, minutes=0.01)
    found = explorer.explore()
    assert not explorer.trials
    assert found.dropped["static"] == "no time to train it; give more minutes"
    assert found.next == "pruning to 2.0x (predicted)"


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
def searched(teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run with a search, and what it printed."""
    home = tmp_path_factory.mktemp("search")
    recipe = write_recipe(home / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    start, end = text.index("models:"), text.index("targets:")
    search = "search: {minutes: 0.7, target: {precision: fp32}}\n"
    one = text[end:].replace("  - {runtime: onnxruntime, precision: int8-dynamic}\n", "")
    recipe.write_text(text[:start] + search + one)
    with mock.patch.object(interleaved, "Worker", SameProcess):
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


def test_a_finished_search_is_found_under_its_key(searched: tuple[Path, str]) -> None:
    home, _ = searched
    job = prepare(read_recipe(home / "recipe.yaml"))
    assert job.recipe.search is not None
    step = search_step(job, job.recipe.search, Found())
    assert Store(home / "run" / "steps").peek(step.name, step.key) is not None
    assert do_all(Planned(job, lambda _: [step], [step]), Store(home / "run" / "steps")).ran == 0
