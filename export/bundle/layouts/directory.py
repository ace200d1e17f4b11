"""The bundle itself: as a directory, or as one archive."""

from __future__ import annotations

from pathlib import Path

from paredown.runtime.manifest import read_manifest

from ..archive import copy_tree, pack


def to_plain(bundle: Path, out: Path) -> None:
    """OUT is the bundle itself."""
    copy_tree(bundle, out)


def to_archive(bundle: Path, out: Path) -> None:
    """OUT/NAME.tar.gz, what `unpack` reads."""
    pack(bundle, out / f"{read_manifest(bundle)['name']}.tar.gz")
