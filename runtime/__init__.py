"""Runs a bundle on a device: numpy, tokenizers (or Pillow) and one runtime. Bundles carry a copy, paredown_bundle."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`Model`, opened only where it is asked for: it needs numpy and a tokenizer."""
    if name == "Model":
        from .model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
