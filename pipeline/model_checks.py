"""Checks of the steps of a model against its checkpoint, before anything runs: layers, students, tokens, rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paredown.compress.config import Distill, DistillationTraining, Prune, Stage
from paredown.compress.distillation.compatibility import check_student, same_length, same_tokens
from paredown.compress.models.architectures import CONVOLUTIONAL, check_pruning
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.runtime.errors import InputError
from paredown.tasks.base import Task
from paredown.tasks.registry import TASKS, task_named

from .recipe.schema import Model
from .spelling import Where


@dataclass(frozen=True)
class Start:
    """What the steps of a model start from."""

    checkpoint: Checkpoint
    task: Task
    max_length: int
    unlabeled: bool  # whether there are unlabelled rows


def task_of(source: str, default: str | None = None) -> Task:
    """The task that a checkpoint, an exported model or a bundle is made for; of a checkpoint the first that its head
    fits. `default`: the name of the task where nothing says it. Raises InputError."""
    for file in (Path(source) / name for name in ("artifact.json", "manifest.json", "bundle/manifest.json")):
        if file.is_file():
            try:
                return task_named(json.loads(file.read_text(encoding="utf-8"))["task"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}: damaged; export it, or unpack the bundle, again") from None
    found = None
    try:
        if not Path(source).is_file():
            checkpoint = open_checkpoint(source)
            found = next((task for task in TASKS.values() if checkpoint.has_head(task)), None)
    except InputError:
        if default is None:
            raise
    if found is None and default is None:
        raise InputError(f"{source}: its task is not known; give it, or train a model: paredown finetune")
    return found or task_named(str(default))


def check_steps(model: Model, start: Start, where: Where) -> None:
    """InputError, which names the key as `where` does, for a step that its architecture, its layers, its teacher or the
    rows do not allow."""
    _check_kind(model, start.checkpoint.config.get("model_type", ""), where)
    _check_layers(model, start.checkpoint.depth, where)
    _check_lessons(model, start, where)


def with_depth(model: Model, depth: int) -> Iterator[tuple[str, Stage, int]]:
    """Each step of a model, by name, and how many layers it is given, at most; `depth`: the checkpoint's."""
    for entry in model.steps:
        stage, settings = entry.stage
        yield stage, settings, depth
        layers = getattr(settings, "layers", None)
        if isinstance(settings, Distill) and settings.student is not None:
            depth = open_checkpoint(settings.student).depth
        elif layers is not None:
            depth = layers if isinstance(layers, int) else len(layers)


def _check_kind(model: Model, kind: str, where: Where) -> None:
    """Distillation into some of the layers is not supported for convolutional networks."""
    for entry in model.steps:
        stage, settings = entry.stage
        if isinstance(settings, Distill) and settings.student is not None:
            kind = open_checkpoint(settings.student).config.get("model_type", "")
        elif kind in CONVOLUTIONAL and isinstance(settings, Distill):
            raise InputError(
                f"{where(stage)}: a student made of some of the layers is not supported for '{kind}'; give "
                f"{where('distill', 'student')}"
            )


def _check_layers(model: Model, checkpoint_depth: int, where: Where) -> None:
    """Every step keeps layers that the step before it has left; InputError otherwise."""
    for stage, settings, depth in with_depth(model, checkpoint_depth):
        layers = getattr(settings, "layers", None)
        if layers is None or (isinstance(settings, Distill) and settings.student is not None):
            continue
        fits = 1 <= layers <= depth if isinstance(layers, int) else layers == sorted({*layers} & {*range(depth)}) != []
        if not fits:
            raise InputError(
                f"{where(stage, 'layers')}: {layers} is not a choice of the {depth} layers there are then"
                f" (a number from 1, or an ascending list from 0 to {depth - 1})"
            )


def _check_lessons(model: Model, start: Start, where: Where) -> None:
    """A student from elsewhere opens, the losses inside the models are off when it splits text into other tokens, each
    architecture can be pruned so, and there are the rows that each step learns from."""
    checkpoint, task = start.checkpoint, start.task
    shares_tokens, narrowed, kind = True, False, checkpoint.config.get("model_type", "")
    for entry in model.steps:
        stage, settings = entry.stage
        if isinstance(settings, Distill) and settings.student is not None:
            student = open_checkpoint(settings.student).for_task(task)
            check_student(task, student, checkpoint, where(stage, "student"), start.max_length)
            shares_tokens = same_tokens(student, checkpoint)
            if shares_tokens and (settings.hidden_weight or settings.relation_weight):
                same_length(where(stage, "student"), checkpoint, student, start.max_length)
            narrowed, kind = True, student.config.get("model_type", "")
        narrowed = narrowed or (isinstance(settings, Distill) and settings.width is not None)
        try:
            check_pruning(kind, settings)
        except InputError as error:
            raise InputError(f"{where(stage)}: {error}") from None
        lesson = settings.recover if isinstance(settings, Prune) else settings
        if isinstance(lesson, DistillationTraining):
            _check_lesson(stage, lesson, shares_tokens, start.unlabeled, where)
        if isinstance(settings, Prune) and settings.timed and narrowed:
            raise InputError(f"{where(stage)}: prune to a time works on the checkpoint's own width; give heads and ffn")


def _check_lesson(stage: str, lesson: DistillationTraining, shares_tokens: bool, unlabeled: bool, where: Where) -> None:
    if lesson.learn_from == "unlabeled" and not unlabeled:
        raise InputError(f"{where(stage)}: learn_from: unlabeled needs data.unlabeled")
    if not shares_tokens and (lesson.hidden_weight or lesson.relation_weight):
        raise InputError(
            f"{where(stage, 'student')}: another tokenizer or image processor than the checkpoint's; set hidden_weight "
            "and relation_weight to 0"
        )
