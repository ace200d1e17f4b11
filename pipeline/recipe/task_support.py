"""Which features a recipe uses, each with the key that asks for it: its task says whether it supports them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from paredown.compress.config import Distill, DistillationTraining, Prune, Settings
from paredown.export.runtimes.registry import RUNTIMES
from paredown.tasks.base import Feature

from ..spelling import Where, in_adapt, in_recipe

STAGES = {
    "prune": Feature.PRUNE,
    "trim": Feature.TRIM,
    "truncate": Feature.TRUNCATE,
    "static": Feature.STATIC,
    "augment": Feature.AUGMENT,
    "tune": Feature.TUNE,
    "update": Feature.UPDATE,
}
KEYS = {
    "search": Feature.SEARCH,
    "teachers": Feature.TEACHERS,
    "lengths": Feature.LENGTHS,
    "explain_rows": Feature.EXPLAIN,
    "max_new_tokens": Feature.MAX_NEW_TOKENS,
}


class Recipe(Protocol):
    """What is asked of a recipe here."""

    @property
    def models(self) -> Sequence[Any]: ...
    @property
    def adapt(self) -> Sequence[Any]: ...
    @property
    def targets(self) -> Sequence[Any]: ...


def features_of(recipe: Recipe) -> Iterator[tuple[str, Feature]]:
    """(where the recipe asks for it, the feature)."""
    for model in recipe.models:
        if model.cascade is not None:
            yield f"models: '{model.name}'", Feature.CASCADE
        for stage, settings in (step.stage for step in model.steps):
            yield from features_of_stage(stage, settings, in_recipe(model.name))
    for entry in recipe.adapt:
        stage, settings = entry.stage
        yield from features_of_stage(stage, settings, in_adapt)
    for key, feature in KEYS.items():
        if getattr(recipe, key):
            yield key, feature
    if any(RUNTIMES[target.runtime].SPEC.gpu for target in recipe.targets):
        yield "targets", Feature.GPU


def features_of_stage(stage: str, settings: object, where: Where) -> Iterator[tuple[str, Feature]]:
    """(where the stage asks for it, the feature); `stage`: its name."""
    if stage in STAGES:
        yield where(stage), STAGES[stage]
    if _asks_for(settings, "adversarial"):
        yield where(stage, "adversarial"), Feature.ADVERSARIAL
    lesson = settings.recover if isinstance(settings, Prune) else settings
    if isinstance(lesson, DistillationTraining) and lesson.label_weight:
        yield where(stage, "label_weight"), Feature.LABEL_WEIGHT
    if isinstance(settings, Distill) and settings.width is not None:
        yield where(stage, "width"), Feature.WIDTH


def _asks_for(part: object, key: str) -> bool:
    """Whether a key is set somewhere in settings, however deep."""
    if isinstance(part, Settings):
        return bool(getattr(part, key, None)) or any(_asks_for(value, key) for _, value in part)
    return isinstance(part, list) and any(_asks_for(value, key) for value in part)
