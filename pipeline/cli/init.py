"""`paredown init`: the recipe of `paredown compress`, short, or with every field explained."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import yaml
from pydantic import BaseModel

from paredown.compress.data import dataset
from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import divided
from paredown.compress.models.loading import open_checkpoint
from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

from ..data_summary import summary
from ..recipe.schema import Data, Recipe, Step
from ..store import write_atomic
from ..whole_job import WholeJob, fitting_length, name_of


def write_recipe(out: Path, checkpoint: str, data: Data, task: Task, *, full: bool = False) -> tuple[str, ...]:
    """Check the inputs and write a recipe for them to `out`; paths in it are relative to it. Raises InputError.

    `full`: with every field. Returns notes on the data: what it is (`summary`), what a run of it leaves out and holds
    out.
    """
    found = open_checkpoint(checkpoint, task)
    read = partial(read_rows, task, text=data.text, label=data.label, names=found.labels)
    given = (read(data.train), read(data.validation), read(data.test) if data.test else None)
    for rows in given:
        if rows is not None:
            dataset.require_two_classes(rows, found.labels)
    more = None
    if data.unlabeled:
        more = dataset.read_unlabeled(data.unlabeled, columns=task.columns, text=data.text, label=data.label)
    apart = divided(*given, more)
    splits = {name: getattr(data, name) for name in ("train", "validation", "test", "unlabeled")}
    paths = {name: _beside(source, out) for name, source in splits.items() if source is not None}
    paths |= {key: name for key, name in (("text", data.text), ("label", data.label)) if name is not None}
    length = fitting_length(found, given[0].texts)
    seen = summary(found, task, {"train": given[0], "validation": apart.validation, "test": apart.test}, length)
    job = WholeJob(_beside(checkpoint, out), paths, task=task.name, max_length=length)
    recipe = job.recipe(name=name_of(checkpoint), **job.models())
    body = _lines(recipe, 0) if full else _short(recipe)
    head = f"# A recipe for paredown; run it: paredown run {out.name}\n"
    head += "# Every field is here with its default.\n" if full else "# All other fields: paredown init --full.\n"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot write there: {error.strerror}; choose another --output") from None
    write_atomic(out, head + "\n".join(body) + "\n")
    return (*seen, *apart.notes)


def _short(recipe: Recipe) -> list[str]:
    """The fields that are not at their default, each top-level one under its description."""
    given, lines = recipe.model_dump(mode="json", exclude_defaults=True), []
    given |= {"choose": {"max_drop": recipe.choose.max_drop}}
    for name in given:
        text = yaml.safe_dump({name: given[name]}, sort_keys=False, allow_unicode=True, width=1000)
        lines += ["", f"# {Recipe.model_fields[name].description}", *text.splitlines()]
    return lines


def _lines(part: BaseModel, indent: int) -> list[str]:
    """The fields of a settings object as YAML, each under its description."""
    space, lines = " " * indent, []
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(part, Step) and value is None:
            continue
        comment = f"{space}# {field.description}" if field.description else None
        if isinstance(value, BaseModel):
            inner = _lines(value, indent + 2)
            empty = " {}" if all(line.lstrip().startswith("#") for line in inner) else ""
            lines += [*filter(None, [comment]), f"{space}{name}:{empty}", *inner]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            lines += [*filter(None, [comment]), f"{space}{name}:"]
            for item in value:
                lines += _item(item, indent + 2)
        elif value is None:
            lines.append(f"{space}# {name}:  # {field.description}")
        else:
            lines.append(f"{space}{name}: {_scalar(value)}" + (f"  # {field.description}" if field.description else ""))
        if indent == 0:
            lines.append("")
    return lines


def _item(item: BaseModel, indent: int) -> list[str]:
    values = item.model_dump()
    if all(not isinstance(value, list | dict) for value in values.values()):
        return [f"{' ' * indent}- {{{', '.join(f'{key}: {_scalar(value)}' for key, value in values.items())}}}"]
    lines = _lines(item, indent + 2)
    first = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
    lines[first] = lines[first][:indent] + "- " + lines[first][indent + 2 :]
    return lines


def _scalar(value: object) -> str:
    """A value as YAML: plain where that reads back as the same, quoted otherwise."""
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _beside(source: str, out: Path) -> str:
    """A path that exists, relative to the recipe; a hub name as it is. UnicodeEncodeError where UTF-8 lacks it."""
    source.encode()
    if not Path(source).exists():
        return source
    relative = os.path.relpath(Path(source).resolve(), out.resolve().parent)
    return relative if relative.startswith(".") else f"./{relative}"
