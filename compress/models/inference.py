"""One forward call of a model. Apart from training, whose libraries take seconds to import."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.causal_decoding import NEXT, next_token
from paredown.runtime.preprocessor import Batch, by_length, collate, run_rows

from ..distributed import group
from .output_kinds import OutputKind, kind_of, pad_id, tensors


def forward(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference call: input_ids and attention_mask (rows, length) int64, or pixel_values (rows, channels, height,
    width) float32 -> {"logits": float32}, (rows, labels) or (rows, length, labels); of a model that generates text
    {"sequences": int64}, (rows, tokens); of one that continues texts {NEXT: float32}, (rows, length, 2).
    """
    if kind_of(model) is OutputKind.SEQ2SEQ:
        from .seq2seq import write

        return write(model, batch)
    with torch.inference_mode() if group.count() == 1 else torch.no_grad():  # parted weights need version counters
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


BATCH = 16  # rows a call
FILLED = 0.8  # share of a GPU's free memory that weights may take; the rest is for what is computed


def run_shared(
    session: Callable[[Batch], Batch],
    rows: Sequence[Sequence[int]],
    pad_id: int,
    output: str,
    *,
    together: bool = False,
) -> np.ndarray:
    """`run_rows`, its batches dealt out to all processes; each of them has every answer then, those that one process
    gives. `together`: every process calls the session equally often."""
    if group.count() == 1:
        return run_rows(session, rows, pad_id, output, BATCH)
    batches = list(by_length(rows, BATCH))
    mine = batches[group.rank() :: group.count()]
    found = [np.asarray(session(collate([rows[i] for i in batch], pad_id))[output]) for batch in mine]
    if together and len(mine) < -(-len(batches) // group.count()):
        session(collate([rows[i] for i in batches[0]], pad_id))  # its answers are another process's
    every = group.gathered(found)
    answers = iter([every[i % len(every)][i // len(every)] for i in range(len(batches))])
    return run_rows(lambda _: {output: next(answers)}, rows, pad_id, output, BATCH)


def sharded_scores(teacher: PreTrainedModel, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """`teacher_scores` where every process, on its GPU or on the CPU, holds an equal share of each layer's weights and
    receives the others' while it computes the layer."""
    from .sharding import sharded

    return run_shared(partial(forward, sharded(teacher)), ids, pad_id(teacher), "logits", together=True)


def teacher_scores(teacher: PreTrainedModel, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """The teacher's logits for every row, as `run_rows` gives them, or what it writes: the dearest part of a short
    distillation. Logits are computed on a GPU where there is one with enough memory, in float32, else on the CPU, in
    bf16 with AMX; texts are written on the CPU. The teacher is left on the device where it was.

    Several processes score a part each. Where their GPUs have no memory for all weights, each holds a part of these.
    """
    writes, before = kind_of(teacher) is OutputKind.SEQ2SEQ, teacher.device
    module = cast(nn.Module, teacher)  # its own `to` is overloaded
    try:
        if torch.cuda.is_available() and not writes:
            if group.count() > 1 and not all(group.gathered(_fits(teacher))):
                return sharded_scores(teacher, ids)
            with contextlib.suppress(torch.OutOfMemoryError):
                module.to("cuda")
                return run_shared(partial(forward, teacher), ids, pad_id(teacher), "logits")
        module.to("cpu")
        return _scores_on_cpu(teacher, ids, "sequences" if writes else "logits")
    finally:
        module.to(before)


def _fits(model: PreTrainedModel) -> bool:
    """Whether this process's GPU has memory for all weights."""
    weights = chain(model.parameters(), model.buffers())
    return sum(weight.nbytes for weight in weights) <= FILLED * torch.cuda.mem_get_info()[0]


def _scores_on_cpu(teacher: PreTrainedModel, ids: Sequence[Sequence[int]], output: str) -> np.ndarray:
    bf16 = has_amx() and output == "logits" and teacher.config.model_type not in IN_FLOAT32
    calls = count(1)

    def call(batch: Batch) -> Batch:
        if next(calls) % 64 == 0:
            give_back()
        return forward(teacher, batch)

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return run_shared(call, ids, pad_id(teacher), output)
