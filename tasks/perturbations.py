"""Perturbations of a text that leave its label nearly as it was: typos, capitals, deletions, swaps, synonyms.

Easy data augmentation: Wei and Zou 2019, arXiv 1901.11196. Without torch. All are deterministic for a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR

SHARE = 0.1  # of the words of a text
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # neighbours on a row of the keyboard
Change = Callable[[list[str], np.ndarray, np.random.Generator], list[str]]  # words, numbers of those to touch


def changed(text: str, change: Change, share: float, random: np.random.Generator) -> str:
    """`text` with a share of its words (at least one) touched by `change`; of two texts, each."""
    if PAIR in text:
        return PAIR.join(changed(part, change, share, random) for part in text.split(PAIR))
    words = text.split()
    count = max(1, round(share * len(words)))
    return " ".join(change(words, np.sort(random.permutation(len(words))[:count]), random))


def typos(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
    """One letter swapped with the next, left out, doubled, or the key beside it."""
    out = list(words)
    for i in picked:
        word = words[i]
        at, kind = int(random.integers(len(word))), int(random.integers(4))
        letter = word[at]
        if kind == 0 and len(word) > 1:
            at = min(at, len(word) - 2)
            out[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind == 1 and len(word) > 1:
            out[i] = word[:at] + word[at + 1 :]
        elif kind == 2:
            out[i] = word[:at] + letter + word[at:]
        else:
            out[i] = word[:at] + _beside(letter, random) + word[at + 1 :]
    return out


def deletion(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
    """Words left out; one stays in any case."""
    gone = set(picked.tolist()) if len(picked) < len(words) else set(picked.tolist()[1:])
    return [word for i, word in enumerate(words) if i not in gone]


def swap(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
    """Words that change places with the next one."""
    out = list(words)
    for i in picked:
        j = (int(i) + 1) % len(out)
        out[i], out[j] = out[j], out[i]
    return out


def synonyms(groups: Mapping[str, Sequence[str]]) -> Change:
    """Words replaced by others of their group; those that have none stay, and others are tried instead."""

    def change(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
        out = list(words)
        known = [i for i, word in enumerate(words) if groups.get(word.strip(".,;:!?").lower())]
        for i in random.permutation(known)[: len(picked)] if known else ():
            bare = words[i].strip(".,;:!?")
            new = str(random.choice(groups[bare.lower()]))
            out[i] = words[i].replace(bare, new.capitalize() if bare[:1].isupper() else new)
        return out

    return change


def read_synonyms(path: str | Path) -> dict[str, list[str]]:
    """A file with a group a line, words with commas between them -> the others of its groups for every word."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    groups: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        words = list(dict.fromkeys(word.strip().lower() for word in line.split(",") if word.strip()))
        if len(words) == 1:
            raise InputError(f"{path}, line {number}: '{words[0]}' is alone; a line is a group of words: film, movie")
        for word in words:
            others = groups.setdefault(word, [])
            others += [other for other in words if other != word and other not in others]
    if not groups:
        raise InputError(f"{path}: no groups; a line is a group of words with commas between them: film, movie")
    return groups


def capitals(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
    """All of it in capitals."""
    return [word.upper() for word in words]


def twice(words: list[str], picked: np.ndarray, random: np.random.Generator) -> list[str]:
    """The text, and the text again."""
    return words + words


# What every candidate of a run is scored under.
MEASURED: dict[str, Change] = {"typos": typos, "case": capitals, "length": twice}
KEEP_THE_WORDS = (typos, capitals)  # as many words in the same order, so that labels of words stay true


def all_changed(
    texts: Sequence[str], change: Change, share: float = SHARE, seed: int = 0, first: bool = False
) -> tuple[str, ...]:
    """Every text under a change; always the same result for the same texts. `first`: of two texts, the first alone."""
    found = []
    for i, text in enumerate(texts):
        head, pair, tail = text.partition(PAIR) if first else (text, "", "")
        found.append(changed(head, change, share, np.random.default_rng([seed, i])) + pair + tail)
    return tuple(found)


def _beside(letter: str, random: np.random.Generator) -> str:
    row = next((keys for keys in KEYS if letter.lower() in keys), None)
    if row is None:
        return letter
    at = row.index(letter.lower())
    new = row[at - 1] if at == len(row) - 1 or (at and random.integers(2)) else row[at + 1]
    return new.upper() if letter.isupper() else new
