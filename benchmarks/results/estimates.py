"""Guesses of what steps take against what they took, in finished runs.

    python benchmarks/results/estimates.py RUN_DIR ...

The guesses are those of `paredown run --dry-run` on this machine, now: run it idle, where the runs were made. Steps
that take under a second do not count.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from paredown.pipeline.estimates import row_seconds
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import plan, search_steps
from paredown.pipeline.recipe.loader import read_recipe

SHORT_S = 1.0
FOUND, RESOLVED = "recipe.yaml", "recipe.resolved.yaml"  # what a search found, else what was run


def main() -> None:
    ratios: dict[str, list[float]] = defaultdict(list)
    print("| run | ms a row | steps | guessed, s | taken, s | within a factor of two |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for run in map(Path, sys.argv[1:]):
        row_s, pairs = compared(run)
        for stage, guess, taken in pairs:
            ratios[stage].append(guess / taken)
        close = np.mean([0.5 <= guess / taken <= 2 for _, guess, taken in pairs])
        guessed, took = sum(guess for _, guess, _ in pairs), sum(taken for _, _, taken in pairs)
        cells = (run.name, f"{1000 * row_s:.1f}", len(pairs), f"{guessed:.0f}", f"{took:.0f}", f"{100 * close:.0f} %")
        print(f"| {' | '.join(map(str, cells))} |")
    print("\n| stage | steps | guess / taken: median | 10 % | 90 % |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for stage, found in sorted(ratios.items()):
        low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
        print(f"| {stage} | {len(found)} | {middle:.2f} | {low:.2f} | {high:.2f} |")


def compared(run: Path) -> tuple[float, list[tuple[str, float, float]]]:
    """Seconds of a row now, and of each step that the run has done: its stage, the guess, what it took."""
    file = next(run / name for name in (FOUND, RESOLVED) if (run / name).is_file())
    job = prepare(read_recipe(file), try_models=False)
    job = replace(job, row_s=row_seconds(job))
    search = job.recipe.search
    steps = [*plan(job), *(search_steps(job, search) if search else [])]
    guesses = {step.name: step.seconds for step in steps}
    pairs = []
    for file in sorted((run / "steps").glob("*/step.json")):
        step, name = json.loads(file.read_text()), re.sub("-[0-9a-f]{16}$", "", file.parent.name)
        if name in guesses and step["seconds"] >= SHORT_S:
            stage = step["inputs"].get("stage", name)
            stage += f" {step['inputs']['precision']}" if stage == "export" else ""
            pairs.append((stage, guesses[name], step["seconds"]))
    return job.row_s, pairs


if __name__ == "__main__":
    main()
