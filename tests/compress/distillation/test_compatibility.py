"""What two models must have in common depends on the task."""

from dataclasses import replace
from pathlib import Path

import pytest
import tagging
from conftest import TASK, make_checkpoint
from examples import sentence_transformer

from paredown.compress.distillation.compatibility import check_student, check_teacher
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS


def changed(checkpoint: Checkpoint, **config: object) -> Checkpoint:
    return replace(checkpoint, config={**checkpoint.config, **config})


def test_labels_must_match_where_they_are_names(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "a", layers=1)
    turned = changed(checkpoint, id2label={"0": "positive", "1": "negative"})
    other = changed(checkpoint, id2label={"0": "yes", "1": "no"})
    check_teacher(TASK, turned, checkpoint, "teachers")  # the mean is taken by name
    with pytest.raises(InputError, match=r"^models: .* has other labels than the checkpoint, or in another order"):
        check_student(TASK, turned, checkpoint, "models")
    with pytest.raises(InputError, match=r"^teachers: .* has the labels yes, no, the checkpoint negative, positive"):
        check_teacher(TASK, other, checkpoint, "teachers")
    check_teacher(TASKS["text-regression"], other, checkpoint, "teachers")


def test_tokens_and_lengths_must_match_where_tokens_are_compared(tmp_path: Path) -> None:
    checkpoint = tagging.untrained(tmp_path / "a", layers=1)
    short = changed(checkpoint, max_position_embeddings=32)
    check_student(tagging.TASK, short, checkpoint, "models", 32)
    check_student(tagging.TASK, short, checkpoint, "models")  # inputs are truncated to what both take
    with pytest.raises(InputError, match="set max_length: 32"):
        check_student(tagging.TASK, short, checkpoint, "models", 64)
    check_student(TASK, short, replace(short, config=checkpoint.config), "models", 64)  # a label of the row
    foreign = replace(make_checkpoint(tmp_path / "b", layers=1), config=checkpoint.config)
    with pytest.raises(InputError, match="splits text into other tokens"):
        check_student(tagging.TASK, foreign, checkpoint, "models")


def test_vectors_must_be_of_one_width(tmp_path: Path) -> None:
    task = TASKS["sentence-embedding"]
    sentence_transformer(tmp_path / "a")
    checkpoint = open_checkpoint(tmp_path / "a", task)
    check_student(task, checkpoint, checkpoint, "models")
    headless = make_checkpoint(tmp_path / "b", layers=1)
    with pytest.raises(InputError, match="gives vectors of 16 numbers, the checkpoint of 32"):
        check_student(task, changed(headless, hidden_size=16), checkpoint, "models")
