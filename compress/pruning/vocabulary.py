"""Vocabulary trimming: keeps the tokens that the user's text needs, and a floor of frequent ones.

The embedding is half of a small encoder's parameters. It costs no time to look up, but it is what gets shipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import parts_of

from ..config import Trim
from ..models.architectures import FAMILIES, STATIC
from ..models.static_embedding import StaticForSequenceClassification

NAMED = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")  # tokens in a config


def trim(
    model: PreTrainedModel, tokenizer_json: Path, texts: Sequence[str], settings: Trim, text: str | None = None
) -> str:
    """Reduce the model's embedding in place to the tokens kept; returns the new tokenizer.json's text. `text`: what
    the file says with the settings that lie beside it.

    What stays: special tokens, single characters and bytes, the `frequent` first pieces of the vocabulary (tokenizers
    list theirs by frequency), and the tokens that `texts` have `min_count` times or more. Raises InputError for a kind
    of tokenizer or model that it does not know.
    """
    if model.config.model_type not in (*FAMILIES, STATIC):
        raise InputError(f"cannot trim a '{model.config.model_type}' model; supported: {', '.join(FAMILIES)}")
    text = tokenizer_json.read_text(encoding="utf-8") if text is None else text
    data = json.loads(text)
    old = _vocabulary(data, tokenizer_json)
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch([parts_of(text) for text in texts])
    seen = Counter(token for encoding in encodings for token in encoding.tokens)
    used = {token for token, count in seen.items() if count >= settings.min_count}
    specials = {token["content"] for token in data.get("added_tokens", [])}
    keep = {token for token in old if token in specials or token in used or _is_floor(token)}
    keep |= set(sorted(old, key=old.__getitem__)[: settings.frequent + len(specials)])
    keep |= {str(data["model"].get("unk_token"))} & old.keys()
    keep = _with_parts(data["model"], keep)
    kept = sorted(keep, key=old.__getitem__)
    new = {token: i for i, token in enumerate(kept)}
    _write_vocabulary(data, old, new)
    _cut_embedding(model, np.array([old[token] for token in kept]), {old[token]: i for token, i in new.items()})
    return json.dumps(data, ensure_ascii=False)


def keep_tokens(model: PreTrainedModel, tokens: Iterable[int]) -> dict[int, int]:
    """Reduce the embedding in place to these tokens and those that the config names; returns their new numbers."""
    named = {getattr(model.config, key, None) for key in NAMED}
    kept = sorted({*tokens, *(token for token in named if isinstance(token, int))})
    numbers = {token: i for i, token in enumerate(kept)}
    _cut_embedding(model, np.array(kept), numbers)
    return numbers


def changed_share(before: str, after: str, texts: Sequence[str]) -> float:
    """Share of the tokens of `texts`, 0..1, that the trimmed tokenizer no longer gives; both as tokenizer.json's
    text."""
    old, new = Tokenizer.from_str(before), Tokenizer.from_str(after)
    changed = total = 0
    for text in texts:
        was, now = (Counter(t.encode_batch([parts_of(text)])[0].tokens) for t in (old, new))
        changed += (was - now).total()
        total += was.total()
    return changed / max(total, 1)


def _vocabulary(data: dict, path: Path) -> dict[str, int]:
    """Token -> number, added tokens included."""
    model = data["model"]
    if model["type"] in ("WordPiece", "WordLevel", "BPE"):
        found = dict(model["vocab"])
    elif model["type"] == "Unigram":
        found = {token: i for i, (token, _) in enumerate(model["vocab"])}
    else:
        raise InputError(
            f"{path}: a '{model['type']}' vocabulary cannot be trimmed; known: WordPiece, WordLevel, BPE, Unigram"
        )
    return found | {token["content"]: token["id"] for token in data.get("added_tokens", [])}


def _is_floor(token: str) -> bool:
    """A single character, a single continuing character (WordPiece), or a byte (<0x0A>)."""
    return len(token.removeprefix("##")) == 1 or (len(token) == 6 and token.startswith("<0x"))


def _with_parts(model: dict, keep: set[str]) -> set[str]:
    """BPE reaches a token through its parts: they stay too."""
    if model["type"] != "BPE":
        return keep
    made: dict[str, list[str]] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made.setdefault(left + right, [left, right])
    waiting = list(keep)
    while waiting:
        for part in made.get(waiting.pop(), []):
            if part not in keep:
                keep.add(part)
                waiting.append(part)
    return keep


def _write_vocabulary(data: dict, old: dict[str, int], new: dict[str, int]) -> None:
    """Renumber everything in a tokenizer.json that names tokens or their numbers, in place."""
    model = data["model"]
    if model["type"] == "Unigram":
        scores = dict(model["vocab"])
        model["vocab"] = [[token, scores.get(token, 0.0)] for token in new]
        if model.get("unk_id") is not None:
            names = {i: token for token, i in old.items()}
            model["unk_id"] = new[names[model["unk_id"]]]
    else:
        model["vocab"] = {token: i for token, i in new.items() if token in model["vocab"]}
    if model["type"] == "BPE":
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        kept = [p for p in pairs if p[0] in new and p[1] in new and p[0] + p[1] in new]
        as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
        model["merges"] = [" ".join(p) for p in kept] if as_text else kept
    for token in data.get("added_tokens", []):
        token["id"] = new[token["content"]]
    post = data.get("post_processor") or {}
    for step in post.get("processors", [post]):
        for special in (step.get("special_tokens") or {}).values():
            special["ids"] = [new[token] for token in special["tokens"]]
        for end in ("cls", "sep"):
            if isinstance(step.get(end), list):
                step[end][1] = new[step[end][0]]
    if data.get("padding"):
        data["padding"]["pad_id"] = new[data["padding"]["pad_token"]]


def _cut_embedding(model: PreTrainedModel, rows: np.ndarray, numbers: dict[int, int]) -> None:
    """Keep these rows of the input embedding; the config's sizes and token numbers follow."""
    words = model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    pad = numbers.get(words.padding_idx) if words.padding_idx is not None else None
    new = nn.Embedding(len(rows), words.embedding_dim, padding_idx=pad, dtype=words.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(words.weight[torch.from_numpy(rows)])
    model.set_input_embeddings(new)
    if isinstance(model, StaticForSequenceClassification):
        model.keep_tokens(torch.from_numpy(rows))
    model.config.vocab_size = len(rows)
    for key in NAMED:
        if getattr(model.config, key, None) is not None:
            setattr(model.config, key, numbers.get(getattr(model.config, key)))
