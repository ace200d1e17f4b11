from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, TASK

from paredown.compress.config import Tune
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.training.hyperparameter_search import tune
from paredown.compress.training.studies import seed_sampler, study_at
from paredown.compress.types import TrainingData
from paredown.runtime.errors import StepError


def search(checkpoint: Checkpoint, files: dict, study: Path, **more):
    rows = dataset.read(str(files["train"]), names=LABELS)
    start = {"epochs": 1, "learning_rate": 1e-3, "freeze_embeddings": False, "batch_size": 64}
    settings = Tune.model_validate({"minutes": 30, "finetune": start, **more})
    ids = checkpoint.encoder().ids(rows.texts)
    return tune(lambda: load(checkpoint, TASK), TrainingData(ids, rows.gold), settings, study, seed=3)


def test_a_search_keeps_its_best_trial_and_goes_on_where_it_was(
    untrained: Checkpoint, files: dict, tmp_path: Path
) -> None:
    first = search(untrained, files, tmp_path / "study.log", trials=3)
    assert first.trials[0]["settings"]["learning_rate"] == 1e-3  # as given
    assert len(first.trials) == 3
    found = search(untrained, files, tmp_path / "study.log", trials=7)
    assert found.trials[:3] == first.trials
    assert len(found.trials) == 7
    metrics = [t["metric"] for t in found.trials if t["state"] == "complete"]
    best = next(t for t in found.trials if t["state"] == "complete" and t["metric"] == max(metrics))
    assert found.best.learning_rate == best["settings"]["learning_rate"]
    if found.importance:
        assert np.isclose(sum(found.importance.values()), 1, atol=0.01)
    again = search(untrained, files, tmp_path / "study.log", trials=7)
    assert again == found


def test_trials_that_cannot_be_run_are_passed_over(untrained: Checkpoint, files: dict, tmp_path: Path) -> None:
    start = {"batch_size": 400, "peft": {"kind": "adalora"}}
    with pytest.raises(StepError, match="no trial came to an end: peft: adalora spreads"):
        search(untrained, files, tmp_path / "study.log", trials=1, peft=["adalora"], finetune=start)


def test_a_study_that_is_started_again_proposes_other_points(tmp_path: Path) -> None:
    rates = []
    for _ in range(3):  # a kill between the trials
        study = study_at(tmp_path / "study.log", "tune", direction="maximize")
        seed_sampler(study, 3)
        study.optimize(lambda trial: rates.append(trial.suggest_float("rate", 0.1, 10)) or 1.0, n_trials=1)
    assert len(set(rates)) == 3
    uninterrupted = study_at(tmp_path / "other.log", "tune", direction="maximize")
    for _ in range(3):
        seed_sampler(uninterrupted, 3)
        uninterrupted.optimize(lambda trial: trial.suggest_float("rate", 0.1, 10) and 1.0, n_trials=1)
    assert [t.params["rate"] for t in uninterrupted.trials] == rates
