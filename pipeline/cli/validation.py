"""Command-line values to settings."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from paredown.runtime.errors import InputError

Kind = TypeVar("Kind", bound=BaseModel)


def checked(kind: type[Kind], values: dict) -> Kind:
    """Settings from command-line values, None where an option was not given; InputError names the option."""
    try:
        return kind.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:  # several options together
            raise InputError(problem["msg"].removeprefix("Value error, ")) from None
        names = [part for part in problem["loc"] if isinstance(part, str)]
        option = "--" + names[-1].replace("_", "-")  # of a budget: its own name
        raise InputError(f"{option}: {problem['msg']} (given: {problem['input']!r})") from None
