"""Whether one model can teach another: labels, widths and tokens that answers are compared by. Without torch."""

from __future__ import annotations

from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

from ..models.architectures import CONVOLUTIONAL
from ..models.checkpoint import Checkpoint


def same_tokens(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two models split a text into the same tokens, as the losses inside the models need; convolutional nets
    have none."""
    kinds = {a.config.get("model_type"), b.config.get("model_type")}
    return a.tokenizer_bytes() == b.tokenizer_bytes() and not kinds & {*CONVOLUTIONAL}


def check_teacher(task: Task, teacher: Checkpoint, checkpoint: Checkpoint, where: str) -> None:
    """InputError, which begins with `where`, for a further teacher whose outputs have no mean with the checkpoint's."""
    if task.same_labels and sorted(teacher.labels) != sorted(checkpoint.labels):
        raise InputError(
            f"{where}: {teacher.path} has the labels {', '.join(teacher.labels[:5])}, the checkpoint "
            f"{', '.join(checkpoint.labels[:5])}; the mean of their logits needs the same labels"
        )
    _check_tokens(task, teacher, checkpoint, where)


def check_student(task: Task, student: Checkpoint, checkpoint: Checkpoint, where: str) -> None:
    """InputError, which begins with `where`, for a student from elsewhere that the checkpoint cannot teach."""
    if task.same_labels and student.has_head(task) and student.labels != checkpoint.labels:
        raise InputError(f"{where}: {student.path} has other labels than the checkpoint, or in another order")
    if task.same_width and student.width != checkpoint.width:
        raise InputError(
            f"{where}: {student.path} gives vectors of {student.width} numbers, the checkpoint of {checkpoint.width}; "
            "a student's have to be as wide"
        )
    _check_tokens(task, student, checkpoint, where)


def _check_tokens(task: Task, other: Checkpoint, checkpoint: Checkpoint, where: str) -> None:
    if task.compares_tokens and not same_tokens(other, checkpoint):
        raise InputError(
            f"{where}: {other.path} splits text into other tokens than the checkpoint; {task.name} compares answers "
            "token by token"
        )
