"""From a recipe to the steps of the run: each a function of what its key names, sharing nothing in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np

from ..benchmarks import latency
from ..compress import data as data_module
from ..compress.checkpoint import Checkpoint, load, open_checkpoint, save
from ..compress.data import Rows
from ..compress.encoder import collate, run_rows
from ..compress.errors import InputError
from ..compress.families import FAMILIES
from ..compress.settings import Distill, Finetune, Prune
from ..compress.tasks import TASKS, Task
from ..export.artifact import read_artifact
from ..export.machine import RUNTIME_PACKAGES, cores, fingerprint, has_int8_isa, importable, version
from ..export.parity import compare, gate
from ..export.session import CannotRunHere
from .progress import Report
from .recipe import BASELINE, Model, Recipe, Target
from .store import Done, key_of

BASE_TARGET = Target.model_validate({"runtime": "pytorch", "precision": "fp32"})
SCORES = f"{BASELINE}-scores"
MODULES = {"pytorch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class Step:
    """`work(out, done, report)` fills the directory `out`; `done` has the steps that `inputs["after"]` names."""

    name: str
    inputs: dict
    seconds: float  # a rough guess, for the plan that is printed
    work: Callable[[Path, Mapping[str, Done], Report], dict | None]

    @property
    def key(self) -> str:
        return key_of(self.inputs)


@dataclass(frozen=True)
class Candidate:
    """One way to make the model smaller: a model's steps, a runtime and a precision."""

    model: Model
    target: Target

    @property
    def name(self) -> str:
        return f"{self.model.name}/{self.target.runtime}/{self.target.precision}"

    @property
    def step(self) -> str:
        """Name of the step that exports it."""
        return self.name.replace("/", "-")


@dataclass(frozen=True)
class Job:
    """A recipe whose inputs have been read and checked: everything that can be known before minutes are spent."""

    recipe: Recipe
    task: Task
    checkpoint: Checkpoint
    train: Rows
    validation: Rows
    test: Rows | None
    unlabeled: Rows | None

    @property
    def models(self) -> list[Model]:
        return [Model(name=BASELINE), *self.recipe.models]

    @property
    def candidates(self) -> list[Candidate]:
        """Every model in every target; the checkpoint itself in PyTorch is always among them, and first."""
        targets = [BASE_TARGET, *(t for t in self.recipe.targets if t != BASE_TARGET)]
        wanted = [Candidate(model, target) for model in self.models for target in targets]
        keep_pytorch = BASE_TARGET in self.recipe.targets
        return [c for c in wanted if c.target != BASE_TARGET or keep_pytorch or c.model.name == BASELINE]


def prepare(recipe: Recipe) -> Job:
    """Open the checkpoint, read all data, and check what can be checked now. Raises InputError."""
    task = TASKS[recipe.task]
    checkpoint = open_checkpoint(recipe.checkpoint, task)
    read = partial(data_module.read, text=recipe.data.text, names=checkpoint.labels)
    train = read(recipe.data.train, label=recipe.data.label)
    validation = read(recipe.data.validation, label=recipe.data.label)
    test = read(recipe.data.test, label=recipe.data.label) if recipe.data.test else None
    unlabeled = read(recipe.data.unlabeled, labelled=False) if recipe.data.unlabeled else None
    for a, b in combinations([rows for rows in (train, validation, test) if rows is not None], 2):
        if a.source == b.source or _rows_digest(a) == _rows_digest(b):
            raise InputError(f"{b.source}: the same rows as {a.source}; what is judged on must not be learned from")
    kind = checkpoint.config.get("model_type", "")
    if kind not in FAMILIES:
        raise InputError(f"{checkpoint.path}: cannot export a '{kind}' model yet; supported: {', '.join(FAMILIES)}")
    for model in recipe.models:
        _check_layers(model, checkpoint.depth)
    encoder = checkpoint.encoder(recipe.max_length)
    for rows in (train, validation, test):
        if rows is not None:
            data_module.require_two_classes(rows, checkpoint.labels)
            data_module.encode(encoder, rows)
    for target in recipe.targets:
        if not importable(MODULES[target.runtime]):
            raise InputError(
                f"targets: '{target.runtime}' is not installed; it comes with: pip install 'paredown[cpu]'"
                " (or remove the target)"
            )
    return Job(recipe, task, checkpoint, train, validation, test, unlabeled)


def _check_layers(model: Model, depth: int) -> None:
    """Every step keeps layers that the step before it has left; InputError otherwise."""
    for entry in model.steps:
        stage, settings = entry.stage
        layers = getattr(settings, "layers", None)
        if layers is None:
            continue
        fits = 1 <= layers <= depth if isinstance(layers, int) else layers == sorted({*layers} & {*range(depth)}) != []
        if not fits:
            raise InputError(
                f"models: '{model.name}', {stage}.layers: {layers} is not a choice of the {depth} layers there are then"
                f" (a number from 1, or an ascending list from 0 to {depth - 1})"
            )
        depth = layers if isinstance(layers, int) else len(layers)


def plan(job: Job) -> list[Step]:
    """All steps in the order in which they run; each one's key holds the keys of those before it."""
    steps: dict[str, Step] = {}
    candidates = job.candidates
    if any(_has_teacher(entry.stage[1]) for model in job.models for entry in model.steps):
        _add(steps, _scores_step(job))
    ends = {}
    for model in job.models:
        ends[model.name] = _model_steps(job, model, steps)
        _add(steps, _graph_step(job, model, ends[model.name], steps))
        reference = Candidate(model, BASE_TARGET)
        for candidate in [reference, *(c for c in candidates if c.model == model and c != reference)]:
            _add(steps, _export_step(job, candidate, ends[model.name], steps))
            _add(steps, _evaluate_step(job, candidate, reference, steps))
    _add(steps, _measure_step(job, candidates, steps))
    return list(steps.values())


def _model_steps(job: Job, model: Model, steps: dict[str, Step]) -> str | None:
    """Add the model's chain; returns the name of its last step, None for the checkpoint as it came."""
    before: str | None = None
    for number, entry in enumerate(model.steps, start=1):
        stage, settings = entry.stage
        name = f"{model.name}-{number}-{stage}"
        inputs = {
            "stage": stage,
            "settings": settings.model_dump(),
            "seed": job.recipe.seed,
            "max_length": job.recipe.max_length,
            "train": _rows_digest(job.train),
            "unlabeled": _rows_digest(job.unlabeled),
            "threads": cores(),
            **_after(job, steps, before),
            "scores": steps[SCORES].key if _has_teacher(settings) else None,
            **_code("compress"),
        }
        work = partial(_compress, job, stage, settings, before)
        _add(steps, Step(name, inputs, _guess(job, stage, settings), work))
        before = name
    return before


def _compress(
    job: Job, stage: str, settings, before: str | None, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    from ..compress.distill import distill, heal
    from ..compress.prune import prune
    from ..compress.train import finetune

    source = _checkpoint_after(job, before, done)
    model = load(source, job.task)
    everything, labels = _all_rows(job)
    ids, gold, seed = everything[: len(job.train)], job.train.gold, job.recipe.seed
    if isinstance(settings, Finetune):
        finetune(model, ids, gold, settings, seed=seed, progress=report)
    if isinstance(settings, Prune):
        prune(model, ids[: settings.rows], gold[: settings.rows], settings, progress=report)
    if _has_teacher(settings):  # always the checkpoint as it came, however many steps lie between
        teacher, scores = load(job.checkpoint, job.task), np.load(done[SCORES].path / "scores.npy")
        if isinstance(settings, Distill):
            model = distill(
                model, everything, settings, teacher=teacher, labels=labels, scores=scores, seed=seed, progress=report
            )
        else:
            heal(model, teacher, everything, settings.recover, labels=labels, scores=scores, seed=seed, progress=report)
    save(model, source, out)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def _scores_step(job: Job) -> Step:
    """The checkpoint's logits on every row that is learned from, once for all students."""
    inputs = {
        "stage": "scores",
        "max_length": job.recipe.max_length,
        "train": _rows_digest(job.train),
        "unlabeled": _rows_digest(job.unlabeled),
        "threads": cores(),
        "checkpoint": job.checkpoint.digest,
        **_code("compress"),
    }

    def work(out: Path, done: Mapping[str, Done], report: Report) -> None:
        from ..compress.distill import teacher_scores

        report(0.0, "scoring")
        np.save(out / "scores.npy", teacher_scores(load(job.checkpoint, job.task), _all_rows(job)[0]))

    rows = len(job.train) + (len(job.unlabeled) if job.unlabeled else 0)
    return Step(SCORES, inputs, rows / 180, work)


def _all_rows(job: Job) -> tuple[list[list[int]], np.ndarray]:
    """Token ids of the training rows, then the unlabelled ones, and their labels (NO_LABEL where there is none)."""
    from ..compress.train import NO_LABEL

    encoder = job.checkpoint.encoder(job.recipe.max_length)
    ids = data_module.encode(encoder, job.train)
    more = data_module.encode(encoder, job.unlabeled) if job.unlabeled is not None else []
    return ids + more, np.concatenate([job.train.gold, np.full(len(more), NO_LABEL)])


def _has_teacher(settings: Finetune | Prune | Distill) -> bool:
    return isinstance(settings, Distill) or (isinstance(settings, Prune) and settings.recover is not None)


def _graph_step(job: Job, model: Model, before: str | None, steps: dict[str, Step]) -> Step:
    """The checkpoint as one plain ONNX graph, which every runtime's artefact starts from."""
    inputs = {"stage": "graph", "task": job.task.name, **_after(job, steps, before), **_code("compress", "export")}

    def work(out: Path, done: Mapping[str, Done], report: Report) -> None:
        from ..export.to_onnx import plain_onnx

        report(0.0, "tracing")
        plain_onnx(_checkpoint_after(job, before, done), job.task, out / "plain.onnx")

    return Step(_graph(model), inputs, 4.0, work)


def _export_step(job: Job, candidate: Candidate, before: str | None, steps: dict[str, Step]) -> Step:
    target = candidate.target
    static = target.precision == "int8-static"
    inputs = {
        "stage": "export",
        "runtime": target.runtime,
        "precision": target.precision,
        "max_length": job.recipe.max_length,
        "calibration": [_rows_digest(job.train), job.recipe.calibration_rows] if static else None,
        "int8_isa": has_int8_isa() if target.precision.startswith("int8") else None,
        "graph": steps[_graph(candidate.model)].key,
        **_after(job, steps, before),
        **_code("compress", "export"),
    }
    return Step(candidate.step, inputs, 15.0 if static else 4.0, partial(_export, job, candidate, before))


def _export(
    job: Job, candidate: Candidate, before: str | None, out: Path, done: Mapping[str, Done], report: Report
) -> dict:
    from ..export.eager import to_pytorch
    from ..export.to_onnx import to_onnx
    from ..export.to_openvino import to_openvino

    source = _checkpoint_after(job, before, done)
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
        plain = done[_graph(candidate.model)].path / "plain.onnx"
        artifact = exporter(plain, source, job.task, out, length, candidate.target.precision, calibration)
    return {"size_mb": artifact.size_mb(), "details": artifact.details}


def _evaluate_step(job: Job, candidate: Candidate, reference: Candidate, steps: dict[str, Step]) -> Step:
    after = {candidate.step: steps[candidate.step].key}
    if candidate != reference:
        after[_evaluation(reference)] = steps[_evaluation(reference)].key
    tolerance = job.recipe.tolerance(candidate.target.precision)
    inputs = {
        "stage": "evaluate",
        "validation": _rows_digest(job.validation),
        "test": _rows_digest(job.test),
        "tolerance": None if candidate == reference else vars(tolerance),
        "machine": fingerprint(),
        "after": after,
        **_code("compress", "export"),
    }
    rows = len(job.validation) + (len(job.test) if job.test else 0)
    return Step(_evaluation(candidate), inputs, rows / 250, partial(_evaluate, job, candidate, reference))


def _evaluate(
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
            theirs = np.load(done[_evaluation(reference)].path / f"{name}.npy")
            parity = compare(outputs, theirs, rows.gold, job.task.metric)
            precision = candidate.target.precision
            gate(parity, job.recipe.tolerance(precision), candidate.name, precision)
            result["parity"] = parity.to_json()
    return result


def _measure_step(job: Job, candidates: list[Candidate], steps: dict[str, Step]) -> Step:
    inputs = {
        "stage": "measure",
        "latency": job.recipe.latency.model_dump(),
        "validation": _rows_digest(job.validation),
        "seed": job.recipe.seed,
        "machine": fingerprint(),
        "after": {name: steps[name].key for c in candidates for name in (c.step, _evaluation(c))},
        **_code("benchmarks"),
    }
    settings = job.recipe.latency
    seconds = len(candidates) * (2 * settings.min_seconds * 1.4 + 2.5 * settings.processes)
    return Step("measure", inputs, seconds, partial(_measure, job, candidates))


def _measure(job: Job, candidates: list[Candidate], out: Path, done: Mapping[str, Done], report: Report) -> dict:
    artifacts = {c.name: done[c.step].path for c in candidates if "cannot_run" not in done[_evaluation(c)].result}
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


def _graph(model: Model) -> str:
    return f"{model.name}-graph"


def _evaluation(candidate: Candidate) -> str:
    return f"{candidate.step}-evaluate"


def _checkpoint_after(job: Job, before: str | None, done: Mapping[str, Done]) -> Checkpoint:
    return job.checkpoint if before is None else open_checkpoint(done[before].path, job.task)


def _after(job: Job, steps: dict[str, Step], before: str | None) -> dict:
    return {"after": {before: steps[before].key}} if before else {"checkpoint": job.checkpoint.digest}


def _add(steps: dict[str, Step], step: Step) -> None:
    steps[step.name] = step


def _rows_digest(rows: Rows | None) -> str | None:
    if rows is None:
        return None
    labels = None if rows.labels is None else rows.labels.tolist()
    return hashlib.sha256(json.dumps([rows.texts, labels]).encode()).hexdigest()


@cache
def _folder_digest(folder: str) -> str:
    total = hashlib.sha256()
    for path in sorted((Path(__file__).resolve().parent.parent / folder).glob("*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def _code(*folders: str) -> dict:
    """Versions of what the step runs, and of our own code in the rooms that it uses."""
    versions = {name: version(name) for name in (*RUNTIME_PACKAGES, "torch-pruning", "accelerate")}
    return {"versions": versions, "code": {folder: _folder_digest(folder) for folder in folders}}


def _guess(job: Job, stage: str, settings) -> float:
    """Seconds of a training stage, from 40 rows a second measured for MiniLM-L6 in float32 on 2 cores."""
    if isinstance(settings, Finetune):
        return settings.epochs * len(job.train) / 40
    heal = settings if isinstance(settings, Distill) else settings.recover
    rows = len(job.train) + (len(job.unlabeled) if job.unlabeled else 0)
    return 10 + (heal.epochs * rows / 60 if heal else 0)
