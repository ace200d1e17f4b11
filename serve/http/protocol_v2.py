"""The Open Inference Protocol v2: JSON and Triton's binary tensor extension.

https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md
"""

from __future__ import annotations

import json
import math
import re
import struct
from itertools import chain
from typing import Any

import numpy as np

from ..errors import HTTPError
from .schemas import InferRequest, RequestInput, parse

HEADER_LENGTH = "Inference-Header-Content-Length"
NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def decode(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, np.ndarray]]:
    """A request and its inputs by name, in their shape; BYTES are objects of bytes. HTTPError 400 where bytes do not
    fit the JSON.
    """
    head, tail = body, b""
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,12}", header_length) or int(header_length) > len(body):
            raise HTTPError(400, f"{HEADER_LENGTH}: {header_length!r} does not fit a body of {len(body)} bytes")
        head, tail = body[: int(header_length)], body[int(header_length) :]
    request = parse(InferRequest, head)
    values: dict[str, np.ndarray] = {}
    place = 0
    for tensor in request.inputs:
        size = (tensor.parameters or {}).get("binary_data_size")
        if tensor.name in values:
            raise HTTPError(400, f"inputs: '{tensor.name}' is there twice")
        if size is None:
            values[tensor.name] = _from_json(tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - place:
            raise HTTPError(400, f"{tensor.name}: binary_data_size {size!r}, but {len(tail) - place} bytes are left")
        if tensor.data is not None:
            raise HTTPError(400, f"{tensor.name}: either data or binary_data_size, not both")
        values[tensor.name] = _from_bytes(tensor, tail[place : place + size])
        place += size
    if place != len(tail):
        raise HTTPError(400, f"{len(tail) - place} bytes after the last tensor")
    return request, values


def _from_json(tensor: RequestInput) -> np.ndarray:
    data, shape, kind = tensor.data, tensor.shape, tensor.datatype
    if data is None:
        raise HTTPError(400, f"{tensor.name}: neither data nor binary_data_size")
    if data and isinstance(data[0], list):  # nested as the shape says, or flat
        fits = len(shape) > 0 and len(data) == shape[0]
        for length in shape[1:]:
            fits = fits and all(isinstance(part, list) and len(part) == length for part in data)
            data = list(chain.from_iterable(data)) if fits else data
        if not fits:
            raise HTTPError(400, f"{tensor.name}: data is not nested as its shape {shape} says")
    if len(data) != math.prod(shape):
        raise HTTPError(400, f"{tensor.name}: shape {shape} does not fit {len(data)} values")
    if kind == "BYTES":
        if not all(isinstance(value, str) for value in data):
            raise HTTPError(400, f"{tensor.name}: BYTES are JSON strings")
        return _shaped(tensor, np.array([value.encode() for value in data], dtype=object))
    allowed = (bool,) if kind == "BOOL" else (int, float) if kind.startswith("FP") else (int,)
    if not all(type(value) in allowed for value in data):
        raise HTTPError(400, f"{tensor.name}: a value is not {kind}")
    try:
        with np.errstate(over="ignore"):
            return _shaped(tensor, np.array(data, dtype=NUMPY[kind]))
    except OverflowError:
        raise HTTPError(400, f"{tensor.name}: a value does not fit {kind}") from None


def _from_bytes(tensor: RequestInput, raw: bytes) -> np.ndarray:
    count, kind = math.prod(tensor.shape), tensor.datatype
    if kind != "BYTES":
        item = np.dtype(NUMPY[kind])
        if len(raw) != count * item.itemsize:
            raise HTTPError(400, f"{tensor.name}: {len(raw)} bytes do not fit {kind} of shape {tensor.shape}")
        if kind == "BOOL":
            return _shaped(tensor, np.frombuffer(raw, "u1") != 0)
        return _shaped(tensor, np.frombuffer(raw, item))
    values, place = [], 0
    while place + 4 <= len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        place += 4
        if size > len(raw) - place:
            raise HTTPError(400, f"{tensor.name}: element {len(values)} is longer than the bytes that are left")
        values.append(raw[place : place + size])
        place += size
    if place != len(raw) or len(values) != count:
        raise HTTPError(400, f"{tensor.name}: {len(values)} elements in the bytes, shape {tensor.shape}")
    return _shaped(tensor, np.array(values, dtype=object))


def _shaped(tensor: RequestInput, values: np.ndarray) -> np.ndarray:
    """The values in the tensor's shape; numpy has limits of its own, also for an array that is empty."""
    try:
        return values.reshape(tensor.shape)
    except ValueError:
        raise HTTPError(400, f"{tensor.name}: no array has the shape {tensor.shape}") from None


def encode(
    head: dict[str, Any], outputs: list[tuple[str, str, np.ndarray | list[str], list[int]]], binary: set[str]
) -> tuple[bytes, int | None]:
    """A reply: `head`, then `outputs` as (name, datatype, values, shape), those in `binary` as raw little-endian bytes.

    Returns the body and the length of its JSON, None when all of it is JSON. ValueError for a number not finite.
    """
    entries, tail = [], []
    for name, datatype, values, shape in outputs:
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in binary:
            raw = _pack(values) if isinstance(values, list) else values.astype(NUMPY[datatype]).tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = values if isinstance(values, list) else values.ravel().tolist()
        entries.append(entry)
    body = json.dumps({**head, "outputs": entries}, allow_nan=False, separators=(",", ":")).encode()
    return (b"".join([body, *tail]), len(body)) if tail else (body, None)


def _pack(texts: list[str]) -> bytes:
    parts = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def binary_outputs(request: InferRequest, names: list[str]) -> tuple[list[str], set[str]]:
    """The outputs that a request wants, in its order, and which of them as bytes. HTTPError 400 for an unknown one."""
    default = (request.parameters or {}).get("binary_data_output") is True
    if not request.outputs:
        return names, set(names) if default else set()
    wanted, binary = [], set()
    for output in request.outputs:
        if output.name not in names or output.name in wanted:
            raise HTTPError(400, f"outputs: '{output.name}' is unknown or there twice; known: {', '.join(names)}")
        parameters = output.parameters or {}
        unknown = parameters.keys() - {"binary_data"}
        if unknown:
            raise HTTPError(400, f"outputs: {output.name}: '{min(unknown)}' is not supported here")
        wanted.append(output.name)
        if parameters.get("binary_data", default) is True:
            binary.add(output.name)
    return wanted, binary
