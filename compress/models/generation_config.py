"""Generation settings of a checkpoint: start and end tokens, lengths, penalties. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Preprocessor
from paredown.runtime.seq2seq_decoding import RULES

from .validation import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GENERATION = "generation_config.json"
MAX_NEW_TOKENS = 64  # of a text, where nothing else is said
LONGEST = 4096
NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0}
# Settings that change greedy texts in other ways, and the values that change nothing.
UNKNOWN: dict[str, tuple] = {
    "sequence_bias": ({}, []), "encoder_repetition_penalty": (1.0,), "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (), "guidance_scale": (1.0,), "forced_decoder_ids": ([],),
    "force_words_ids": ([],), "constraints": ([],), "stop_strings": ([], ""), "watermarking_config": ({},),
    "token_healing": (False,), "dola_layers": (),
}  # fmt: skip
TOKENS = {"start_id": "decoder_start_token_id", "eos_id": "eos_token_id", "pad_id": "pad_token_id"}


def rules(path: Path, config: dict, max_new_tokens: int | None) -> dict:
    """`start_id`, `eos_id`, `pad_id` and `max_new_tokens` of a checkpoint directory; the last as given, or as it says.

    Raises InputError that names the file and the key.
    """
    own = _own(path)
    size = int(config.get("vocab_size") or 0)
    found = {}
    for name, key in TOKENS.items():
        value = own.get(key, config.get(key))
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if type(value) is not int or not 0 <= value < size:
            raise InputError(
                f"{path / (GENERATION if key in own else 'config.json')}: '{key}' is {value!r}; a "
                f"text-to-text model needs one token number below vocab_size ({size}); write "
                "the one that the model was trained with"
            )
        found[name] = value
    longest = _longest(path, own, max_new_tokens)
    found["max_new_tokens"] = min(longest, int(config.get("max_position_embeddings") or longest))
    logits = _logits(path, config, size)
    return {**found, "logits": logits} if logits else found


def cached(path: Path, config: dict, depth: int, positions: int, max_new_tokens: int | None) -> dict:
    """What `decode.Decoder` has to know of a checkpoint that continues texts and has `depth` layers: the sizes of
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
    logits = _logits(path, config, int(config.get("vocab_size") or 0))
    return {
        **({"logits": logits} if logits else {}),
        "layers": depth,
        "heads": int(config.get("num_key_value_heads") or heads),
        "head_size": int(config.get("head_dim") or hidden // heads),
        "ends": ends,
        "positions": positions,
        "max_new_tokens": min(_longest(path, own, max_new_tokens), max(1, positions // 2)),  # the rest: what is before
    }


def _logits(path: Path, config: dict, size: int) -> dict:
    """The `seq2seq_decoding.RULES` that generation_config.json asks for, or config.json where there is no such file.

    InputError for one that is not a number or a token below `size`, and for settings that change texts and are not
    known here.
    """
    file = path / (GENERATION if (path / GENERATION).is_file() else "config.json")
    own = _own(path) or config
    for key, harmless in UNKNOWN.items():
        if own.get(key) is not None and own[key] not in harmless:
            raise InputError(
                f"{file}: '{key}' is {str(own[key])[:60]}, which changes the texts and is not known here; remove it, "
                "and judge the texts without it"
            )
    found = {key: own[key] for key in RULES if own.get(key) is not None and own[key] != NEUTRAL.get(key, [])}
    for key, value in found.items():
        numbers = value if isinstance(value, list) else [value]
        if key == "bad_words_ids":
            numbers = [n for word in numbers for n in (word if isinstance(word, list) else [None])]
        tokens = key in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens") or key.startswith("forced_")
        good = all(type(n) is int and 0 <= n < (size if tokens else 10**6) for n in numbers) and (
            key != "bad_words_ids" or all(value)
        )
        if key == "repetition_penalty":
            good = isinstance(value, int | float) and value > 0
        if not good:
            raise InputError(f"{file}: '{key}' is {str(value)[:60]}; numbers of tokens below vocab_size are expected")
    return found


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
    for key, value in found.get("logits", {}).items():
        setattr(model.generation_config, key, value)


def without_tokenizer(path: Path, kind: str) -> None:
    """Raise InputError for an architecture whose tokenizer transformers cannot convert."""
    if kind == "marian":
        raise InputError(
            f"{path}: no tokenizer.json, and transformers cannot make one of Marian's two SentencePiece models; give "
            "one file of the `tokenizers` library that tokenises both languages with the vocabulary of vocab.json and "
            "puts the end token behind each text"
        )


def needs_end(path: Path, encoder: Preprocessor, found: dict[str, int]) -> None:
    """Raise InputError where the tokenizer does not end a text: a model would never learn where to stop."""
    if encoder.ids(["a"])[0][-1:] != [found["eos_id"]]:
        raise InputError(
            f"{path / 'tokenizer.json'}: a text does not end with the token {found['eos_id']} (eos_token_id), so a "
            "model would never learn where to stop; add it with a post-processor of `tokenizers`"
        )
