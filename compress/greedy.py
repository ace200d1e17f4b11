"""Text written token by token: the likeliest next token each time, until the one that ends a text. With numpy alone.

The same file runs in training, in measuring and inside the bundle (it is copied there as it stands), around PyTorch's
two halves of a model or around those of any other runtime. It imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Half = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # inputs by name -> outputs by name


def writer(encoder: Half, decoder: Half, *, start_id: int, eos_id: int, pad_id: int, max_new_tokens: int) -> Half:
    """A session that writes: input_ids and attention_mask (rows, length) int64 -> sequences (rows, max_new_tokens)
    int64, `pad_id` behind `eos_id`, which is in them.

    `encoder` gives keys and values for every layer of the decoder, cross.N.key and .value (rows, heads, length, size).
    `decoder` takes these, one token a row (rows, 1), and past.N.key and .value, and gives logits (rows, vocabulary) and
    present.N.key and .value, which are one token longer. Padding is never written. ValueError for logits that are no
    numbers.
    """

    def write(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {"attention_mask": batch["attention_mask"]}
        crossed = encoder({"input_ids": batch["input_ids"], **given})
        rows = len(batch["input_ids"])
        past = {name.replace("cross", "past", 1): array[:, :, :0] for name, array in crossed.items()}
        token = np.full((rows, 1), start_id, dtype=np.int64)
        sequences = np.full((rows, max_new_tokens), pad_id, dtype=np.int64)
        ended = np.zeros(rows, dtype=bool)
        for place in range(max_new_tokens):
            found = decoder({"input_ids": token, **given, **crossed, **past})
            logits = np.array(found.pop("logits"))
            logits[:, pad_id] = -np.inf
            best = logits.argmax(axis=-1)
            if np.isnan(logits[np.arange(rows), best]).any():  # the first one is the "largest"
                raise ValueError("the model gave a number that is not finite")
            sequences[~ended, place] = best[~ended]
            ended |= best == eos_id
            if ended.all():
                break
            token = np.where(ended, pad_id, best)[:, None]
            past = {name.replace("present", "past", 1): array for name, array in found.items()}
        return {"sequences": sequences}

    return write
