import copy

import numpy as np
import pytest
import torch
from conftest import LABELS, TASK, make_checkpoint

from paredown.compress.config import Update
from paredown.compress.data import dataset
from paredown.compress.models.inference import teacher_scores
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.continual import UpdateData, _ElasticWeightConsolidation, grow, replayed, update
from paredown.runtime.errors import InputError
from paredown.tasks.base import NO_LABEL

MORE = (*LABELS, "question")
QUICK = {"epochs": 12, "learning_rate": 1e-3, "batch_size": 8, "freeze_embeddings": False}


def questions(count: int) -> list[str]:
    """Rows of a third label: filler words only, which the other two never are."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(["the", "was", "is", "of", "in"], 6)) for _ in range(count)]


def parts(checkpoint: Checkpoint, files: dict):
    encoder = checkpoint.encoder()
    train, held = (dataset.read(str(files[name]), names=LABELS) for name in ("train", "validation"))
    new = encoder.ids(questions(80))
    return (encoder.ids(train.texts), train.gold), (new, np.full(80, 2)), (encoder.ids(held.texts), held.gold)


def test_replay_is_even_over_the_labels_and_the_same_for_a_seed() -> None:
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    picked = replayed(labels, 12, seed=1)
    assert np.bincount(labels[picked]).tolist() == [5, 5, 2]
    assert len(set(picked)) == 12
    assert np.array_equal(picked, replayed(labels, 12, seed=1))
    assert len(replayed(labels, 1000, seed=1)) == 100
    words = [np.array([NO_LABEL, 0, label]) for label in labels]
    assert np.bincount(labels[replayed(words, 12, seed=1)]).tolist() == [5, 5, 2]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_grown_head_answers_as_before_and_loads_again(tmp_path, kind: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "small", kind, layers=1)
    model = load(checkpoint, TASK)
    batch = {"input_ids": torch.tensor([[2, 5, 11, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    before = model(**batch).logits
    grow(model, MORE, seed=0)
    saved = save(model, checkpoint, tmp_path / "grown")
    assert open_checkpoint(tmp_path / "grown", TASK).labels == MORE
    after = load(saved, TASK)(**batch).logits
    assert after.shape == (1, 3)
    torch.testing.assert_close(after[:, :2], before)
    with pytest.raises(InputError, match="the checkpoint's own come first"):
        grow(model, ("positive", "negative", "question", "more"), seed=0)


def test_a_new_label_is_learned_and_the_old_ones_are_kept(teacher: Checkpoint, files: dict) -> None:
    old, new, held = parts(teacher, files)
    kept = {}
    for name, settings in (("naive", {"replay": 0, "lwf": 0}), ("kept", {"replay": 1, "lwf": 1})):
        model = update(load(teacher, TASK), UpdateData(old, new, MORE), Update.model_validate({**QUICK, **settings}))
        assert TASK.metric(teacher_scores(model, new[0]), new[1]) > 65
        kept[name] = TASK.metric(teacher_scores(model, held[0]), held[1])
    before = TASK.metric(teacher_scores(load(teacher, TASK), held[0]), held[1])
    assert kept["kept"] > before - 5
    assert kept["naive"] < kept["kept"] - 20  # everything is a question to it


def test_consolidation_holds_the_weights_that_matter(teacher: Checkpoint, files: dict) -> None:
    old, new, _ = parts(teacher, files)
    plain, held = (
        update(
            load(teacher, TASK),
            UpdateData(old, new, MORE),
            Update.model_validate({**QUICK, "replay": 0, "lwf": 0, "ewc": ewc}),
        )
        for ewc in (0, 1e5)
    )
    hold = _ElasticWeightConsolidation(load(teacher, TASK), old[0][:64], seed=0)
    assert hold.distance(held).item() < 0.5 * hold.distance(plain).item()
    assert float(hold.distance(copy.deepcopy(load(teacher, TASK)))) == 0
