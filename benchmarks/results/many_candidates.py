"""What bounds a run of many candidates on many machines: prints what each part takes here, and what follows from it.

    python benchmarks/results/many_candidates.py CHECKPOINT DATA_DIR [--candidates 1000] [--machines 100]

`DATA_DIR` has train.csv and validation.csv. Nothing is trained: the run is planned, and the loop of the driver is given
steps that end at once, each with a result of one file in a store on this machine's disk.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from paredown.pipeline.engine import Lost, Planned, do_all
from paredown.pipeline.job import Job, Step, belongs_on_machine, prepare
from paredown.pipeline.one_step import require_same
from paredown.pipeline.plan import plan
from paredown.pipeline.progress import Reporter
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.store import Done, Failed, Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--machines", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        recipe = write_recipe(Path(scratch), args.checkpoint, args.data, args.candidates)
        job = prepare(read_recipe(recipe), try_models=False)
        began = time.perf_counter()
        steps = plan(job)
        planning_s = time.perf_counter() - began
        trained = [step for step in steps if not belongs_on_machine(step)]
        serving = [step for step in steps if belongs_on_machine(step)]
        inputs = {step.name: step.inputs for step in steps}
        began = time.perf_counter()
        require_same(steps, trained[-1].name, inputs, job.machine, job.machine)
        compared_s = time.perf_counter() - began
        store = Store(Path(scratch) / "steps")
        loop_s, most = driven(job, steps, store, args.machines)
        began = time.perf_counter()
        for step in steps[:200]:
            store.find(step.name, step.key)
        find_ms = (time.perf_counter() - began) / 200 * 1e3
    sent_mb = len(pickle.dumps(inputs)) / 1e6
    print(f"{args.candidates} candidates: {len(steps)} steps, {len(serving)} of them on the machine that measures")
    print(f"planning, once in each process: {planning_s:.1f} s; comparing a task with the plan: {compared_s:.2f} s")
    print(f"driver: {loop_s / len(steps) * 1e3:.1f} ms a step, {loop_s:.0f} s in all; at most {most} in flight")
    print(f"sent to each task: {sent_mb:.1f} MB of inputs; finding a step: {find_ms:.2f} ms and reading its files")
    estimate = {"elsewhere": sum(s.seconds for s in trained), "there": sum(s.seconds for s in serving)}
    print(
        f"by the estimates of the plan: {estimate['elsewhere'] / 3600:.1f} machine hours of training, exports and "
        f"scoring, {estimate['elsewhere'] / 3600 / args.machines:.2f} h on {args.machines} machines; "
        f"{estimate['there'] / 3600:.1f} h on the machine that measures"
    )


def write_recipe(home: Path, checkpoint: Path, data: Path, candidates: int) -> Path:
    """Students that differ in their learning rate, each for one runtime; its path."""
    models = [
        {"name": f"student-{i}", "steps": [{"distill": {"layers": 1, "learning_rate": round(1e-4 + i * 1e-7, 9)}}]}
        for i in range(candidates)
    ]
    recipe = {
        "name": "many", "checkpoint": str(checkpoint.resolve()),
        "data": {name: str((data / f"{name}.csv").resolve()) for name in ("train", "validation")},
        "models": models, "targets": [{"runtime": "onnxruntime", "precision": "int8-dynamic"}],
    }  # fmt: skip
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return home / "recipe.yaml"


@dataclass
class AtOnce:
    """Workers whose steps end at once, each with one small file (engine.Workers)."""

    store: Store
    places: int
    most: int = 0
    running: list[Step] = field(default_factory=list)

    def add(self, planned: Planned) -> None:
        """Nothing is to be prepared for it."""

    def choose(self, ready: Sequence[Step]) -> Step | None:
        """The first one, where a place is left."""
        return ready[0] if ready and len(self.running) < self.places else None

    def start(self, step: Step, done: Mapping[str, Done]) -> None:
        """Note the step as running."""
        self.running.append(step)
        self.most = max(self.most, len(self.running))

    def wait(self) -> Iterable[tuple[Step, Done | Failed | Lost, bool]]:
        """The step that was started first, done now."""
        step = self.running.pop(0)

        def work(out: Path) -> dict:
            (out / "model.txt").write_text(step.name)
            return {}

        self.store.run(step.name, step.key, step.inputs, work)
        found = self.store.find(step.name, step.key)
        assert found is not None
        return [(step, found, True)]


@dataclass
class Cluster:
    """An engine of so many places (engine.Engine)."""

    places: int
    opened: list[AtOnce] = field(default_factory=list)

    @contextmanager
    def workers(self, store: Store, reporter: Reporter) -> Iterator[AtOnce]:
        """Workers of all places."""
        self.opened.append(AtOnce(store, self.places))
        yield self.opened[-1]


def driven(job: Job, steps: list[Step], store: Store, machines: int) -> tuple[float, int]:
    """Seconds that the driver's loop takes for all steps, and how many were in flight at most."""
    cluster = Cluster(machines)
    began = time.perf_counter()
    do_all(Planned(job, plan, steps), store, cluster)
    return time.perf_counter() - began, cluster.opened[0].most


if __name__ == "__main__":
    main()
