"""Write questions and the known message that asks the same, for recipes/similar.yaml.

    python recipes/similar.py OUT_DIR --banking77 DIR

From banking77 (Casanueva et al. 2020, CC BY 4.0): DIR has its train.csv and test.csv. In each split one message of an
intent is the known one, the passage; the others ask for it. Test pairs are of test messages.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from pairs import by_intent

PAIRS = {"train": 6000, "validation": 1000, "test": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--banking77", type=Path, required=True, help="directory with train.csv and test.csv")
    parser.add_argument("--train", type=int, default=PAIRS["train"], help="training pairs, at most")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    learned, held = (by_intent(args.banking77 / f"{name}.csv") for name in ("train", "test"))
    kept = {intent: texts[len(texts) // 8 :] for intent, texts in learned.items()}
    judged = {intent: texts[: len(texts) // 8] for intent, texts in learned.items()}
    for name, messages in {"train": kept, "validation": judged, "test": held}.items():
        with (args.out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["query", "passage"])
            writer.writerows(pairs(messages, args.train if name == "train" else PAIRS[name]))


def pairs(messages: dict[str, list[str]], count: int) -> list[tuple[str, str]]:
    """At most `count` pairs of a message and the first one of its intent, from all intents."""
    found = [(text, texts[0]) for texts in messages.values() for text in texts[1:]]
    return random.Random(13).sample(found, len(found))[:count]


if __name__ == "__main__":
    main()
