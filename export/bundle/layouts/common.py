"""What several layouts read of a manifest, or write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError

PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*")


def write_labels(manifest: Mapping[str, Any], out: Path) -> None:
    """OUT/labels.txt: the labels in the order of the outputs, one a line."""
    lines = "".join(f"{' '.join(label.split())}\n" for label in manifest["labels"])
    (out / "labels.txt").write_text(lines, encoding="utf-8")


def only_length(manifest: Mapping[str, Any]) -> int | None:
    """The one length in tokens that the model takes; None where it takes several, or any."""
    lengths = manifest["length_policy"]["pad_to"]
    return lengths[0] if isinstance(lengths, list) and len(lengths) == 1 else None


def pinned_requirements(bundle: Path) -> str:
    """The bundle's requirements.txt, for what installs from it: text of strangers. InputError where a line is no name
    with a version."""
    requirements = (bundle / "requirements.txt").read_text(encoding="utf-8")
    wrong = [line for line in requirements.splitlines() if not PINNED.fullmatch(line)]
    if wrong:
        raise InputError(f"{bundle / 'requirements.txt'}: lines such as numpy==2.4.6 are expected, not {wrong[0]!r}")
    return requirements


def service_name(name: str) -> str:
    """A name that Kubernetes takes (RFC 1035): lower-case letters, digits and hyphens, the first one a letter."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    found = found if found[:1].isalpha() else f"model-{found}".rstrip("-")
    return found[:40].rstrip("-")
