"""Saved checkpoints open in transformers 4 too: names that only transformers 5 knows are written as both know them."""

from __future__ import annotations

import json
from pathlib import Path

from .validation import WEIGHTS, read_json

CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast", "PythonBackend": "PreTrainedTokenizer"}
# Classes that make the post-processor of tokenizer.json anew in transformers 4, with a start token by default.
STARTED = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
OUTPUT, SHARED = "lm_head.weight", "shared.weight"  # of T5


def for_transformers_4(path: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a checkpoint directory in place; nothing is taken away.

    Where the output layer of a T5 is its own, its weights are in the file too. Imports torch for that.
    """
    for name, change in (("config.json", _config), ("tokenizer_config.json", _tokenizer)):
        file = path / name
        if file.is_file():
            data = read_json(file)
            before = json.dumps(data)
            change(data)
            if name != "config.json" and str(data.get("tokenizer_class")).removesuffix("Fast") in STARTED:
                _say_ends(data, path / "tokenizer.json")
            if json.dumps(data) != before:
                file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if name == "config.json" and own_output_layer(data):
                _write_output_layer(path / WEIGHTS)


def own_output_layer(config: dict) -> bool:
    """T5 v1.1 and mT5: the output layer is not the embedding, and what goes into it is not scaled. transformers 4 says
    so with `tie_word_embeddings: false`; 5 always writes true, and has a key of its own for the scaling."""
    kind = config.get("model_type")
    if kind == "t5":
        return config.get("scale_decoder_outputs", config.get("tie_word_embeddings")) is False
    return kind == "mt5"


def _write_output_layer(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    if OUTPUT not in weights and SHARED in weights:
        save_file({**weights, OUTPUT: weights[SHARED].clone()}, path, metadata={"format": "pt"})


def _config(data: dict) -> None:
    if own_output_layer(data):
        data["tie_word_embeddings"] = False
    _rotary(data)


def _rotary(data: dict) -> None:
    """Rotary positions: one record in 5, in 4 a base and a scaling, or a base for each kind of layer."""
    found = data.get("rope_parameters")
    if not isinstance(found, dict):
        return
    by_kind = {kind: value for kind, value in found.items() if isinstance(value, dict) and "rope_theta" in value}
    for kind, key in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        if kind in by_kind:
            data.setdefault(key, by_kind[kind]["rope_theta"])
    if "rope_theta" in found:
        data.setdefault("rope_theta", found["rope_theta"])
        if found.get("rope_type", "default") != "default":
            data.setdefault("rope_scaling", {key: value for key, value in found.items() if key != "rope_theta"})


def _say_ends(data: dict, file: Path) -> None:
    """Whether tokenizer.json puts a start and an end token around a text."""
    from tokenizers import Tokenizer

    mask = Tokenizer.from_file(str(file)).encode("a").special_tokens_mask if file.is_file() else [0]
    data.setdefault("add_bos_token", mask[0] == 1)
    data.setdefault("add_eos_token", mask[-1] == 1)


def _tokenizer(data: dict) -> None:
    data_class = data.get("tokenizer_class")
    if data_class in CLASSES:
        data["tokenizer_class"] = CLASSES[data_class]
    more = data.get("extra_special_tokens")
    if isinstance(more, list):  # in 4 a dictionary of named ones; the others are `additional`
        del data["extra_special_tokens"]
        known = data.get("additional_special_tokens") or []
        data["additional_special_tokens"] = [*known, *(token for token in more if token not in known)]
