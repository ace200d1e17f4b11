"""YAML that keeps its line numbers: what is refused in it, and which line a wrong key is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from ..compress.errors import nearest


class Plain(yaml.SafeLoader):
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


def first_error(path: Path, node: Any, model: type[BaseModel], error: ValidationError) -> str:
    """One line for the first problem: file, line, key, what was expected, the nearest key."""
    problem = error.errors(include_url=False)[0]
    location = [part for part in problem["loc"] if part != "[key]"]
    line, siblings = _walk(node, model, location)
    key = ".".join(str(part) for part in location) or "recipe"
    where = f"{path}, line {line}: "
    if problem["type"] == "extra_forbidden":
        return f"{where}unknown key '{key}'; {nearest(str(location[-1]), siblings)}"
    if problem["type"] == "missing":
        return f"{where}key '{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{where}'{key}': {message[0].lower() + message[1:]}{shown}"


def _walk(node: Any, known: Any, location: list) -> tuple[int, list[str]]:
    """The line of a location in the YAML, and the keys that are known where it ends."""
    line = node.start_mark.line + 1
    siblings: list[str] = list(known.model_fields)
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
