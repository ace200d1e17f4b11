"""Settings of sentence-transformers beside an encoder, read as JSON; none of its code runs."""

from __future__ import annotations

from pathlib import Path

from paredown.runtime.errors import InputError

from .validation import read_json

MODULES, POOLING, PROMPTS = "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"
TOKENIZER = "tokenizer_config.json"
BODY = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
FILES = (MODULES, POOLING, PROMPTS, *BODY)
KNOWN = ("Transformer", "Pooling", "Normalize")  # in this order; vectors are of length 1 here in any case
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def pooling_of(path: Path) -> str:
    """How a checkpoint makes one vector of its tokens': "mean" or "cls"; the mean where nothing is said.

    InputError for modules and ways of pooling that are not known here.
    """
    if not (path / MODULES).is_file():
        return "mean"
    _check_modules(path)
    if not (path / POOLING).is_file():
        return "mean"
    settings = read_json(path / POOLING)
    said = settings.get("pooling_mode")
    modes = (
        [said] if said is not None else [key for key in settings if key.startswith("pooling_mode_") and settings[key]]
    )
    found = [MODES.get(mode, mode) for mode in modes if isinstance(mode, str)]
    if len(found) != 1 or found[0] not in MODES.values():
        raise InputError(
            f"{path / POOLING}: pooling {', '.join(map(str, modes)) or 'by nothing'}; mean or cls is known"
        )
    return found[0]


def sentence_settings(path: Path) -> dict:
    """What sentence-transformers does to a text before its tokens: `prompt` before it, `lower` case, and truncated at
    `longest` tokens; only what is said. InputError for what cannot be followed."""
    if not (path / MODULES).is_file():
        return {}
    found: dict = {}
    about = read_json(path / PROMPTS) if (path / PROMPTS).is_file() else {}
    name, prompts = about.get("default_prompt_name"), about.get("prompts") or {}
    if name is not None:
        if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
            raise InputError(f"{path / PROMPTS}: 'default_prompt_name' is {name!r}, and 'prompts' has no such name")
        found["prompt"] = prompts[name]
        pooling = read_json(path / POOLING) if (path / POOLING).is_file() else {}
        if prompts[name] and pooling.get("include_prompt") is False:
            raise InputError(
                f"{path / POOLING}: 'include_prompt' is false: vectors without the default prompt's tokens are "
                "not known here; fine-tune without a prompt, or set it to true"
            )
    body = next((read_json(path / file) for file in BODY if (path / file).is_file()), {})
    if body.get("do_lower_case"):
        found["lower"] = True
    longest = body.get("max_seq_length")
    if longest is None and (path / TOKENIZER).is_file():  # as sentence-transformers does
        longest = read_json(path / TOKENIZER).get("model_max_length")
    if isinstance(longest, int | float) and 1 <= longest < 10**8:
        found["longest"] = int(longest)
    return found


def _check_modules(path: Path) -> None:
    modules = read_json(path / MODULES, list)
    parts = [
        (str(m.get("type")).rpartition(".")[2], m.get("path")) if isinstance(m, dict) else ("", "") for m in modules
    ]
    kinds = [kind for kind, _ in parts]
    if kinds not in ([*KNOWN], [*KNOWN[:2]], [*KNOWN[:1]]):
        raise InputError(
            f"{path / MODULES}: the modules {', '.join(kinds) or 'none'}; {', '.join(KNOWN)} are known: fine-tune "
            "without the others, or leave the file out"
        )
    for place, (kind, where) in zip(("", "1_Pooling"), parts, strict=False):
        if where != place:
            raise InputError(f"{path / MODULES}: {kind} at {where!r}; '{place}' is expected")
