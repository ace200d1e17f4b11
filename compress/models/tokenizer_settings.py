"""Settings in the files beside tokenizer.json: each is applied as AutoTokenizer applies it, or refused.

`settled` writes them into one tokenizer.json, which then says the same to the `tokenizers` library of any language.
Without torch; `agree` asks transformers, where it is imported anyway.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError

from .advice import python
from .sentence_transformers import sentence_settings
from .validation import read_json

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Classes of transformers that make BERT's normalizer anew from these keys.
BERT_KEYS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
             "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip
BERT_LIKE = (
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "MPNetTokenizer",
    "FunnelTokenizer", "LxmertTokenizer", "ConvBertTokenizer", "SqueezeBertTokenizer", "LayoutLMTokenizer",
    "RetriBertTokenizer", "DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer", "DPRReaderTokenizer",
)  # fmt: skip
BYTE_LEVEL = (
    "GPT2Tokenizer", "RobertaTokenizer", "LongformerTokenizer", "BartTokenizer", "LEDTokenizer", "DebertaTokenizer",
    "BlenderbotTokenizer", "CodeGenTokenizer", "CLIPTokenizer", "Qwen2Tokenizer",
)  # fmt: skip
OF_KIND = {
    "bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer", "mobilebert": "MobileBertTokenizer", "convbert": "ConvBertTokenizer",
    "roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer", "longformer": "LongformerTokenizer",
    "deberta": "DebertaTokenizer", "qwen2": "Qwen2Tokenizer",
}  # fmt: skip
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")  # take tokenizer.json as it is


def settled(path: Path, config: dict, *, vectors: bool) -> str:
    """The text of tokenizer.json in `path` with everything in it that the files beside it say. `config`: config.json;
    `vectors`: the settings of sentence-transformers count too.

    A padding or mask token that the embedding has no row for is left out: text that spells it is ordinary text.
    InputError for a setting that contradicts the file, and cannot be written into it.
    """
    file = path / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    settings = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    named = read_json(path / MAP) if (path / MAP).is_file() else {}
    added = read_json(path / ADDED) if (path / ADDED).is_file() else {}
    sentences = sentence_settings(path) if vectors else {}
    if not (settings or named or added or sentences):
        return _without_rowless(text, path, config)
    data = json.loads(text)
    before = json.dumps(data)
    _truncation(data, settings)
    if settings.get("split_special_tokens"):
        raise InputError(
            f"{path / CONFIG}: 'split_special_tokens' is true, which tokenizer.json cannot say; set it to false"
        )
    kind = str(
        settings.get("tokenizer_class") or config.get("tokenizer_class") or OF_KIND.get(config["model_type"], "")
    )
    kind = kind.removesuffix("Fast")
    if kind in BERT_LIKE:
        _normalizer(data, settings)
    if kind in BYTE_LEVEL and isinstance(settings.get("add_prefix_space"), bool):
        for part in _parts(data.get("pre_tokenizer"), "pretokenizers", "ByteLevel"):
            part["add_prefix_space"] = settings["add_prefix_space"]
    _sentences(data, sentences, path)
    text = json.dumps(data, ensure_ascii=False) if json.dumps(data) != before else text
    return _without_rowless(_with_tokens(text, data, settings, named, added, path), path, config)


def _without_rowless(text: str, path: Path, config: dict) -> str:
    """The same without a padding and a mask token that the embedding has no row for: no text has to hold them, and one
    that does would end the model."""
    data, rows = json.loads(text), config.get("vocab_size")
    padding = data.get("padding") or {}
    unasked = {named_token(path, "pad_token") or padding.get("pad_token"), named_token(path, "mask_token")}
    added = data.get("added_tokens") or []
    gone = {token["content"] for token in added if rows and token["id"] >= rows} & unasked - set(_vocabulary(data))
    if not gone:
        return text
    data["added_tokens"] = [token for token in added if token["content"] not in gone]
    if padding.get("pad_token") in gone:
        data["padding"] = None
    return json.dumps(data, ensure_ascii=False)


def own_length(path: Path) -> int | None:
    """`model_max_length` of tokenizer_config.json, tokens; None where it says none."""
    said = read_json(path / CONFIG).get("model_max_length") if (path / CONFIG).is_file() else None
    return int(said) if isinstance(said, int | float) and 1 <= said < 10**8 else None


def _truncation(data: dict, settings: dict) -> None:
    side = settings.get("truncation_side")
    if side not in ("left", "right"):
        return
    own = data.get("truncation")
    if own is None and side == "left":
        own = data["truncation"] = {"direction": "Left", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    if own is not None:
        own["direction"] = side.capitalize()


def _normalizer(data: dict, settings: dict) -> None:
    given = {BERT_KEYS[key]: settings[key] for key in BERT_KEYS if key in settings}
    if not given:
        return
    own = data.get("normalizer")
    if own is None:
        defaults = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
        data["normalizer"] = {"type": "BertNormalizer", **defaults, **given}
    for part in _parts(own, "normalizers", "BertNormalizer"):
        part.update(given)


def _sentences(data: dict, sentences: dict, path: Path) -> None:
    """Lower-casing and the default prompt of sentence-transformers go before everything else."""
    own = data.get("normalizer")
    steps = list(own["normalizers"]) if own and own.get("type") == "Sequence" else [own] if own else []
    lower = any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)
    first = [{"type": "Lowercase"}] if sentences.get("lower") and not lower else []
    prompt = sentences.get("prompt")
    if prompt and {"type": "Prepend", "prepend": prompt} not in steps:
        first.insert(0, {"type": "Prepend", "prepend": prompt})
    if first:
        data["normalizer"] = {"type": "Sequence", "normalizers": [*first, *steps]}


def _parts(step: dict | None, under: str, kind: str) -> Iterable[dict]:
    """Those of a normalizer or pre-tokenizer, alone or in a sequence, that are of a kind."""
    if step is None:
        return
    if step.get("type") == kind:
        yield step
    for part in step.get(under) or ():
        yield from _parts(part, under, kind)


def _with_tokens(text: str, data: dict, settings: dict, named: dict, added: dict, path: Path) -> str:
    """Tokens that the files beside it name, at the numbers that these give them."""
    known = {token["content"]: token for token in data.get("added_tokens") or ()}
    vocabulary = _vocabulary(data)
    wanted: dict[str, tuple[int | None, dict]] = {}
    decoder = settings.get("added_tokens_decoder") or {}
    for number, token in sorted(decoder.items(), key=lambda pair: int(pair[0])):
        wanted[_content(token)] = int(number), token if isinstance(token, dict) else {}
    for content, number in sorted(added.items(), key=lambda pair: pair[1]):
        wanted.setdefault(content, (number, {}))
    for token in _specials(settings, named):
        content = _content(token)
        number = vocabulary.get(content)
        if number is not None:
            wanted.setdefault(content, (number, {"special": True, **(token if isinstance(token, dict) else {})}))
    new = {content: about for content, about in wanted.items() if content not in known}
    wrong = {c: n for c, (n, _) in wanted.items() if c in known and n is not None and known[c]["id"] != n}
    if not new and not wrong:
        return text
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(text)
    for content, (_, about) in new.items():
        flags = {key: bool(about[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in about}
        special = bool(about.get("special", content in {_content(token) for token in _specials(settings, named)}))
        token = AddedToken(content, special=special, **{"normalized": not special, **flags})
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    for content, (number, _) in wanted.items():
        if number is not None and tokenizer.token_to_id(content) != number:
            raise InputError(
                f"{path / (CONFIG if decoder else ADDED)}: the token '{content}' is {number} there, and "
                f"{tokenizer.token_to_id(content)} in tokenizer.json; these files are not of one tokenizer: copy both "
                "from where the model was saved"
            )
    return tokenizer.to_str()


def _vocabulary(data: dict) -> dict[str, int]:
    own = data["model"].get("vocab") or {}
    return own if isinstance(own, dict) else {entry[0]: i for i, entry in enumerate(own)}


def _content(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _specials(settings: dict, named: dict) -> list[object]:
    """The special tokens that tokenizer_config.json names, and special_tokens_map.json, in their own order."""
    found: list[object] = []
    for source in (settings, named):
        found += [source[key] for key in NAMED if source.get(key)]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = source.get(key) or ()
            found += list(more.values()) if isinstance(more, dict) else list(more)
    return found


def padding_token(path: Path, tokenizer: Any) -> str | None:
    """The token that fills short rows; no text has to hold it."""
    named = named_token(path, "pad_token")
    return named or (tokenizer.padding["pad_token"] if tokenizer.padding else None)


def named_token(path: Path, role: str) -> str | None:
    """The special token that the tokenizer's settings name for a role, such as `mask_token`."""
    for name in (CONFIG, MAP):
        said = read_json(path / name).get(role) if (path / name).is_file() else None
        if said:
            return _content(said)
    return None


def check_vocabulary(path: Path, config: dict, tokenizer: Any) -> None:
    """Raise InputError for a tokenizer with numbers that the embedding has no row for, or with special tokens alone.

    `tokenizer`: a `tokenizers.Tokenizer`.
    """
    file, rows = path / "tokenizer.json", config.get("vocab_size")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if vocabulary.keys() <= special:
        raise InputError(
            f"{file}: it knows special tokens alone ({', '.join(sorted(vocabulary)[:6])}), so all words are unknown: "
            "it was made of a directory without a vocabulary; copy it from the model that this one was fine-tuned from"
        )
    if rows is None or max(vocabulary.values()) < rows:
        return
    unasked = {padding_token(path, tokenizer), named_token(path, "mask_token")}  # no text has to hold them
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows and token not in unasked)
    if beyond:
        number, token = beyond[0]
        auto, new = "AutoModelForSequenceClassification", f"{path}-resized"
        kind = (config.get("architectures") or [auto])[0]
        raise InputError(
            f"{file}: '{token}' is token {number}, and the model's embedding has {rows} rows (vocab_size of "
            "config.json). Take the tokenizer.json that the model was trained with; or give the model rows for the new "
            "tokens, and fine-tune it on texts that have them: "
            + python(
                f"from transformers import {kind} as M, AutoTokenizer as T; t = T.from_pretrained({str(path)!r}); "
                f"m = M.from_pretrained({str(path)!r}); m.resize_token_embeddings({max(vocabulary.values()) + 1}); "
                f"m.save_pretrained({new!r}); t.save_pretrained({new!r})"
            )
        )


def probes(tokenizer: Any) -> list[str | tuple[str, str]]:
    """Texts in which tokenizers that are not the same differ: words of the vocabulary in all cases, accents, scripts,
    digits, blanks, added tokens; and pairs."""
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=False), key=lambda token: (len(token), token))
    words = [token.removeprefix("##").strip("Ġ▁ ") for token in vocabulary]
    words = [word for word in words if word.isalpha()][:: max(1, len(words) // 60)][:60]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:60]
    plain = " ".join(words)
    texts = [
        plain, plain.upper(), plain.title(), f" {plain[:40]}", "Élan vital, naïve Café résumé", "İstanbul straße ﬁlm",
        "In 2024 it cost 12345.67 (50%)!", "电影很好 film", "don't  stop   here\tnow", "a-b_c/d @user #tag 😀",
        "a", "Ünïcödé e\u0301tude", *(f"{plain[:20]} {token} {plain[:20]}" for token in added),
        *(f"x{token}Y" for token in added),
    ]  # fmt: skip
    return [*texts, (plain[:60], plain.upper()[:60]), (texts[4], texts[6])]


def ids_of(tokenizer: Any, texts: Sequence[str | tuple[str, str]], longest: int) -> list[tuple[list[int], list[int]]]:
    """Numbers and types of the tokens of each text, at most `longest`."""
    side = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest, direction=side)
    return [(row.ids, row.type_ids) for row in tokenizer.encode_batch(list(texts))]


_agreed: set[tuple] = set()


def agree(path: Path, config: dict, text: str) -> None:
    """Compare the tokens of `text`, what `settled` gave without sentence-transformers' settings, with AutoTokenizer's.

    InputError where a setting of tokenizer_config.json makes the difference; a warning where it is AutoTokenizer's
    class, which takes other parts of tokenizer.json than we do. Imports transformers.
    """
    names = sorted(file.name for file in path.iterdir() if file.suffix in (".json", ".txt", ".model"))
    state = (str(path), text, *((name, (path / name).stat().st_mtime_ns) for name in names))
    if state in _agreed:
        return
    _agreed.add(state)
    if (path / CONFIG).is_file() or any((path / name).is_file() for name in ("vocab.txt", "vocab.json", "merges.txt")):
        _compare(path, config, text)


def _compare(path: Path, config: dict, text: str) -> None:
    from tokenizers import Tokenizer

    ours = Tokenizer.from_str(text)
    asked = probes(ours)
    mine = ids_of(ours, asked, 24)
    theirs = _auto(path, asked)
    if theirs is None:
        return
    apart = [(probe, a, b) for probe, a, b in zip(asked, mine, theirs, strict=True) if not _same(a, b)]
    if not apart:
        return
    probe, a, b = apart[0]
    example = f"{probe!r} is {a[0][:12]} in tokenizer.json and {b[0][:12]} for AutoTokenizer"
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        bare = Path(folder)
        for file in path.iterdir():
            if file.is_file() and file.suffix in (".json", ".txt", ".model") and file.name != ADDED:
                shutil.copyfile(file, bare / file.name)
        settings = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
        kept = {key: value for key, value in settings.items() if key in ("tokenizer_class", *NAMED)}
        (bare / CONFIG).write_text(json.dumps(kept))
        without = _auto(bare, asked)
    by_setting = without is not None and any(
        not _same(a, b) and not _same(b, c) for a, b, c in zip(mine, theirs, without, strict=True)
    )
    if by_setting:
        raise InputError(
            f"{path / CONFIG}: a setting in it is not that of tokenizer.json: {example}. Write tokenizer.json as "
            "AutoTokenizer reads it: "
            + python(
                "from transformers import AutoTokenizer as T; "
                f"T.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
            )
            + f" ; or, where the model was trained on tokenizer.json as it is, remove {path / CONFIG}"
        )
    other = next((n for n in ("vocab.json", "vocab.txt", CONFIG) if (path / n).is_file()), CONFIG)
    logging.getLogger("paredown").warning(
        "%s: tokenizer.json and %s are not of one tokenizer: %s; tokenizer.json counts", path, other, example
    )


def _same(a: tuple[list[int], list[int] | None], b: tuple[list[int], list[int] | None]) -> bool:
    """Equal numbers, and types where both have them."""
    return a[0] == b[0]


def _auto(path: Path, texts: Sequence[str | tuple[str, str]]) -> list[tuple[list[int], list[int]]] | None:
    """The same of AutoTokenizer; None where transformers does not open it."""
    import transformers

    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        found = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        backend = found.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(24, direction=found.truncation_side)
        return [(row.ids, row.type_ids) for row in backend.encode_batch(list(texts))]
    except Exception:  # classes without a backend, code of their own, files that are missing: there is nothing to ask
        return None
    finally:
        transformers.utils.logging.set_verbosity(level)
