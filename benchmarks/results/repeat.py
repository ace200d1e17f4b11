"""Does a run that is measured again say the same? Only its sittings are done anew, the models stay.

    python benchmarks/results/repeat.py recipes/demo.yaml runs/demo --times 20 --output build/results/repeat.json

After `make demo`, on an idle machine; the run itself is not touched. `run.py --page` puts the figures into
docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from paredown.export.hardware import machine
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path, help="its finished run directory")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("build/results/repeat.json"))
    args = parser.parse_args()
    recipe, again = read_recipe(args.recipe), args.run.parent / f"{args.run.name}-again"
    found = json.loads(args.output.read_text())["measured"] if args.output.is_file() else []
    first = json.loads((args.run / "choice.json").read_text())["chosen"]["name"]
    about = {"recipe": args.recipe.name, "machine": machine()}
    while len(found) < args.times:
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(args.run / "steps", again / "steps", ignore=shutil.ignore_patterns("measure-*"),
                        copy_function=os.link)  # fmt: skip
        done = run(recipe, again)
        if done.ran != recipe.latency.processes:
            raise SystemExit(f"{done.ran} steps had to be done; finish {args.run} with this version of paredown first")
        figures = done.choice.chosen.model_dump(include={"name", "speedup_vs_baseline", "speedup_ci"})
        found.append({"chosen": figures, **done.choice.conditions.model_dump(mode="json")})
        args.output.write_text(json.dumps({**about, "first": first, "measured": found}, indent=1))
        print(json.dumps(found[-1]), flush=True)
    shutil.rmtree(again)


if __name__ == "__main__":
    main()
