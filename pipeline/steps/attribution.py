"""The step that compares a model's word attributions with the teacher's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from paredown.compress.models.loading import load
from paredown.export.hardware import all_cores
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.rows import some_of
from paredown.tasks.sentence_embedding import agreement

from ..job import Candidate, Job, attribution_name, evaluation_name, parts_of
from ..progress import Report
from ..recipe.schema import BASELINE, Model
from ..store import Done
from .compress import checkpoint_after
from .evaluate import confidence_of

FILE = "attributions.json"


def explained(job: Job) -> np.ndarray:
    """Numbers of the validation rows that are explained."""
    return some_of(len(job.validation), job.recipe.explain_rows)


def attribute(job: Job, model: Model, before: str | None, out: Path, done: Mapping[str, Done], report: Report) -> dict:
    """What each word adds to the teacher's answer, by integrated gradients of this model in PyTorch.

    The result has Spearman's rank correlation with the teacher's words for each row, over the words that both read;
    None where there is none.
    """
    from paredown.compress.attribution import word_attributions
    from paredown.compress.models.inference import forward

    all_cores()
    source = checkpoint_after(job, before, done)
    network, encoder = load(source, job.task), source.encoder(job.recipe.max_length)
    texts = [job.validation.texts[i] for i in explained(job)]
    if model.name == BASELINE:
        logits = run_rows(partial(forward, network), encoder.ids(texts), source.pad_id, job.task.output)
        teacher = {"labels": logits.argmax(-1).tolist()}
    else:
        teacher = json.loads((done[attribution_name(BASELINE)].path / FILE).read_text())
    found = []
    for i, (text, label) in enumerate(zip(texts, teacher["labels"], strict=True)):
        report(i / len(texts), f"row {i + 1} of {len(texts)}")
        values = word_attributions(network, encoder, text, label)
        found.append([None if np.isnan(value) else float(value) for value in values])  # None: past the longest input
    (out / FILE).write_text(json.dumps({"labels": teacher["labels"], "words": found}) + "\n")
    theirs = teacher.get("words", found)
    pairs = zip(theirs, found, strict=True)
    return {"agreement": [agreement(np.array(a, np.float64), np.array(b, np.float64)) for a, b in pairs]}


def agreement_of(job: Job, candidate: Candidate, done: Mapping[str, Done]) -> list[float | None] | None:
    """`attribute`'s result for a candidate: its model's, row by row that of the model which answers in a cascade."""
    if not job.recipe.explain_rows:
        return None
    if candidate.model.cascade is None:
        return done[attribution_name(candidate.model.name)].result["agreement"]
    first, then = parts_of(job, candidate)
    if "cannot_run" in done[evaluation_name(first)].result:
        return None
    threshold = done[candidate.step].result["details"]["cascade"]["threshold"]
    sure = confidence_of(job, first, done)[explained(job)] >= threshold
    slow = agreement_of(job, then, done)
    if slow is None:
        return None
    quick = done[attribution_name(first.model.name)].result["agreement"]
    return [a if s else b for s, a, b in zip(sure, quick, slow, strict=True)]
