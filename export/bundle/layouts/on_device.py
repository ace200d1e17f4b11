"""What the layouts `mobile`, `executorch` and `litert` share: the files of an application on a device."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PIXELS, reader_file
from paredown.runtime.selftest import open_encoder
from paredown.tasks.registry import task_named

from .common import only_length, write_labels

README = """# {name}

{kind} for {task}, {precision}, made by paredown. {needs}

| file | content |
| --- | --- |
| `{model}` | {content} |
| `{reader}` | {reader_content} |
| `labels.txt` | the labels, in the order of the outputs, one a line |
| `golden.json` | rows with their text, token ids and outputs, to compare on the device; `tolerance`: of an output |

{calls}

{inputs}

Output: `{output}`, float32, ({dims}).

{padding}
"""


@dataclass(frozen=True)
class Application:
    """A runtime's part of the README."""

    runtime: str
    layout: str
    model: str  # file name
    kind: str  # of file
    needs: str  # a sentence: what runs it
    content: str  # of the model file
    calls: str  # how inputs are given
    integers: str  # dtype of token ids
    least: int = 1  # tokens of a row


Place = Callable[[Path, Path], object]  # puts a model's file, the first, where the second says


def write_application(bundle: Path, out: Path, of: Application, place: Place = shutil.copyfile) -> None:
    """OUT/model.*, tokenizer.json or preprocessor_config.json, labels.txt, golden.json and README.md.

    InputError for a bundle of another runtime, or of a model that generates text.
    """
    manifest = read_manifest(bundle)
    if manifest["runtime"] != of.runtime:
        raise InputError(
            f"layout {of.layout}: for {of.runtime} bundles, not {manifest['runtime']}; add the target {{runtime: "
            f"{of.runtime}}} to the recipe, run it, and pack that candidate: paredown choose RUN --candidate NAME"
        )
    if "generation" in manifest:
        raise InputError(f"layout {of.layout}: an application calls one model once; this one goes token by token")
    reader = reader_file(manifest["inputs"])
    place(bundle / manifest["model"], out / of.model)
    for source, name in ((reader, reader), (manifest["golden"], "golden.json")):
        shutil.copyfile(bundle / source, out / name)
    write_labels(manifest, out)
    (out / "README.md").write_text(_readme(manifest, of, open_encoder(bundle, manifest).shape), encoding="utf-8")


def _readme(manifest: Mapping[str, Any], of: Application, image: tuple[int, ...]) -> str:
    """`image`: its (channels, height, width); () of text."""
    rows, padded_to = manifest["batch_size"] or "rows", manifest["length_policy"]["pad_to"]
    most, images = manifest["max_length"], PIXELS in manifest["inputs"]
    length = only_length(manifest) or "length"
    dtype, size = ("float32", ", ".join(map(str, image))) if images else (of.integers, length)
    meaning = {
        "input_ids": f"token ids, truncated to {most}",
        "attention_mask": "1 for a token, 0 for padding",
        PIXELS: "pixels, scaled as preprocessor_config.json says",
    }
    inputs = "\n".join(
        f"{i}. `{name}`, {dtype}, ({rows}, {size}): {meaning[name]}" for i, name in enumerate(manifest["inputs"])
    )
    dims = task_named(manifest["task"]).output_dims(-1, len(manifest["labels"]))
    pad = f"Padding, on the right: id {manifest['pad_id']} in `input_ids`, 0 in `attention_mask`."
    if images:
        pad = "There is no padding."
    elif isinstance(length, int):
        pad += f" Every row is padded to {length} tokens."
    elif isinstance(padded_to, list):
        pad += f" Rows are padded to the next of {', '.join(map(str, padded_to))} tokens."
    else:
        pad += f" `length` is any number of tokens from {of.least} to {most}."
    if rows == "rows":
        pad += " `rows` is any number."
    return README.format(
        kind=of.kind,
        needs=of.needs,
        model=of.model,
        content=of.content,
        calls=of.calls,
        name=manifest["name"],
        task=manifest["task"],
        precision=manifest["precision"],
        reader=reader_file(manifest["inputs"]),
        reader_content="how an image becomes pixels" if images else "the tokenizer, of the library `tokenizers`",
        inputs=inputs,
        output=manifest["outputs"][0],
        dims=", ".join([str(rows), *(str(length) if size < 0 else str(size) for size in dims)]),
        padding=pad,
    )
