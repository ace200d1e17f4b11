"""The model repository: bundles by name and version in the operator's directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from paredown.export.bundle.archive import unpacked
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import MANIFEST, read_manifest

from ..config import Settings

log = logging.getLogger("paredown")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
VERSION = re.compile("[1-9][0-9]{0,17}")
SUFFIX = ".tar.gz"


def find(settings: Settings) -> dict[str, dict[str, Path]]:
    """Bundles by name and version: the one of `settings.bundle`, or those in the directory `settings.models`, where
    NAME or NAME.tar.gz is a bundle (version 1), or NAME holds one per VERSION (a number). What cannot be read is said
    in the log. Raises InputError where there is none, BundleError for the one bundle.
    """
    if settings.bundle is not None:
        with unpacked(settings.bundle, settings.open_s) as path:
            manifest = read_manifest(path)
        return {manifest["name"]: {manifest["version"]: settings.bundle}}
    assert settings.models is not None
    if not settings.models.is_dir():
        raise InputError(f"--models {settings.models}: no such directory")
    found: dict[str, dict[str, Path]] = {}
    for entry in sorted(settings.models.iterdir()):
        name = entry.name.removesuffix(SUFFIX)
        if not NAME.fullmatch(name):
            continue
        try:
            for version, path in _versions(entry):
                found.setdefault(name, {})[version] = path
        except OSError as error:
            log.error("not readable", extra={"fields": {"path": str(entry), "reason": error.strerror}})
    if not found:
        raise InputError(f"--models {settings.models}: no bundle there; expected NAME or NAME/1, or their {SUFFIX}")
    return found


def measured_configuration(settings: Settings, bundle: Path) -> dict[str, int] | None:
    """`serving` of a bundle's manifest; None where it was not measured. Raises BundleError, InputError."""
    with unpacked(bundle, settings.open_s) as path:
        return read_manifest(path).get("serving")


def latest(versions: dict[str, Path]) -> str:
    return max(versions, key=int)


def size_mb(path: Path) -> float:
    """MB of a bundle on disk."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()) / 1e6


def _versions(entry: Path) -> Iterator[tuple[str, Path]]:
    if _is_bundle(entry):
        yield "1", entry
    elif entry.is_dir():
        for part in sorted(entry.iterdir()):
            number = part.name.removesuffix(SUFFIX)
            if VERSION.fullmatch(number) and _is_bundle(part):
                yield number, part


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path.name.endswith(SUFFIX) and path.is_file())
