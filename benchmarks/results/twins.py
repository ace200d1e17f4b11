"""How often does `paredown bench` call two copies of one bundle different? Idle, and beside a busy loop on one core.

    python benchmarks/results/twins.py runs/demo/bundle --data build/demo/test.csv --times 20

On an otherwise idle machine. Two copies are called different when the 95 % interval of their ratio does not contain 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY = "while True: pass"


@contextmanager
def busy_loop(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy while the block runs, where it is wanted."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("build/results/twins.json"))
    parser.add_argument("options", nargs="*", help="further options of bench, after --")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.output.read_text()) if args.output.is_file() else {"idle": [], "busy": []}
    with tempfile.TemporaryDirectory() as scratch:
        twins = [Path(scratch) / name for name in ("one", "other")]
        for twin in twins:
            shutil.copytree(args.bundle, twin)
        for state, runs in found.items():
            while len(runs) < args.times:
                file = Path(scratch) / "bench.json"
                command = ["paredown", "bench", *twins, "--data", args.data, "--json", file, *args.options]
                with busy_loop(state == "busy"):
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                result = json.loads(file.read_text())
                lo, hi = result["artifacts"][1]["ratio_ci"]
                runs.append(
                    {"ratio_ci": [lo, hi], "different": not lo <= 1 <= hi, "noisy": result["noisy"],
                     "control": result["control"]["ratio_ci"], "seconds": result["conditions"]["seconds"]}
                )  # fmt: skip
                args.output.write_text(json.dumps(found, indent=1))
                print(state, json.dumps(runs[-1]), flush=True)
    for state, runs in found.items():
        different, noisy = (sum(run[key] for run in runs) for key in ("different", "noisy"))
        silent = sum(run["ratio_ci"][1] / run["ratio_ci"][0] > 1.3 and not run["noisy"] for run in runs)
        print(
            f"{state}: {len(runs)} measurements, called different {different}, noisy {noisy}, "
            f"wider than 1.3 without being called noisy {silent}"
        )


if __name__ == "__main__":
    main()
