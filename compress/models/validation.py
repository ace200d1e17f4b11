"""Checks of an untrusted checkpoint directory: no pickles (CVE-2025-32434), no remote code (CVE-2026-4372), no
truncated weights.

Everything here reads bytes and JSON only; nothing is loaded. Without torch.
"""

from __future__ import annotations

import json
import re
import shlex
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError
from paredown.tasks.base import MULTI_LABEL

from .advice import merge_adapter, python, strip_names, write_again

WEIGHTS = "model.safetensors"
JSON_LIMIT = 10**8  # bytes of a JSON file, and of the header of a safetensors file, which its own library has too
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
NO_WEIGHTS = (
    "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
    "model_head.pkl", "adapter_model.bin",
)  # fmt: skip
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
UNMERGED = re.compile(
    r"\.(lora_[A-Z]|lora_(embedding|magnitude|E)|modules_to_save|original_module|base_layer|ia3_l|hada_|lokr_|boft_|oft_"
    r"|vera_lambda|trainable_tokens)"
)  # parts of a weight's name that peft gives
WRAPPED = ("module.", "_orig_mod.", "base_model.model.", "model.module.")  # DataParallel, torch.compile, peft
# In config.json and `Artifact.details`: how many tokens are read at the beginning of a row, and at its end.
TRUNCATE = "truncate"
# Keys that make transformers fetch and run code, or load weights in a way that is not ours.
REFUSED_KEYS = ("auto_map", "quantization_config")
ATTENTION_KEYS = ("_attn_implementation_internal", "_attn_implementation", "attn_implementation")
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")  # no name of a hub's kernel
# Keys that are not honoured, the values under which nothing is lost, and what to do about the others: a model that was
# trained with one of these would be loaded as another. {} is as if the key were absent.
NOT_HONOURED: dict[str, tuple[tuple[object, ...], str]] = {
    "position_embedding_type": (
        ("absolute", "rope", "rotary", "alibi", "none"),
        "only transformers 4 computes relative positions of this kind; fine-tune a checkpoint with absolute positions",
    ),
    "per_layer_config": (
        (),
        "layers that differ by config are not supported; take a checkpoint whose layers are equal",
    ),
}
# Sizes that are relied on elsewhere, where a config has them.
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


def _check_window(path: Path, window: object) -> None:
    numbers = window if isinstance(window, list) else []
    if window is not None and ([type(n) for n in numbers] != [int, int] or not all(0 < n < 10**8 for n in numbers)):
        raise InputError(
            f"{path}: '{TRUNCATE}' is {json.dumps(window)[:80]}; two positive whole numbers are expected: how many "
            "tokens are read at the beginning of a row, and at its end"
        )


def read_config(path: Path) -> dict:
    """config.json without its keys that are null, refused when it could run code or holds what cannot be loaded."""
    config = {key: value for key, value in read_json(path).items() if value is not None}
    for key, value in sorted(_pairs(config), key=lambda pair: pair[0]):
        if key in REFUSED_KEYS or (key in ATTENTION_KEYS and not _built_in(value)):
            raise InputError(
                f"{path}: key '{key}' could run code of the checkpoint's own or change how it is loaded, which "
                "paredown never allows; remove the key if the architecture is one of transformers' own"
            )
    for key, (harmless, instead) in NOT_HONOURED.items():
        value = config.get(key)
        if value and value not in harmless:
            raise InputError(
                f"{path}: '{key}' is {json.dumps(value)[:80]}, which would be passed over and give another model than "
                f"the one that was trained: {instead}"
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
    _check_window(path, config.get(TRUNCATE))
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
    if kind not in (None, "single_label_classification", MULTI_LABEL, "regression"):
        raise InputError(f"{path}: problem_type '{kind}'; labels or one number are known")
    if kind == "regression" and outputs != 1:
        raise InputError(f"{path}: problem_type '{kind}' with {outputs} outputs; one number a row is known")
    return config


def _pairs(data: object) -> list[tuple[str, object]]:
    """Every key of a JSON value with what it holds, however deep; none whose value is null."""
    if isinstance(data, dict):
        own = [(key, value) for key, value in data.items() if value is not None]
        return own + [pair for value in data.values() for pair in _pairs(value)]
    return [pair for value in data for pair in _pairs(value)] if isinstance(data, list) else []


def _built_in(value: object) -> bool:
    """Attention of transformers' own: one name, or one for each part of a model."""
    return all(name in (None, *ATTENTION) for name in (value.values() if isinstance(value, dict) else [value]))


def no_adapter(path: Path) -> None:
    """Raise InputError where the files of an adapter (peft) lie in `path`.

    transformers would add it to the weights when it opens the directory: also to those that hold it already.
    """
    files = [path / name for name in ADAPTER if (path / name).is_file()]
    if not files:
        return
    shapes = header(path / ADAPTER[1]) if (path / ADAPTER[1]).is_file() else {}
    merge = merge_adapter(path, shapes)
    base = read_json(files[0]).get("base_model_name_or_path") if files[0].suffix == ".json" else None
    if not (path / WEIGHTS).is_file():
        raise InputError(
            f"{files[0]}: an adapter of '{base or 'another model'}' that is not merged; a checkpoint has all weights. "
            f"Merge it: {merge}"
        )
    remove = f"rm {' '.join(shlex.quote(str(file)) for file in files)}"
    raise InputError(
        f"{files[0]}: an adapter beside {WEIGHTS}, which transformers would add to these weights. Where {WEIGHTS} is "
        f"the merged model, remove the adapter's files: {remove} ; where it is not, merge it: {merge}"
    )


def find_weights(path: Path, architecture: str = "none") -> tuple[Path, ...]:
    """The weights of a checkpoint directory. InputError names what to run where they are pickles or shards."""
    weights, index = path / WEIGHTS, path / f"{WEIGHTS}.index.json"
    if index.exists():
        named = {str(name) for name in read_json(index).get("weight_map", {}).values()}
        if not weights.is_file() or any((path / name).is_file() for name in named - {WEIGHTS}):
            both = f" beside {WEIGHTS}; remove the ones that are not the model, or" if weights.is_file() else ";"
            raise InputError(
                f"{path}: sharded weights{both} write them as one file: {write_again(path, architecture, 'one-file')}"
            )
    if not weights.is_file():
        pickles = sorted(p for pattern in PICKLES for p in path.glob(pattern) if p.name not in NO_WEIGHTS)
        if pickles:
            raise InputError(
                f"{pickles[0]}: pickle weights can run code when loaded and are refused; convert them where you trust "
                f"them: {_convert(pickles, path, architecture)}"
            )
        raise InputError(f"{path}: no {WEIGHTS}; a checkpoint is a directory that transformers has saved")
    _check_names(weights, header(weights))
    return (weights,)


def _convert(pickles: list[Path], path: Path, architecture: str) -> str:
    """transformers finds pytorch_model*.bin; a file of another name is most likely a state dict."""
    if any(file.name.startswith("pytorch_model") for file in pickles):
        return write_again(path, architecture, "safetensors")
    file, kind = str(pickles[0]), architecture if architecture != "none" else "AutoModelForSequenceClassification"
    return (
        python(
            f"import torch; from safetensors.torch import save_file as S; w = torch.load({file!r}, map_location='cpu', "
            f"weights_only=True); w = w.get('state_dict', w); S({{k: v.contiguous().clone() for k, v in w.items()}}, "
            f"{str(path / WEIGHTS)!r}, metadata={{'format': 'pt'}})"
        )
        + f" (a state dict of {kind} is expected)"
    )


def _check_names(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError for weights whose names say that something is still around the model."""
    unmerged = next((name for name in shapes if UNMERGED.search(name)), None)
    if unmerged is not None:
        raise InputError(
            f"{path}: '{unmerged}' is of an adapter (peft) that is not merged; merge it where it was trained: "
            "model.merge_and_unload().save_pretrained(DIR)"
        )
    wrapped = next((prefix for prefix in WRAPPED if shapes and all(name.startswith(prefix) for name in shapes)), None)
    if wrapped is not None:
        raise InputError(
            f"{path}: the names of all weights begin with '{wrapped}', of what was around the model in training; take "
            f"it off: {strip_names(path, wrapped)}"
        )


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a safetensors file, which has to hold exactly the bytes that it names: 8 of the
    header's length, the header, the weights. Raises InputError."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, JSON_LIMIT):
                raise ValueError
            found = json.loads(file.read(length))
        found.pop("__metadata__", None)
        shapes = {str(name): tuple(map(int, about["shape"])) for name, about in found.items()}
        ends = [about["data_offsets"][1] for about in found.values()]
        if not all(type(end) is int for end in ends):
            raise ValueError
        end = max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        raise InputError(f"{path}: not a safetensors file, or truncated; copy it again") from None
    if 8 + length + end != size:
        raise InputError(f"{path}: truncated: {size} bytes, {8 + length + end} expected; copy it again")
    return shapes
