"""The files of an application that runs an ExecuTorch program.

https://docs.pytorch.org/executorch/stable/using-executorch-cpp.html
"""

from __future__ import annotations

from pathlib import Path

from .on_device import Application, write_application

EXECUTORCH = Application(
    runtime="executorch",
    layout="executorch",
    model="model.pte",
    kind="An ExecuTorch program",
    needs="It needs the XNNPACK backend, and the operators of `kernels/portable` or `kernels/optimized`.",
    content="the program: the method `forward`; `input_names` and `output_names` return its names",
    calls="Inputs of `forward`, by position:",
    integers="int64",
    least=2,
)


def to_executorch(bundle: Path, out: Path) -> None:
    """See `write_application`."""
    write_application(bundle, out, EXECUTORCH)
