"""The table of runtimes. Callers ask it; they never compare a runtime's name.

To add a runtime:

1. a module in this folder with `SPEC` and the four functions of `base.Runtime` (`common` has what most of them share),
2. its line in RUNTIMES,
3. if it runs in bundles: a function in `runtime/session.py` that opens it, and its record in `runtime/formats.py`,
4. tests: `tests/export/runtimes/test_registry.py` runs over the table, and its row in the table of docs/compression.md
   says which precisions are expected.

pyright checks each module against the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable

from paredown.runtime.errors import missing_extra

from ..hardware import importable
from . import (
    executorch,
    litert,
    onnxruntime,
    onnxruntime_cuda,
    onnxruntime_tensorrt,
    openvino,
    pytorch,
    tensorrt,
    tensorrt_rtx,
)
from .base import Runtime

RUNTIMES: dict[str, Runtime] = {
    "pytorch": pytorch,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "litert": litert,
    "onnxruntime-cuda": onnxruntime_cuda,
    "onnxruntime-tensorrt": onnxruntime_tensorrt,
    "tensorrt": tensorrt,
    "tensorrt_rtx": tensorrt_rtx,
}


def check_installed(distributions: Iterable[str]) -> None:
    """InputError that names the extra, where one of these distributions is missing that a model may need beyond the
    base install."""
    known = {runtime.SPEC.packages[0]: runtime.SPEC for runtime in RUNTIMES.values() if runtime.SPEC.packages}
    brought = {name: (spec.module, spec.extra) for name, spec in known.items()} | {"pillow": ("PIL", "images")}
    for name in distributions:
        module, extra = brought.get(name, ("", ""))
        if module and not importable(module):
            raise missing_extra(module, extra)
