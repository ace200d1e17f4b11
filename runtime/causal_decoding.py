"""Decoding with a key/value cache: one graph scores texts and continues them. Needs numpy alone.

The same file runs in training, in measuring and inside the bundle (it is copied there as it stands), so the graph and
the arithmetic that were measured are those that are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from .preprocessor import collate
from .seq2seq_decoding import adjusted

NEXT = "next_token"  # what a decoder says about the token after each: (rows, tokens, 2) float32
NAMES = ("log_probability", "likeliest")  # of the token that does come next; and the number of the likeliest one
LOGITS = "logits"  # the graph's own first output, (rows, tokens, vocabulary)
ROWS = 8  # texts that are continued at once
BY_CACHE = 4  # last tokens of a row that go through the cache one by one when it is checked


def next_token(logits: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """logits (rows, tokens, vocabulary), ids and mask (rows, tokens) -> NEXT. The last token of a row, and padding,
    have a log-probability of 0, because nothing comes after them.

    One row at a time: nothing of the vocabulary's size is kept for more than that.
    """
    found = np.zeros((*ids.shape, 2), dtype=np.float32)
    for i, row in enumerate(logits):
        found[i, :, 1] = row.argmax(axis=-1)
        shifted = row - row.max(axis=-1, keepdims=True)
        chosen = shifted[np.arange(ids.shape[1] - 1), ids[i, 1:]]
        found[i, :-1, 0] = (chosen - np.log(np.exp(shifted[:-1]).sum(axis=-1))) * mask[i, 1:]
    return found


def cache_names(layers: int, of: str) -> list[str]:
    """The cache's tensors as the graph calls them, `of` is past_key_values or present: keys and values by layer, each
    (rows, heads, tokens, head size) float32."""
    return [f"{of}.{layer}.{name}" for layer in range(layers) for name in ("key", "value")]


class Decoder:
    """A session whose graph takes input_ids (rows, tokens), attention_mask (rows, past + tokens) and the cache, and
    gives logits and the longer cache.

    `about`: {layers, heads, head_size} of the cache, `ends`: tokens after which nothing comes, `max_new_tokens`, and
    `positions`, the longest text that the model takes. All is in tokens. `logits`: the `seq2seq_decoding.RULES` that
    count.
    """

    def __init__(self, session: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], about: Mapping) -> None:
        self._session, self.about = session, about
        self.rules: Mapping = about.get("logits") or {}
        self.ends, self.most = [int(i) for i in about["ends"]], int(about["max_new_tokens"])
        self.room = int(about["positions"]) - self.most  # for a prompt
        self._past, self._present = (cache_names(about["layers"], of) for of in ("past_key_values", "present"))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{NEXT: ...} for whole rows, input_ids and attention_mask (rows, tokens) int64, padded on the right."""
        out = self._session(self.begun(batch))
        return {NEXT: next_token(np.asarray(out[LOGITS], np.float32), batch["input_ids"], batch["attention_mask"])}

    def begun(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch with an empty cache: all that the graph takes."""
        shape = (len(batch["input_ids"]), self.about["heads"], 0, self.about["head_size"])
        return {**batch, **dict.fromkeys(self._past, np.zeros(shape, dtype=np.float32))}

    def continued(self, rows: Sequence[Sequence[int]], most: int | None = None) -> np.ndarray:
        """The likeliest tokens after each row of ids, (rows, max_new_tokens) int64, -1 behind the end of a text.

        Each time the likeliest one (greedy), `most` of them at most. A token that would end a row is taken off first:
        some tokenizers put it there.
        """
        found = np.full((len(rows), self.most), -1, dtype=np.int64)
        for start in range(0, len(rows), ROWS):
            part = [self._open_ended(row) for row in rows[start : start + ROWS]]
            for place, tokens in enumerate(self._steps(part, min(most or self.most, self.most))):
                found[start : start + ROWS, place] = tokens
        return found

    def _open_ended(self, row: Sequence[int]) -> list[int]:
        row = list(row)
        while row and row[-1] in self.ends:
            row.pop()
        return row or self.ends[:1] or [0]  # nothing at all: a text begins after the end of another

    def _steps(self, rows: list[list[int]], most: int) -> Iterator[np.ndarray]:
        """The next token of every row (rows,), again and again; -1 for those that have ended."""
        batch = collate(rows, 0)
        mask, going = batch["attention_mask"], np.ones(len(rows), dtype=bool)
        out = self._session(self.begun(batch))
        logits = out[LOGITS][np.arange(len(rows)), mask.sum(axis=1) - 1]
        new, limit, so_far = 0, most, [list(row) for row in rows]
        while most > 0:
            tokens = adjusted(logits, so_far, new, self.ends, limit, self.rules).argmax(axis=-1)
            so_far, new = [[*row, int(token)] for row, token in zip(so_far, tokens, strict=True)], new + 1
            going &= ~np.isin(tokens, self.ends)
            if not going.any():
                return
            yield np.where(going, tokens, -1)
            most -= 1
            if most:
                mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
                out = self._session(self._after(out, tokens[:, None], mask))
                logits = out[LOGITS][:, -1]

    def through_the_cache(self, ids: Sequence[int]) -> np.ndarray:
        """What a call says about one row, (tokens, 2), with the last tokens added one by one: the cache at work."""
        whole = np.array([ids], dtype=np.int64)
        first = max(1, len(ids) - BY_CACHE)
        out = self._session(
            self.begun({"input_ids": whole[:, :first], "attention_mask": np.ones_like(whole[:, :first])})
        )
        logits = [np.asarray(out[LOGITS], dtype=np.float32)]
        for place in range(first, len(ids)):
            seen = np.ones_like(whole[:, : place + 1])
            out = self._session(self._after(out, whole[:, place : place + 1], seen))
            logits.append(np.asarray(out[LOGITS], dtype=np.float32))
        return next_token(np.concatenate(logits, axis=1), whole, np.ones_like(whole))[0]

    def _after(self, out: Mapping[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        past = {name: out[now] for name, now in zip(self._past, self._present, strict=True)}
        return {"input_ids": ids, "attention_mask": mask, **past}
