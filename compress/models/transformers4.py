"""What is saved opens in transformers 4 too, where it has the architecture: names that only transformers 5 knows are
written as both know them. Without torch."""

from __future__ import annotations

import json
from pathlib import Path

from .validation import read_json

CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast", "PythonBackend": "PreTrainedTokenizer"}


def for_transformers_4(path: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a checkpoint directory in place; nothing is taken away."""
    for name, change in (("config.json", _config), ("tokenizer_config.json", _tokenizer)):
        file = path / name
        if file.is_file():
            data = read_json(file)
            before = json.dumps(data)
            change(data)
            if json.dumps(data) != before:
                file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(data: dict) -> None:
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


def _tokenizer(data: dict) -> None:
    data_class = data.get("tokenizer_class")
    if data_class in CLASSES:
        data["tokenizer_class"] = CLASSES[data_class]
    more = data.get("extra_special_tokens")
    if isinstance(more, list):  # in 4 a dictionary of named ones; the others are `additional`
        del data["extra_special_tokens"]
        known = data.get("additional_special_tokens") or []
        data["additional_special_tokens"] = [*known, *(token for token in more if token not in known)]
