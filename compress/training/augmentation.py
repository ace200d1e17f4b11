"""Data augmentation: perturbed copies of training rows with their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.preprocessor import PAIR
from paredown.tasks import perturbations
from paredown.tasks.base import Task

from ..config import Augment

if TYPE_CHECKING:
    from ..types import Progress

TOP = 5  # the masked-language model's best words, one of which is taken
ROWS = 16  # rows a call of a model


class MaskedLanguageModel(Task):
    """Loaded for its words, never scored."""

    name = "fill-mask"
    auto_class = "AutoModelForMaskedLM"


def augment(
    texts: Sequence[str], settings: Augment, *, seed: int = 0, progress: Progress | None = None
) -> list[tuple[int, str]]:
    """(number of the row it was made from, changed text), without those that came out as they were or twice.

    The same for a seed whatever the machine runs beside; row by row, so rows that are added change no others.
    """
    drawn = [
        (i, settings.kinds[int(np.random.default_rng([seed, copy, i]).integers(len(settings.kinds)))], copy)
        for copy in range(settings.copies)
        for i in range(len(texts))
    ]
    made: dict[tuple[int, int], str] = {}
    for number, kind in enumerate(settings.kinds):
        if progress:
            progress(number / len(settings.kinds), kind)
        mine = [(i, copy) for i, k, copy in drawn if k == kind]
        if kind in ("masked", "back_translation") and any(PAIR in text for text in texts):
            raise InputError(f"kinds: {kind} is for rows of one text; typos, deletion, swap and synonyms take two")
        changes = _changer(kind, settings)([texts[i] for i, _ in mine], [[seed, copy, i, 1] for i, copy in mine])
        made |= dict(zip(mine, changes, strict=True))
    seen = set(texts)
    out = []
    for key in sorted(made, key=lambda key: (key[1], key[0])):
        if made[key].strip() and made[key] not in seen:
            seen.add(made[key])
            out.append((key[0], made[key]))
    return out


def recombined(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` texts, each the first part of one text and the last part of another, joined at random places.

    Unlabelled text of the same words, for a student to learn the teacher's answers on: a teacher is overconfident on
    the rows that it was trained on. Parts are of words, of characters where a text has no blanks. Text `i` depends on
    `seed` and `i` alone.
    """
    out = []
    for i in range(count):
        random = np.random.default_rng([seed, i])
        (first, _), (second, blank) = (_parts(texts[int(n)]) for n in random.integers(len(texts), size=2))
        begin = first[: int(random.integers(1, max(2, len(first))))]
        out.append(blank.join([*begin, *second[int(random.integers(0, max(1, len(second) - 1))) :]]))
    return out


def _parts(text: str) -> tuple[list[str], str]:
    """The words of a text, or its characters, and what stands between them."""
    words = text.split()
    return (words, " ") if len(words) > 1 else (list(text), "")


def _changer(kind: str, settings: Augment) -> Callable[[list[str], list[list[int]]], list[str]]:
    if kind == "masked":
        return lambda texts, seeds: _masked(texts, seeds, str(settings.masked_model), settings.share)
    if kind == "back_translation":
        return lambda texts, seeds: _translated(_translated(texts, settings.through[0]), settings.through[1])
    plain = {"typos": perturbations.typos, "deletion": perturbations.deletion, "swap": perturbations.swap}
    change = (
        plain[kind] if kind in plain else perturbations.synonyms(perturbations.read_synonyms(str(settings.synonyms)))
    )
    return lambda texts, seeds: [
        perturbations.changed(text, change, settings.share, np.random.default_rng(key))
        for text, key in zip(texts, seeds, strict=True)
    ]


def _masked(texts: list[str], seeds: list[list[int]], name: str, share: float) -> list[str]:
    """Words that a masked-language model puts in the place of some, one of its best five (not a part of a word)."""
    import torch

    from ..models.loading import load, open_checkpoint
    from ..models.output_kinds import tensors

    source = open_checkpoint(name)
    model = load(source, MaskedLanguageModel())
    encoder = source.encoder()
    mask = next((t for t in ("[MASK]", "<mask>") if encoder.tokenizer.token_to_id(t) is not None), None)
    if mask is None:
        raise InputError(f"masked_model: {name} has no [MASK] or <mask> token; it is no masked-language model")
    mask_id = encoder.tokenizer.token_to_id(mask)
    out = []
    for start in range(0, len(texts), ROWS):
        holes = []
        for text, key in zip(texts[start : start + ROWS], seeds[start : start + ROWS], strict=True):
            words, random = text.split(), np.random.default_rng(key)
            picked = random.permutation(len(words))[: max(1, round(share * len(words)))]
            holes.append((words, sorted(picked.tolist()), random))
        ids = encoder.ids([" ".join(mask if i in at else w for i, w in enumerate(ws)) for ws, at, _ in holes])
        with torch.inference_mode():
            logits = model(**tensors(encoder.pad(ids))).logits
        for row, (words, at, random), scores in zip(ids, holes, logits, strict=True):
            places = [place for place, token in enumerate(row) if token == mask_id]
            for i, place in zip(at, places, strict=False):  # a long row was truncated: its last holes stay as they were
                best = [_word(encoder.tokenizer, int(t)) for t in scores[place].topk(4 * TOP).indices]
                fits = [word for word in best if word and word.lower() != words[i].lower()][:TOP]
                if fits:
                    words[i] = fits[int(random.integers(len(fits)))]
            out.append(" ".join(words))
    return out


def _word(tokenizer: Any, token: int) -> str | None:
    """The text of a token that is a whole word, else None."""
    piece = tokenizer.id_to_token(token) or ""
    text = tokenizer.decode([token]).strip()
    return text if text.isalpha() and not piece.startswith("##") else None


def _translated(texts: list[str], name: str) -> list[str]:
    """Texts through a sequence-to-sequence checkpoint (directory or hub id), the likeliest of four beams."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "compress") from None
    from ..models.validation import find_weights, read_config

    if Path(name).is_dir():  # the hub's files are held to safetensors by use_safetensors
        read_config(Path(name) / "config.json")
        find_weights(Path(name))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except Exception as error:  # offline, unknown, a tokenizer whose library is missing: each its own class
        raise InputError(f"through: {name}: does not load: {' '.join(str(error).split())[:200]}") from None
    out = []
    for start in range(0, len(texts), ROWS):
        batch = tokenizer(texts[start : start + ROWS], return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            made = model.eval().generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=4, do_sample=False,
                max_new_tokens=2 * batch["input_ids"].shape[1] + 8,
            )  # fmt: skip
        out += tokenizer.batch_decode(made, skip_special_tokens=True)
    return out
