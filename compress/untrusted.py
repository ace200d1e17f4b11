"""What a checkpoint directory may hold: no pickles (CVE-2025-32434), no remote code (CVE-2026-4372), whole weights.

Everything here reads bytes and JSON only; nothing is loaded. Without torch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from .errors import InputError

WEIGHTS = "model.safetensors"
JSON_LIMIT = 10**8  # bytes of a JSON file, and of the header of a safetensors file, which its own library has too
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# Keys that make transformers fetch and run code, or load weights in a way that is not ours.
REFUSED_KEYS = (
    "auto_map",
    "_attn_implementation_internal",
    "_attn_implementation",
    "attn_implementation",
    "quantization_config",
)
# Sizes that the rest of the house relies on, where a config has them.
SIZES = (
    "vocab_size", "hidden_size", "dim", "num_hidden_layers", "n_layers", "num_attention_heads", "n_heads",
    "intermediate_size", "hidden_dim", "max_position_embeddings", "num_key_value_heads", "head_dim", "n_embd", "n_head",
    "n_layer", "n_positions",
)  # fmt: skip


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON object (or a list, as `kind` says). Raises InputError."""
    try:
        if path.exists() and not path.is_file():  # a fifo would be waited for
            raise InputError(f"{path}: not a regular file")
        if path.stat().st_size > JSON_LIMIT:
            raise InputError(f"{path}: over {JSON_LIMIT / 1e6:g} MB")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a checkpoint is a directory that transformers has saved") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); is the download whole?") from None
    if not isinstance(data, kind):
        raise InputError(f"{path}: a JSON {'object' if kind is dict else 'list'} is expected")
    return data


def read_config(path: Path) -> dict:
    """config.json, refused when it could run code or holds what the house cannot work with."""
    config = read_json(path)
    for key in sorted(_keys(config) & set(REFUSED_KEYS)):
        raise InputError(
            f"{path}: key '{key}' could run code of the checkpoint's own or change how it is loaded, which paredown "
            "never allows; remove the key if the architecture is one of transformers' own"
        )
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if (
        not isinstance(kind, str)
        or not isinstance(architectures, list)
        or not all(isinstance(a, str) for a in architectures)
    ):
        raise InputError(f"{path}: 'model_type' and 'architectures' must be a name and a list of names")
    for key in SIZES:
        value = config.get(key, 1)
        if type(value) is not int or not 1 <= value < 10**8:
            raise InputError(f"{path}: '{key}' is {value!r}; a positive whole number is expected")
    for heads, width in (("num_attention_heads", "hidden_size"), ("n_heads", "dim"), ("n_head", "n_embd")):
        if config.get(width, 0) % config.get(heads, 1):
            raise InputError(f"{path}: '{width}' {config[width]} is not a multiple of '{heads}' {config[heads]}")
    pad = config.get("pad_token_id")
    if pad is not None and (type(pad) is not int or not 0 <= pad < config.get("vocab_size", 10**8)):
        raise InputError(f"{path}: 'pad_token_id' is {pad!r}; a token number below vocab_size is expected")
    names = config.get("id2label")
    if names is not None and (
        not isinstance(names, dict)
        or set(names) != {str(i) for i in range(len(names))}
        or len({str(name) for name in names.values()}) != len(names)
    ):
        raise InputError(f'{path}: \'id2label\' must map "0", "1", ... to names that differ')
    kind, outputs = config.get("problem_type"), len(names) if names else config.get("num_labels", 2)
    if kind not in (None, "single_label_classification", "multi_label_classification", "regression"):
        raise InputError(f"{path}: problem_type '{kind}'; labels or one number are known")
    if kind == "regression" and outputs != 1:
        raise InputError(f"{path}: problem_type '{kind}' with {outputs} outputs; one number a row is known")
    return config


def _keys(data: object) -> set[str]:
    """Every key of a JSON value, however deep."""
    if isinstance(data, dict):
        return set(data).union(*map(_keys, data.values()))
    return set().union(*map(_keys, data)) if isinstance(data, list) else set()


def find_weights(path: Path) -> tuple[Path, ...]:
    weights = path / WEIGHTS
    if (path / f"{WEIGHTS}.index.json").exists():
        raise InputError(
            f"{path}: sharded weights; write them as one file: save_pretrained(DIR, max_shard_size='100GB')"
        )
    if not weights.is_file():
        pickles = sorted(p.name for pattern in PICKLES for p in path.glob(pattern))
        if pickles:
            raise InputError(
                f"{path / pickles[0]}: pickle weights can run code when loaded and are refused; convert them where "
                "you trust them: AutoModelForSequenceClassification.from_pretrained(DIR).save_pretrained(NEW_DIR)"
            )
        raise InputError(f"{path}: no {WEIGHTS}; a checkpoint is a directory that transformers has saved")
    _check_whole(weights)
    return (weights,)


def _check_whole(path: Path) -> None:
    """A safetensors file is 8 bytes of header length, the header, and exactly the bytes that it names."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, JSON_LIMIT):
                raise ValueError
            header = json.loads(file.read(length))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        if not all(type(end) is int for end in ends):
            raise ValueError
        end = max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        raise InputError(f"{path}: not a safetensors file, or cut off; copy it again") from None
    if 8 + length + end != size:
        raise InputError(f"{path}: truncated: {size} bytes, {8 + length + end} expected; copy it again")
