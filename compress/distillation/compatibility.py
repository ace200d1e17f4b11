"""Whether one model can be the teacher of another: labels, widths and tokens that outputs are compared by. Without
torch."""

from __future__ import annotations

from paredown.runtime.errors import InputError
from paredown.tasks.base import Match, Task

from ..models.architectures import CONVOLUTIONAL
from ..models.checkpoint import Checkpoint


def same_tokens(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two models split a text into the same tokens, as the losses inside the models need; convolutional nets
    have none."""
    kinds = {a.config.get("model_type"), b.config.get("model_type")}
    return a.tokenizer_bytes() == b.tokenizer_bytes() and not kinds & {*CONVOLUTIONAL}


def check_teacher(
    task: Task, teacher: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None = None
) -> None:
    """InputError, which begins with `where`, for a further teacher whose outputs have no mean with the checkpoint's.

    `max_length`: of inputs, in tokens; None where they are truncated to what both models take.
    """
    for match in task.must_match:
        TEACHER_CHECKS[match](task, teacher, checkpoint, where, max_length)


def check_student(
    task: Task, student: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None = None
) -> None:
    """InputError, which begins with `where`, for another checkpoint that cannot be the student of this one.

    `max_length`: as in `check_teacher`.
    """
    for match in task.must_match:
        STUDENT_CHECKS[match](task, student, checkpoint, where, max_length)


def same_length(where: str, checkpoint: Checkpoint, other: Checkpoint, max_length: int) -> None:
    """InputError where one of two models that are compared token by token takes fewer tokens than the other."""
    ours, theirs = (min(max_length, each.positions) for each in (checkpoint, other))
    if ours != theirs:
        raise InputError(
            f"{where}: of max_length {max_length} the checkpoint takes {ours} tokens and {other.path} {theirs}, and "
            f"they are compared token by token; set max_length: {min(ours, theirs)}"
        )


def _teacher_labels(
    task: Task, teacher: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None
) -> None:
    if sorted(teacher.labels) != sorted(checkpoint.labels):
        raise InputError(
            f"{where}: {teacher.path} has the labels {', '.join(teacher.labels[:5])}, the checkpoint "
            f"{', '.join(checkpoint.labels[:5])}; the mean of their logits needs the same labels"
        )


def _student_labels(
    task: Task, student: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None
) -> None:
    """A student without a head gets the checkpoint's labels."""
    if student.has_head(task) and student.labels != checkpoint.labels:
        raise InputError(f"{where}: {student.path} has other labels than the checkpoint, or in another order")


def _width(task: Task, other: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None) -> None:
    if other.width != checkpoint.width:
        raise InputError(
            f"{where}: {other.path} gives vectors of {other.width} numbers, the checkpoint of {checkpoint.width}; "
            "a student's have to be as wide"
        )


def _tokens(task: Task, other: Checkpoint, checkpoint: Checkpoint, where: str, max_length: int | None) -> None:
    if not same_tokens(other, checkpoint):
        raise InputError(
            f"{where}: {other.path} splits text into other tokens than the checkpoint; {task.name} compares answers "
            "token by token"
        )
    if max_length is not None:
        same_length(where, checkpoint, other, max_length)


TEACHER_CHECKS = {Match.LABELS: _teacher_labels, Match.WIDTH: _width, Match.TOKENS: _tokens}
STUDENT_CHECKS = {**TEACHER_CHECKS, Match.LABELS: _student_labels}
