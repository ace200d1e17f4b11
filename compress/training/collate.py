"""Batches of training rows: padded tensors."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from paredown.runtime.preprocessor import PIXELS, collate
from paredown.tasks.base import NO_LABEL

PARTNER = "partner"  # of a row to train on: the ids of the text that belongs to it
ROW = "input_ids"  # the key under which a row to train on has what the encoder gave


def stack(rows: list[dict], filler: int, multiple: int = 1, per_token: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """A batch of rows to train on; what has one entry a token is padded, labels and targets with NO_LABEL.

    Texts are padded to a multiple of `multiple` tokens, and so are the keys `per_token`, which have one entry for each
    of these tokens.
    """
    given = [row[name] for name in (ROW, PARTNER) for row in rows if name in row]
    collated = collate(given, filler)
    if PIXELS not in collated:
        more = -collated["input_ids"].shape[1] % multiple
        for name, value in (("input_ids", filler), ("attention_mask", 0)):
            collated[name] = np.pad(collated[name], ((0, 0), (0, more)), constant_values=value)
    batch = {name: torch.from_numpy(a) for name, a in collated.items()}
    for name in rows[0].keys() - {ROW, PARTNER}:
        values = [np.asarray(row[name]) for row in rows]
        if values[0].ndim:
            longest = batch["input_ids"].shape[1] if name in per_token else max(map(len, values))
            none = NO_LABEL if name in ("labels", "targets") else 0
            values = [
                np.pad(v, [(0, longest - len(v)), *[(0, 0)] * (v.ndim - 1)], constant_values=none) for v in values
            ]
        batch[name] = torch.from_numpy(np.stack(values))
    return batch
