"""config.json and the tokenizer's settings in a bundle: what AutoConfig, AutoTokenizer and transformers.js open.

They are data alone: keys that name code to download are left out, and so are paths of the machine that trained it.
https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paredown.compress.models.architectures import STATIC
from paredown.compress.models.checkpoint import STRUCTURE
from paredown.compress.models.tokenizer_settings import NAMED, named_token
from paredown.compress.models.validation import read_json
from paredown.tasks.registry import task_named

from ..artifact import Artifact

CONFIG, TOKENIZER, SPECIAL = "config.json", "tokenizer_config.json", "special_tokens_map.json"
NOTE = "paredown"  # the key of config.json that says where the graph is not what its model_type says
LEFT_OUT = {"auto_map", "custom_pipelines", "trust_remote_code", "_name_or_path", "name_or_path"}
STAND_IN = "bert"


def write_config(artifact: Artifact, out: Path) -> None:
    """Write config.json of an artefact to `out`; nothing where the artefact came without one.

    A static student gets the model_type of a BERT with no layers, for AutoConfig and transformers.js know no other that
    fits: they read from it labels and widths, never weights. Layers of different shapes, and a cascade, are described
    under the key "paredown".
    """
    file = artifact.path / CONFIG
    if not file.is_file():
        return
    config = without_code(read_json(file))
    note: dict[str, Any] = {}
    if config.get("model_type") == STATIC:
        config, note = _static(config), {"model": "static student: embeddings without layers, not a BERT"}
    if (artifact.path / STRUCTURE).is_file():
        note["structure"] = read_json(artifact.path / STRUCTURE)
    if "cascade" in artifact.details:
        note["cascade"] = "several models in one graph; this file describes the last one"
    labels = task_named(artifact.task).listed_labels(artifact.labels)
    if labels:
        config["id2label"] = {str(number): label for number, label in enumerate(artifact.labels)}
        config["label2id"] = {label: number for number, label in enumerate(artifact.labels)}
    _write(out / CONFIG, config | ({NOTE: note} if note else {}))


def write_tokenizer_settings(artifact: Artifact, out: Path, side: str) -> None:
    """Write tokenizer_config.json and special_tokens_map.json beside the tokenizer.json in `out`, which alone says how
    a text becomes tokens: the class is the one that reads it as it is. `side`: the one that is truncated."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    named = {role: named_token(artifact.path, role) for role in NAMED}
    named["pad_token"] = tokenizer.id_to_token(artifact.pad_id) or named["pad_token"]
    special = {role: token for role, token in named.items() if token and tokenizer.token_to_id(token) is not None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": artifact.max_length,
        "model_input_names": list(artifact.inputs),
        "padding_side": "right",
        "truncation_side": side,
        "clean_up_tokenization_spaces": False,
    }
    _write(out / TOKENIZER, settings | special)
    _write(out / SPECIAL, special)


def without_code(value: Any) -> Any:
    """JSON without the keys that name code or places, however deep."""
    if isinstance(value, dict):
        return {key: without_code(part) for key, part in value.items() if key not in LEFT_OUT}
    return [without_code(part) for part in value] if isinstance(value, list) else value


def _static(config: dict) -> dict:
    kept = ("vocab_size", "max_position_embeddings", "pad_token_id", "problem_type", "dtype")
    return {
        "architectures": [name.replace("Static", "Bert") for name in config.get("architectures") or ()],
        "model_type": STAND_IN,
        "hidden_size": config.get("vector_size") or config["hidden_size"],  # receivers read the vector's width here
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "intermediate_size": 0,
        **{key: config[key] for key in kept if key in config},
    }


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
