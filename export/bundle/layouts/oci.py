"""An OCI image layout: https://github.com/opencontainers/image-spec, version 1.1."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from paredown.runtime.manifest import read_manifest, sha256_of
from paredown.runtime.preprocessor import PIXELS, reader_file

from ..archive import files_of, write_tar_gz

OCI_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
READERS = (reader_file(["input_ids"]), reader_file([PIXELS]))
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ROOT = "bundle"  # the directory of the image that holds it


def to_oci(bundle: Path, out: Path) -> None:
    """OUT is an OCI image layout of one image: /bundle in two layers, the model and what is said about it.

    There is no operating system in it: mount it as a volume, or COPY --from it. The same bundle gives the same
    digests.
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


def _blob(blobs: Path, path: Path, media_type: str) -> dict:
    """Rename a file to its digest; returns its descriptor."""
    digest = sha256_of(path)
    path.rename(blobs / digest)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": (blobs / digest).stat().st_size}


def _json(path: Path, data: dict) -> Path:
    path.write_text(json.dumps(data, sort_keys=True, separators=(",", ":")))
    return path
