from functools import partial

import numpy as np
import pytest
import torch
from conftest import LABELS, TASK, make_checkpoint

from paredown.compress.config import Distill, DistillationTraining
from paredown.compress.data import dataset
from paredown.compress.distillation import distill
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.models.structure import blocks
from paredown.compress.quantization.qat import fake_quantized
from paredown.compress.training.losses import ValidationLoss
from paredown.compress.types import TrainingData
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows


@pytest.fixture(scope="module")
def ids(teacher: Checkpoint, files: dict) -> list[list[int]]:
    return dataset.encode(teacher.encoder(), dataset.read(str(files["train"]), labelled=False))


def test_the_student_is_made_of_the_teachers_own_layers(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    student = distill.student_of(model, Distill(layers=2), [])
    assert len(blocks(model)) == 3
    assert student.config.num_hidden_layers == 2
    for mine, theirs in zip(blocks(student), (blocks(model)[0], blocks(model)[2]), strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    assert len(blocks(distill.student_of(model, Distill(layers=[1]), []))) == 1
    for wrong in (0, 4, [2, 1], [0, 3]):
        with pytest.raises(InputError, match="layers"):
            distill.student_of(model, Distill(layers=wrong), [])


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_weight": 0},
        {"hidden_weight": 1},
        {"hidden_weight": 0, "relation_weight": 1},
        {"hidden_weight": 0, "quantize_aware": True},
        {"hidden_weight": 0, "relation_weight": 1, "width": 16},
    ],
)
def test_a_student_comes_nearer_to_its_teacher(teacher: Checkpoint, files: dict, ids, changes: dict) -> None:
    held_out = dataset.read(str(files["validation"]), names=LABELS)
    check = dataset.encode(teacher.encoder(), held_out)
    model = load(teacher, TASK)
    settings = Distill(layers=1, epochs=4, learning_rate=5e-3, **changes)
    raw = distill.student_of(model, settings, ids)
    student = distill.distill(model, TrainingData(ids), settings, seed=0)
    want, before, after = (run_rows(partial(forward, m), check, 0, "logits") for m in (model, raw, student))
    assert np.abs(after - want).mean() < 0.5 * np.abs(before - want).mean()
    assert TASK.metric(after, held_out.gold) > 85


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_a_narrower_student_is_read_by_plain_transformers(kind: str, ids, tmp_path) -> None:
    source = make_checkpoint(tmp_path / "a", kind)
    student = distill.student_of(load(source, TASK), Distill(layers=2, width=16, hidden_weight=0), ids[:32])
    saved = save(student, source, tmp_path / "b")
    assert not (saved.path / "structure.json").exists()
    assert saved.config.get("hidden_size", saved.config.get("dim")) == 16
    batch = {"input_ids": np.array([ids[0]]), "attention_mask": np.ones((1, len(ids[0])), dtype=np.int64)}
    np.testing.assert_allclose(
        forward(load(saved, TASK), batch)["logits"], forward(student, batch)["logits"], atol=1e-6
    )


def test_widths_that_no_heads_fit(teacher: Checkpoint, ids, tmp_path) -> None:
    model = load(teacher, TASK)
    with pytest.raises(InputError, match="20 is not a multiple of the size of a head, 8"):
        distill.student_of(model, Distill(width=20, hidden_weight=0), ids)
    other = load(make_checkpoint(tmp_path, "modernbert"), TASK)
    with pytest.raises(InputError, match="'modernbert' model cannot be made narrower"):
        distill.student_of(other, Distill(width=16, hidden_weight=0), ids)


def test_losses_inside_the_models_need_models_that_match(teacher: Checkpoint, ids) -> None:
    model = load(teacher, TASK)
    narrow = distill.student_of(model, Distill(width=16, hidden_weight=0), ids)
    with pytest.raises(InputError, match="relation_weight"):
        distill.train_student(narrow, model, TrainingData(ids), DistillationTraining(hidden_weight=1))
    with pytest.raises(InputError, match="label_weight"):
        distill.train_student(model, model, TrainingData([[2, 5, 3]]), DistillationTraining(label_weight=0.5))


def test_scores_are_the_mean_of_the_teachers(teacher: Checkpoint, untrained: Checkpoint, ids) -> None:
    a, b = load(teacher, TASK), load(untrained, TASK)
    mean = distill.mean_scores([(a, ids[:8]), (b, ids[:8])])
    one, two = distill.teacher_scores(a, ids[:8]), distill.teacher_scores(b, ids[:8])
    np.testing.assert_allclose(mean, (one + two) / 2, rtol=1e-5)
    b.config.id2label = dict(enumerate(reversed(LABELS)))  # the same labels in another order
    mean = distill.mean_scores([(a, ids[:8]), (b, ids[:8])])
    np.testing.assert_allclose(mean, (one + two[:, ::-1]) / 2, rtol=1e-5)


def test_patience_keeps_the_best_weights_that_validation_saw(teacher: Checkpoint, files: dict, ids) -> None:
    """A learning rate that ruins the student: what is kept is no worse than the best evaluation."""
    model = load(teacher, TASK)
    held_out = dataset.encode(teacher.encoder(), dataset.read(str(files["validation"]), labelled=False))
    wanted = distill.teacher_scores(model, held_out)
    judge = ValidationLoss(held_out, wanted)
    steps: list[str] = []
    student = distill.student_of(model, Distill(layers=2), [])
    settings = DistillationTraining(epochs=20, learning_rate=0.3, hidden_weight=0, patience=2, evaluations_per_epoch=4)
    data = TrainingData(ids, validation=(held_out, wanted))
    distill.train_student(student, model, data, settings, progress=lambda _, text: steps.append(text))
    ruined = distill.student_of(model, Distill(layers=2), [])
    distill.train_student(ruined, model, data, DistillationTraining(epochs=2, learning_rate=0.3, hidden_weight=0))
    assert judge(student) < judge(ruined)
    assert len(steps) < 20 * 13


def test_rounding_is_gone_after_the_block(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    batch = {"input_ids": np.array([[2, 5, 11, 3]]), "attention_mask": np.ones((1, 4), dtype=np.int64)}
    before = forward(model, batch)["logits"]
    with fake_quantized(model):
        assert not np.array_equal(forward(model, batch)["logits"], before)
        assert np.abs(forward(model, batch)["logits"] - before).max() < 0.2
    names = set(load(teacher, TASK).state_dict())
    assert set(model.state_dict()) == names
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_student_learns_without_dropout_and_has_it_back_afterwards(teacher: Checkpoint, ids) -> None:
    """With it, a pruned model that is near its teacher moves away: KL 0.046 before, 0.069 after, 0.056 without."""
    student = load(teacher, TASK)
    layers = [layer for layer in student.modules() if isinstance(layer, torch.nn.Dropout)]
    before, during = [layer.p for layer in layers], []
    distill.train_student(
        student, load(teacher, TASK), TrainingData(ids[:64]), DistillationTraining(epochs=1, hidden_weight=0),
        progress=lambda share, text: during.append(max(layer.p for layer in layers)),
    )  # fmt: skip
    assert max(before) > 0
    assert during
    assert max(during) == 0
    assert [layer.p for layer in layers] == before
