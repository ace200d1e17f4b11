"""An ONNX model for the compiler of an NPU: one shape, int32 ids, Q and DQ nodes, operators of a named profile.

Nothing is promised about a device: the graph keeps to what a maker's page says, and ONNX Runtime on this CPU gives the
golden rows.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paredown.compress.data.dataset import read_rows
from paredown.compress.quantization.qdq import quantize_all
from paredown.runtime.answers import ANSWERS
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.formats import FORMATS
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PIXELS, Batch, Preprocessor, RowError, reader_file
from paredown.runtime.selftest import check_golden, golden_rows, largest_tolerance, open_encoder
from paredown.runtime.session import Session, padded
from paredown.tasks.registry import task_named

from ...hardware import importable
from ...isolation import ROWS_S, in_child
from ...onnx.npu import EMBEDS, IDS, MASK, Wanted, npu_graph
from ...onnx.npu_profiles import Profile, profiles
from .common import only_length, write_labels

MODEL, TABLE, GOLDEN = "model.onnx", "embedding.npy", "golden.json"
CALIBRATION_ROWS = 128
ROUNDED = "int8-static"  # the precision whose tolerance the golden rows are held to
README = """# {name}

An ONNX model for {task}, made by paredown for {title} (profile `{profile}`).
Activations have {bits} bits{products}; weights of Gemm, Conv and MatMul have 8; other constants, such as the table of
embeddings, have as many as activations. Every shape is fixed.{wide}

- All operators are in [the maker's list]({source}), of {version}.
- Opset {opset}: {opset_reason}.
- **Nothing has been run on a device.** {unverified}
- ONNX Runtime on a CPU, with Q and DQ nodes as they stand (`session.disable_quant_qdq` = 1), was compared with the
  float model on the {rows} rows of `golden.json`: outputs differ by at most {difference:.2g}, and {tolerance:.2g}
  was allowed{label}.
- Ranges of activations are from {calibration} rows; what is outside is clipped.

| file | content |
| --- | --- |
| `{model}` | the model |
{table}| `{reader}` | {reader_content} |
| `labels.txt` | the labels, in the order of the outputs, one a line |
| `golden.json` | rows with their text, token ids and outputs, to compare on the device; `tolerance`: of an output |

Inputs, by name:

{inputs}

Output: `{output}`, float32, ({dims}).

{padding}
"""


def to_npu(
    bundle: Path,
    out: Path,
    *,
    profile: str | None = None,
    data: str | None = None,
    text_column: str | None = None,
    activations: int | None = None,
    embedding: str = "inside",
    length: int | None = None,
) -> None:
    """OUT/model.onnx, tokenizer.json or preprocessor_config.json, labels.txt, golden.json and README.md; embedding.npy
    where the application looks up the embeddings.

    `data`: rows whose activations give the ranges. `activations`: bits. `length`: tokens. InputError for a model that
    is no single float ONNX graph, or that does not keep to the profile; BundleError where the rounded model does not
    answer the golden rows.
    """
    manifest = read_manifest(bundle)
    _check_model(manifest)
    if not importable("onnx"):
        raise missing_extra("onnx", "compress")
    if profile is None or data is None:
        what = (
            "--profile NAME, one of " + ", ".join(profiles())
            if profile is None
            else "--data FILE, such as training rows"
        )
        raise InputError(f"layout npu: give {what}")
    known, images = profiles()[profile], PIXELS in manifest["inputs"]
    bits = activations or max(known.types)
    if bits not in known.types:
        raise InputError(f"--activations {bits}: profile {profile} has {' and '.join(map(str, known.types))} bits")
    if images and (length or embedding == "outside"):
        raise InputError("--length, --embedding: of models of texts; this one sees images")
    tokens = length or only_length(manifest) or manifest["max_length"]
    if tokens > manifest["max_length"]:
        raise InputError(f"--length {tokens}: the model was measured with at most {manifest['max_length']} tokens")
    task = task_named(manifest["task"])
    rows = read_rows(task, data, text=text_column, labelled=False).texts
    chosen = sorted(random.Random(0).sample(range(len(rows)), min(len(rows), CALIBRATION_ROWS)))
    fit, tolerance = _write_golden(bundle, manifest, out / GOLDEN, tokens)
    reader = reader_file(manifest["inputs"])
    shutil.copyfile(bundle / reader, out / reader)
    write_labels(manifest, out)
    given = {"out": str(out.absolute()), "profile": profile, "bits": bits, "length": tokens}
    given["texts"] = [(f"{data}, row {i + 1}", rows[i]) for i in chosen]
    difference = in_child("npu", bundle, ROWS_S, **given, outside=embedding == "outside")
    facts = {"rows": fit, "calibration": len(chosen), "difference": difference, "tolerance": tolerance, "bits": bits}
    (out / "README.md").write_text(_readme(manifest, known, out, tokens, facts), encoding="utf-8")


def _check_model(manifest: Mapping[str, Any]) -> None:
    again = "paredown choose RUN --candidate NAME, such as teacher/onnxruntime/fp32"
    if "generation" in manifest:
        raise InputError("layout npu: text generation is not supported: an NPU calls the model once for an answer")
    if "cascade" in manifest["source"]["details"]:
        raise InputError(
            f"layout npu: a cascade decides for each row which model answers, and a graph of an NPU has no branches; "
            f"pack one model: {again}"
        )
    if (manifest["runtime"], manifest["precision"]) != ("onnxruntime", "fp32"):
        raise InputError(
            f"layout npu: for onnxruntime fp32 bundles, which are rounded as the NPU wants it, not "
            f"{manifest['runtime']} {manifest['precision']}; pack another candidate: {again}"
        )
    if Path(manifest["model"]).suffix != ".onnx":
        raise InputError(f"layout npu: an .onnx file is needed, not {manifest['model']}; export it without --mobile")


def _write_golden(bundle: Path, manifest: dict, target: Path, length: int) -> tuple[int, float]:
    """The golden rows of at most `length` tokens, with the tolerance of a rounded model: the bundle's own, scaled
    as static INT8's is to float32's. Returns how many rows, and the tolerance."""
    rows, own = golden_rows(bundle, manifest)
    rows = [row for row in rows if row["input_ids"] is None or len(row["input_ids"]) <= length]
    if not rows:
        raise InputError(
            f"--length {length}: every golden row of the bundle has more tokens, so nothing can be compared"
        )
    known = FORMATS[manifest["runtime"]].tolerance
    most = largest_tolerance(manifest | {"precision": ROUNDED}, [row["output"] for row in rows])
    tolerance = min(own * known[ROUNDED] / known[manifest["precision"]], most)
    golden = {"tolerance": {manifest["runtime"]: tolerance}, "rows": rows}
    target.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    return len(rows), tolerance


def job(
    bundle: Path,
    started: float,
    rows_s: float,
    out: str,
    profile: str,
    bits: int,
    length: int,
    texts: list[tuple[str, str]],
    outside: bool,
) -> float:
    """Of `isolation.in_child`: write OUT/model.onnx, and embedding.npy; returns how far the golden rows are off.
    `texts`: each with the name of its row."""
    manifest, folder, known = read_manifest(bundle), Path(out), profiles()[profile]
    wanted = Wanted(known, bits, length, outside, manifest["pad_id"])
    encoder = open_encoder(bundle, manifest | {"max_length": length})
    rows = [_read(encoder, where, text) for where, text in texts]
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / MODEL
        table = npu_graph(bundle / manifest["model"], plain, wanted)
        if table is not None:
            np.save(folder / TABLE, table)
        lengths, calls = () if PIXELS in manifest["inputs"] else (length,), list[Batch]()
        fill = padded(lambda batch: calls.append(_inputs(batch, table)) or {}, lengths, manifest["pad_id"], 1)
        for row in rows:
            fill(encoder.pad([row]))
        how: dict[str, Any] = {"symmetric": known.symmetric, "qualcomm": known.qualcomm}
        quantize_all(plain, folder / MODEL, calls, known.types[bits], **how)
    import onnx

    known.check(onnx.load(folder / MODEL), bits)
    session = padded(_session(folder / MODEL, table), lengths, manifest["pad_id"], 1)
    rounded = manifest | {"precision": ROUNDED, "golden": GOLDEN}
    return check_golden(folder, rounded, session, open_encoder(bundle, manifest))


def _read(encoder: Preprocessor, where: str, text: str) -> Any:
    try:
        return encoder.ids([text])[0]
    except RowError as error:
        raise InputError(f"{where}: {error}") from None


def _inputs(batch: Batch, table: np.ndarray | None) -> Batch:
    """What the graph takes of a padded batch: see `npu_graph`."""
    if table is not None:
        return {EMBEDS: table[batch[IDS]], MASK: batch[MASK].astype(np.float32)}
    return {name: array if name == PIXELS else array.astype(np.int32) for name, array in batch.items()}


def _session(model: Path, table: np.ndarray | None) -> Session:
    """ONNX Runtime with each Q and DQ node as it stands: the INT8 of this CPU rounds in other places."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names, (output,) = [entry.name for entry in session.get_inputs()], session.get_outputs()

    def run(batch: Batch) -> Batch:
        given = _inputs(batch, table)
        (found,) = session.run(None, {name: given[name] for name in names})
        return {output.name: np.asarray(found)}

    return run


def _readme(manifest: Mapping[str, Any], profile: Profile, out: Path, length: int, facts: Mapping[str, Any]) -> str:
    import onnx

    graph, images, outside = onnx.load(out / MODEL).graph, PIXELS in manifest["inputs"], (out / TABLE).exists()
    meaning = {
        IDS: "token ids",
        EMBEDS: f"the row of `{TABLE}` for each token id",
        MASK: "1 for a token, 0 for padding",
        PIXELS: "pixels, scaled as preprocessor_config.json says",
    }
    dtypes: dict[int, str] = {onnx.TensorProto.INT32: "int32", onnx.TensorProto.FLOAT: "float32"}
    inputs = "\n".join(
        f"- `{entry.name}`, {dtypes[entry.type.tensor_type.elem_type]}, ({_sizes(entry)}): {meaning[entry.name]}"
        for entry in graph.input
    )
    table = f"| `{TABLE}` | the embeddings, float32 (tokens, width), for NumPy: `np.load(..., mmap_mode='r')[ids]` |\n"
    padding = f"Rows are truncated to {length} tokens and padded on the right with id {manifest['pad_id']}."
    wide = sum(entry.type.tensor_type.elem_type == onnx.TensorProto.INT64 for entry in graph.value_info)
    decisive = ANSWERS[manifest["answer"]].decisive and len(graph.output[0].type.tensor_type.shape.dim) == 2
    narrow = profile.qualcomm and facts["bits"] == 16
    return README.format(
        products=" (the second input of a MatMul of two: 8)" if narrow else "",
        wide=f"\n{wide} values inside it are int64, such as masks and counts; a compiler may refuse them."
        if wide
        else "",
        label="; the highest output is the same" if decisive else "",
        name=manifest["name"],
        task=manifest["task"],
        profile=profile.name,
        title=profile.title,
        source=profile.source,
        version=profile.version,
        opset=profile.opset,
        opset_reason=profile.opset_reason,
        unverified=profile.unverified,
        model=MODEL,
        table=table if outside else "",
        reader=reader_file(manifest["inputs"]),
        reader_content="how an image becomes pixels" if images else "the tokenizer, of the library `tokenizers`",
        inputs=inputs,
        output=manifest["outputs"][0],
        dims=_sizes(graph.output[0]),
        padding="There is no padding." if images else padding,
        **facts,
    )


def _sizes(entry: Any) -> str:
    sizes: Sequence[int] = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    return ", ".join(map(str, sizes))
