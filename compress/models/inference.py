"""One forward call of a model. Apart from training, whose libraries take seconds to import."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.causal_decoding import NEXT, next_token
from paredown.runtime.preprocessor import Batch, run_rows

from .output_kinds import OutputKind, kind_of, pad_id, tensors


def forward(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference call: input_ids and attention_mask (rows, length) int64, or pixel_values (rows, channels, height,
    width) float32 -> {"logits": float32}, (rows, labels) or (rows, length, labels); of a model that generates text
    {"sequences": int64}, (rows, tokens); of one that continues texts {NEXT: float32}, (rows, length, 2).
    """
    if kind_of(model) is OutputKind.SEQ2SEQ:
        from .seq2seq import write

        return write(model, batch)
    with torch.inference_mode():
        out = model(**{name: tensor.to(model.device) for name, tensor in tensors(batch).items()})
    logits = out.logits.float().cpu().numpy()
    if kind_of(model) is OutputKind.CAUSAL_LM:
        return {NEXT: next_token(logits, batch["input_ids"], batch["attention_mask"])}
    return {"logits": logits}


IN_FLOAT32 = ("deberta",)  # its attention fills with the minimum of float32, which overflows under bf16 autocast


def fast_bf16() -> bool:
    """True where bf16 autocast pays: a GPU, or a CPU with AMX. With AVX512-BF16 alone float32 is 1.5 times as fast."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return has_amx()


def has_amx() -> bool:
    """True on a CPU with AMX."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check and check())


def give_back() -> None:
    """Hand memory that is free back to the machine, where the C library can be asked to (glibc).

    Batches of ever new lengths leave it in pieces that the next one does not fit: 23,000 reviews of up to 512 tokens
    took 11 GB.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def teacher_scores(teacher: PreTrainedModel, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """The teacher's logits for every row, as `run_rows` gives them, or what it writes: the dearest part of a short
    distillation. Logits are computed on a GPU where there is one with enough memory, in float32, else on the CPU, in
    bf16 with AMX; texts are written on the CPU. The teacher is left on the device where it was."""
    writes, before = kind_of(teacher) is OutputKind.SEQ2SEQ, teacher.device
    module = cast(nn.Module, teacher)  # its own `to` is overloaded
    try:
        if torch.cuda.is_available() and not writes:
            with contextlib.suppress(torch.OutOfMemoryError):
                module.to("cuda")
                return run_rows(partial(forward, teacher), ids, pad_id(teacher), "logits")
        module.to("cpu")
        return _scores_on_cpu(teacher, ids, "sequences" if writes else "logits")
    finally:
        module.to(before)


def _scores_on_cpu(teacher: PreTrainedModel, ids: Sequence[Sequence[int]], output: str) -> np.ndarray:
    bf16 = has_amx() and output == "logits" and teacher.config.model_type not in IN_FLOAT32
    calls = count(1)

    def call(batch: Batch) -> Batch:
        if next(calls) % 64 == 0:
            give_back()
        return forward(teacher, batch)

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return run_rows(call, ids, pad_id(teacher), output)
