"""Write pairs of messages for recipes/pairs.yaml: do both ask for the same?

    python recipes/pairs.py OUT_DIR --banking77 DIR

From banking77 (Casanueva et al. 2020, CC BY 4.0): DIR has its train.csv and test.csv. Half of the pairs share their
intent; of the others, half share a word of its name, because those are the hard ones. Test pairs are of test messages.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

PAIRS = {"train": 8000, "validation": 1000, "test": 1000}
LABELS = ("another", "same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--banking77", type=Path, required=True, help="directory with train.csv and test.csv")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    learned, held = (by_intent(args.banking77 / f"{name}.csv") for name in ("train", "test"))
    kept = {intent: texts[len(texts) // 8 :] for intent, texts in learned.items()}
    judged = {intent: texts[: len(texts) // 8] for intent, texts in learned.items()}
    for seed, (name, messages) in enumerate({"train": kept, "validation": judged, "test": held}.items()):
        with (args.out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "text_pair", "label"])
            writer.writerows(pairs(messages, PAIRS[name], random.Random(seed)))


def by_intent(path: Path) -> dict[str, list[str]]:
    """The messages of each intent, in one order whatever that of the file."""
    found = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["category"]].append(row["text"])
    return {intent: random.Random(13).sample(sorted(texts), len(texts)) for intent, texts in sorted(found.items())}


def pairs(messages: dict[str, list[str]], count: int, rng: random.Random) -> list[tuple[str, str, str]]:
    """`count` different pairs, in turns of the same intent and of two."""
    intents, found = list(messages), {}
    near = {one: [o for o in intents if o != one and set(o.split("_")) & set(one.split("_"))] for one in intents}
    while len(found) < count:
        one = rng.choice(intents)
        same = len(found) % 2 == 1
        if same:
            first, second = rng.sample(messages[one], 2)
        else:
            others = near[one] if near[one] and rng.randrange(2) else [o for o in intents if o != one]
            first, second = rng.choice(messages[one]), rng.choice(messages[rng.choice(others)])
        found.setdefault((first, second), LABELS[same])
    return [(first, second, label) for (first, second), label in found.items()]


if __name__ == "__main__":
    main()
