"""paredown: fine-tuned checkpoints pruned, distilled, quantised, measured, selected and packed.

Importing it is light; torch and the rest are imported by the functions that need them. `paredown.compress` and
`paredown.export` are packages that can be called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

CALLABLE = ("compress", "export")  # sub-packages and functions of the same name
FUNCTIONS = ("run", "run_on_each", "prune", "distill", "quantize", "bench", "load_bundle")
TYPES = ("RunResult", "MachineResults", "Candidate", "CompressedModel", "ExportedModel", "BenchResult", "Bundle")
ERRORS = ("InputError", "StepError")

__all__ = [*CALLABLE, *FUNCTIONS, *TYPES, *ERRORS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in (*FUNCTIONS, *TYPES):
        return getattr(import_module("paredown.pipeline.api"), name)
    if name in CALLABLE:
        return import_module(f"paredown.{name}")
    if name in ERRORS:
        return getattr(import_module("paredown.runtime.errors"), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("paredown")
        except PackageNotFoundError:  # a copy of the sources that nobody installed
            return "unknown"
    raise AttributeError(f"module 'paredown' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """A sub-package that is called as the function of its name in `paredown.pipeline.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("paredown.pipeline.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the sub-package of this name be called; it calls this when it is imported."""
    sys.modules[name].__class__ = _CallablePackage
