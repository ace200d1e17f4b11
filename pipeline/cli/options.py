"""Options of commands, made of the fields of settings: name, type, range, default and description are written once.

A parameter `settings: Annotated[Finetune, fields("epochs", "batch_size", epochs=3.0)]` of a command under
`@with_options` is one option for each named field, and the command receives the settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paredown.runtime.errors import InputError

from ..spelling import checked, option


@dataclass(frozen=True)
class Fields:
    """Fields of a settings model that a command has options for. `of`: the model, where the command takes the given
    values as a dictionary, to complete them first."""

    names: tuple[str, ...]
    of: type[BaseModel] | None
    help: Mapping[str, str]  # where the description of the field does not fit the command
    spelled: Mapping[str, str]  # names of options, where they are not the field's
    defaults: Mapping[str, Any]  # where they are not the field's; None: not given, ...: required


def fields(
    *names: str,
    of: type[BaseModel] | None = None,
    help: Mapping[str, str] | None = None,
    spelled: Mapping[str, str] | None = None,
    **defaults: Any,
) -> Fields:
    return Fields(names, of, help or {}, spelled or {}, defaults)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its `Fields` in the place of these parameters."""
    hints, parameters = get_type_hints(command, include_extras=True), []
    groups: dict[str, tuple[type[BaseModel], Fields]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        found = [part for part in getattr(hints[name], "__metadata__", ()) if isinstance(part, Fields)]
        if not found:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        model = found[0].of or get_args(hints[name])[0]
        groups[name] = model, found[0]
        parameters += [_parameter(model.model_fields[field], field, found[0]) for field in found[0].names]

    @wraps(command)
    def run(**values: Any) -> None:
        for name, (model, group) in groups.items():
            given = {field: _value(model.model_fields[field], field, values.pop(field)) for field in group.names}
            values[name] = given if group.of else checked(model, given, partial(_option, group.spelled))
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option(spelled: Mapping[str, str], stage: str, key: str = "", /) -> str:
    return spelled.get(key) or option(stage, key)


def _parameter(field: FieldInfo, name: str, group: Fields) -> inspect.Parameter:
    default = group.defaults.get(name, ... if field.is_required() else field.get_default())
    kind = _plain(field.annotation)
    text = group.help.get(name) or f"{field.description or name}{_range(field)}."
    names = [group.spelled[name]] if name in group.spelled else []
    info = typer.Option(*names, help=text[0].upper() + text[1:])
    annotation = Annotated[kind | None, info] if default is None else Annotated[kind, info]
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain(annotation: Any) -> Any:
    """What a value is on the command line: a list of numbers is a text with commas, settings go by their `kind`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [_plain(part) for part in get_args(annotation) if part is not type(None)]
        return next((kind for kind in kinds if kind is str or get_origin(kind) is Literal), kinds[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _plain(annotation.model_fields["kind"].annotation)
    if get_origin(annotation) in (list, tuple):
        return str if _plain(get_args(annotation)[0]) is int else list[str]
    return annotation


def _range(field: FieldInfo) -> str:
    """The least and the largest value of a field, in words, where its description has none. `checked` holds them: its
    error has the value that was given."""
    union = get_origin(field.annotation) in (Union, UnionType)
    inside = [part for part in get_args(field.annotation) if union and get_origin(part) is Annotated]
    entries = [*field.metadata, *(entry for part in inside for entry in get_args(part)[1].metadata)]
    low, high = (next((getattr(e, kind) for e in entries if hasattr(e, kind)), None) for kind in ("ge", "le"))
    if (low is None and high is None) or any(sign in (field.description or "") for sign in ("(", "..", "0 to 1")):
        return ""
    if low is None or high is None:
        return f" (at least {low:g})" if high is None else f" (at most {high:g})"
    return f" ({low:g} to {high:g})" if high < 2**31 else f" (at least {low:g})"


def _value(field: FieldInfo, name: str, given: Any) -> Any:
    """An option's value as its field takes it."""
    union = get_origin(field.annotation) in (Union, UnionType)
    parts = get_args(field.annotation) if union else (field.annotation,)
    if not isinstance(given, str) or str in parts:
        return given
    if any(isinstance(part, type) and issubclass(part, BaseModel) for part in parts):
        return {"kind": given}
    if any(get_origin(part) is list for part in parts):
        found = numbers(f"--{name.replace('_', '-')}", given)
        return [found] if isinstance(found, int) and int not in parts else found
    return given


def numbers(option: str, given: str) -> int | list[int]:
    """A number, or numbers with commas between them."""
    try:
        return int(given) if "," not in given else [int(part) for part in given.split(",")]
    except ValueError:
        raise InputError(f"{option} {given}: a number such as 3, or a list such as 0,2,5") from None
