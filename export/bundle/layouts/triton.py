"""A Triton model repository.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import reader_file
from paredown.runtime.selftest import open_encoder
from paredown.tasks.registry import task_named

from ...runtimes.registry import RUNTIMES

# Requests that arrive together are run together, after waiting at most this long; up to this many rows, where no
# serving configuration was measured.
TRITON_MAX_BATCH = 32
TRITON_QUEUE_DELAY_US = 1000
TRITON_BACKENDS = {name: r.SPEC.triton_backend for name, r in RUNTIMES.items() if r.SPEC.triton_backend}
# How a backend calls the CPU threads of an instance: README.md of triton-inference-server/onnxruntime_backend and
# .../openvino_backend.
TRITON_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}


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

    A fixed batch size is a dimension like the others, and nothing is run together then. Instances, their threads and
    the largest batch are those of the bundle's serving configuration, where it was measured.
    """
    backend, serving = TRITON_BACKENDS[manifest["runtime"]], manifest.get("serving", {})
    largest = serving.get("batch_size", TRITON_MAX_BATCH)
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
    threads = ""
    if serving:
        key, value = _quoted(TRITON_THREADS[backend]), _quoted(str(serving["threads"]))
        threads = f"parameters {{\n  key: {key} value: {{ string_value: {value} }}\n}}\n"
    return f"""name: {_quoted(manifest["name"])}
backend: {_quoted(backend)}
default_model_filename: {_quoted(Path(manifest["model"]).name)}
max_batch_size: {0 if rows else largest}
input [
{inputs}
]
output [
{outputs}
]
{together}instance_group [
  {{ kind: KIND_CPU count: {serving.get("instances", 1)} }}
]
{threads}version_policy {{
  specific {{ versions: [ {manifest["version"]} ] }}
}}
"""


def _quoted(text: str) -> str:
    """A string of protobuf's text format: a JSON string is one, with its characters as they are."""
    return json.dumps(text, ensure_ascii=False)
