"""`paredown bench`: adopt what was named, score it where there are labels, time all of it in one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..benchmarks.bench import Scored, bench
from ..benchmarks.latency import LatencySettings, tokenizer_ms
from ..compress import data as data_module
from ..compress.encoder import run_rows
from ..compress.errors import InputError
from ..compress.tasks import TASKS, Task, points
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
    artifacts = [adopt(Path(path), scratch / str(i), task, max_length) for i, path in enumerate(paths)]
    first = artifacts[0]
    for path, artifact in zip(paths, artifacts, strict=True):
        if artifact.task != task.name:
            raise InputError(f"{path}: made for {artifact.task}; give --task {artifact.task}")
    rows = task.read(source, text=text, label=label, names=first.labels, labelled=None)
    reporter = Reporter(len(artifacts) + 1)
    scored = []
    for path, artifact in zip(paths, artifacts, strict=True):
        correct = None
        with reporter.step(f"score {path}"):
            if rows.labels is not None:
                correct = _correct(artifact, rows, text, label, settings)
            tokenizer = tokenizer_ms(artifact.encoder().ids, rows.texts)
        metric = None if correct is None else points(correct)
        scored.append(Scored(path, artifact, metric, correct, tokenizer))
    with reporter.step("measure") as report:
        ids = [data_module.encode(artifact.encoder(), rows) for artifact in artifacts]
        return bench(scored, ids, settings, metric_name=task.metric_name, progress=report)


def _correct(
    artifact: Artifact, rows: data_module.Rows, text: str | None, label: str | None, settings: LatencySettings
) -> np.ndarray | None:
    """What the artefact gets right, as `Task.correct` has it; None where it cannot run."""
    task = TASKS[artifact.task]
    try:
        session = artifact.open(settings.threads or cores())
    except CannotRunHere:
        return None
    encoder = artifact.encoder()
    gold = task.gold(task.read(rows.source, text=text, label=label, names=artifact.labels), encoder)
    return task.correct(run_rows(session, encoder.ids(rows.texts), encoder.pad_id, task.output), gold)
