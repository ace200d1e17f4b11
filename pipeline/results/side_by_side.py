"""Runs `paredown bench`: loads what was named, scores it where there are labels, times all of it in one run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import permutations
from math import exp, factorial, lgamma, log, log1p
from pathlib import Path
from typing import Any

import numpy as np

from paredown.benchmarks.measuring.bench import Entrant, Score, bench
from paredown.benchmarks.measuring.latency import LatencySettings, tokenizer_ms
from paredown.benchmarks.measuring.records import BenchResult
from paredown.compress.data import dataset
from paredown.compress.data.dataset import class_names, read_rows
from paredown.export.artifact import Artifact
from paredown.export.foreign import answered
from paredown.export.hardware import cores
from paredown.export.loading import adopt
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.session import CannotRunHere
from paredown.tasks.base import Task
from paredown.tasks.labels import canonical, is_default, is_number
from paredown.tasks.registry import task_named
from paredown.tasks.rows import Rows
from paredown.tasks.scores import points

from ..progress import Reporter


def run(
    paths: list[str], source: str, settings: LatencySettings, max_length: int, scratch: Path, task: Task
) -> BenchResult:
    """Load the artefacts, score them where there are labels, time all of them in one run. Raises InputError."""
    artifacts = adopted(paths, scratch, task, max_length)
    read = partial(read_rows, task, source)
    named = [_names(artifact, task, source) for artifact in artifacts]
    known = [names for names, _ in named if names is not None]
    rows = read(names=known[0], labelled=None) if known else read(labelled=False)
    task = task if rows.labels is None else task.for_rows(rows)
    reporter = Reporter(len(artifacts) + settings.processes + settings.sweep.asked)
    notes = [f"{path}: {note}" for path, (_, note) in zip(paths, named, strict=True) if note]

    def score(path: str, artifact: Artifact, names: tuple[str, ...] | None) -> Score:
        right = None
        if names is not None and task.has_gold(rows):
            with suppress(CannotRunHere):
                outputs, gold = _judged(artifact, read(names=names), settings.threads)
                right = task.correct(outputs, gold)
                order = other_order(task, outputs, gold, names or artifact.labels)
                notes.extend([f"{path}: {order}"] if order else [])
        tokenizer = tokenizer_ms(artifact.encoder().ids, rows.texts)
        return Score(None if right is None else points(right), right, tokenizer)

    entrants = [
        Entrant(path, artifact, partial(score, path, artifact, names))
        for path, artifact, (names, _) in zip(paths, artifacts, named, strict=True)
    ]
    ids = [dataset.encode(artifact.encoder(), rows) for artifact in artifacts]
    result = bench(entrants, ids, settings, metric_name=task.metric_name, steps=reporter.step)
    return result.model_copy(update={"notes": notes})


def _names(artifact: Artifact, task: Task, source: str) -> tuple[tuple[str, ...] | None, str]:
    """What an artefact's labels are called in the data, and what there is to say of it.

    A model with transformers' default names has not kept its own: the data's are taken for them, in their order, where
    there are as many; or indices are read; None where neither fits.
    """
    labels = artifact.labels
    said = class_names(task, source) if is_default(labels) else ()
    if not said:
        return labels, ""
    if len(said) == len(labels) and not set(said) & set(labels) and not all(is_number(canonical(n)) for n in said):
        pairs = ", ".join(f"{own} for {name}" for own, name in zip(labels, said, strict=True))
        return said, f"its config.json does not name its labels; {pairs} is assumed"
    try:
        read_rows(task, source, names=labels)
    except InputError:
        return None, f"no metric: its config.json does not name its {len(labels)} labels, and the data has {len(said)}"
    return labels, ""


def adopted(paths: Sequence[str | Path], scratch: Path, task: Task, max_length: int) -> list[Artifact]:
    """Bundles, checkpoints and model files as artefacts of one task. Raises InputError."""
    artifacts = [adopt(Path(path), scratch / str(i), task, max_length) for i, path in enumerate(paths)]
    for path, artifact in zip(paths, artifacts, strict=True):
        if artifact.task != task.name:
            raise InputError(f"{path}: made for {artifact.task}, not {task.name} (--task)")
        runtime = RUNTIMES[artifact.runtime]
        reason = runtime.available()
        if reason is not None and not runtime.SPEC.gpu:  # of these, those that cannot run here are left out
            raise InputError(reason)
    return artifacts


def correct(artifact: Artifact, rows: Rows, threads: int | None = None) -> np.ndarray:
    """What an artefact gets right, as `Task.correct` has it; labels of rows count as the artefact's do.

    Raises CannotRunHere.
    """
    outputs, gold = _judged(artifact, rows, threads)
    return task_named(artifact.task).correct(outputs, gold)


def _judged(artifact: Artifact, rows: Rows, threads: int | None) -> tuple[np.ndarray, Any]:
    """Its answers, and what they are compared with."""
    outputs = answered(artifact, rows.texts, threads or cores())
    return outputs, task_named(artifact.task).gold(rows, artifact.encoder())


def other_order(task: Task, outputs: np.ndarray, gold: Any, names: Sequence[str]) -> str:
    """What to say of answers that are no better than always giving the commonest label, where they would be right if
    the model's labels stood in another order; "" otherwise.

    `outputs`, `gold`: as `Task.correct` takes them. In another order: better than chance at a level of 0.1 %, for all
    orders together.
    """
    classes = task.predicted(outputs, gold)
    if classes is None:
        return ""
    said, true = classes
    count = min(len(names), outputs.shape[-1])
    known = true < count
    said, true = said[known], true[known]
    if count < 2 or not len(true):
        return ""
    table = np.zeros((count, count), dtype=np.int64)  # said, true
    np.add.at(table, (said, true), 1)
    commonest = table.sum(axis=0).max() / len(true)
    order = _best_order(table)
    right = sum(int(table[i, label]) for i, label in enumerate(order))
    orders = factorial(min(count, 6))
    if np.trace(table) > commonest * len(true) or _chance_of(right, len(true), float(commonest)) > 0.001 / orders:
        return ""
    shown = ", ".join(names[label] for label in order[:8]) + (", ..." if count > 8 else "")
    return (
        f"{task.metric_name} is no better than chance; {100 * right / len(true):.1f} % of the answers would be right "
        f"if the model's labels stood in this order: {shown}; does its config.json name them in another one?"
    )


def _best_order(table: np.ndarray) -> tuple[int, ...]:
    """Which label each output means, so that most answers are right: of few labels the best, of many one by one."""
    count = len(table)
    if count <= 6:
        return max(permutations(range(count)), key=lambda order: sum(table[i, label] for i, label in enumerate(order)))
    order, left = [-1] * count, table.astype(np.float64)
    for _ in range(count):
        said, true = np.unravel_index(left.argmax(), left.shape)
        order[int(said)] = int(true)
        left[said, :], left[:, true] = -1, -1
    return tuple(order)


def _chance_of(right: int, rows: int, rate: float) -> float:
    """The probability of `right` or more of `rows` at `rate` each: the binomial distribution."""
    if not 0 < rate < 1:
        return 1.0
    each = (
        lgamma(rows + 1) - lgamma(k + 1) - lgamma(rows - k + 1) + k * log(rate) + (rows - k) * log1p(-rate)
        for k in range(right, rows + 1)
    )
    return sum(map(exp, each))
