"""Greedy decoding of sequence-to-sequence models. Needs numpy alone.

The same file runs in training, in measuring and inside the bundle (it is copied there as it stands), around PyTorch's
two halves of a model or around those of any other runtime. It imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Half = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # inputs by name -> outputs by name


# What a generation_config.json may ask for beside the likeliest token, in the order of transformers' processors.
RULES = (
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip


def adjusted(
    logits: np.ndarray, rows: Sequence[Sequence[int]], new: int, ends: Sequence[int], most: int, rules: Mapping
) -> np.ndarray:
    """logits (rows, vocabulary) of the next token as the RULES that are given change them; a copy.

    `rows`: all tokens before it, those that were given included; `new` of them were chosen, of `most`; `ends`: tokens
    that end a text. repetition_penalty: Keskar et al. 2019, arXiv 1909.05858.
    """
    if not rules:
        return logits
    found, rows = np.array(logits, dtype=np.float32), [list(map(int, row)) for row in rows]
    for row, scores in zip(rows, found, strict=True):
        penalty = rules.get("repetition_penalty", 1.0)
        if penalty != 1.0:
            seen = np.unique(row)
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        size = rules.get("no_repeat_ngram_size", 0)
        if 0 < size <= len(row):
            last = row[len(row) - size + 1 :]
            again = [row[i + size - 1] for i in range(len(row) - size + 1) if row[i : i + size - 1] == last]
            scores[again] = -np.inf
        for word in rules.get("bad_words_ids", ()):
            if word not in [[end] for end in ends] and row[len(row) - len(word) + 1 :] == word[:-1]:
                scores[word[-1]] = -np.inf
        if len(row) < rules.get("min_length", 0) or new < rules.get("min_new_tokens", 0):
            scores[list(ends)] = -np.inf
        _force(scores, len(row), new, most, rules)
        scores[list(rules.get("suppress_tokens", ()))] = -np.inf
        if new == (1 if "forced_bos_token_id" in rules and len(row) - new == 1 else 0):
            scores[list(rules.get("begin_suppress_tokens", ()))] = -np.inf
    return found


def _force(scores: np.ndarray, length: int, new: int, most: int, rules: Mapping) -> None:
    """Leave only the first or the last token that the rules name, of a row of `length` tokens, in place."""
    wanted = []
    if "forced_bos_token_id" in rules and length == 1:
        wanted = [rules["forced_bos_token_id"]]
    if "forced_eos_token_id" in rules and new == most - 1:
        last = rules["forced_eos_token_id"]
        wanted = last if isinstance(last, list) else [last]
    if wanted:
        scores[:] = -np.inf
        scores[wanted] = 0.0


def writer(encoder: Half, decoder: Half, generation: Mapping) -> Half:
    """A session that writes: input_ids and attention_mask (rows, length) int64 -> sequences (rows, max_new_tokens)
    int64, padded behind the end token, which is in them.

    `generation`: start_id, eos_id, pad_id, max_new_tokens, and `logits`, the RULES that count, where there are any.
    `encoder` gives keys and values for every layer of the decoder, cross.N.key and .value (rows, heads, length, size).
    `decoder` takes these, one token a row (rows, 1), and past.N.key and .value, and gives logits (rows, vocabulary) and
    present.N.key and .value, which are one token longer. Padding is never written.
    ValueError for logits that are no numbers.
    """
    start_id, eos_id, pad_id = (int(generation[key]) for key in ("start_id", "eos_id", "pad_id"))
    max_new_tokens, rules = int(generation["max_new_tokens"]), generation.get("logits") or {}

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
            scores = np.array(found.pop("logits"))
            broken = np.isnan(scores).any(axis=-1)
            before = [[start_id, *row[:place].tolist()] for row in sequences] if rules else []
            scores = adjusted(scores, before, place, [eos_id], max_new_tokens, rules)
            scores[:, pad_id] = -np.inf
            best = scores.argmax(axis=-1)
            if (broken & np.isnan(scores[np.arange(rows), best])).any():  # the first one is the "largest"
                raise ValueError("the model gave a number that is not finite")
            sequences[~ended, place] = best[~ended]
            ended |= best == eos_id
            if ended.all():
                break
            token = np.where(ended, pad_id, best)[:, None]
            past = {name.replace("present", "past", 1): array for name, array in found.items()}
        return {"sequences": sequences}

    return write
