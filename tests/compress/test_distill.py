from functools import partial

import numpy as np
import pytest
import torch
from conftest import LABELS, TASK
from paredown.compress import data, distill
from paredown.compress.checkpoint import Checkpoint, load
from paredown.compress.encoder import run_rows
from paredown.compress.errors import InputError
from paredown.compress.settings import Distill, Heal
from paredown.compress.structure import blocks
from paredown.compress.train import forward


def test_the_student_is_made_of_the_teachers_own_layers(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    student = distill.student_of(model, 2)
    assert len(blocks(model)) == 3
    assert student.config.num_hidden_layers == 2
    for mine, theirs in zip(blocks(student), (blocks(model)[0], blocks(model)[2]), strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    assert len(blocks(distill.student_of(model, [1]))) == 1
    for wrong in (0, 4, [2, 1], [0, 3]):
        with pytest.raises(InputError, match="layers"):
            distill.student_of(model, wrong)


@pytest.mark.parametrize("hidden_weight", [0.0, 1.0])
def test_a_student_comes_nearer_to_its_teacher(teacher: Checkpoint, files: dict, hidden_weight: float) -> None:
    ids = data.encode(teacher.encoder(), data.read(str(files["train"]), labelled=False))
    held_out = data.read(str(files["validation"]), names=LABELS)
    check = data.encode(teacher.encoder(), held_out)
    model = load(teacher, TASK)
    raw = distill.student_of(model, 1)
    settings = Distill(layers=1, epochs=4, learning_rate=5e-3, hidden_weight=hidden_weight)
    student = distill.distill(model, ids, settings, seed=0)
    want, before, after = (run_rows(partial(forward, m), check, 0, "logits") for m in (model, raw, student))
    assert np.abs(after - want).mean() < 0.5 * np.abs(before - want).mean()
    assert TASK.metric(after, held_out.gold) > 85


def test_label_weight_needs_labels(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    with pytest.raises(InputError, match="label_weight"):
        distill.heal(model, model, [[2, 5, 3]], Heal(label_weight=0.5))
