"""Rows as people type them: the same texts with slips of the keyboard, in capitals, and twice as long."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

SLIPS = 0.15  # share of the words of four letters or more that get one


def typos(text: str, rng: random.Random) -> str:
    """Two neighbouring letters inside some words change places; a text with a long word gets at least one."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    for i in rng.sample(long, min(len(long), max(1, round(SLIPS * len(long))))):
        at = rng.randrange(1, len(words[i]) - 2)
        word = words[i]
        words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def capitals(text: str, rng: random.Random) -> str:
    """All of it in capitals."""
    return text.upper()


def twice(text: str, rng: random.Random) -> str:
    """The text, and the text again."""
    return f"{text} {text}"


CHANGES: dict[str, Callable[[str, random.Random], str]] = {"typos": typos, "case": capitals, "length": twice}


def changed(texts: Sequence[str], change: str) -> list[str]:
    """Every text under one of CHANGES; always the same result for the same texts."""
    rng = random.Random(0)
    return [CHANGES[change](text, rng) for text in texts]
