"""The directory (and archive) that is handed over: it says what it is, proves that it is whole, and runs. No torch.

Layout, also in docs/bundle.md:

    manifest.json            what this is; sha256 and size of every other file
    model/...                what the runtime loads
    tokenizer.json
    golden.json              rows with their tokens and outputs, and the tolerance
    selftest.py session.py encoder.py     paredown's own code, copied: checks the bundle without paredown
    requirements.txt README.md report.html choice.json LICENSE...
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..compress import encoder as encoder_module
from ..compress.errors import InputError
from ..compress.tasks import TASKS
from . import selftest as selftest_module
from . import session as session_module
from .artifact import Artifact
from .card import model_card
from .machine import BF16_ISA, INT8_ISA, machine, version
from .selftest import MANIFEST, SCHEMA, BundleError, inside, open_model, read_manifest

GOLDEN_ROWS = 8
# Largest difference of an output on another machine of the kind; INT8 rounds differently where float sums differ.
GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1, "int8-dynamic": 0.2, "int8-static": 0.2}
RUNTIME_PACKAGE = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
METRIC_KEYS = ("metric", "metric_validation", "metric_validation_ci", "metric_test", "metric_test_ci", "drop_upper_95")
MANIFEST_LIMIT = 10**7  # bytes
ARCHIVE_LIMIT = 4 * 10**9  # bytes, unpacked


def write_bundle(
    out: Path,
    artifact: Artifact,
    *,
    name: str,
    golden_texts: Sequence[str],
    choice: dict,
    extra_files: Sequence[Path] = (),
) -> Path:
    """Write the bundle of `artifact` to the directory `out` (which must not exist) and return it.

    `choice` is the content of choice.json; its figures go into the manifest and the model card. `extra_files` are
    copied to the top as they are.
    """
    (out / "model").mkdir(parents=True)
    for file in artifact.files:
        shutil.copyfile(artifact.path / file, out / "model" / file)
    shutil.copyfile(artifact.path / "tokenizer.json", out / "tokenizer.json")
    for module in (selftest_module, session_module, encoder_module):
        assert module.__file__ is not None
        shutil.copyfile(module.__file__, out / Path(module.__file__).name)
    for file in extra_files:
        shutil.copyfile(file, out / file.name)
    packages = (RUNTIME_PACKAGE[artifact.runtime], "tokenizers", "numpy")
    requirements = {package: version(package) or "" for package in packages}
    (out / "requirements.txt").write_text("".join(f"{p}=={v}\n" for p, v in requirements.items()))
    (out / "choice.json").write_text(json.dumps(choice, indent=2) + "\n")
    chosen = choice["chosen"]
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": "1",
        "task": artifact.task,
        "runtime": artifact.runtime,
        "precision": artifact.precision,
        "model": f"model/{artifact.files[0]}",
        "inputs": list(artifact.inputs),
        "outputs": list(artifact.outputs),
        "labels": list(artifact.labels),
        "max_length": artifact.max_length,
        "pad_id": artifact.pad_id,
        "golden": "golden.json",
        "requirements": requirements,
        "tool": {"paredown": version("paredown") or "unknown"},
        "isa": {"needs_one_of": _isa_needed(artifact), "packed_on": machine()["isa"]},
        "source": {"checkpoint": artifact.source, "candidate": chosen["name"], "details": artifact.details},
        "metric": {key: chosen[key] for key in METRIC_KEYS},
        "packed_on": machine(),
    }
    (out / "README.md").write_text(model_card(manifest, choice))
    _write_golden(out, manifest, golden_texts)
    manifest["files"] = {
        path.relative_to(out).as_posix(): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return out


def pack(bundle: Path, archive: Path) -> Path:
    """Write a .tar.gz of the bundle: the same bundle gives the same bytes."""
    name = read_manifest(bundle)["name"]
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
            info = tarfile.TarInfo(f"{name}/{path.relative_to(bundle).as_posix()}")
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
    return archive


def unpack(archive: Path, out: Path) -> Path:
    """Copy the files that the archive's manifest names into `out`; never more than it says. Raises BundleError.

    Nothing else of the archive is followed: no links, devices, permissions or paths that leave the directory.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members, total = {}, 0
            for member in tar:
                total += member.size
                if total > ARCHIVE_LIMIT:
                    raise BundleError(f"{archive}: unpacks to more than {ARCHIVE_LIMIT / 1e9:g} GB")
                name = inside(member.name.partition("/")[2] or member.name)
                if member.isdir():
                    continue
                if not member.isreg() or name in members:
                    raise BundleError(f"{archive}: '{member.name}' is not a regular file, or is there twice")
                members[name] = member
            if MANIFEST not in members or members[MANIFEST].size > MANIFEST_LIMIT:
                raise BundleError(f"{archive}: no {MANIFEST} inside; is this a bundle?")
            out.mkdir(parents=True, exist_ok=True)
            _copy(tar, members[MANIFEST], out / MANIFEST)
            files = read_manifest(out)["files"]
            for name, member in members.items():
                if name == MANIFEST:
                    continue
                if name not in files or member.size != files[name]["bytes"]:
                    raise BundleError(f"{archive}: '{name}' is not what the manifest says")
                _copy(tar, member, out / name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BundleError(f"{archive}: not a readable .tar.gz: {error}") from None
    return out


@contextlib.contextmanager
def unpacked(bundle: Path) -> Iterator[Path]:
    """The bundle as a directory: itself, or its archive unpacked for as long as the block lasts."""
    if bundle.is_dir():
        yield bundle
    elif bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            yield unpack(bundle, Path(scratch) / "bundle")
    else:
        raise InputError(f"{bundle}: no such bundle; it is a directory with {MANIFEST}, or its .tar.gz")


def _write_golden(out: Path, manifest: dict, texts: Sequence[str]) -> None:
    session, encoder = open_model(out, manifest)
    rows = []
    for text in texts[:GOLDEN_ROWS]:
        ids = encoder.ids([text])[0]
        output = np.asarray(session(encoder.pad([ids]))[manifest["outputs"][0]], dtype=np.float32)[0]
        answer = TASKS[manifest["task"]].decode(output[None], tuple(manifest["labels"]))[0]
        rows.append({"text": text, "input_ids": ids, "output": output.tolist(), "answer": answer["label"]})
    golden = {"tolerance": GOLDEN_TOLERANCE[manifest["precision"]], "rows": rows}
    (out / manifest["golden"]).write_text(json.dumps(golden, indent=1) + "\n")


def _isa_needed(artifact: Artifact) -> list[str]:
    if artifact.precision == "bf16":
        return sorted(BF16_ISA)
    if artifact.details.get("reduce_range") is False:
        return sorted(INT8_ISA)
    return []


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
