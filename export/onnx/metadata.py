"""Metadata of our ONNX files (producer, task, labels) and their soundness check; the .ort format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paredown.runtime.errors import StepError

from ..artifact import Artifact
from ..hardware import version

PRODUCER = "paredown"


def finish(path: Path, *, task: str, labels: Sequence[str], source: str, precision: str) -> None:
    """Write producer, task, labels and checkpoint into the file, in place, and check it.

    Anyone can read them: `onnx.load(f).metadata_props`, or `InferenceSession(f).get_modelmeta()`. Raises StepError
    when onnx.checker or shape inference finds the graph at fault; they take ONNX Runtime's own operators as they are.
    """
    import onnx

    model = onnx.load(path)
    model.producer_name, model.producer_version = PRODUCER, version("paredown") or "unknown"
    onnx.helper.set_model_props(
        model,
        {"task": task, "labels": json.dumps(list(labels)), "checkpoint_sha256": source, "precision": precision},
    )
    try:
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StepError(f"{path.name}: not a sound ONNX model: {' '.join(str(error).split())}") from None
    onnx.save(model, path)


def for_mobile(artifact: Artifact) -> Artifact:
    """The artefact with its model in ONNX Runtime's own format (.ort), which its mobile and minimal builds read.

    Optimised only in ways that hold on any CPU: onnxruntime.ai/docs/performance/model-optimizations/ort-format-models
    """
    model, target = artifact.path / artifact.files[0], artifact.path / "model.ort"
    save_as_ort(model, target)
    model.unlink()
    return replace(artifact, files=(target.name,)).write()


def save_as_ort(model: Path, target: Path) -> None:
    """Write an ONNX model to `target` in ONNX Runtime's own format. Raises what ONNX Runtime does for a model that it
    cannot open."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
