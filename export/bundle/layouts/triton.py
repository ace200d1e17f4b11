"""A Triton model repository.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import MANIFEST, read_manifest
from paredown.runtime.preprocessor import PAIR, reader_file
from paredown.runtime.selftest import golden_rows, open_encoder
from paredown.tasks.registry import task_named

from ...runtimes.registry import RUNTIMES
from ..writer import copy_code
from .common import only_length, write_labels

# Requests that arrive together are run together, after waiting at most this long; up to this many rows, where no
# serving configuration was measured.
TRITON_MAX_BATCH = 32
TRITON_QUEUE_DELAY_US = 1000
ANY = -1  # a dimension of any size
TRITON_BACKENDS = {name: r.SPEC.triton_backend for name, r in RUNTIMES.items() if r.SPEC.triton_backend}
TOKENIZER = Path(__file__).with_name("triton_tokenizer.py")
# How a backend calls the CPU threads of an instance: README.md of triton-inference-server/onnxruntime_backend and
# .../openvino_backend.
TRITON_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}


def to_triton(bundle: Path, out: Path) -> None:
    """OUT is a model repository: NAME/config.pbtxt, NAME/labels.txt, NAME/1/model.onnx (or model.xml and model.bin).

    The model takes token ids, or pixels: tokenizer.json, or preprocessor_config.json, goes beside it for the client.
    NAME_text, for models of texts, takes texts: an ensemble of NAME_tokenizer (Python backend) and NAME.
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
    write_labels(manifest, home)
    reader, shape = reader_file(manifest["inputs"]), open_encoder(bundle, manifest).shape
    (home / "config.pbtxt").write_text(triton_config(manifest, shape), encoding="utf-8")
    shutil.copyfile(bundle / reader, home / reader)
    if not shape and not manifest["batch_size"]:
        _with_texts(bundle, manifest, out)


def _with_texts(bundle: Path, manifest: dict, out: Path) -> None:
    """NAME_tokenizer and NAME_text beside the model."""
    golden, _ = golden_rows(bundle, manifest)
    texts = ("text", "text_pair") if PAIR in golden[0]["text"] else ("text",)
    tokenizer, ensemble = text_configs(manifest, texts)
    home = out / f"{manifest['name']}_tokenizer"
    copy_code(home / manifest["version"], images=False)  # never the bundle's own: Triton executes it
    for name in (MANIFEST, reader_file(manifest["inputs"])):
        shutil.copyfile(bundle / name, home / manifest["version"] / name)
    shutil.copyfile(TOKENIZER, home / manifest["version"] / "model.py")
    (home / "config.pbtxt").write_text(tokenizer, encoding="utf-8")
    home = out / f"{manifest['name']}_text"
    (home / manifest["version"]).mkdir(parents=True)
    # Triton wants the directory of a version; Git and S3 keep no empty one.
    (home / manifest["version"] / ".keep").touch()
    (home / "config.pbtxt").write_text(ensemble, encoding="utf-8")


def text_configs(manifest: dict, texts: Sequence[str]) -> tuple[str, str]:
    """config.pbtxt of NAME_tokenizer, and of NAME_text. `texts`: names of the inputs, strings of shape (rows, 1).

    https://github.com/triton-inference-server/server/blob/main/docs/user_guide/ensemble_models.md
    """
    serving, name = manifest.get("serving", {}), manifest["name"]
    largest = serving.get("batch_size", TRITON_MAX_BATCH)
    strings = ",\n".join(f"  {{ name: {_quoted(text)} data_type: TYPE_STRING dims: [ 1 ] }}" for text in texts)
    tokens = ",\n".join(f"  {{ name: {_quoted(i)} data_type: TYPE_INT64 dims: [ -1 ] }}" for i in manifest["inputs"])
    tokenizer = f"""name: {_quoted(f"{name}_tokenizer")}
backend: "python"
max_batch_size: {largest}
input [
{strings}
]
output [
{tokens}
]
instance_group [
  {{ kind: KIND_CPU count: {serving.get("instances", 1)} }}
]
"""
    inputs, outputs = manifest["inputs"], manifest["outputs"]
    first = _step(f"{name}_tokenizer", {text: text for text in texts}, {i: i for i in inputs})
    then = _step(name, {i: i for i in inputs}, {o: o for o in outputs})
    ensemble = f"""name: {_quoted(f"{name}_text")}
platform: "ensemble"
max_batch_size: {largest}
input [
{strings}
]
output [
{_outputs(manifest, classes=False)}
]
ensemble_scheduling {{
  step [
{first},
{then}
  ]
}}
"""
    return tokenizer, ensemble


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    """A step of an ensemble; maps from a tensor of the model to one of the ensemble."""
    maps = [(kind, pair) for kind, named in (("input_map", inputs), ("output_map", outputs)) for pair in named.items()]
    lines = "".join(f"      {kind} {{ key: {_quoted(k)} value: {_quoted(v)} }}\n" for kind, (k, v) in maps)
    return f"    {{\n      model_name: {_quoted(model)}\n      model_version: -1\n{lines}    }}"


def _outputs(manifest: dict, classes: bool = True) -> str:
    """The lines of the outputs. `classes`: with the file of their labels, where they are scores of classes."""
    rows = manifest["batch_size"]
    batch = f"{rows}, " if rows else ""
    sizes = task_named(manifest["task"]).output_dims(only_length(manifest) or ANY, len(manifest["labels"]))
    shape = batch + ", ".join(map(str, sizes))
    one_row = classes and len(sizes) == 1  # of scores: Triton's classification
    names = ' label_filename: "labels.txt"' if one_row else ""
    return ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: TYPE_FP32 dims: [ {shape} ]{names} }}" for name in manifest["outputs"]
    )


def triton_config(manifest: dict, image: tuple[int, ...] = ()) -> str:
    """config.pbtxt: dims are without the batch, -1 is any length; only requests of one length are run together.
    `image`: its (channels, height, width).

    A fixed batch size is a dimension like the others, and nothing is run together then. Instances, their threads and
    the largest batch are those of the bundle's serving configuration, where it was measured.
    """
    backend, serving = TRITON_BACKENDS[manifest["runtime"]], manifest.get("serving", {})
    largest = serving.get("batch_size", TRITON_MAX_BATCH)
    rows, length = manifest["batch_size"], only_length(manifest) or ANY
    batch = f"{rows}, " if rows else ""
    together = "" if rows else f"dynamic_batching {{\n  max_queue_delay_microseconds: {TRITON_QUEUE_DELAY_US}\n}}\n"
    kind, dims = ("FP32", ", ".join(map(str, image))) if image else ("INT64", f"{batch}{length}")
    inputs = ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: TYPE_{kind} dims: [ {dims} ] }}" for name in manifest["inputs"]
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
{_outputs(manifest)}
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
