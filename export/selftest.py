"""Does this bundle arrive whole, fit this machine, and still compute the same? Run it: python selftest.py

Needs numpy, tokenizers and the bundle's runtime. paredown itself uses these functions for `paredown verify`, and
never runs the copy that came inside a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from pathlib import Path, PurePosixPath

import numpy as np

if __package__:
    from ..compress.encoder import Encoder
    from .session import Session, open_session
else:
    sys.dont_write_bytecode = True  # a bundle stays as it was packed
    from encoder import Encoder  # pyright: ignore[reportMissingImports]
    from session import Session, open_session  # pyright: ignore[reportMissingImports]

SCHEMA = 1
MANIFEST = "manifest.json"
KEYS = {
    "files": dict,
    "name": str,
    "version": str,
    "task": str,
    "runtime": str,
    "precision": str,
    "model": str,
    "golden": str,
    "outputs": list,
    "labels": list,
    "max_length": int,
    "pad_id": int,
    "isa": dict,
    "requirements": dict,
}


class BundleError(Exception):
    """The bundle is not what it says it is; the message says where."""


def read_manifest(bundle: Path) -> dict:
    """manifest.json of an unpacked bundle; BundleError when it is missing, damaged or of another schema."""
    try:
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        schema = manifest["schema"]
    except FileNotFoundError:
        raise BundleError(f"{bundle / MANIFEST}: no such file; is this a bundle?") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{bundle / MANIFEST}: damaged") from None
    if schema != SCHEMA:
        raise BundleError(f"{bundle / MANIFEST}: schema {schema!r}, this program reads {SCHEMA}")
    for key, kind in KEYS.items():
        if key not in manifest:
            raise BundleError(f"{bundle / MANIFEST}: key '{key}' is missing")
        value = manifest[key]
        words = kind is list and (not value or not all(isinstance(word, str) for word in value))
        if type(value) is not kind or words:
            raise BundleError(f"{bundle / MANIFEST}: key '{key}' is not what schema {SCHEMA} has there")
    for name, entry in manifest["files"].items():
        inside(name)
        if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or type(entry.get("sha256")) is not str:
            raise BundleError(f"{bundle / MANIFEST}: the entry of '{name}' needs sha256 and bytes")
    for name in (manifest["model"], manifest["golden"], "tokenizer.json"):
        if inside(name) not in manifest["files"]:
            raise BundleError(f"{bundle / MANIFEST}: '{name}' is not among its files")
    if len(set(manifest["labels"])) != len(manifest["labels"]):
        raise BundleError(f"{bundle / MANIFEST}: a label is there twice")
    return manifest


def inside(name: str) -> str:
    """The name, when it is a plain relative path that stays in its directory; BundleError otherwise."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise BundleError(f"manifest.json names '{name}', which is not a path inside the bundle")
    return name


def check_files(bundle: Path, manifest: dict) -> None:
    """Every file of the manifest is there, regular, of the right size and sha256, and nothing else is."""
    expected = manifest["files"]
    found = {p.relative_to(bundle).as_posix(): p for p in sorted(bundle.rglob("*")) if p.is_symlink() or not p.is_dir()}
    found.pop(MANIFEST, None)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise BundleError(f"{name}: missing")
        if name not in expected:
            raise BundleError(f"{name}: not in the manifest; remove it")
        path, entry = found[name], expected[name]
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{name}: not a regular file")
        if path.stat().st_size != entry["bytes"]:
            raise BundleError(f"{name}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise BundleError(f"{name}: its sha256 is not the manifest's; the file was changed")


def check_machine(manifest: dict) -> list[str]:
    """Raise BundleError when the CPU lacks what the model needs; return what merely differs from the packer."""
    needs = [str(flag) for flag in manifest["isa"].get("needs_one_of") or []]
    if needs and not set(needs) & cpu_flags():
        raise BundleError(
            f"this CPU has none of {', '.join(needs)}: the {manifest['precision']} model would give other results or "
            "none; choose another candidate for this device (paredown run on it)"
        )
    from importlib import metadata

    notes = []
    for package, packed in manifest["requirements"].items():
        try:
            here = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise BundleError(f"{package} is not installed; pip install -r requirements.txt") from None
        if here != packed:
            notes.append(f"{package} is {here}, the bundle was packed with {packed}")
    return notes


def cpu_flags() -> set[str]:
    """Linux's flags of the first CPU; empty where they cannot be read."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {platform.machine()}
    return {
        flag for line in first.splitlines() if line.lower().startswith(("flags", "features")) for flag in line.split()
    }


def open_model(bundle: Path, manifest: dict, threads: int | None = None) -> tuple[Session, Encoder]:
    """The bundle's session and tokenizer. Check the files first."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        encoder = Encoder(bundle / "tokenizer.json", manifest["max_length"], manifest["pad_id"])
        session = open_session(bundle / manifest["model"], manifest["runtime"], manifest["precision"], threads or here)
    except Exception as error:  # each runtime raises its own classes for a file that is no model
        raise BundleError(f"the model does not open here: {' '.join(str(error).split())}") from None
    return session, encoder


def check_golden(bundle: Path, manifest: dict, session: Session, encoder: Encoder) -> float:
    """Tokens, outputs and answers of the golden rows are those that were packed; returns the largest difference."""
    output, worst = manifest["outputs"][0], 0.0
    try:
        golden = json.loads((bundle / manifest["golden"]).read_bytes())
        tolerance = float(golden["tolerance"])
        rows = [{key: row[key] for key in ("text", "input_ids", "output", "answer")} for row in golden["rows"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{manifest['golden']}: damaged") from None
    if not rows:
        raise BundleError(f"{manifest['golden']}: no rows, so nothing is proved")
    for i, row in enumerate(rows):
        ids = encoder.ids([row["text"]])[0]
        if ids != row["input_ids"]:
            raise BundleError(f"golden row {i}: the tokenizer gives other tokens here")
        got = np.asarray(session(encoder.pad([ids]))[output], dtype=np.float64)[0]
        want = np.asarray(row["output"], dtype=np.float64)
        difference = float(np.abs(got - want).max()) if got.shape == want.shape else float("inf")
        worst = max(worst, difference)
        if not difference <= tolerance or int(got.argmax()) != int(want.argmax()):
            raise BundleError(f"golden row {i}: off by {difference:.3g}, tolerance {tolerance:g}: {got} for {want}")
        if len(manifest["labels"]) != got.size or manifest["labels"][int(got.argmax())] != row["answer"]:
            raise BundleError(f"golden row {i}: the answer was '{row['answer']}', the manifest's labels say otherwise")
    return worst


def selftest(bundle: Path, threads: int | None = None) -> dict:
    """All checks in order: files, machine, golden rows. Returns what was found; BundleError at the first miss."""
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    notes = check_machine(manifest)
    session, encoder = open_model(bundle, manifest, threads)
    worst = check_golden(bundle, manifest, session, encoder)
    return {"name": manifest["name"], "files": len(manifest["files"]), "largest_difference": worst, "notes": notes}


def main() -> int:
    """Check the bundle this file lies in."""
    try:
        found = selftest(Path(__file__).resolve().parent)
    except BundleError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"OK: {found['name']}: {found['files']} files, golden rows off by at most {found['largest_difference']:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
