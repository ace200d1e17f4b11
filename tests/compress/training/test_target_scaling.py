from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TASK, make_checkpoint

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, with_new_head
from paredown.compress.models.output_kinds import divergence
from paredown.compress.training.target_scaling import last_layer, standard_units
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS
from paredown.tasks.scores import spread

NUMBERS = TASKS["text-regression"]
IDS = [[2, 5, 11, 3], [2, 6, 3], [2, 10, 12, 7, 3]]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_unit_goes_into_the_last_layer_and_out_again(tmp_path: Path, kind: str) -> None:
    model = with_new_head(make_checkpoint(tmp_path / "base", kind, layers=1), NUMBERS, ("score",), 0)
    batch = {"input_ids": np.array(IDS[0])[None], "attention_mask": np.ones((1, 4), np.int64)}
    values = np.array([900.0, 1000.0, 1100.0])
    with standard_units(model, IDS, values) as unit:
        inside = forward(model, batch)["logits"]
        assert unit(values).tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
        assert abs(inside).max() < 1  # near the mean, where fresh heads begin
    np.testing.assert_allclose(forward(model, batch)["logits"], inside * values.std() + 1000, rtol=1e-5)
    with standard_units(model, IDS, values):
        np.testing.assert_allclose(forward(model, batch)["logits"], inside, atol=1e-4)


def test_what_a_model_says_can_be_kept(tmp_path: Path) -> None:
    """`update` learns from its own answers to old rows, wherever the new ones are."""
    model = with_new_head(make_checkpoint(tmp_path / "base", layers=1), NUMBERS, ("score",), 0)
    batch = {"input_ids": np.array(IDS[0])[None], "attention_mask": np.ones((1, 4), np.int64)}
    before = forward(model, batch)["logits"]
    with standard_units(model, IDS, np.array([900.0, 1000.0, 1100.0]), move=False) as unit:
        np.testing.assert_allclose(forward(model, batch)["logits"], unit(before), rtol=1e-5)
    np.testing.assert_allclose(forward(model, batch)["logits"], before, rtol=1e-3)


def test_labels_are_left_as_they_are(tmp_path: Path) -> None:
    model = load(make_checkpoint(tmp_path / "base", layers=1), TASK)
    before, labels = last_layer(model).weight.clone(), np.array([0, 1, 1])
    with standard_units(model, IDS, labels) as unit:
        assert unit(labels) is labels
        assert torch.equal(last_layer(model).weight, before)


def test_numbers_diverge_by_their_squared_difference() -> None:
    ours, wanted = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    assert float(divergence(ours, wanted)) == 1.0
    labels = torch.tensor([[0.0, 1.0]]).log_softmax(-1)
    assert float(divergence(labels, labels)) == pytest.approx(0, abs=1e-6)


def test_two_models_agree_within_a_tenth_of_the_spread() -> None:
    theirs = np.array([[100.0], [200.0], [300.0]], dtype=np.float32)
    assert NUMBERS.same_answers(theirs + 8, theirs).all()
    assert not NUMBERS.same_answers(theirs + 9, theirs).any()
    assert spread(np.zeros((2, 1))) == 1.0
    assert spread(np.array([[5.0]])) == 5.0


def test_pairs_have_numbers_too(tmp_path: Path) -> None:
    (tmp_path / "sts.csv").write_text("sentence1,sentence2,score\na film,a plot,3.25\na film,the film,5\n")
    rows = read_rows(TASKS["text-pair-regression"], str(tmp_path / "sts.csv"))
    assert rows.texts[0] == f"a film{PAIR}a plot"
    assert rows.gold.tolist() == [3.25, 5.0]
