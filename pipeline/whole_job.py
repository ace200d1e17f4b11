"""`paredown compress`: the whole job without a recipe, within a number of minutes.

A first run packs the checkpoint in INT8 with a trimmed vocabulary, so that there is a bundle early. A second run in the
same directory searches for smaller models for the minutes that measuring leaves, measures what it found and selects.
Both are runs of a recipe: what the first has done is not done again, and the recipe that is found is written down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paredown.compress.data.dataset import read_rows
from paredown.compress.data.splits import divided
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named
from paredown.tasks.rows import some_of

from .data_summary import summary
from .job import recombines
from .model_checks import task_of
from .progress import tell
from .recipe.schema import Recipe
from .run import Outcome, run
from .store import write_atomic

FOUND_RECIPE = "recipe.yaml"  # in the run directory: what was found, to be run again and edited
SHORT = 15.0  # minutes: below, fewer processes measure
FIRST_SHARE = 0.1  # of the minutes, for the first bundle, as long as that is not known
LEAST_SHARE = 0.1  # of the minutes, for the search
MEASURING_SHARE, MEASURING_S = 0.25, 420.0  # of the minutes, for export and measuring, and the most
RECOMBINED = (10.0, 6.0, 3.0, 2.0, 1.0, 0.5)  # times the training rows: texts that are made, as time allows
FEWEST = 2000  # training rows that students learn from, whatever the time
SCORING_SHARE = 0.1  # of the minutes, for the teacher's answers to them
LENGTHS, TRUNCATED, SAMPLE = (128, 256, 512), 0.01, 2000  # tokens; share of the training rows; how many are tokenised
FIRST_LATENCY = {"processes": 2, "rounds": 2, "min_seconds": 0.5, "min_repeats": 12}
SHORT_LATENCY = {"processes": 4, "rounds": 2, "min_seconds": 0.5, "min_repeats": 40}
LATENCY = {"processes": 6, "rounds": 2, "min_seconds": 1.5, "min_repeats": 100}


@dataclass(frozen=True)
class WholeJob:
    """What `paredown compress` is asked for. Paths are absolute, or hub ids; `more`: further keys of a recipe."""

    checkpoint: str
    data: Mapping[str, str]  # train, validation; test, unlabeled and names of columns where they are given
    minutes: float = 30.0
    max_drop: float = 1.0
    budgets: Mapping[str, float] = field(default_factory=dict)
    students: Sequence[str] = ()
    task: str | None = None  # None: what the checkpoint is made for
    max_length: int | None = None  # None: what the training rows need
    seed: int = 13
    more: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, **keys: Any) -> Recipe:
        """A recipe of the job, with `keys` and then `more`. Raises pydantic's ValidationError."""
        task = self.kind
        plain = {"runtime": "onnxruntime", "precision": "int8-dynamic"}
        made = {
            "name": name_of(self.checkpoint),
            "task": task.name,
            "checkpoint": self.checkpoint,
            "data": dict(self.data),
            **({} if self.max_length is None else {"max_length": self.max_length}),
            "seed": self.seed,
            "calibration_rows": 128,
            "robustness_rows": 0,
            "choose": {"max_drop": self.max_drop, "budgets": dict(self.budgets)},
        }
        if plain["precision"] in RUNTIMES[plain["runtime"]].precisions(task):
            made["targets"] = [plain]
        return Recipe.model_validate(made | keys | dict(self.more))

    def models(self) -> dict[str, Any]:
        """The keys `models` and `search` of the recipe, as far as the task supports them."""
        task = self.kind
        trim = [{"name": "trimmed", "steps": [{"trim": {}}]}] if task.supports(Feature.TRIM) else []
        if not task.supports(Feature.SEARCH):
            return {"models": trim}
        return {"models": trim, "search": {"minutes": self.search_minutes(), "students": list(self.students)}}

    def search_minutes(self, first: float | None = None) -> float:
        """What the first run, of `first` minutes, and measuring leave for the search."""
        first = FIRST_SHARE * self.minutes if first is None else first
        measuring = min(MEASURING_SHARE * self.minutes, MEASURING_S / 60)
        return round(max(LEAST_SHARE * self.minutes, self.minutes - first - measuring), 2)

    @property
    def kind(self) -> Task:
        """The task: as given, or what the checkpoint is made for. Raises InputError."""
        return task_of(self.checkpoint) if self.task is None else task_named(self.task, "task")


def whole_job(job: WholeJob, run_dir: Path | None = None) -> Outcome:
    """Do the whole job in `run_dir` (None: runs/NAME of the checkpoint); the same call goes on after a kill. Raises
    InputError, StepError."""
    if not job.minutes > 0:
        raise InputError(f"minutes: {job.minutes:g}: more than 0 are expected")
    run_dir = run_dir or Path("runs") / name_of(job.checkpoint)
    seen, length = _look(job, resumed=(run_dir / "steps").exists())
    tell(seen)
    if job.max_length is None and "max_length" not in job.more:
        job = replace(job, max_length=length)
    keys = job.models()
    if "search" not in keys:
        return run(job.recipe(**keys, latency=LATENCY), run_dir)
    first = run(job.recipe(models=keys["models"], latency=FIRST_LATENCY), run_dir)
    keys["search"]["minutes"] = job.search_minutes(first.seconds / 60)
    keys["data"] = dict(job.data) | _texts(job, first)
    latency = SHORT_LATENCY if job.minutes < SHORT else LATENCY
    outcome = run(job.recipe(**keys, latency=latency), run_dir, told=first.job.notes)
    write_atomic(run_dir / FOUND_RECIPE, short_recipe(outcome.job.recipe))
    return outcome


def _look(job: WholeJob, *, resumed: bool) -> tuple[list[str], int]:
    """What the data and the checkpoint are, a line each (of one that is `resumed` it was said), and `fitting_length`
    of the training rows."""
    checkpoint, data = open_checkpoint(job.checkpoint, job.kind), dict(job.data) | dict(job.more.get("data") or {})
    read = partial(read_rows, job.kind, text=data.get("text"), label=data.get("label"), names=checkpoint.labels)
    train = read(data["train"])
    length = job.max_length or fitting_length(checkpoint, train.texts)
    if resumed:
        return [], length
    apart = divided(train, read(data["validation"]), read(data["test"]) if data.get("test") else None, None)
    splits = {"train": train, "validation": apart.validation, "test": apart.test}
    return summary(checkpoint, job.kind, splits, length), length


def fitting_length(checkpoint: Checkpoint, texts: Sequence[str]) -> int:
    """The smallest of LENGTHS that truncates at most TRUNCATED of the texts, as far as the model takes it."""
    encoder = checkpoint.encoder(LENGTHS[-1])
    if encoder.shape:  # images
        return LENGTHS[0]
    lengths = [len(ids) for ids in encoder.ids([texts[int(i)] for i in some_of(len(texts), SAMPLE)])]
    needed = np.quantile(lengths, 1 - TRUNCATED)
    return min(next((length for length in LENGTHS if length >= needed), LENGTHS[-1]), encoder.max_length)


def _texts(job: WholeJob, first: Outcome) -> dict[str, int]:
    """How many training rows students learn from, and how many texts are made of them, by the time that the checkpoint
    takes to answer them. None are made where the task has none, or as much unlabelled text is given."""
    train, given = first.job.train, first.job.unlabeled
    throughput = first.choice.baseline.throughput_per_s
    if throughput is None or not first.job.task.supports(Feature.CACHED_SCORES):
        return {}
    fits = int(SCORING_SHARE * 60 * job.minutes * throughput)
    if fits < len(train):
        return {"distillation_rows": max(fits, min(len(train), FEWEST))}
    if not recombines(first.job.task, train):
        return {}
    counts, few = [int(times * len(train)) for times in RECOMBINED], len(given) if given else 0
    return {"recombined": next((count for count in counts if few < count <= fits), 0)}


def absolute(source: str) -> str:
    """A file or directory by its absolute path; a hub name as it is. UnicodeEncodeError where UTF-8 lacks it."""
    source.encode()
    return str(Path(source).resolve()) if Path(source).exists() else source


def name_of(checkpoint: str) -> str:
    """The name of a served model: that of the checkpoint's directory, in the letters that names have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(checkpoint).resolve().name).strip("-.") or "model"


def short_recipe(recipe: Recipe) -> str:
    """A recipe without what is at its default, paths absolute; it runs as it stands."""
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    return "# paredown run " + FOUND_RECIPE + "\n" + yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
