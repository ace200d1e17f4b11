"""The forms in which models are exported, by `Task.graph`: one graph, encoder and decoder, or one with a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paredown.compress.models.checkpoint import Checkpoint
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.runtime.preprocessor import Batch
from paredown.tasks.base import Task

from .causal_lm import decoder_onnx
from .seq2seq import DECODER, ENCODER, of_calls, plain_decoder, recorded, seq2seq_onnx
from .single import single_onnx


@dataclass(frozen=True)
class Graph:
    """One of a model's graphs: the plain ONNX file, calibration batches, and what evaluates its INT8."""

    name: str  # of its file, without the suffix
    plain: Path
    calibration: Sequence[Batch]
    evaluator: Int8Evaluator | None


@dataclass(frozen=True)
class Form:
    """How models of one form are traced, which graphs they have, and what an artefact records."""

    trace: Callable[[Checkpoint, Task, Path], None]
    graphs: Callable[[Path, Checkpoint, Sequence[Batch], Int8Evaluator | None], list[Graph]]
    details: Callable[[Mapping[str, dict]], dict]  # of an artefact, from those of its graphs
    generation: Callable[[Checkpoint, Sequence[str]], dict | None]  # `Artifact.generation`, from its files


def _one(
    plain: Path, checkpoint: Checkpoint, calibration: Sequence[Batch], evaluator: Int8Evaluator | None
) -> list[Graph]:
    return [Graph("model", plain, calibration, evaluator)]


def _encoder_and_decoder(
    plain: Path, checkpoint: Checkpoint, calibration: Sequence[Batch], evaluator: Int8Evaluator | None
) -> list[Graph]:
    calls = recorded(plain, checkpoint, calibration) if calibration else []
    return [
        Graph(ENCODER, plain, calibration, None),
        Graph(DECODER, plain_decoder(plain), calls, of_calls(evaluator)),
    ]


def _of_model(found: Mapping[str, dict]) -> dict:
    return found["model"]


def _by_graph(found: Mapping[str, dict]) -> dict:
    return {name: details for name, details in found.items() if details}


def _none(checkpoint: Checkpoint, files: Sequence[str]) -> None:
    return None


def _cached(checkpoint: Checkpoint, files: Sequence[str]) -> dict:
    return checkpoint.generation


def _with_decoder(checkpoint: Checkpoint, files: Sequence[str]) -> dict:
    """`files`: encoder and decoder, or one file of both."""
    decoder = next((name for name in files if name.startswith(f"{DECODER}.")), files[0])
    return {"decoder": decoder, **checkpoint.generation}


FORMS = {
    "single": Form(single_onnx, _one, _of_model, _none),
    "seq2seq": Form(seq2seq_onnx, _encoder_and_decoder, _by_graph, _with_decoder),
    "causal_lm": Form(decoder_onnx, _one, _of_model, _cached),
}
