"""Reads and checks a recipe file; an error names the file, the line and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from paredown.compress.config import Augment
from paredown.compress.data.readers import READERS
from paredown.runtime.errors import InputError, nearest

from ..progress import tell
from .schema import ONE, SEVERAL, Adapt, Recipe, Step

SIZE_LIMIT = 1_000_000  # bytes; a recipe is a page of text
RENAMED = {"looks": "evaluations_per_epoch"}  # former names of keys (the table in docs/compression.md)
LABELLED_BY = ("class_weights",)  # whose keys are labels
PATHS = ("new", "new_validation", "new_test", "synonyms", "masked_model")  # keys of adapt's steps that name a file


def read_recipe(path: Path, base: Path | None = None) -> Recipe:
    """Read and check a recipe; data and checkpoint paths become absolute. InputError names file, line and key.

    `base`: directory that paths are relative to (None: the recipe's own)."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; write one with: paredown init CHECKPOINT --train F --validation F"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(raw) > SIZE_LIMIT:
        raise InputError(f"{path}: {len(raw)} bytes; a recipe is at most {SIZE_LIMIT}")
    try:
        text = raw.decode("utf-8")
        node = yaml.compose(text, Loader=_Plain)
        data = yaml.load(text, Loader=_Plain)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{path}{where}: not YAML: {reason}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: a mapping with 'checkpoint' and 'data' is expected")
    data = _renamed(path, data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(_first_error(path, node, error)) from None
    try:
        return _absolute(recipe, base or path.resolve().parent)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: a path in it cannot be used: {error}") from None


def _renamed(path: Path, data: Any) -> Any:
    """The content of a recipe with the present names of RENAMED keys; a note on stderr for each. InputError where both
    names are given."""
    if isinstance(data, list):
        return [_renamed(path, part) for part in data]
    if not isinstance(data, dict):
        return data
    found = {}
    for key, value in data.items():
        name = RENAMED.get(key, key)
        if name != key:
            if name in data:
                raise InputError(f"{path}: '{key}' and '{name}' are both given; '{key}' is the former name, remove it")
            tell([f"{path}: '{key}' is now called '{name}'; rename it"])
        found[name] = value if key in LABELLED_BY else _renamed(path, value)
    return found


def schema() -> str:
    """The recipe's JSON schema, as committed in recipes/schema.json."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"


class _Plain(yaml.SafeLoader):
    """SafeLoader that refuses aliases (an alias bomb is a page of text too) and repeated keys."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not allowed in a recipe", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _absolute(recipe: Recipe, base: Path) -> Recipe:
    def resolve(source: str | None) -> str | None:
        if source is None:
            return None
        looks_like_file = source.startswith((".", "~")) or Path(source).suffix.lower() in READERS
        here = base / Path(source).expanduser()
        return str(here.resolve()) if looks_like_file or here.exists() else source

    def step_of(step: Step) -> Step:
        if step.distill is None or step.distill.student is None:
            return step
        student = resolve(step.distill.student)
        return step.model_copy(update={"distill": step.distill.model_copy(update={"student": student})})

    def adapt_of(entry: Adapt) -> Adapt:
        stage, settings = entry.stage
        paths: dict = {name: resolve(getattr(settings, name)) for name in PATHS if hasattr(settings, name)}
        if isinstance(settings, Augment):
            paths["through"] = [resolve(name) for name in settings.through]
        return entry.model_copy(update={stage: settings.model_copy(update=paths)})

    data = {key: resolve(getattr(recipe.data, key)) for key in ("train", "validation", "test", "unlabeled")}
    return recipe.model_copy(
        update={
            "checkpoint": resolve(recipe.checkpoint),
            "teachers": [resolve(teacher) for teacher in recipe.teachers],
            "data": recipe.data.model_copy(update=data),
            "adapt": [adapt_of(entry) for entry in recipe.adapt],
            "models": [
                model.model_copy(update={"steps": [step_of(step) for step in model.steps]}) for model in recipe.models
            ],
        }
    )


def _first_error(path: Path, node: Any, error: ValidationError) -> str:
    """One line for the first problem: file, line, key, what was expected, the nearest key."""
    problem = error.errors(include_url=False)[0]
    location = [part for part in problem["loc"] if part not in ("[key]", ONE, SEVERAL)]
    line, model = _walk(node, location)
    key = ".".join(str(part) for part in location) or "recipe"
    where = f"{path}, line {line}: "
    if problem["type"] == "extra_forbidden":
        return f"{where}unknown key '{key}'; {nearest(str(location[-1]), model)}"
    if problem["type"] == "missing":
        return f"{where}key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{where}'{key}': {message[0].lower() + message[1:]}{shown}"


def _walk(node: Any, location: list) -> tuple[int, list[str]]:
    """The line of a location in the YAML, and the keys that are known where it ends."""
    line = node.start_mark.line + 1
    known: Any = Recipe
    siblings: list[str] = list(Recipe.model_fields)
    for part in location:
        if isinstance(part, int) and isinstance(node, yaml.SequenceNode) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            siblings = list(known.model_fields) if known is not None else []
            annotation = known.model_fields[part].annotation if known is not None and part in siblings else None
            known = _model_in(annotation)
            for key_node, value_node in node.value:
                if key_node.value == part:
                    line, node = key_node.start_mark.line + 1, value_node
                    break
    return line, siblings


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `list[Model]` or `Prune | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def resolved(recipe: Recipe) -> str:
    """The recipe with every default written out and every path absolute; it runs as it stands."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
