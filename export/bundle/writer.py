"""Writes a bundle: model, manifest, golden rows, self-test, card and SBOM. Without torch.

docs/bundle.md lists what is in it; `archive` packs it, `layouts` what other systems read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from paredown.runtime.answers import ANSWERS
from paredown.runtime.errors import InputError
from paredown.runtime.formats import FORMATS
from paredown.runtime.manifest import SCHEMA, SCHEMA_FILE, models_of, read_manifest, sha256_of, write_manifest
from paredown.runtime.model_scan import check_model_file, scan
from paredown.runtime.preprocessor import PIXELS, Preprocessor, reader_file, run_rows
from paredown.runtime.selftest import (
    GOLDEN_IMAGE,
    GOLDEN_TEXT,
    largest_tolerance,
    open_model,
)
from paredown.runtime.session import Session
from paredown.tasks.base import Feature
from paredown.tasks.registry import task_named
from paredown.tasks.scores import spread

from ..artifact import Artifact, values_of
from ..hardware import BF16_ISA, INT8_ISA, machine, version
from ..runtimes.registry import RUNTIMES, check_installed
from .drift_reference import describe
from .environment import Installed, installed
from .ml_bom import ml_model_card
from .model_card import About, model_card
from .provenance import Lineage, write_provenance
from .sbom import Materials, write_sbom
from .transformers_files import write_config, write_tokenizer_settings

GOLDEN_ROWS = 8
METRIC_KEYS = (
    "metric",
    "metric_validation",
    "metric_validation_ci",
    "metric_test",
    "metric_test_ci",
    "drop_upper_95",
    "certificate",
)
CODE = "paredown_bundle"  # the package of our own code in a bundle: a copy of `paredown.runtime`
MODULES = (
    "__init__",
    "model",
    "selftest",
    "answers",
    "formats",
    "manifest",
    "manifest_validator",
    "model_scan",
    "session",
    "preprocessor",
    "preprocessors",
    "seq2seq_decoding",
    "causal_decoding",
)
TORCH_CPU = "https://download.pytorch.org/whl/cpu"
IMAGES = "images"  # for models of images
ENTRY, SELFTEST = Path(__file__).with_name("entry.py"), "selftest.py"


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle beside the artefact."""

    name: str  # the served model's
    choice: dict  # content of choice.json; its metrics go into the manifest and the model card
    golden_texts: Sequence[str]
    reference_texts: Sequence[str] = ()  # ordinary inputs; they become reference.json
    about: About = field(default_factory=About)  # licence and data, for the model card
    lineage: Lineage = field(default_factory=Lineage)  # checkpoint, data, recipe and steps, for SBOM and provenance
    extra_files: Sequence[Path] = ()  # copied to the top as they are


def write_bundle(out: Path, artifact: Artifact, contents: Contents) -> Path:
    """Write the bundle of `artifact` to the directory `out` (which must not exist) and return it.

    InputError when the model file may not be opened or a package that the bundle needs is not installed.
    """
    name, choice, about = contents.name, contents.choice, contents.about
    task, rules = task_named(artifact.task), dict(artifact.generation or {})
    for file in (artifact.files[0], *([rules["decoder"]] if artifact.halves else [])):
        try:
            check_model_file(artifact.path / file, artifact.runtime)
        except ValueError as error:
            raise InputError(f"{artifact.path / file}: {error}") from None
    if artifact.halves:
        rules["decoder"] = f"model/{rules['decoder']}"
    reader, images = reader_file(artifact.inputs), PIXELS in artifact.inputs
    packages = (*RUNTIMES[artifact.runtime].SPEC.packages, "pillow" if images else "tokenizers", "numpy")
    check_installed(packages)
    (out / "model").mkdir(parents=True)
    for file in artifact.files:
        shutil.copyfile(artifact.path / file, out / "model" / file)
    side = "right"
    if images:
        shutil.copyfile(artifact.path / reader, out / reader)
    else:
        side = _write_tokenizer(artifact.path / reader, out / reader, artifact.max_length)
        write_tokenizer_settings(artifact, out, side)
    write_config(artifact, out)
    copy_code(out, images)
    shutil.copyfile(ENTRY, out / SELFTEST)
    for file in contents.extra_files:
        shutil.copyfile(file, out / file.name)
    requirements = {package: version(package) or "" for package in packages}
    environment = installed(packages)
    here = machine()
    tool = {"paredown": version("paredown") or "unknown", **here["versions"]}
    (out / "requirements.txt").write_text(_locked(requirements, environment))
    (out / "choice.json").write_text(json.dumps(choice, indent=2) + "\n")
    chosen = choice["chosen"]
    threads = None if rules else (chosen.get("latency_ms") or {}).get("threads")
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": "1",
        "task": artifact.task,
        "answer": task.answer,
        "runtime": artifact.runtime,
        "precision": artifact.precision,
        "model": f"model/{artifact.files[0]}",
        "inputs": list(artifact.inputs),
        "outputs": list(artifact.outputs),
        "labels": list(artifact.labels),
        **({"generation": rules} if rules else {}),
        "max_length": artifact.max_length,
        "pad_id": artifact.pad_id,
        "length_policy": {"truncate": side, "pad": "right", "pad_to": list(artifact.lengths) or "longest"},
        "batch_size": artifact.batch_size,
        **({"threads": threads} if threads else {}),
        **({"serving": chosen["serving"]} if chosen.get("serving") else {}),
        "golden": "golden.json",
        "requirements": requirements,
        "environment": {entry.name: {"version": entry.version, "bytes": entry.bytes} for entry in environment},
        "tool": tool,
        "opset": _opset(artifact),
        "isa": {"needs_one_of": isa_needed(artifact), "packed_on": here["isa"]},
        "source": {"checkpoint": artifact.source, "candidate": chosen["name"], "details": artifact.details},
        "metric": {key: chosen[key] for key in METRIC_KEYS},
        "packed_on": {key: value for key, value in here.items() if key not in ("versions", "isa")},
    }
    loaded = [*sorted((out / "model").iterdir()), out / reader]
    sizes = {path.relative_to(out).as_posix(): path.stat().st_size for path in loaded}
    (out / "README.md").write_text(model_card(manifest, choice, about, sizes), encoding="utf-8")
    lineage = contents.lineage
    card = ml_model_card(manifest, about, lineage)
    bill = Materials(
        name, manifest["version"], about.licence, tool, loaded, packages, environment, card, lineage, about.base_model
    )
    write_sbom(out, bill)
    write_provenance(out, manifest, lineage, loaded)
    session, encoder = open_model(out, manifest)
    size = 0.0
    if contents.reference_texts and task.supports(Feature.REFERENCE):
        ids = [row if len(row) else [encoder.pad_id] for row in encoder.ids(contents.reference_texts)]
        outputs = run_rows(session, ids, encoder.pad_id, manifest["outputs"][0])
        size = spread(outputs)
        shares = task.probabilities(outputs, [len(row) for row in ids])
        unknown = None if images else _unknown_token(encoder)
        reference = describe(ids, shares, unknown, vectors=task.vectors)
        (out / "reference.json").write_text(json.dumps(reference) + "\n")
    _write_golden(out, manifest, contents.golden_texts, session, encoder, size)
    manifest["files"] = {
        path.relative_to(out).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    write_manifest(out, manifest)
    read_manifest(out)  # what is written can be read
    return out


def copy_code(out: Path, images: bool) -> None:
    """OUT/paredown_bundle: this paredown's own code. `images`: with what reads images."""
    (out / CODE).mkdir(parents=True)
    for name in (*MODULES, *[IMAGES] * images):
        shutil.copyfile(SCHEMA_FILE.with_name(f"{name}.py"), out / CODE / f"{name}.py")
    shutil.copyfile(SCHEMA_FILE, out / CODE / SCHEMA_FILE.name)


def _write_tokenizer(source: Path, target: Path, max_length: int) -> str:
    """tokenizer.json as it is used: truncated to `max_length` tokens and not padded, for applications that read nothing
    else of the bundle. Returns the side that is truncated, "right" or "left"."""
    data = json.loads(source.read_text(encoding="utf-8"))
    side = (data.get("truncation") or {}).get("direction", "Right")
    data["truncation"] = {"direction": side, "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = None
    target.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return side.lower()


def _locked(requirements: dict[str, str], environment: Sequence[Installed]) -> str:
    """requirements.txt: what the bundle imports, then what that brings with it, all at the versions of this machine."""
    named = {name.lower().replace("_", "-") for name in requirements}
    brought = {entry.name: entry.version for entry in environment if entry.name not in named}
    lines = [f"{name}=={number}\n" for name, number in (requirements | brought).items()]
    if requirements.get("torch", "").endswith("+cpu"):  # not on PyPI, whose torch needs several GB of CUDA packages
        lines.insert(0, f"--extra-index-url {TORCH_CPU}\n")
    return "".join(lines)


def _write_golden(
    out: Path,
    manifest: dict,
    texts: Sequence[str],
    session: Session,
    encoder: Preprocessor,
    size: float,
) -> None:
    """`size`: how far numbers, or those of vectors, are spread, 0 where only these rows can tell; their tolerance goes
    with it."""
    runtime, rows = manifest["runtime"], []
    kind, two_graphs = ANSWERS[manifest["answer"]], len(models_of(manifest)) > 1
    longest = GOLDEN_TEXT if encoder.shape == () else GOLDEN_IMAGE
    short = [text for text in map(encoder.small, texts) if len(text) <= longest]
    for text in short[:GOLDEN_ROWS]:
        ids = encoder.ids([text])[0]
        output = np.asarray(session(encoder.pad([ids]))[manifest["outputs"][0]])[0]
        if two_graphs:
            answer = encoder.text(output)
        else:
            output = output.astype(np.float32)
            answer = kind.read(output, manifest["labels"])
        tokens = ids if isinstance(ids, list) else None
        rows.append({"text": text, "input_ids": tokens, "output": output.tolist(), "answer": answer})
    tolerance, outputs = FORMATS[runtime].tolerance[manifest["precision"]], [row["output"] for row in rows]
    if kind.has_unit:
        tolerance = min(tolerance * (size or spread(np.array(outputs))), largest_tolerance(manifest, outputs))
    if two_graphs:
        tolerance = largest_tolerance(manifest, outputs)
    golden = {"tolerance": {runtime: tolerance}, "rows": rows}
    (out / manifest["golden"]).write_text(json.dumps(golden, indent=1) + "\n")


def _unknown_token(encoder: Preprocessor) -> int | None:
    """Id of the tokenizer's unknown token; None where it has none (byte-level)."""
    model = encoder.tokenizer.model
    name = getattr(model, "unk_token", None)
    return encoder.tokenizer.token_to_id(name) if name else getattr(model, "unk_id", None)


def isa_needed(artifact: Artifact) -> list[str]:
    """CPU flags of which the artefact needs one; empty when any CPU will do."""
    if artifact.precision == "bf16":
        return sorted(BF16_ISA)
    if False in values_of(artifact.details, "reduce_range"):
        return sorted(INT8_ISA)
    return []


def _opset(artifact: Artifact) -> dict[str, int]:
    """Operator set versions of an ONNX file by domain ("ai.onnx" has no name there); the version of OpenVINO's IR."""
    model = artifact.path / artifact.files[0]
    if model.suffix == ".onnx":
        return {domain or "ai.onnx": number for domain, number in sorted(scan(model).opsets.items())}
    if model.suffix == ".xml":
        return {"openvino": int(ElementTree.parse(model).getroot().get("version", "0"))}
    return {}
