"""Checkpoint to ONNX for ONNX Runtime: dynamic batch and length, attention fused and the fused count asserted.

The TorchScript exporter with eager attention is the one whose graph ONNX Runtime's optimizer fuses (6 of 6 layers of
MiniLM; 0 of 6 from SDPA or from the dynamo exporter).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paredown.compress.models.architectures import CONVOLUTIONAL, STATIC, supported
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

from ..artifact import WEIGHTS_ONLY, Artifact, marks_of
from ..hardware import has_int8_isa
from .causal_lm import decoder_onnx
from .fusion import fuse, half
from .metadata import finish
from .seq2seq import DECODER, ENCODER, generation_of, of_calls, plain_decoder, recorded, trace
from .trace import OPSET, traced

if TYPE_CHECKING:
    import torch


TRACERS = {"seq2seq": trace, "causal_lm": decoder_onnx}  # by Task.graph; others are one plain graph


def plain_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> Path:
    """Write the checkpoint as an unfused ONNX file, which every runtime's artefact starts from; returns `target`.

    Text: inputs (batch, length) int64, both sizes dynamic. Images: (batch, channels, height, width) float32, of the
    preprocessor's size. Output `task.output` float32, (batch, labels), or (batch, length, labels). Of a model that
    writes, `halves.trace` writes two files; of one that continues texts, `causal.decoder_onnx`. Raises InputError
    for an architecture that is not known, before it is loaded.
    """
    if task.graph in TRACERS:
        TRACERS[task.graph](checkpoint, task, target)
        return target
    kind, known = checkpoint.config.get("model_type", ""), (*supported(decoders=False), *CONVOLUTIONAL)
    if kind in supported(decoders=True):
        raise InputError(f"{checkpoint.path}: cannot export a '{kind}' model for {task.name}, only for text-generation")
    if kind not in (*known, STATIC):
        raise InputError(f"{checkpoint.path}: cannot export a '{kind}' model yet; supported: {', '.join(known)}")
    import torch

    model = load(checkpoint, task)
    model.set_attn_implementation("eager")

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return getattr(self.model(**dict(zip(task.inputs, inputs, strict=True))), task.output)

    example, axes = torch.ones(2, 16, dtype=torch.long), {0: "batch", 1: "length"}  # 1 would become a constant
    if task.reads_images:
        example, axes = torch.zeros(2, *checkpoint.encoder().shape), {0: "batch"}
    dynamic = {**dict.fromkeys(task.inputs, axes), task.output: axes if task.per_token else {0: "batch"}}
    traced(Positional(), (example,) * len(task.inputs), target, list(task.inputs), [task.output], dynamic)
    return target


def to_onnx(
    plain: Path,
    checkpoint: Checkpoint,
    task: Task,
    out: Path,
    max_length: int,
    precision: str = "fp32",
    calibration: Sequence[dict[str, np.ndarray]] = (),
    judge: Int8Evaluator | None = None,
) -> Artifact:
    """Make an ONNX Runtime artefact of a precision in PRECISIONS["onnxruntime"] in the directory `out`.

    `plain`: what `plain_onnx` wrote for this checkpoint. `calibration`: batches of training rows, needed for
    int8-static. `judge`: INT8 is judged on them, and may leave products in float. Raises StepError when attention was
    not fused.
    """
    out.mkdir(parents=True, exist_ok=True)
    details: dict = {"opset": OPSET}
    reduce_range = not has_int8_isa()
    if task.graph == "seq2seq":
        calls = recorded(plain, checkpoint, calibration) if calibration and precision.startswith("int8") else []
        files = (f"{ENCODER}.onnx", f"{DECODER}.onnx")
        details[ENCODER] = _ready(plain, out / files[0], checkpoint, task, precision, (), None, reduce_range)
        details[DECODER] = _ready(
            plain_decoder(plain), out / files[1], checkpoint, task, precision, calls, of_calls(judge), reduce_range
        )
    else:
        files = ("model.onnx",)
        details |= _ready(plain, out / files[0], checkpoint, task, precision, calibration, judge, reduce_range)
    if precision.startswith("int8") and precision not in WEIGHTS_ONLY:
        details |= {"weights": "S8 per channel", "activations": "U8", "reduce_range": reduce_range}
    return artifact_of(checkpoint, task, out, max_length, "onnxruntime", precision, files, details)


def _ready(
    plain: Path,
    ready: Path,
    checkpoint: Checkpoint,
    task: Task,
    precision: str,
    calibration: Sequence[dict[str, np.ndarray]],
    judge: Int8Evaluator | None,
    reduce_range: bool,
) -> dict:
    """One graph in its precision, written to `ready`; what was found, for the artefact's details."""
    from paredown.compress.quantization import int8, weight_only

    details: dict = {}
    rows = int8.Calibration(calibration, task, judge)
    with tempfile.TemporaryDirectory() as scratch:
        if precision == "int8-static":  # QDQ goes around MatMul, which a fused Attention would hide
            details |= int8.static(plain, ready, rows, reduce_range=reduce_range)
        else:
            fused = Path(scratch) / "fused.onnx"
            details["fused"] = fuse(plain, fused, checkpoint)
            if precision == "int8-dynamic":
                details |= int8.dynamic(fused, ready, rows, reduce_range=reduce_range)
            elif precision == "fp16":
                half(fused, ready)
            elif precision in WEIGHTS_ONLY:
                details |= weight_only.onnx_weights(fused, ready, WEIGHTS_ONLY[precision])
            else:
                shutil.copyfile(fused, ready)
    finish(ready, task=task.name, labels=checkpoint.labels, source=checkpoint.digest, precision=precision)
    return details


def artifact_of(
    checkpoint: Checkpoint,
    task: Task,
    out: Path,
    max_length: int,
    runtime: str,
    precision: str,
    files: tuple[str, ...],
    details: dict,
) -> Artifact:
    """Finish an exported directory: config and tokenizer or preprocessor beside the model, and artifact.json."""
    encoder = checkpoint.encoder(max_length)
    checkpoint.copy_to(out)
    encoder.write(out)
    return Artifact(
        path=out,
        name=f"{runtime}-{precision}",
        task=task.name,
        runtime=runtime,
        precision=precision,
        files=files,
        inputs=task.inputs,
        outputs=(task.output,),
        labels=checkpoint.labels,
        max_length=encoder.max_length,
        pad_id=checkpoint.pad_id,
        source=checkpoint.digest,
        details=details | marks_of(encoder),
        generation=generation_of(checkpoint, task, files),
    ).write()
