"""Layouts of other systems: a Triton model repository, an OCI image layout, an archive or a plain directory.

Each function takes a bundle's directory whose files were checked, and fills the empty directory `out`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PIXELS, reader_file
from paredown.runtime.selftest import open_encoder
from paredown.tasks.registry import task_named

from ..runtimes.registry import RUNTIMES
from .archive import copy_tree, files_of, pack, write_tar_gz

# Triton: requests that arrive together are run together, up to this many rows, after waiting at most this long.
TRITON_MAX_BATCH = 32
TRITON_QUEUE_DELAY_US = 1000
TRITON_BACKENDS = {name: r.SPEC.triton_backend for name, r in RUNTIMES.items() if r.SPEC.triton_backend}
OCI_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
READERS = (reader_file(["input_ids"]), reader_file([PIXELS]))
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ROOT = "bundle"  # the directory of the image that holds it


def to_plain(bundle: Path, out: Path) -> None:
    """OUT is the bundle itself."""
    copy_tree(bundle, out)


def to_archive(bundle: Path, out: Path) -> None:
    """OUT/NAME.tar.gz, what `unpack` reads."""
    pack(bundle, out / f"{read_manifest(bundle)['name']}.tar.gz")


def to_triton(bundle: Path, out: Path) -> None:
    """OUT is a model repository: NAME/config.pbtxt, NAME/labels.txt, NAME/1/model.onnx (or model.xml and model.bin).

    The model takes token ids, or pixels: tokenizer.json, or preprocessor_config.json, goes beside it for the client.
    Raises InputError for a runtime that Triton has no backend for here.
    """
    manifest = read_manifest(bundle)
    if manifest["runtime"] not in TRITON_BACKENDS:
        raise InputError(f"layout triton: for {' and '.join(TRITON_BACKENDS)} bundles, not {manifest['runtime']}")
    if "generation" in manifest:
        raise InputError("layout triton: a backend of Triton calls one model once; this one goes token by token")
    home = out / manifest["name"]
    (home / manifest["version"]).mkdir(parents=True)
    model = bundle / manifest["model"]
    for file in sorted(model.parent.iterdir()):
        shutil.copyfile(file, home / manifest["version"] / file.name)
    (home / "labels.txt").write_text(
        "".join(f"{' '.join(label.split())}\n" for label in manifest["labels"]), encoding="utf-8"
    )
    reader, shape = reader_file(manifest["inputs"]), open_encoder(bundle, manifest).shape
    (home / "config.pbtxt").write_text(triton_config(manifest, shape), encoding="utf-8")
    shutil.copyfile(bundle / reader, home / reader)


def triton_config(manifest: dict, image: tuple[int, ...] = ()) -> str:
    """config.pbtxt: dims are without the batch, -1 is any length; only requests of one length are run together.
    `image`: its (channels, height, width).

    A fixed batch size is a dimension like the others, and nothing is run together then.
    """
    lengths, rows = manifest["length_policy"]["pad_to"], manifest["batch_size"]
    length = lengths[0] if isinstance(lengths, list) and len(lengths) == 1 else -1
    batch = f"{rows}, " if rows else ""
    together = "" if rows else f"dynamic_batching {{\n  max_queue_delay_microseconds: {TRITON_QUEUE_DELAY_US}\n}}\n"
    kind, dims = ("FP32", ", ".join(map(str, image))) if image else ("INT64", f"{batch}{length}")
    inputs = ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: TYPE_{kind} dims: [ {dims} ] }}" for name in manifest["inputs"]
    )
    sizes = task_named(manifest["task"]).output_dims(length, len(manifest["labels"]))
    shape = batch + ", ".join(map(str, sizes))
    names = "" if len(sizes) > 1 else ' label_filename: "labels.txt"'  # Triton's classification: one row of scores
    outputs = ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: TYPE_FP32 dims: [ {shape} ]{names} }}" for name in manifest["outputs"]
    )
    return f"""name: {_quoted(manifest["name"])}
backend: {_quoted(TRITON_BACKENDS[manifest["runtime"]])}
default_model_filename: {_quoted(Path(manifest["model"]).name)}
max_batch_size: {0 if rows else TRITON_MAX_BATCH}
input [
{inputs}
]
output [
{outputs}
]
{together}instance_group [
  {{ kind: KIND_CPU count: 1 }}
]
version_policy {{
  specific {{ versions: [ {manifest["version"]} ] }}
}}
"""


def to_oci(bundle: Path, out: Path) -> None:
    """OUT is an OCI image layout of one image: /bundle in two layers, the model and what is said about it.

    There is no operating system in it: mount it as a volume, or COPY --from it. The same bundle gives the same
    digests. Formats: https://github.com/opencontainers/image-spec, version 1.1.
    """
    manifest = read_manifest(bundle)
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    weights = [path for path in files_of(bundle) if path.parent != bundle or path.name in READERS]
    rest = [path for path in files_of(bundle) if path not in weights]
    layers, contents = [], []
    for files in (weights, rest):
        packed = blobs / "layer"
        write_tar_gz(packed, ((f"{OCI_ROOT}/{path.relative_to(bundle).as_posix()}", path) for path in files))
        with gzip.open(packed) as tar:
            contents.append(f"sha256:{hashlib.file_digest(tar, 'sha256').hexdigest()}")  # type: ignore[arg-type]
        layers.append(_blob(blobs, packed, OCI_LAYER))
    config = {
        "architecture": OCI_ARCHITECTURES.get(manifest["packed_on"].get("arch"), "amd64"),
        "os": "linux",
        "config": {"WorkingDir": f"/{OCI_ROOT}"},
        "rootfs": {"type": "layers", "diff_ids": contents},
    }
    title = {
        "org.opencontainers.image.title": manifest["name"],
        "org.opencontainers.image.version": manifest["version"],
        "org.opencontainers.image.description": f"{manifest['task']}, {manifest['runtime']} {manifest['precision']}",
    }
    image = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _blob(blobs, _json(blobs / "config", config), OCI_CONFIG),
        "layers": layers,
        "annotations": title,
    }
    entry = _blob(blobs, _json(blobs / "image", image), OCI_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": manifest["version"]}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    _json(out / "index.json", index)
    _json(out / "oci-layout", {"imageLayoutVersion": "1.0.0"})


LAYOUTS = {"plain": to_plain, "archive": to_archive, "triton": to_triton, "oci": to_oci}


def _blob(blobs: Path, path: Path, media_type: str) -> dict:
    """Rename a file to its digest; returns its descriptor."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path.rename(blobs / digest)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": (blobs / digest).stat().st_size}


def _json(path: Path, data: dict) -> Path:
    path.write_text(json.dumps(data, sort_keys=True, separators=(",", ":")))
    return path


def _quoted(text: str) -> str:
    """A string of protobuf's text format: a JSON string is one, with its characters as they are."""
    return json.dumps(text, ensure_ascii=False)
