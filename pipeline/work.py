"""What each step does: fill its directory from the directories of the steps before it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..benchmarks import latency
from ..compress import data as data_module
from ..compress.checkpoint import Checkpoint, load, open_checkpoint, save
from ..compress.encoder import collate, run_rows
from ..compress.settings import Distill, Finetune, Heal, Prune
from ..export.artifact import read_artifact
from ..export.machine import cores
from ..export.parity import compare, gate
from ..export.session import CannotRunHere
from .job import SCORES, Candidate, Job, evaluation_name, graph_name
from .progress import Report
from .store import Done


def compress(
    job: Job,
    settings: Finetune | Prune | Distill,
    before: str | None,
    out: Path,
    done: Mapping[str, Done],
    report: Report,
) -> dict:
    """One stage on the checkpoint that the steps before it left."""
    from ..compress.distill import heal, student_of
    from ..compress.prune import prune
    from ..compress.train import finetune

    source = checkpoint_after(job, before, done)
    model = load(source, job.task)
    everything, labels = all_rows(job)
    ids, gold, seed = everything[: len(job.train)], job.train.gold, job.recipe.seed
    if isinstance(settings, Finetune):
        finetune(model, ids, gold, settings, seed=seed, progress=report)
    if isinstance(settings, Prune):
        prune(model, ids[: settings.rows], gold[: settings.rows], settings, progress=report)
    lesson = settings.recover if isinstance(settings, Prune) else settings
    if isinstance(lesson, Heal):  # the teacher is the checkpoint as it came, however many steps lie between
        if isinstance(lesson, Distill):
            model = student_of(model, lesson.layers)
        teacher, scores = load(job.checkpoint, job.task), np.load(done[SCORES].path / "scores.npy")
        heal(model, teacher, everything, lesson, labels=labels, scores=scores, seed=seed, progress=report)
    save(model, source, out)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def all_rows(job: Job) -> tuple[list[list[int]], np.ndarray]:
    """Token ids of the training rows, then the unlabelled ones, and their labels (NO_LABEL where there is none)."""
    from ..compress.train import NO_LABEL

    encoder = job.checkpoint.encoder(job.recipe.max_length)
    ids = data_module.encode(encoder, job.train)
    more = data_module.encode(encoder, job.unlabeled) if job.unlabeled is not None else []
    return ids + more, np.concatenate([job.train.gold, np.full(len(more), NO_LABEL)])


def export(
    job: Job, candidate: Candidate, before: str | None, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    from ..export.eager import to_pytorch
    from ..export.to_onnx import to_onnx
    from ..export.to_openvino import to_openvino

    source = checkpoint_after(job, before, done)
    length = job.recipe.max_length
    report(0.0, "exporting")
    if candidate.target.runtime == "pytorch":
        artifact = to_pytorch(source, job.task, out, length)
    else:
        calibration = []
        if candidate.target.precision == "int8-static":
            ids = data_module.encode(source.encoder(length), job.train.first(job.recipe.calibration_rows))
            calibration = [collate([row], source.pad_id) for row in ids]
        exporter = {"onnxruntime": to_onnx, "openvino": to_openvino}[candidate.target.runtime]
        plain = done[graph_name(candidate.model)].path / "plain.onnx"
        artifact = exporter(plain, source, job.task, out, length, candidate.target.precision, calibration)
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def evaluate(
    job: Job, candidate: Candidate, reference: Candidate, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    artifact = read_artifact(done[candidate.step].path)
    try:
        session = artifact.open(cores())
    except CannotRunHere as reason:
        return {"cannot_run": str(reason)}
    encoder = artifact.encoder()
    result: dict = {}
    for share, name, rows in ((0.0, "validation", job.validation), (0.5, "test", job.test)):
        if rows is None:
            continue
        report(share, f"scoring {name}")
        outputs = run_rows(session, encoder.ids(rows.texts), encoder.pad_id, job.task.output)
        np.save(out / f"{name}.npy", outputs)
        correct = job.task.correct(outputs, rows.gold)
        result[f"metric_{name}"] = job.task.metric(outputs, rows.gold)
        result[f"correct_{name}"] = "".join("1" if c else "0" for c in correct)
        if candidate != reference and name == "validation":
            theirs = np.load(done[evaluation_name(reference)].path / f"{name}.npy")
            parity = compare(outputs, theirs, rows.gold, job.task.metric)
            precision = candidate.target.precision
            gate(parity, job.recipe.tolerance(precision), candidate.name, precision)
            result["parity"] = parity.to_json()
    return result


def measure(job: Job, candidates: list[Candidate], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    artifacts = {c.name: done[c.step].path for c in candidates if "cannot_run" not in done[evaluation_name(c)].result}
    encoder = job.checkpoint.encoder(job.recipe.max_length)
    ids = encoder.ids(job.validation.texts)
    timings = latency.measure(
        artifacts, dict.fromkeys(artifacts, ids), job.recipe.latency, seed=job.recipe.seed, progress=report
    )
    (out / "timings.json").write_text(json.dumps({name: vars(timing) for name, timing in timings.items()}))
    return {
        "tokenizer_ms": latency.tokenizer_ms(encoder.ids, job.validation.texts),
        "tokens_median": float(np.median([len(row) for row in ids])),
    }


def checkpoint_after(job: Job, before: str | None, done: Mapping[str, Done]) -> Checkpoint:
    return job.checkpoint if before is None else open_checkpoint(done[before].path, job.task)
