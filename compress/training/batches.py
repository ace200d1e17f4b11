"""The order of the training rows, and the part of every batch that a process computes at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

IDLE = "idle"  # a key of a row that does not count


class Batches(Sampler[list[int]]):
    """Row numbers of batches of `batch_size` rows of similar length, in an order of the seed alone: of every batch the
    part of one process, at most `micro` rows at a time. A batch takes `parts` turns, the last one of an epoch may take
    fewer; every process has as many. ~row: this process has no part, and computes that row in vain.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, micro: int, *, seed: int, rank: int = 0, count: int = 1
    ) -> None:
        self.batch_size, self.together, self.rank, self.count = batch_size, micro * count, rank, count
        random = torch.Generator().manual_seed(seed)
        self.order = LengthGroupedSampler(batch_size, lengths=list(lengths), generator=random)
        self.parts = math.ceil(batch_size / self.together)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            for part in np.array_split(batch, math.ceil(len(batch) / self.together)):
                yield part[self.rank :: self.count].tolist() or [~int(part[0])]

    def __len__(self) -> int:
        batches, rest = divmod(len(self.order), self.batch_size)
        return batches * self.parts + math.ceil(rest / self.together)


class Rows(Dataset):
    """Training rows by the numbers of `Batches`."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number] if number >= 0 else self.rows[~number] | {IDLE: True}
