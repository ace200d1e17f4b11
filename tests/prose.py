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
    """Texts of 4 to 14 words: a part of CHAIN, round and round; nothing says where one ends.

    There are 165 of them. Seed 0 draws from one half, seeds 1, 2 and 3 from a third of the other each.
    """
    rng, found = random.Random(seed), []
    every = [(start, length) for start in range(len(CHAIN)) for length in range(4, 15)]
    random.Random(0).shuffle(every)
    mine = every[::2] if seed == 0 else every[2 * seed - 1 :: 6]
    for _ in range(count):
        start, length = rng.choice(mine)
        found.append(" ".join(CHAIN[(start + i) % len(CHAIN)] for i in range(length)))
    return found


def write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
