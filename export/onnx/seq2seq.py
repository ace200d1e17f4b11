"""The two graphs of a sequence-to-sequence model: export, calibration data, generation settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.quantization.int8_cost import Int8Evaluator
from paredown.compress.threads import few_threads
from paredown.runtime.preprocessor import Batch
from paredown.runtime.seq2seq_decoding import writer
from paredown.runtime.session import open_session
from paredown.tasks.base import Task

ENCODER, DECODER = "encoder", "decoder"  # names of their files, before the suffix
RECORDED_ROWS = 32  # of the calibration rows, from which the decoder's calls are taken
EVERY = 4  # and of these calls, every so manieth


def plain_decoder(plain: Path) -> Path:
    """The decoder's graph, beside that of the encoder, which is what `plain_onnx` returns."""
    return plain.with_name(f"{plain.stem}-{DECODER}.onnx")


def seq2seq_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> None:
    """Write encoder and decoder of a checkpoint as ONNX files: `target` and its `plain_decoder`. Rows, input length
    and number of tokens in the cache are dynamic."""
    import torch

    from paredown.compress.models.seq2seq import DecoderHalf, EncoderHalf

    from .trace import traced

    model = load(checkpoint, task)
    model.set_attn_implementation("eager")
    encoder, decoder = EncoderHalf(model).eval(), DecoderHalf(model).eval()
    ids, token = torch.ones(2, 16, dtype=torch.long), torch.ones(2, 1, dtype=torch.long)
    with torch.no_grad():
        crossed = encoder(ids, ids)
    past = tuple(tensor[:, :, :5] for tensor in crossed)  # 1 would become a constant
    sizes = {
        "input_ids": {0: "batch"}, "attention_mask": {0: "batch", 1: "length"}, "cross": {0: "batch", 2: "length"},
        "past": {0: "batch", 2: "past"}, "present": {0: "batch", 2: "total"}, "logits": {0: "batch"},
    }  # fmt: skip
    for half, given, file in (
        (encoder, (ids, ids), target),
        (decoder, (token, ids, *past, *crossed), plain_decoder(target)),
    ):
        axes = {name: sizes[name.partition(".")[0]] for name in (*half.inputs, *half.outputs)}
        if half is encoder:
            axes["input_ids"] = sizes["attention_mask"]
        traced(half, given, file, half.inputs, half.outputs, axes)


def recorded(plain: Path, checkpoint: Checkpoint, calibration: Sequence[Batch]) -> list[Batch]:
    """Calls of the decoder, as its inputs by name, while the float graphs write the answers to the first rows of
    `calibration`: what its INT8 is calibrated and judged on."""
    encoder, decoder = (
        open_session(path, "onnxruntime", "fp32", few_threads()) for path in (plain, plain_decoder(plain))
    )
    calls: list[Batch] = []

    def listening(batch: Batch) -> Batch:
        calls.append({name: np.array(array) for name, array in batch.items()})
        return decoder(batch)

    write = writer(encoder, listening, checkpoint.generation)
    for batch in calibration[:RECORDED_ROWS]:
        write(batch)
    return calls[::EVERY]


def of_calls(evaluator: Int8Evaluator | None) -> Int8Evaluator | None:
    """What evaluates INT8 on `recorded` calls, of which nobody knows what is right."""
    return evaluator and replace(evaluator, rows=None)
