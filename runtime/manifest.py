"""Reads, checks and writes manifest.json of a bundle.

manifest_validator.py is generated from manifest.schema.json. Needs nothing but Python: the same files are copied into
every bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .manifest_validator import JsonSchemaValueException, validate
from .model_scan import check_model_file

MANIFEST = "manifest.json"
SCHEMA = 3  # version of manifest.schema.json
DIGEST = "manifest.sha256"  # of the manifest's bytes, as sha256sum writes it: the manifest has the hashes of the rest
SIGNATURE = "model.sig"  # optional
MANIFEST_LIMIT = 10**7  # bytes
SCHEMA_FILE = Path(__file__).with_name("manifest.schema.json")
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what reading wrong JSON ends in


class BundleError(Exception):
    """The bundle is not what it says it is; the message says where."""


def read_manifest(bundle: Path) -> dict:
    """manifest.json of an unpacked bundle; BundleError when it is missing, damaged or of another schema."""
    path = bundle / MANIFEST
    raw = _read(path)
    try:
        manifest = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
        version = manifest["schema"]
    except DAMAGED:
        raise BundleError(f"{path}: damaged") from None
    if type(version) is not int or version != SCHEMA:
        raise BundleError(
            f"{path}: schema {version!r}, this program reads {SCHEMA}; pack it again with this version of paredown"
        )
    if _read(bundle / DIGEST) != digest_line(raw):
        raise BundleError(f"{path}: its sha256 is not that of {DIGEST}; one of the two was changed")
    try:
        validate(manifest, name_prefix="manifest")
    except JsonSchemaValueException as error:
        raise BundleError(f"{path}: {error} (schema {SCHEMA})") from None
    for name in manifest["files"]:
        inside(name)
    reader = "preprocessor_config.json" if "pixel_values" in manifest["inputs"] else "tokenizer.json"
    for name in (*models_of(manifest), manifest["golden"], reader):
        if inside(name) not in manifest["files"]:
            raise BundleError(f"{path}: {name!r:.200} is not among its files")
    return manifest


def models_of(manifest: dict) -> list[str]:
    """The files that the runtime opens: one, or encoder and decoder of a text-to-text model."""
    rules = manifest.get("generation", {})
    return [manifest["model"], *([rules["decoder"]] if "decoder" in rules else [])]


def digest_line(raw: bytes) -> bytes:
    """The content of manifest.sha256 for a manifest's bytes; `sha256sum -c manifest.sha256` reads it."""
    return f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n".encode()


def write_manifest(bundle: Path, manifest: dict) -> None:
    """Write manifest.json and manifest.sha256."""
    raw = (json.dumps(manifest, indent=2) + "\n").encode()
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / DIGEST).write_bytes(digest_line(raw))


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(name: str) -> str:
    """The name, when it is a plain relative path that stays in its directory; BundleError otherwise."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or path.as_posix() != name or {"\\", "\0"} & set(name):
        raise BundleError(f"{MANIFEST}: {name!r:.200} is not a path inside the bundle")
    return name


def check_files(bundle: Path, manifest: dict, cache: Path | None = None) -> None:
    """Every file of the manifest is there, regular, of the right size and sha256, and nothing else is; the model
    refers to no others. No runtime has opened anything when this has passed. `cache`: a directory that is left out."""
    expected = manifest["files"]
    found = {path.relative_to(bundle).as_posix(): path for path in _files_in(bundle, cache)}
    for name in (MANIFEST, DIGEST):
        found.pop(name, None)
    if SIGNATURE in found and not found[SIGNATURE].is_symlink():
        found.pop(SIGNATURE)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise BundleError(f"{_shown(name)}: missing")
        if name not in expected:
            raise BundleError(f"{_shown(name)}: not in the manifest; remove it")
        path, entry = found[name], expected[name]
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{_shown(name)}: not a regular file")
        if path.stat().st_size != entry["bytes"]:
            raise BundleError(f"{_shown(name)}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
        if sha256_of(path) != entry["sha256"]:
            raise BundleError(f"{_shown(name)}: its sha256 is not the manifest's; the file was changed")
    for name in models_of(manifest):
        try:
            check_model_file(bundle / name, manifest["runtime"])
        except ValueError as error:
            raise BundleError(f"{_shown(name)}: {error}") from None


def _files_in(bundle: Path, cache: Path | None) -> Iterator[Path]:
    """Everything but directories, links to directories too."""

    def refuse(error: OSError) -> None:
        raise BundleError(f"{error.filename}: {error.strerror}")

    for folder, folders, names in os.walk(bundle, onerror=refuse):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if here / name != cache]
        yield from (here / name for name in (*links, *names))


def _shown(name: str) -> str:
    """The name, as it may go to a terminal: in quotes where it holds what is no printable character."""
    return name if name.isprintable() else ascii(name)


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > MANIFEST_LIMIT:
            raise BundleError(f"{path}: more than {MANIFEST_LIMIT / 1e6:g} MB")
        return path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file; is this a bundle?") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
