"""What a step's key says about the code that it runs: versions of libraries, and digests of our own files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from ..export.machine import RUNTIME_PACKAGES, version


@cache
def digest_of(pattern: str) -> str:
    """sha256 of our own files that match, below the package."""
    total = hashlib.sha256()
    paths = sorted(Path(__file__).resolve().parent.parent.glob(pattern))
    if not paths:
        raise ValueError(f"no file of ours matches {pattern}: the keys of the steps would not follow it")
    for path in paths:
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def code_of(*folders: str) -> dict:
    """Versions of what the step runs, and of our own code in the rooms that it uses."""
    versions = {name: version(name) for name in (*RUNTIME_PACKAGES, "torch-pruning", "accelerate", "peft")}
    return {
        "versions": versions,
        "code": {folder: digest_of(f"{folder}/*.py") for folder in folders} | {"work": digest_of("pipeline/work.py")},
    }
