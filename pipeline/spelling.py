"""How errors name what the user wrote: a key of a recipe, an option of a command, or an argument of a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from paredown.runtime.errors import InputError

Kind = TypeVar("Kind", bound=BaseModel)


class Where(Protocol):
    """The place of a stage, or of one of its keys, as the user wrote it."""

    def __call__(self, stage: str, key: str = "", /) -> str: ...


def in_recipe(model: str) -> Where:
    """Keys of the steps of a model in a recipe."""
    return lambda stage, key="": f"models: '{model}', {stage}" + (f".{key}" if key else "")


def in_adapt(stage: str, key: str = "", /) -> str:
    """Keys of a recipe's steps before compression."""
    return f"adapt: {stage}" + (f".{key}" if key else "")


def option(stage: str, key: str = "", /) -> str:
    """Options of the command of a stage."""
    return f"--{key.replace('_', '-')}" if key else f"paredown {stage}"


def argument(stage: str, key: str = "", /) -> str:
    """Arguments of the function of a stage."""
    return key or stage


def checked(kind: type[Kind], values: Mapping, where: Where = option) -> Kind:
    """Settings from single values, None where one was not given; InputError names the option or argument."""
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:  # several together
            raise InputError(problem["msg"].removeprefix("Value error, ")) from None
        names = [part for part in problem["loc"] if isinstance(part, str)]
        name = where("", names[-1])  # of a budget: its own name
        raise InputError(f"{name}: {problem['msg']} (given: {problem['input']!r})") from None
