"""Scans an ONNX file for external data and foreign operators, without a runtime and without `onnx`.

A runtime follows the paths of external data as soon as it opens a model (CVE-2024-27318, CVE-2025-51480), so they are
checked before. Needs nothing but Python: the same file is copied into every bundle.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .formats import FORMATS

# Operators that the runtimes bring themselves; anything else would need a native library, which is never loaded.
DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
     "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc"}
)  # fmt: skip
# Fields of onnx.proto that lead to tensors and nodes: message -> {field number: message}.
NESTED = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
# Identifiers of FlatBuffers files, behind the offset of their root: the suffix -> bytes 4 to 7.
# pytorch/executorch: schema/program.fbs; tensorflow/tensorflow: tensorflow/compiler/mlir/lite/schema/schema.fbs
IDENTIFIERS = {".pte": b"ET12", ".tflite": b"TFL3"}
DEPTH = 100  # protobuf's own limit


@dataclass
class Found:
    """What a model refers to."""

    opsets: dict[str, int] = field(default_factory=dict)  # version by domain
    locations: set[str] = field(default_factory=set)  # of external data, as written
    external: bool = False  # a tensor says that its data are elsewhere
    domains: set[str] = field(default_factory=set)  # of nodes
    functions: set[str] = field(default_factory=set)  # domains that the model itself defines
    operators: set[str] = field(default_factory=set)


def check_model_file(model: Path, runtime: str) -> None:
    """Raise ValueError when the file is not one that `runtime` may open: a foreign kind, external data that leave its
    directory or are no regular files, operators from a native library, another identifier than that of its format. The
    message does not name the file."""
    known = FORMATS.get(runtime)
    if known is not None and model.suffix not in known.suffixes:
        raise ValueError(f"{runtime} opens {' or '.join(known.suffixes)} files here")
    identifier = IDENTIFIERS.get(model.suffix)
    if identifier is not None:
        with model.open("rb") as file:
            if file.read(8)[4:] != identifier:
                raise ValueError(f"not a {model.suffix} file: '{identifier.decode()}' is expected at byte 4")
    if model.suffix != ".onnx":
        return
    found = scan(model)
    folder = model.parent.resolve()
    for name in sorted(found.locations):
        path = PurePosixPath(name)
        here = model.parent / name.replace("\0", "")
        plain = name and not path.is_absolute() and ".." not in path.parts and not {"\\", "\0", ":"} & set(name)
        if not plain or here.is_symlink() or not here.is_file() or not here.resolve().is_relative_to(folder):
            raise ValueError(
                f"external data at {name!r}, which is not a file in the model's directory; nothing was read"
            )
    if found.external and not found.locations:
        raise ValueError("a tensor's data are external, but it does not say where")
    foreign = sorted(found.domains - DOMAINS - found.functions)
    if foreign:
        raise ValueError(f"operators of {foreign[0]!r}, which come from a native library; paredown never loads one")
    if "EPContext" in found.operators:
        raise ValueError("it holds another runtime's compiled code (EPContext); export it again without")


def scan(model: Path) -> Found:
    """Everything an ONNX file refers to, subgraphs and functions included; ValueError when it is no ONNX file."""
    found = Found()
    with model.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ValueError("an empty file") from None
        _walk(memoryview(data), "model", found, 0)  # closed with its last slice
    if not found.opsets:
        raise ValueError("not an ONNX model: it names no opset")
    return found


def _walk(data: memoryview, kind: str, found: Found, depth: int) -> None:
    if depth > DEPTH:
        raise ValueError("not an ONNX model: nested too deeply")
    if kind == "opset":
        values = dict(_fields(data))
        number = values.get(2)
        found.opsets[_text(values.get(1, b""))] = number if isinstance(number, int) else 0
    elif kind == "external":
        values = dict(_fields(data))
        if _text(values.get(1, b"")) == "location":
            found.locations.add(_text(values.get(2, b"")))
    else:
        for number, value in _fields(data):
            if isinstance(value, int):
                found.external |= kind == "tensor" and number == 14 and value == 1
            elif number in NESTED[kind]:
                found.external |= kind == "tensor"
                _walk(value, NESTED[kind][number], found, depth + 1)
            elif kind == "node" and number == 7:
                found.domains.add(_text(value))
            elif kind == "node" and number == 4:
                found.operators.add(_text(value))
            elif kind == "function" and number == 10:
                found.functions.add(_text(value))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a message: int for varints, bytes for strings and messages."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        if not 8 <= tag < 2**32:  # a longer one is truncated by some readers, and would hide a field from this one
            raise ValueError("not an ONNX model: damaged")
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("not an ONNX model, or truncated")
            yield number, data[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise ValueError("not an ONNX model, or truncated")
        else:
            raise ValueError("not an ONNX model: damaged")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("not an ONNX model, or truncated")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("not an ONNX model: damaged")


def _text(value: int | memoryview | bytes) -> str:
    return "" if isinstance(value, int) else bytes(value).decode()  # UnicodeDecodeError is a ValueError
