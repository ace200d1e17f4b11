"""How a checkpoint that writes begins and ends its texts, and how long they may be. Without torch."""

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
    own = read_json(path / GENERATION) if (path / GENERATION).is_file() else {}
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
    longest = max_new_tokens or own.get("max_new_tokens") or MAX_NEW_TOKENS
    if type(longest) is not int or not 1 <= longest <= LONGEST:
        raise InputError(f"{path / GENERATION}: 'max_new_tokens' is {longest!r}; 1 to {LONGEST} are expected")
    return {**found, "max_new_tokens": min(longest, int(config.get("max_position_embeddings") or longest))}


def tell_rules(model: PreTrainedModel, found: dict[str, int]) -> None:
    """Let a model know them, in place; `save` writes them beside it."""
    for name, key in TOKENS.items():
        setattr(model.generation_config, key, found[name])
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
