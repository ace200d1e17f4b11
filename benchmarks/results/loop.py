"""The loop of docs/loop.md, measured: a model is compressed, rows come later, it learns them and is compressed again.

    python benchmarks/results/loop.py build/results [--only NAME ...]

After `run.py` has made the data and the teacher of banking77. About an hour on 2 cores, and it may be killed and run
again. What it finds is in OUT_DIR/loop.json; `run.py --page` puts it into docs/results.md. Each set:

- ner: names in tweets. The teacher knows two thirds of the training rows, the rest comes later.
- banking77: the teacher knows 62 of the 77 intents, the other fifteen come later. Training rows get copies with
  mistyped words, because robustness against them is measured.
- tuner: the search for fine-tuning settings against the given ones, on the known tweets.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
import ner
from run import ROOT, base_model, paredown

TEXTS, WORDS = "text-classification", "token-classification"
TARGETS = [{"runtime": "onnxruntime"}, {"runtime": "onnxruntime", "precision": "int8-dynamic"}]
LATENCY = {"min_seconds": 1.5}
HEAL = {"label_weight": 0.5}
LATER = 15  # intents
TUNE_MINUTES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    args = parser.parse_args()
    out = args.out.resolve()
    file = out / "loop.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for name in args.only:
        found[name] = SETS[name](out)
        file.write_text(json.dumps(found, indent=1))


def names_in_tweets(out: Path) -> dict:
    """Teacher of the known rows; the small model before and after the later rows came."""
    data, test = tweets(out), out / "ner" / "test.conll"
    models = [
        {"name": "cut", "steps": [{"prune": {"speedup": 1.45}}, {"trim": {}}]},
        {
            "name": "healed",
            "steps": [{"prune": {"speedup": 1.7, "recover": {"epochs": 6, **HEAL}}}, {"trim": {}}],
        },
    ]
    recipe = {
        "task": WORDS, "checkpoint": str(data / "teacher"), "max_length": 64, "calibration_rows": 128,
        "data": {"train": str(data / "known.conll"), "validation": str(data / "validation.conll"), "test": str(test)},
        "models": models, "targets": TARGETS, "latency": LATENCY, "choose": {"max_drop": 3.0},
    }  # fmt: skip
    update = {"new": str(data / "later.conll"), "epochs": 6, "learning_rate": 1e-4}
    first, second = weeks("ner", recipe, [{"update": update}])
    whole = bench([data / "teacher", first / "bundle", second / "bundle"], test, data / "bench.json", WORDS, 64)
    return {"bench": whole, "update": updated(second), "replace": verdict(second)}


def tweets(out: Path) -> Path:
    """The directory with known, later, validation and test rows, and the teacher of the known ones."""
    data = out / "ner"
    if not (data / "later.conll").is_file():
        rows = ner.read()
        random.Random(13).shuffle(rows)
        data.mkdir(parents=True, exist_ok=True)
        held = 2 * ner.HELD_OUT
        known = held + 2 * (len(rows) - held) // 3
        parts = {"test": rows[: ner.HELD_OUT], "validation": rows[ner.HELD_OUT : held], "known": rows[held:known]}
        for name, part in {**parts, "later": rows[known:]}.items():
            (data / f"{name}.conll").write_text("\n\n".join(part) + "\n", encoding="utf-8")
    teach(data, "known.conll", "validation.conll", ["--task", WORDS, "--epochs", 10, "--learning-rate", 2e-4], 64)
    return data


def intents(out: Path) -> dict:
    """62 intents, then 77: accuracy against a teacher that was trained on all of them at once."""
    source, data = out / "banking77", out / "banking62"
    if not (data / "later.csv").is_file():
        split(source, data)
    teach(data, "known.csv", "validation.csv", ["--epochs", 6, "--learning-rate", 2e-4], 64)
    models = [
        {"name": "trimmed", "steps": [{"trim": {}}]},
        {"name": "static", "steps": [{"static": {"width": 384, "epochs": 20, "learning_rate": 2e-3}}, {"trim": {}}]},
        {"name": "cascade", "cascade": {"first": "static", "then": "trimmed", "max_drop": 0.1}},
    ]
    files = {"train": "known.csv", "validation": "validation.csv", "test": "test-known.csv"}
    recipe = {
        "checkpoint": str(data / "teacher"), "data": {name: str(data / file) for name, file in files.items()},
        "max_length": 64, "calibration_rows": 128, "models": models, "targets": TARGETS, "latency": LATENCY,
        "choose": {"max_drop": 1.0},
    }  # fmt: skip
    new = {"new": "later.csv", "new_validation": "later-validation.csv", "new_test": "later-test.csv"}
    update = {**{key: str(data / file) for key, file in new.items()}, "epochs": 4}
    first, second = weeks("banking62", recipe, [{"augment": {"kinds": ["typos"]}}, {"update": update}])
    known = [data / "teacher", first / "bundle", second / "bundle"]
    every = [source / "teacher", second / "bundle"]
    shaken = data / "robustness.json"
    paredown("robustness", *every, "--data", source / "test.csv", "--max-length", 64, "--json", shaken)
    return {
        "known": bench(known, data / "test-known.csv", data / "known.json", TEXTS, 64),
        "bench": bench(every, source / "test.csv", data / "bench.json", TEXTS, 64),
        "update": updated(second),
        "replace": verdict(second),
        "robustness": json.loads(shaken.read_text()),
    }


def split(source: Path, data: Path) -> None:
    """Rows of banking77 by whether their intent is known from the start."""
    data.mkdir(parents=True, exist_ok=True)
    rows = {name: list(csv.DictReader((source / f"{name}.csv").open(encoding="utf-8", newline="")))
            for name in ("train", "validation", "test")}  # fmt: skip
    labels = sorted({row["label"] for row in rows["train"]})
    later = set(random.Random(13).sample(labels, LATER))
    names = {"train": ("known", "later"), "validation": ("validation", "later-validation"),
             "test": ("test-known", "later-test")}  # fmt: skip
    for part, (before, after) in names.items():
        for name, wanted in ((before, False), (after, True)):
            with (data / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["text", "label"])
                writer.writeheader()
                writer.writerows(row for row in rows[part] if (row["label"] in later) == wanted)


def tuner(out: Path) -> dict:
    """What `tune` finds on the known tweets in some minutes, from the settings that a user gets without asking."""
    data = tweets(out)
    tuned = data / "tuned"
    if not tuned.is_dir():
        paredown("tune", base_model(), "--task", WORDS, "--train", data / "known.conll",
                 "--validation", data / "validation.conll", "--minutes", TUNE_MINUTES, "--max-length", 64,
                 "--output-dir", tuned)  # fmt: skip
    return json.loads((tuned / "tune.json").read_text())


def teach(data: Path, train: str, validation: str, how: list, length: int) -> None:
    if not (data / "teacher" / "config.json").is_file():
        paredown("finetune", base_model(), "--train", data / train, "--validation", data / validation,
                 "--max-length", length, *how, "--output-dir", data / "teacher")  # fmt: skip


def weeks(name: str, recipe: dict, adapt: list[dict]) -> tuple[Path, Path]:
    """Run the recipe as it is, and again with what came later; both run directories."""
    home = ROOT / "runs" / f"loop-{name}"
    home.mkdir(parents=True, exist_ok=True)
    first, second = home / "week1", home / "week2"
    (home / "week1.yaml").write_text(yaml.safe_dump({"name": name, **recipe}, sort_keys=False))
    (home / "week2.yaml").write_text(yaml.safe_dump({"name": name, **recipe, "adapt": adapt}, sort_keys=False))
    paredown("run", home / "week1.yaml", "--output-dir", first)
    paredown("run", home / "week2.yaml", "--output-dir", second, "--baseline", first)
    return first, second


def updated(run: Path) -> dict:
    found = json.loads((run / "measurements.json").read_text())["adapt"]
    return next(result for name, result in found.items() if name.endswith("-update"))


def verdict(run: Path) -> dict:
    return json.loads((run / "replace.json").read_text())


def bench(models: list[Path], data: Path, file: Path, task: str, length: int) -> dict:
    paredown("bench", *models, "--data", data, "--task", task, "--max-length", length, "--json", file)
    return json.loads(file.read_text())


SETS = {"ner": names_in_tweets, "banking77": intents, "tuner": tuner}


if __name__ == "__main__":
    main()
