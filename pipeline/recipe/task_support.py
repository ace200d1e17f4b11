"""What a recipe may not ask for, task by task: ValueError says what, and what to give instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paredown.compress.config import Distill, Heal, Prune, Settings
from paredown.export.artifact import ON_GPU

if TYPE_CHECKING:
    from .schema import Recipe


def of_images(recipe: Recipe) -> None:
    """ValueError for what is about words."""
    words = [m.name for m in recipe.models if m.cascade or any(step.trim or step.static for step in m.steps)]
    if words:
        raise ValueError(f"models: '{words[0]}': cascades, static and trim are for tasks that read text")
    if recipe.lengths or recipe.explain_rows or any(entry.augment for entry in recipe.adapt):
        raise ValueError(f"lengths, explain_rows and augment are about words, and {recipe.task} has none")
    if any(target.runtime in ON_GPU for target in recipe.targets):
        raise ValueError("targets: images run on CPUs so far: onnxruntime, openvino")
    if _asks_for(recipe, "adversarial"):
        raise ValueError("adversarial: it pushes the embeddings of words, and images have none")


def of_vectors(recipe: Recipe) -> None:
    """What needs labels, or vectors of one space and width, is refused."""
    for model in recipe.models:
        for stage, settings in (step.stage for step in model.steps):
            lesson = settings.recover if isinstance(settings, Prune) else settings
            if isinstance(lesson, Heal) and lesson.label_weight:
                raise ValueError(
                    f"models: '{model.name}', {stage}: label_weight: a pair's number is not of one text; set it "
                    "to 0, or finetune afterwards"
                )
            if isinstance(settings, Distill) and settings.width is not None:
                raise ValueError(
                    f"models: '{model.name}', {stage}: width: the vectors of {recipe.task} are as wide as the hidden "
                    "state, and the student's have to be as wide as the teacher's; cut layers, heads or ffn"
                )
    if recipe.teachers:
        raise ValueError(f"teachers: two models' vectors are not of one space, so {recipe.task} takes one teacher")
    other = next((entry.stage[0] for entry in recipe.adapt if entry.finetune is None), None)
    if other is not None:
        raise ValueError(f"adapt: {other} is for rows of one text, and those of {recipe.task} are pairs; finetune is")


def of_texts(recipe: Recipe) -> None:
    """ValueError for what models that write are not known to."""
    for key in ("search", "teachers", "lengths"):
        if getattr(recipe, key):
            raise ValueError(f"{key}: not for {recipe.task}; leave it out")
    for where, steps, known in (
        ("adapt", recipe.adapt, ("finetune",)),
        *((f"models: '{model.name}'", model.steps, ("finetune", "distill")) for model in recipe.models),
    ):
        other = next((step.stage[0] for step in steps if step.stage[0] not in known), None)
        if other is not None:
            raise ValueError(f"{where}: {other} does not know models that write; {' and '.join(known)} do")


def of_continuations(recipe: Recipe) -> None:
    """ValueError for what models that go on with texts are not known to."""
    steps = {step.stage[0] for model in recipe.models for step in model.steps}
    given = {
        "search": recipe.search is not None,
        "lengths": bool(recipe.lengths),
        "teachers": bool(recipe.teachers),
        "models: trim": "trim" in steps,
        "adapt: tune": any(entry.tune for entry in recipe.adapt),
        "adapt: update": any(entry.update for entry in recipe.adapt),
    }
    wrong = next((key for key, there in given.items() if there), None)
    if wrong is not None:
        raise ValueError(f"{wrong}: not for {recipe.task} (docs/tasks.md says what is)")


def _asks_for(part: object, key: str) -> bool:
    """Whether a key is set somewhere in settings, however deep."""
    if isinstance(part, Settings):
        return bool(getattr(part, key, None)) or any(_asks_for(value, key) for _, value in part)
    return isinstance(part, list) and any(_asks_for(value, key) for value in part)
