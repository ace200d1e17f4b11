"""What several layouts read of a manifest, or write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_labels(manifest: Mapping[str, Any], out: Path) -> None:
    """OUT/labels.txt: the labels in the order of the outputs, one a line."""
    lines = "".join(f"{' '.join(label.split())}\n" for label in manifest["labels"])
    (out / "labels.txt").write_text(lines, encoding="utf-8")


def only_length(manifest: Mapping[str, Any]) -> int | None:
    """The one length in tokens that the model takes; None where it takes several, or any."""
    lengths = manifest["length_policy"]["pad_to"]
    return lengths[0] if isinstance(lengths, list) and len(lengths) == 1 else None
