"""How a checkpoint that gives texts begins and ends them, and how long they may be. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .encoder import Encoder
from .errors import InputError
from .untrusted import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
MAX_NEW_TOKENS = 64  # of a text, where nothing else is said
LONGEST = 4096
TOKENS = {"start_id": "decoder_start_token_id", "eos_id": "eos_token_id", "pad_id": "pad_token_id"}


def rules(path: Path, config: dict, max_new_tokens: int | None) -> dict[str, int]:
    """`start_id`, `eos_id`, `pad_id` and `max_new_tokens` of a checkpoint directory; the last as given, or as it says.

    Raises InputError that names the file and the key.
    """
    own = _own(path)
    size = int(config.get("vocab_size") or 0)
    found = {}
    for name, key in TOKENS.items():
        value = own.get(key, config.get(key))
        if type(value) is not int or not 0 <= value < size:
            raise InputError(
                f"{path / (GENERATION if key in own else 'config.json')}: '{key}' is {value!r}; a model that writes "
                f"needs a token number below vocab_size ({size})"
            )
        found[name] = value
    longest = _longest(path, own, max_new_tokens)
    return {**found, "max_new_tokens": min(longest, int(config.get("max_position_embeddings") or longest))}


def cached(path: Path, config: dict, depth: int, positions: int, max_new_tokens: int | None) -> dict:
    """What `decode.Decoder` has to know of a checkpoint that goes on with texts and has `depth` layers: the sizes of
    its cache, tokens that end a text, and `max_new_tokens` as in `rules`, at most half of its positions.

    Raises InputError that names the file and the key.
    """
    own = _own(path)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 1)
    said = own.get("eos_token_id", config.get("eos_token_id"))
    ends = said if isinstance(said, list) else [] if said is None else [said]
    if not all(type(end) is int and end >= 0 for end in ends):
        file = path / (GENERATION if "eos_token_id" in own else "config.json")
        raise InputError(f"{file}: 'eos_token_id' is {said!r}; a token number, or a list of them, is expected")
    return {
        "layers": depth,
        "heads": int(config.get("num_key_value_heads") or heads),
        "head_size": int(config.get("head_dim") or hidden // heads),
        "ends": ends,
        "positions": positions,
        "max_new_tokens": min(_longest(path, own, max_new_tokens), max(1, positions // 2)),  # the rest: what is before
    }


def _own(path: Path) -> dict:
    return read_json(path / GENERATION) if (path / GENERATION).is_file() else {}


def _longest(path: Path, own: dict, max_new_tokens: int | None) -> int:
    longest = max_new_tokens or own.get("max_new_tokens") or MAX_NEW_TOKENS
    if type(longest) is not int or not 1 <= longest <= LONGEST:
        raise InputError(f"{path / GENERATION}: 'max_new_tokens' is {longest!r}; 1 to {LONGEST} are expected")
    return longest


def tell_rules(model: PreTrainedModel, found: dict) -> None:
    """Let a model know them, in place; `save` writes them beside it."""
    for name, key in TOKENS.items():
        if name in found:
            setattr(model.generation_config, key, found[name])
    if found.get("ends"):
        model.generation_config.eos_token_id = found["ends"]
    model.generation_config.max_new_tokens = found["max_new_tokens"]


def without_tokenizer(path: Path, kind: str) -> None:
    """Raise InputError for an architecture whose tokenizer transformers cannot convert."""
    if kind == "marian":
        raise InputError(
            f"{path}: no tokenizer.json, and transformers cannot make one of Marian's two SentencePiece models; give "
            "one file of the `tokenizers` library that cuts both languages into the vocabulary of vocab.json and puts "
            "the end token behind each text"
        )


def needs_end(path: Path, encoder: Encoder, found: dict[str, int]) -> None:
    """Raise InputError where the tokenizer does not end a text: a model would never learn where to stop."""
    if encoder.ids(["a"])[0][-1:] != [found["eos_id"]]:
        raise InputError(
            f"{path / 'tokenizer.json'}: a text does not end with the token {found['eos_id']} (eos_token_id), so a "
            "model would never learn where to stop; add it with a post-processor of `tokenizers`"
        )
