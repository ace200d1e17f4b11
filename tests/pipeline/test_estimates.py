"""What steps are guessed to take. That the guesses are near is for `benchmarks/results/estimates.py`, on real runs."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from conftest import paredown, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import estimates
from paredown.pipeline import run as running
from paredown.pipeline.job import Job, prepare
from paredown.pipeline.plan import plan
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Model, Target
from paredown.pipeline.store import Store


@pytest.fixture
def job(teacher: Checkpoint, files: dict, tmp_path: Path) -> Job:
    return prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files)), try_models=False)


@pytest.mark.parametrize(
    ("steps", "share"),
    [
        ([], 1.0),
        ([{"trim": {}}], 1.0),
        ([{"prune": {"speedup": 2}}], 0.5),
        ([{"prune": {"heads": 0.5, "ffn": 0.5}}], 0.5),
        ([{"prune": {"layers": 2}}, {"prune": {"speedup": 2}}], 0.25),
        ([{"prune": {"layers": [0]}}], 0.25),
        ([{"distill": {"layers": 1}}], 0.25),
        ([{"distill": {"student": "elsewhere"}}], 1.0),
    ],
)
def test_what_is_left_of_the_multiplications(steps: list, share: float) -> None:
    assert estimates.compute_left(Model.model_validate({"name": "m", "steps": steps}), 4) == pytest.approx(share)


def test_a_dearer_checkpoint_makes_longer_work_and_the_same_keys(job: Job) -> None:
    """Their order may differ: what is done between two sittings takes about as long as between the others."""
    cheap, dear = ({step.name: step for step in plan(replace(job, row_s=row_s))} for row_s in (0.001, 0.1))
    assert {name: step.key for name, step in cheap.items()} == {name: step.key for name, step in dear.items()}
    stages = {step.inputs["stage"] for name, step in dear.items() if step.seconds > 1.2 * cheap[name].seconds}
    assert {"scores", "distill", "export", "evaluate", "measure"} <= stages


def test_products_that_stay_in_float_are_not_calibrated(job: Job) -> None:
    """`int8-weight` stores weights in INT8 and multiplies in float."""
    plain = job.candidates[0]
    seconds = {
        precision: estimates.exporting(job, replace(plain, target=Target(runtime="onnxruntime", precision=precision)))
        for precision in ("fp32", "int8-weight", "int8-dynamic")
    }
    assert seconds["int8-weight"] == seconds["fp32"] != seconds["int8-dynamic"]


def test_a_row_is_timed_where_there_is_work_left(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where every step is there, in this run or an older one."""
    job = prepare(read_recipe(finished / "recipe.resolved.yaml"), try_models=False)
    assert estimates.row_seconds(job) > 0
    timed = mock.Mock(return_value=7.0)
    monkeypatch.setattr(running, "row_seconds", timed)
    running.with_estimates(job, Store(finished / "steps"), plan)
    running.with_estimates(job, Store(tmp_path / "steps", finished / "steps"), plan)
    assert not timed.called
    wanted = {step.name: step.seconds for step in plan(replace(job, row_s=7.0))}
    assert {step.name: step.seconds for step in running.with_estimates(job, Store(tmp_path / "none"), plan)} == wanted


def test_an_estimate_ends_no_run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "row_seconds", mock.Mock(side_effect=RuntimeError))
    assert [step.name for step in running.with_estimates(job, Store(tmp_path), plan)] == [
        step.name for step in plan(job)
    ]


def test_a_dry_run_says_how_long_it_would_take_here(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files)
    shown = paredown("run", recipe, "--output-dir", tmp_path / "run", "--dry-run")
    assert shown.returncode == 0
    assert " minutes, by what a row takes here; nothing was done." in " ".join(shown.stdout.split())
