"""Texts in which each word follows from the one before, for tiny decoders to learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

CHAIN = [
    "the",
    "good",
    "film",
    "was",
    "quite",
    "dull",
    "and",
    "a",
    "bad",
    "plot",
    "is",
    "very",
    "fine",
    "with",
    "sharp",
]


def rows(count: int, seed: int) -> list[str]:
    """Texts of 4 to 14 words: a part of CHAIN, round and round; nothing says where one ends."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        start, length = rng.randrange(len(CHAIN)), rng.randrange(4, 15)
        found.append(" ".join(CHAIN[(start + i) % len(CHAIN)] for i in range(length)))
    return found


def write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
