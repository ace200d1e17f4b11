"""What a search tries, with an engine that trains nothing (simulated_search.py)."""

import random
from pathlib import Path
from unittest import mock

import optuna
import pytest
from conftest import SMALL, write_recipe
from simulated_search import Plateau, Simulated, Timed

from paredown.compress.config import Static, Truncate
from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.engine import Plans, Underway
from paredown.pipeline.job import Job, chain_of, prepare
from paredown.pipeline.plan import trial_steps
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Recipe
from paredown.pipeline.search import with_models
from paredown.pipeline.trial_order import TrialOrder
from paredown.runtime.errors import InputError


@pytest.fixture(scope="module")
def job(teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare(read_recipe(write_recipe(tmp_path_factory.mktemp("job") / "recipe.yaml", teacher, files, **SMALL)))


def fastest(explorer: Simulated) -> float:
    good = [t.speedup for t in explorer.trials if explorer.expected(t) <= explorer.max_drop and t.distance < 0.15]
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
    first, second = (t.model for t in explorer.shapes()[:2])
    assert second.steps[: len(first.steps)] == first.steps
    shared = {step.key for step in trial_steps(job, first)} & {step.key for step in trial_steps(job, second)}
    names = [step.name for step in trial_steps(job, first) if step.key in shared]
    assert f"{first.name}-1-prune" in names
    assert f"{first.name}-1-prune-recover" in names


def test_of_long_texts_the_shortest_good_window_is_what_pruning_starts_from(job: Job) -> None:
    """Sentences of 6 to 16 tokens: windows of 4 (three quarters of `max_drop` are lost) and 8 (three eighths)."""
    with mock.patch("paredown.pipeline.explorer.WINDOWS", (4, 8)):
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
    explorer.engine.trimming = {2000: most, 8000: most / 2, 16000: most / 2}
    found = explorer.explore()
    trims = [step.trim.frequent for model in found.models for step in model.steps if step.trim]
    assert set(trims) == frequent


def test_a_tokenizer_that_cannot_be_trimmed_stays_whole(job: Job) -> None:
    class Untrimmable(Simulated):
        def start(self, plans: Plans) -> Underway:
            if any(step.inputs.get("stage") == "vocabulary" for step in plans(self.job)):
                raise InputError("tokenizer.json: a model of kind 'Other'")
            return super().start(plans)

    found = Untrimmable(job, minutes=60).explore()
    assert found.trained
    assert not any(step.trim for model in found.models for step in model.steps)


def test_a_failed_trial_is_named_and_ends_nothing_else(job: Job) -> None:
    engine = Timed(1)
    engine.failing = "pruned"
    found = Simulated(job, 60, engine).explore()
    assert "not finite" in next(reason for name, reason in found.dropped.items() if name.startswith("pruned"))
    assert [model.name for model in found.models][:3] == ["static", "static-2", "trimmed"]


def test_a_static_student_that_is_faster_and_answers_fewer_rows_is_tried_where_it_has_all_its_epochs(job: Job) -> None:
    """With one convolution in place of three; a cascade takes the one that is predicted faster with the rest."""
    long, short = Simulated(job, minutes=240), Simulated(job, minutes=10)
    for explorer in (long, short):
        explorer.explore()
    statics = [next(iter(chain_of(trial.model).values())) for trial in long.trials[:2]]
    assert [(s.convolution_layers, s.epochs) for s in statics if isinstance(s, Static)] == [(3, 10.0), (1, 10.0)]
    assert long.trials[0].speedup < long.trials[1].speedup
    assert [trial.model.name for trial in short.trials if trial.model.name.startswith("static")] == ["static"]


def test_without_time_nothing_is_trained_and_the_reason_is_given(job: Job) -> None:
    explorer = Simulated(job, minutes=0.01)
    found = explorer.explore()
    assert not explorer.trials
    assert found.dropped["static"] == "no time to train it; give more minutes"
    assert found.next == "pruning to 2.0x (predicted)"


def done(explorer: Simulated) -> list[tuple]:
    """What a search tried, in the order in which the trials ended."""
    return [(t.model.name, t.model.steps, t.speedup, t.drop, t.trainings) for t in explorer.trials]


def test_one_place_makes_one_trial_after_another(job: Job) -> None:
    """The trials of the version that knew no places, with the same seed."""
    explorer = Simulated(job, minutes=10)
    explorer.explore()
    assert [name for name, *_ in done(explorer)] == [
        "static", "pruned-2.0x", "pruned-3.0x", "pruned-4.5x", "pruned-3.7x", "pruned-4.1x", "pruned-4.1x-2",
        "pruned-1.1x",
    ]  # fmt: skip
    epochs = [list(chain_of(trial.model).values())[-1].model_dump()["epochs"] for trial in explorer.trials]
    assert epochs == [10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 0.5]
    assert explorer.now == pytest.approx(sum(explorer.seconds.values()))


def test_several_places_do_more_in_the_same_time_and_no_model_twice(job: Job) -> None:
    one, three = Simulated(job, 5), Simulated(job, 5, Timed(3))
    for explorer in (one, three):
        explorer.explore()
        assert explorer.engine.time <= 60 * 5 * 1.1
    assert one.engine.most == 1
    assert three.engine.most == 3
    assert len(three.trials) > len(one.trials)
    steps = [trial.model.steps for trial in three.trials]
    assert all(one not in steps[:i] for i, one in enumerate(steps))
    assert len({trial.model.name for trial in three.trials}) == len(three.trials)
    assert fastest(three) >= fastest(one)


class Drawn:
    """Chooses by a seed what ends next, and stops as a kill does after so many steps."""

    def __init__(self, seed: int, steps: int | None = None) -> None:
        self.random, self.steps = random.Random(seed), steps

    def __call__(self, running: list[str]) -> str:
        if self.steps is not None:
            if self.steps == 0:
                raise KeyboardInterrupt
            self.steps -= 1
        return self.random.choice(running)


def test_the_same_seed_and_order_of_ends_give_the_same_search(job: Job, tmp_path: Path) -> None:
    """Whatever ends first when it is done again; another order gives another search."""
    first = Simulated(job, 10, Timed(3, Drawn(1)), TrialOrder(tmp_path / "order"))
    found = first.explore()
    again = Simulated(job, 10, Timed(3, Drawn(2)), TrialOrder(tmp_path / "order"))
    assert again.explore() == found
    assert done(again) == done(first)
    assert again.order.ends == first.order.ends
    other = Simulated(job, 10, Timed(3, Drawn(3)))
    other.explore()
    assert done(other) != done(first)


@pytest.mark.parametrize("places", [1, 3])
def test_a_killed_search_goes_on_with_what_it_has_done(job: Job, tmp_path: Path, places: int) -> None:
    """With as many places as there are then."""
    killed = Simulated(job, 10, Timed(places, Drawn(1, 40)), TrialOrder(tmp_path / "order"))
    with pytest.raises(KeyboardInterrupt):
        killed.explore()
    assert len(killed.trials) >= 2
    resumed = Simulated(job, 10, Timed(2, Drawn(2)), TrialOrder(tmp_path / "order"))
    resumed.explore()
    assert done(resumed)[: len(killed.trials)] == done(killed)
    assert {end.places for end in resumed.order.ends[len(killed.trials) :]} == {2}


@pytest.mark.parametrize("lost", ["pruned-2.3x", "pruned-3.7x"])
def test_a_trial_whose_machine_is_lost_is_told_as_failed_and_the_search_goes_on(job: Job, lost: str) -> None:
    """One that Optuna has proposed, and one of the gradual pruning."""
    explorer = Simulated(job, 60)
    explorer.engine.losing = lost
    found = explorer.explore()
    assert found.dropped[lost] == "the machine is gone"
    assert explorer.proposals is not None
    states = [trial.state for trial in explorer.proposals.study.trials]
    assert states.count(optuna.trial.TrialState.FAIL) == (lost == "pruned-2.3x")
    assert [name for name, *_ in done(explorer)][-1] != "pruned-4.5x"
    assert lost not in {name for name, *_ in done(explorer)}
    assert "proposals of Optuna, one after another, led to nothing better" in found.next
