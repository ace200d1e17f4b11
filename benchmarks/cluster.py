"""Four equal trainings on a Ray cluster: on two machines of one core, and on one of them. Prints the ratio.

    python -m paredown.benchmarks.cluster OUT_DIR [--rows N] [--pairs N]

The machines are raylets of this one, so it wants two idle cores. A third raylet measures. A first run does everything;
for each one that is timed the four trainings are deleted, and are all that is left to do: nothing else takes a core.
Runs with one and with two machines take turns. What is timed is from the start of the first training to the end of the
last one, as the markers of the steps have it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from paredown.benchmarks.scaling import BASE, write_checkpoint, write_rows

MEASURES = "serving"  # label of the machine that measures
TRAININGS = "*-distill-*"  # names of their directories
EPOCHS, RATES = 1.0, (1e-4, 1.1e-4, 1.2e-4, 1.3e-4)  # other learning rates, so that these are four steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=4000, help="rows of training")
    parser.add_argument("--pairs", type=int, default=2, help="runs with one machine, and as many with two")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(args.out, args.rows)
    with cluster(2) as address:
        run(recipe, args.out / "run", address)
    print(f"load before: {os.getloadavg()[0]:.2f}")
    spans: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(args.pairs):
        for machines in (1, 2) if pair % 2 == 0 else (2, 1):
            for step in (args.out / "run" / "steps").glob(TRAININGS):
                shutil.rmtree(step)
            with cluster(machines) as address:
                run(recipe, args.out / "run", address)
            found = trainings(args.out / "run")
            spans[machines].append(max(end for _, end in found) - min(start for start, _ in found))
            each = ", ".join(f"{end - start:.1f}" for start, end in found)
            print(f"{machines} of one core: {spans[machines][-1]:.1f} s (each {each})", flush=True)
    ratios = [two / one for one, two in zip(spans[1], spans[2], strict=True)]
    print(f"two / one: {statistics.mean(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


@contextmanager
def cluster(machines: int) -> Iterator[str]:
    """The address of a cluster of so many machines of one core, and one that measures."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1, labels={"paredown": MEASURES})
        for _ in range(machines - 1):
            made.add_node(num_cpus=1)
        yield str(made.address)
    finally:
        made.shutdown()


def run(recipe: Path, run_dir: Path, address: str) -> None:
    """The run, with one thread for each training."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": address}
    command = [sys.executable, "-m", "paredown", "run", recipe, "--output-dir", run_dir, "--on", "ray"]
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def trainings(run_dir: Path) -> list[tuple[float, float]]:
    """Start and end of each training, in seconds since 1970; ends are in whole seconds."""
    markers = [json.loads(path.read_text()) for path in (run_dir / "steps").glob(f"{TRAININGS}/step.json")]
    assert len(markers) == len(RATES)
    ends = [(datetime.fromisoformat(marker["at"]).timestamp(), marker["seconds"]) for marker in markers]
    return sorted((end - seconds, end) for end, seconds in ends)


def write_recipe(home: Path, rows: int) -> Path:
    """Data, a checkpoint of random weights and a recipe of four trainings of the same size; its path."""
    sizes = BASE | {"rows": rows}
    vocabulary = write_checkpoint(home / "teacher", sizes)
    counts = {"train": rows, "validation": 200}
    for seed, (name, count) in enumerate(counts.items()):
        write_rows(home / f"{name}.csv", vocabulary, count, sizes["tokens"], seed)
    recipe = {
        "name": "cluster", "checkpoint": str((home / "teacher").resolve()), "max_length": sizes["tokens"],
        "data": {name: str((home / f"{name}.csv").resolve()) for name in counts}, "robustness_rows": 0,
        "models": [
            {"name": f"student-{i}", "steps": [{"distill": {"layers": 3, "epochs": EPOCHS, "learning_rate": rate}}]}
            for i, rate in enumerate(RATES, 1)
        ],
        "targets": [{"runtime": "onnxruntime"}], "measure_on": {"label": MEASURES}, "choose": {"max_drop": 100},
        "latency": {"processes": 1, "rounds": 2, "min_seconds": 0.2, "min_repeats": 20},
    }  # fmt: skip
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return home / "recipe.yaml"


if __name__ == "__main__":
    main()
