"""The code part of a step's key: versions of libraries and digests of our own files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from paredown.export.hardware import RUNTIME_PACKAGES, version

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("runtime", "tasks")  # the floors below all others
STAGES = ("inputs", "steps/compress", "steps/stages")  # our own modules that make models and artefacts


@cache
def digest_of(pattern: str) -> str:
    """sha256 of our own files that match the glob `pattern`, below the package. ValueError where none does."""
    total = hashlib.sha256()
    paths = sorted(ROOT.glob(pattern))
    if not paths:
        raise ValueError(f"no file of paredown matches {pattern}: the keys of the steps would not follow it")
    for path in paths:
        total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def code_of(*folders: str) -> dict:
    """Versions of the libraries that the step runs, and digests of our own code in the folders that it uses."""
    versions = {name: version(name) for name in (*RUNTIME_PACKAGES, "torch-pruning", "accelerate", "peft")}
    code = {folder: digest_of(f"{folder}/**/*.py") for folder in (*ALWAYS, *folders)}
    code |= {name: digest_of(f"pipeline/{name}.py") for name in STAGES}
    return {"versions": versions, "code": code}
