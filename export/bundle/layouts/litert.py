"""The files of an application that runs a LiteRT model.

https://ai.google.dev/edge/litert/inference
"""

from __future__ import annotations

from pathlib import Path

from .on_device import Application, write_application

LITERT = Application(
    runtime="litert",
    layout="litert",
    model="model.tflite",
    kind="A LiteRT model",
    needs="It needs LiteRT's own operators alone.",
    content="the model; `length_N` is its signature for N tokens, `length_0` of images",
    calls="Inputs of a signature, by name:",
    integers="int32",
)


def to_litert(bundle: Path, out: Path) -> None:
    """See `write_application`."""
    write_application(bundle, out, LITERT)
