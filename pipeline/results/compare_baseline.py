"""Whether this run's bundle should replace that of an older run: the same rows, interleaved timings, a paired test."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

from paredown.benchmarks.measuring.bench import Entrant, Score, bench
from paredown.benchmarks.measuring.latency import tokenizer_ms
from paredown.benchmarks.measuring.records import Interval, Record
from paredown.benchmarks.measuring.repetitions import WIDEST_CONTROL
from paredown.benchmarks.selection.choice import known
from paredown.benchmarks.statistics.metric_intervals import drop_upper_95, mcnemar_p, paired_drop
from paredown.compress.data import dataset
from paredown.export.artifact import Artifact
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import MANIFEST, sha256_of
from paredown.runtime.session import CannotRunHere
from paredown.tasks.rows import Rows
from paredown.tasks.scores import points

from ..job import Job
from ..progress import Reporter
from ..store import write_atomic
from .journal import REPLACE
from .side_by_side import adopted, correct

SURE = 0.05  # p of McNemar's test below which a difference of two metrics counts


def old_bundle(old_run: Path) -> Path:
    """The bundle of a run directory, or the bundle itself. Raises InputError."""
    for path in (old_run / "bundle", old_run):
        if (path / MANIFEST).is_file():
            return path
    if old_run.name.endswith(".tar.gz") and old_run.is_file():
        return old_run
    raise InputError(f"--baseline {old_run}: no bundle there; give a run directory or a bundle")


class JudgedRows(Record):
    """The rows that two bundles were compared on."""

    split: str
    count: int


class Comparison(Record):
    """The content of replace.json: the new bundle against the old one. Metrics and drops in points."""

    old: str
    new: str
    rows: JudgedRows
    metric: str
    metric_old: float
    metric_new: float
    drop: float
    drop_upper_95: float
    mcnemar_p: float
    latency_ratio: float | None
    latency_ratio_ci: Interval | None
    noisy: bool
    max_drop: float
    same_model: bool
    replace: bool = False
    why: str = ""


def against(job: Job, run_dir: Path, old_run: Path) -> Comparison:
    """Compare the bundle of `run_dir` with an older one; the result is in replace.json too.

    On test rows where the recipe has them (the selection was made on validation). `max_drop` is the recipe's.
    """
    task, rows = job.task, job.test or job.validation
    names = (str(old_run), str(run_dir))
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        paths = (old_bundle(old_run), run_dir / "bundle")
        artifacts = adopted(paths, Path(scratch), task, job.recipe.max_length)
        reporter = Reporter(2 + job.recipe.latency.processes + job.recipe.latency.sweep.asked)
        scored: dict[str, Score] = {}

        def score(name: str, artifact: Artifact) -> Score:
            scored[name] = _scored(name, artifact, rows)
            return scored[name]

        entrants = [Entrant(name, a, partial(score, name, a)) for name, a in zip(names, artifacts, strict=True)]
        ids = [dataset.encode(a.encoder(), rows) for a in artifacts]
        timed = bench(entrants, ids, job.recipe.latency, metric_name=task.metric_name, steps=reporter.step)
        same = _bytes_of(artifacts[0]) == _bytes_of(artifacts[1])
    scores = [scored[name] for name in names]
    old, new = (known(score.correct) for score in scores)
    ours = timed.artifacts[1]
    found = Comparison(
        old=names[0],
        new=names[1],
        rows=JudgedRows(split=job.certificate_split or "validation", count=len(rows)),
        metric=task.metric_name,
        metric_old=known(scores[0].metric),
        metric_new=known(scores[1].metric),
        drop=paired_drop(old, new)[0],
        drop_upper_95=drop_upper_95(old, new),
        mcnemar_p=mcnemar_p(old, new),
        latency_ratio=ours.ratio,
        latency_ratio_ci=ours.ratio_ci,
        noisy=timed.noisy,
        max_drop=job.recipe.choose.max_drop,
        same_model=same,
    )
    replace, why = verdict(found)
    found = found.model_copy(update={"replace": replace, "why": why})
    write_atomic(run_dir / REPLACE, json.dumps(found.model_dump(mode="json"), indent=2) + "\n")
    return found


def verdict(found: Comparison) -> tuple[bool, str]:
    """Whether to replace the old bundle, and why: surely better, or surely faster and surely within `max_drop`.

    A model is neither against itself, whatever the clock says; in a noisy run one must be faster by more than a control
    may be off.
    """
    if found.same_model:
        return False, "the same model, byte for byte"
    lo, hi = found.latency_ratio_ci or (0.0, float("inf"))
    sure = found.mcnemar_p < SURE
    time = "" if found.latency_ratio is None else f", {found.latency_ratio:.2f} of its time"
    if time and found.noisy:
        time = f", {lo:.2f} to {hi:.2f} of its time in a noisy run"
    change = f"{-found.drop:+.2f} points (p = {found.mcnemar_p:.2g}){time}"
    if sure and found.drop < 0:
        return True, f"better: {change}" + ("; mind the time" if lo > 1 else "")
    if sure and found.drop > found.max_drop:
        return False, f"worse: {change}"
    if hi < (1 / WIDEST_CONTROL if found.noisy else 1) and found.drop_upper_95 <= found.max_drop:
        return True, f"faster and not worse by more than {found.max_drop:g} points: {change}"
    return False, f"no difference that the rows or the clock are sure of: {change}"


def _bytes_of(artifact: Artifact) -> tuple[str, list[str]]:
    """The runtime and the digests of the files that it loads."""
    return artifact.runtime, [sha256_of(artifact.path / name) for name in artifact.files]


def _scored(name: str, artifact: Artifact, rows: Rows) -> Score:
    """A bundle on rows of the new run's labels; a label that it does not know is always wrong."""
    try:
        right = correct(artifact, rows.renamed(artifact.labels))
    except CannotRunHere as reason:
        raise InputError(f"--baseline: {name} cannot run here: {reason}") from None
    return Score(points(right), right, tokenizer_ms(artifact.encoder().ids, rows.texts))
