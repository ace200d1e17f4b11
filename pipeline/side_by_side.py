"""`paredown bench`: adopt what was named, score it where there are labels, time all of it in one run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from ..benchmarks.bench import Entrant, Score, bench
from ..benchmarks.latency import LatencySettings, tokenizer_ms
from ..compress import data as data_module
from ..compress.cells import is_number
from ..compress.data import Rows, has_labels, label_names
from ..compress.encoder import run_rows
from ..compress.errors import InputError
from ..compress.files import open_table
from ..compress.outputs import points
from ..compress.tasks import TASKS, Task
from ..export.adopt import adopt
from ..export.artifact import Artifact
from ..export.machine import cores
from ..export.session import CannotRunHere
from .progress import Reporter


def run(
    paths: list[str],
    source: str,
    text: str | None,
    label: str | None,
    settings: LatencySettings,
    max_length: int,
    scratch: Path,
    task: Task,
) -> dict:
    """The content of `paredown bench --json F`. Raises InputError."""
    artifacts = adopted(paths, scratch, task, max_length)
    read = partial(task.read, source, text=text, label=label)
    named = [_names(artifact, task, source, label) for artifact in artifacts]
    known = [names for names, _ in named if names is not None]
    rows = read(names=known[0], labelled=None) if known else read(labelled=False)
    task = task if rows.labels is None else task.judging(rows)
    reporter = Reporter(len(artifacts) + settings.processes + settings.sweep.asked)

    def score(artifact: Artifact, names: tuple[str, ...] | None) -> Score:
        right = None
        if (rows.labels is not None and names is not None) or task.goes_on:
            with suppress(CannotRunHere):
                right = correct(artifact, read(names=names), settings.threads)
        tokenizer = tokenizer_ms(artifact.encoder().ids, rows.texts)
        return Score(None if right is None else points(right), right, tokenizer)

    entrants = [
        Entrant(path, artifact, partial(score, artifact, names))
        for path, artifact, (names, _) in zip(paths, artifacts, named, strict=True)
    ]
    ids = [data_module.encode(artifact.encoder(), rows) for artifact in artifacts]
    result = bench(entrants, ids, settings, metric_name=task.metric_name, steps=reporter.step)
    return result | {"notes": [f"{path}: {note}" for path, (_, note) in zip(paths, named, strict=True) if note]}


def _names(artifact: Artifact, task: Task, source: str, label: str | None) -> tuple[tuple[str, ...] | None, str]:
    """What an artefact's labels are called in the data, and what there is to say of it.

    A model with transformers' default names has not kept its own: the data's are taken for them, in their order, where
    there are as many; None where there are not.
    """
    labels = artifact.labels
    default = labels == tuple(f"LABEL_{i}" for i in range(len(labels)))
    if (
        not labels
        or not default
        or task.number
        or task.answer
        or not has_labels(open_table(source)[0], label, task.columns)
    ):
        return labels, ""
    said = label_names(source, label, task.columns)
    if all(name in labels or is_number(name) for name in said):
        return labels, ""
    if len(said) == len(labels):
        pairs = ", ".join(f"{own} for {name}" for own, name in zip(labels, said, strict=True))
        return said, f"its config.json does not name its labels; {pairs} is assumed"
    return None, f"no metric: its config.json does not name its {len(labels)} labels, and the data has {len(said)}"


def adopted(paths: Sequence[str | Path], scratch: Path, task: Task, max_length: int) -> list[Artifact]:
    """Bundles, checkpoints and model files as artefacts of one task. Raises InputError."""
    artifacts = [adopt(Path(path), scratch / str(i), task, max_length) for i, path in enumerate(paths)]
    for path, artifact in zip(paths, artifacts, strict=True):
        if artifact.task != task.name:
            raise InputError(f"{path}: made for {artifact.task}, not {task.name} (--task)")
    return artifacts


def correct(artifact: Artifact, rows: Rows, threads: int | None = None) -> np.ndarray:
    """What an artefact gets right, as `Task.correct` has it; labels of rows count as the artefact's do.

    Raises CannotRunHere.
    """
    task, session, encoder = TASKS[artifact.task], artifact.open(threads or cores()), artifact.encoder()
    outputs = run_rows(session, encoder.ids(rows.texts), encoder.pad_id, artifact.outputs[0])
    return task.correct(outputs, task.gold(rows, encoder))
