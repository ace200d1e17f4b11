"""The evaluation steps: parity and metric on validation; test rows and perturbed rows between the sittings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from paredown.compress.threads import few_threads
from paredown.export.artifact import Artifact, read_artifact
from paredown.export.checks.parity import departure, stand_in
from paredown.export.opening import open_artifact
from paredown.runtime.preprocessor import Preprocessor, run_rows
from paredown.runtime.session import CannotRunHere, Session
from paredown.tasks import perturbations
from paredown.tasks.rows import Rows

from ..job import Candidate, Job, evaluation_name, graph_name, parts_of
from ..progress import Report
from ..store import Done
from .parity import Comparison

LONGEST = "longest.npy"  # the reference's answers for a text of `max_length` tokens


def evaluate(
    job: Job, candidate: Candidate, reference: Candidate, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    """Score an artefact on validation, and hold it against what it was made from: its checkpoint, or for a cascade its
    two models."""
    artifact = read_artifact(done[candidate.step].path)
    ids = artifact.encoder().ids(job.validation.texts)
    cannot_run: dict = {}
    try:
        session = open_artifact(artifact, few_threads())
    except CannotRunHere as reason:
        cannot_run = {"cannot_run": str(reason)}
        graph = stand_in(artifact, few_threads())
        if graph is None:
            return cannot_run
        session = graph
    limits = job.recipe.tolerance(candidate.target.precision)
    comparison = Comparison(job.task, candidate.name, artifact, session, ids, limits)
    _check_longest(job, candidate, reference, comparison, out, done)
    report(0.0, "scoring validation")
    result = cannot_run or _scored(job, "validation", job.validation, comparison.encoder, comparison.outputs, out)
    if candidate != reference:
        gold = job.task.gold(job.validation, comparison.encoder)
        where = partial(_departure, candidate, artifact, done=done)
        parity = comparison.require_parity(_expected(job, candidate, reference, done), gold, where)
        result["parity"] = parity.to_json()
    return result


def further(job: Job, candidate: Candidate, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """Score an artefact that runs here on the test rows and on changed texts: what no other step waits for."""
    if "cannot_run" in done[evaluation_name(candidate)].result:
        return {}
    artifact = read_artifact(done[candidate.step].path)
    encoder, session, result = artifact.encoder(), open_artifact(artifact, few_threads()), {}
    if job.test is not None:
        report(0.0, "scoring test")
        outputs = run_rows(session, encoder.ids(job.test.texts), encoder.pad_id, job.task.output)
        result = _scored(job, "test", job.test, encoder, outputs, out)
    if job.recipe.robustness_rows:
        report(0.7, "scoring changed texts")
        result["robustness"] = _robustness(job, session, encoder)
    return result


def _scored(job: Job, split: str, rows: Rows, encoder: Preprocessor, outputs: np.ndarray, out: Path) -> dict:
    """The metric of one split's outputs in points, and what is right in each row; the outputs themselves in a file."""
    np.save(out / f"{split}.npy", outputs)
    gold = job.task.gold(rows, encoder)
    result: dict = {
        f"metric_{split}": job.task.metric(outputs, gold),
        f"correct_{split}": _recorded(job.task.correct(outputs, gold)),
    }
    more = job.task.further_metrics(outputs, gold)
    if more:
        result[f"beside_{split}"] = more
    return result


def _check_longest(
    job: Job, candidate: Candidate, reference: Candidate, comparison: Comparison, out: Path, done: Mapping[str, Done]
) -> None:
    """The longest input; its outputs are kept for the candidates that are compared with the reference."""
    row = comparison.longest(job.validation.texts)
    if candidate == reference:
        found = comparison.require_longest(row)
        if found is not None:
            np.save(out / LONGEST, found)
    elif candidate.model.cascade is not None:
        comparison.require_longest(row)
    else:
        file = done[evaluation_name(reference)].path / LONGEST
        expected = np.load(file) if file.is_file() else None
        comparison.require_longest(row, expected, job.task.unit(answers_of(reference, done)))


def _recorded(correct: np.ndarray) -> str | list:
    """`Task.correct` in JSON: "1" for each row that is right and "0" for the others, or the points of each row."""
    return "".join("1" if c else "0" for c in correct) if correct.dtype == bool else correct.tolist()


def _robustness(job: Job, session: Session, encoder: Preprocessor) -> dict[str, str | list]:
    """For each change of the texts, which of the same validation rows are right under it."""
    sample, found = job.validation.sample(job.recipe.robustness_rows), {}
    for name, change in perturbations.MEASURED.items():
        if not job.task.keeps_labels(change):
            continue
        rows = replace(sample, texts=job.task.perturbed(sample.texts, change))
        outputs = run_rows(session, encoder.ids(rows.texts), encoder.pad_id, job.task.output)
        found[name] = _recorded(job.task.correct(outputs, job.task.gold(rows, encoder)))
    return found


def _expected(job: Job, candidate: Candidate, reference: Candidate, done: Mapping[str, Done]) -> np.ndarray:
    """Logits that an artefact should give on validation."""
    if candidate.model.cascade is None:
        return answers_of(reference, done)
    from paredown.export.onnx.cascade import combined

    first, then = parts_of(job, candidate)
    threshold = read_artifact(done[candidate.step].path).details["cascade"]["threshold"]
    quick = answers_of(first, done)
    lines = _lines(job, first, quick, done)
    sure = np.repeat(job.task.confidence(quick, lines) >= threshold, lines)
    return combined(quick, answers_of(then, done), sure)


def _departure(candidate: Candidate, artifact: Artifact, batch: dict[str, np.ndarray], done: Mapping[str, Done]) -> str:
    """Which node of the graph departs, where there is one graph to compare with."""
    if candidate.model.cascade is not None:
        return ""
    return departure(done[graph_name(candidate.model)].path / "plain.onnx", artifact, batch)


def answers_of(candidate: Candidate, done: Mapping[str, Done]) -> np.ndarray:
    """Logits of an evaluated candidate on validation."""
    return np.load(done[evaluation_name(candidate)].path / "validation.npy")


def _lines(job: Job, candidate: Candidate, answers: np.ndarray, done: Mapping[str, Done]) -> list[int]:
    """How many lines of an exported candidate's answers each validation row has: one, or one for each token."""
    if len(answers) == len(job.validation):
        return [1] * len(answers)
    return [len(row) for row in read_artifact(done[candidate.step].path).encoder().ids(job.validation.texts)]


def confidence_of(job: Job, candidate: Candidate, done: Mapping[str, Done]) -> np.ndarray:
    """`Task.confidence` of an evaluated candidate in its answers to the validation rows, (rows,)."""
    answers = answers_of(candidate, done)
    return job.task.confidence(answers, _lines(job, candidate, answers, done))
