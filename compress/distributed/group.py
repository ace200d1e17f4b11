"""The processes that share a training or a scoring: what each is, and what they hand to each other.

All of them run the same program on the same rows (processes.py starts them). A process that nobody has started so is
alone, whatever PyTorch's default group may be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed


@dataclass
class _Here:
    """This process among the others."""

    rank: int = 0
    count: int = 1
    most_rows: int | None = None
    in_loss: bool = False
    idle: bool = False


_here = _Here()


@contextmanager
def joined(store: Path, rank: int, count: int, most_rows: int | None) -> Iterator[None]:
    """Be one of `count` processes of this machine, which find each other by the file `store`, while the block runs: on
    the GPU of number `rank` with NCCL, or on the CPU with Gloo. `most_rows`: as in `rows_at_a_time`."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")  # nobody else's business
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    distributed.init_process_group(backend, init_method=store.as_uri(), rank=rank, world_size=count)
    _here.rank, _here.count, _here.most_rows = rank, count, most_rows
    yield
    distributed.destroy_process_group()


def rank() -> int:
    return _here.rank


def count() -> int:
    """How many processes there are; 1 in one that is alone."""
    return _here.count


def leads() -> bool:
    """True in the process that writes files; and in one that is alone."""
    return _here.rank == 0


def rows_at_a_time(wanted: int) -> int:
    """`wanted`, or fewer where that was too many for the memory."""
    return min(wanted, _here.most_rows or wanted)


def gathered(value: Any) -> list[Any]:
    """What every process gives, in the order of the processes; every process has to call it."""
    if _here.count == 1:
        return [value]
    values: list[Any] = [None] * _here.count
    distributed.all_gather_object(values, value)
    return values


@contextmanager
def one_loss(*, idle: bool) -> Iterator[None]:
    """The block computes the loss of a batch of which every process has a part. `idle`: there was none left for this
    one, and its rows do not count."""
    _here.in_loss, _here.idle = _here.count > 1, idle
    try:
        yield
    finally:
        _here.in_loss = _here.idle = False


def over_all(amount: torch.Tensor) -> torch.Tensor:
    """What the sum of a loss is divided by: `amount` (rows, tokens, a sum of weights), a scalar.

    In `one_loss` the mean of it over the processes, where all of them call it: gradients are averaged over processes,
    and so is the quotient, which then is the sum over all rows divided by the amount of all rows."""
    if not _here.in_loss:
        return amount
    total = amount.detach().float() * (not _here.idle)
    distributed.all_reduce(total)
    return total / _here.count


def rows_of_all(rows: torch.Tensor) -> list[torch.Tensor]:
    """In `one_loss`: the rows of every process, in their order; none of an idle one. Gradients flow into those of this
    process alone."""
    if not _here.in_loss:
        return [rows]
    every = gathered(rows[:0].detach().cpu() if _here.idle else rows.detach().cpu())
    return [part.to(rows.device) if number != _here.rank or _here.idle else rows for number, part in enumerate(every)]


def loss_of_all(loss: torch.Tensor) -> torch.Tensor:
    """A loss that every process has computed from `rows_of_all`: the gradient counts once, not divided by the number
    of processes."""
    return loss.detach() + (loss - loss.detach()) * _here.count if _here.in_loss else loss
