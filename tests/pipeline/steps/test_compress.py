from pathlib import Path

import numpy as np
import pytest
from conftest import write_recipe

from paredown.compress.config import Finetune, Stage, Static, Training
from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.job import SCORES, prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.steps.compress import compress, score
from paredown.pipeline.store import Done


@pytest.mark.parametrize(
    "settings",
    [
        Finetune(epochs=20, learning_rate=0.3, patience=1),
        Static(epochs=40, width=8, learning_rate=5, patience=1, label_weight=0.5),
    ],
)
def test_training_that_patience_ends_counts_the_rows_that_it_saw(
    settings: Stage, teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files)))
    said: list[float] = []
    (tmp_path / "scores").mkdir()
    score(job, tmp_path / "scores", {}, lambda share, text: None)
    done = {SCORES: Done(tmp_path / "scores", {}, 1.0)}
    found = compress(job, settings, None, tmp_path / "out", done, lambda share, text: said.append(share))
    assert isinstance(settings, Training)
    seen = 500 if isinstance(settings, Static) else 400
    assert 0 < said[-1] < 0.5
    assert np.isclose(found["rows_per_s"] * found["training_s"], said[-1] * settings.epochs * seen)
