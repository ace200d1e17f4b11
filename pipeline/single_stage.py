"""One stage alone, for its command and its function of the Python API: a checkpoint in, a directory out.

Each reads the rows, checks what a run checks of the same step, and calls the function that the step of a run calls.
"""

from __future__ import annotations

import glob
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from paredown.compress.config import (
    PROCESSES,
    Augment,
    Distill,
    Finetune,
    Int8,
    Processes,
    Prune,
    Recover,
    Settings,
    Static,
    Training,
    Trim,
    Truncate,
    Tune,
    Update,
)
from paredown.compress.data import dataset
from paredown.compress.data.dataset import label_names_of, read_rows, read_unlabeled_rows
from paredown.compress.data.splits import apart, repeats
from paredown.compress.distillation.compatibility import check_teacher, same_tokens
from paredown.compress.models.architectures import CONVOLUTIONAL
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint
from paredown.export.artifact import Artifact
from paredown.export.checks.parity import departure, stand_in, tolerance_of
from paredown.export.hardware import cores
from paredown.export.opening import open_artifact
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.runtime.errors import InputError, StepError, nearest
from paredown.runtime.preprocessor import run_rows
from paredown.runtime.session import CannotRunHere
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import task_named
from paredown.tasks.rows import Rows

from .inputs import StageInputs
from .job import has_scores
from .model_checks import Start, check_steps, task_of
from .progress import Report, Reporter, tell
from .recipe.schema import Model, Step
from .recipe.task_support import features_of_stage
from .spelling import Where, checked, option
from .steps import continual, stages
from .steps import tune as tuning
from .steps.augment import write_augmented
from .steps.parity import Comparison
from .store import new_directory

JUDGED = 200  # rows that an artefact is compared with its checkpoint on


NEW_HEAD = "text-classification"  # the task of a model that is trained, where none is given


class StageData(Settings):
    """The rows of a stage, and how they are read."""

    train: str | None = Field(default=None, description="labelled rows: .csv, .jsonl, .parquet or a datasets name")
    validation: str | None = Field(default=None, description="labelled rows for the metric")
    unlabeled: str | None = Field(default=None, description="further text without labels")
    max_length: Annotated[int, Field(ge=4)] = Field(default=128, description="maximum input length, in tokens")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=13, description="seed of all random number generators"
    )
    training_processes: Processes = Field(default=1, description=PROCESSES)
    task: str | None = Field(default=None, description="task of the model (default: what the checkpoint is made for)")
    text_column: str | None = Field(default=None, description="name of the text column (default: detected)")
    label_column: str | None = Field(default=None, description="name of the label column (default: detected)")

    def task_with(self, checkpoint: str | None, where: Where = option, *features: Feature) -> Task:
        """The task, its rows in the columns that are named; by default that of the checkpoint, without one (None)
        NEW_HEAD. InputError where it does not support one of the features."""
        if self.task is not None:
            task = task_named(self.task, where("", "task"))
        else:
            task = task_named(NEW_HEAD) if checkpoint is None else task_of(checkpoint)
        for feature in features:
            task.require(feature, f"{where('', 'task')} {task.name}")
        return task.with_columns(self.text_column, self.label_column)

    @property
    def training(self) -> str:
        """Where the training rows are; InputError where none are given."""
        if self.train is None:
            raise InputError("training rows are needed: give train")
        return self.train


FORMATS = {r.SPEC.export_format: name for name, r in RUNTIMES.items() if r.SPEC.export_format}
FORMATS["ort"] = FORMATS["onnx"]


class ExportRequest(Settings):
    """What a checkpoint is exported to."""

    to: str = Field(
        default="onnx",
        description="format: onnx, ort (ONNX Runtime Mobile), openvino, executorch, litert, tensorrt or tensorrt-rtx",
    )
    precision: str = Field(
        default="fp32",
        description="precision: fp32, fp16, bf16 (openvino, tensorrt), int8-dynamic (onnx, executorch, litert) or "
        "int8-static; "
        "for text-generation also int8-weight or int4-weight",
    )
    rows: Annotated[int, Field(ge=1)] = Field(default=300, description="number of these rows, for INT8")
    lengths: list[int] = Field(
        default_factory=list,
        description="input lengths that calls are padded to, such as 16,32,64; max-length alone is fixed in the model",
    )
    batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="fixed batch size in the model (onnx, openvino; executorch, litert: 1 by default)"
    )
    batch_sizes: list[int] = Field(
        default_factory=list,
        description="batch sizes of the engine's profiles (tensorrt, tensorrt-rtx; default: 1,8)",
    )
    compute_capabilities: list[int] = Field(
        default_factory=list,
        description="compute capabilities of the engine's GPUs (tensorrt-rtx; default: 80,86,89,120)",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="maximum number of generated tokens, saved in generation_config.json"
    )
    int8: Int8 = Field(default_factory=Int8, description="what INT8 may cost before matrix products go back to float")


@dataclass(frozen=True)
class Made:
    """What a stage has written."""

    path: Path
    task: Task  # with the metric that the validation rows ask for
    result: dict  # of the stage
    metric: float | None = None  # on validation, in points
    failed: StepError | None = None  # of training after pruning: `path` holds the pruned model before it


@dataclass(frozen=True)
class Exported:
    """An artefact that was compared with its checkpoint, and what came of that, in a sentence."""

    artifact: Artifact
    parity: str


@contextmanager
def writing(output_dir: Path, stage: str) -> Iterator[tuple[Path, Report]]:
    """The directory that a stage fills, there under its name when the stage has ended well, and its progress."""
    with new_directory(output_dir) as target, Reporter(1).step(stage) as report:
        try:
            yield target, report
        except StepError as error:
            raise StepError(f"{stage}: {error}") from error


def finetune(
    checkpoint: str,
    data: StageData,
    settings: Finetune,
    output_dir: Path,
    where: Where = option,
    max_new_tokens: int | None = None,
) -> Made:
    """Train on labelled rows. A base model gets a new head. `max_new_tokens`: of what the model generates. The result
    has the validation loss after each epoch, none without such rows."""
    task = data.task_with(None, where)
    _require_features("finetune", settings, task, where)
    source = generating(open_checkpoint(checkpoint), task, max_new_tokens, where)
    names = source.labels if source.has_head(task) else label_names_of(task, data.training)
    inputs = _inputs(source, task, data, names, labelled=True)
    dataset.require_two_classes(inputs.train, names)
    _require_validation(settings, inputs, where)
    inputs = replace(inputs, task=task.for_rows(inputs.train, inputs.validation))
    with writing(output_dir, "finetune") as (target, report):
        result = stages.finetune(inputs, settings, target, report, by_epoch=True)
        return _made(inputs.after(target), output_dir, result)


def prune(checkpoint: str, data: StageData, settings: Prune, output_dir: Path, where: Where = option) -> Made:
    """Structured pruning, and the training after it where the settings have `recover`: when that fails, the pruned
    model is kept. With a latency target the result has `measured`: the speed-up and its 95 % interval."""
    task = data.task_with(checkpoint, where)
    _require_features("prune", settings, task, where)
    source = open_checkpoint(checkpoint, task)
    if not settings.timed and not {"heads", "ffn", "layers", "channels"} & settings.model_fields_set:
        convolutional = source.config.get("model_type") in CONVOLUTIONAL
        settings = settings.model_copy(update={"channels": 0.7} if convolutional else {"heads": 0.7, "ffn": 0.6})
    inputs = _inputs(source, task, data, source.labels)
    _check("prune", settings, inputs, where)
    recover, settings, failed = settings.recover, settings.model_copy(update={"recover": None}), None
    with writing(output_dir, "prune") as (target, report), tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        watch = stages.stopwatch(inputs, settings.target)
        table = watch.table(report) if settings.timed else None
        if table is not None:
            watch.check(table, [(settings, source.depth)])
        pruned = target if recover is None else Path(scratch) / "pruned"
        result = stages.prune(inputs, settings, pruned, report, table)
        if recover is not None:
            try:
                result |= _distilled(inputs.after(pruned), recover, [source], target, report)
            except StepError as error:
                failed = error  # the pruned model outlives it
                shutil.copytree(pruned, target, dirs_exist_ok=True)
        after = inputs.after(target)
        if failed is not None:
            return Made(output_dir, task, result, failed=failed)
        if settings.timed:
            report(1.0, "measuring what was promised")
            result["measured"] = watch.speedup(after.checkpoint)
        return _made(after, output_dir, result)


def trim(checkpoint: str, data: StageData, settings: Trim, output_dir: Path, where: Where = option) -> Made:
    """Reduce the vocabulary; the result has `tokens`, `size_mb` and `changed_tokens` (`stages.trim`)."""
    task = data.task_with(checkpoint, where)
    _require_features("trim", settings, task, where)
    source = open_checkpoint(checkpoint, task)
    pairs = None if task.columns.partner else False  # whose texts, each by itself, may well stand in train
    inputs = _inputs(source, task, data, judged=pairs)
    with writing(output_dir, "trim") as (target, report):
        result = stages.trim(inputs, settings, target, report)
        saved = inputs.after(target).checkpoint
        result |= {"tokens": saved.config["vocab_size"], "size_mb": saved.size_mb()}
    return Made(output_dir, task, result)


def truncate(checkpoint: str, data: StageData, settings: Truncate, output_dir: Path, where: Where = option) -> Made:
    """Read the first and the last tokens of longer texts; the result has `truncated` (`stages.truncate`)."""
    task = data.task_with(checkpoint, where)
    _require_features("truncate", settings, task, where)
    source = open_checkpoint(checkpoint, task)
    stages.check_window(source, settings)
    inputs = _inputs(source, task, data, source.labels)
    with writing(output_dir, "truncate") as (target, report):
        result = stages.truncate(inputs, settings, target, report)
        return _made(inputs.after(target), output_dir, result)


def distill(
    checkpoint: str,
    data: StageData,
    given: Mapping[str, Any],
    output_dir: Path,
    where: Where = option,
    teachers: Sequence[str] = (),
) -> Made:
    """Knowledge distillation. `given`: keys of `Distill`, or with `static: True` of `Static`; None where a key is not
    given. `teachers`: further ones; the student learns the mean of all logits."""
    task = data.task_with(checkpoint, where)
    source = open_checkpoint(checkpoint, task)
    others = [open_checkpoint(path, task) for path in teachers]
    if others:
        task.require(Feature.TEACHERS, where("distill", "teacher"))
    for other in others:
        check_teacher(task, other, source, where("distill", "teacher"))
    settings = _student_settings(given, source, task, where)
    stage = "static" if isinstance(settings, Static) else "distill"

    def spelled(of: str, key: str = "", /) -> str:
        return where("distill", key or "static") if of == "static" else where(of, key)

    _require_features(stage, settings, task, spelled)
    inputs = _inputs(source, task, data, source.labels)
    _require_validation(settings, inputs, where)
    learner = inputs.for_stage(settings).checkpoint
    # models that read the same tokens get rows of one length, which all of them take
    readers = [each.positions for each in (learner, source, *others) if same_tokens(each, learner)]
    inputs = replace(inputs, max_length=min([data.max_length, *readers]))
    _check(stage, settings, inputs, spelled)
    with writing(output_dir, "distill") as (target, report):
        result = _distilled(inputs.for_stage(settings), settings, [source, *others], target, report)
        return _made(replace(inputs.after(target), max_length=data.max_length), output_dir, result)


def update(
    checkpoint: str,
    data: StageData,
    settings: Update,
    output_dir: Path,
    *,
    new: str,
    new_validation: str | None = None,
) -> dict:
    """Continual learning on the rows of `new`; `data` has the old ones. The content of update.json."""
    task = data.task_with(checkpoint, option, Feature.UPDATE)
    source = open_checkpoint(checkpoint, task)
    arrivals = continual.read_arrivals(task, source.labels, new, new_validation)
    old = read_rows(task, data.training, names=source.labels)
    held = None if data.validation is None else read_rows(task, data.validation, names=source.labels)
    held, _, arrivals, notes = continual.new_rows_apart(old, held, None, arrivals)
    tell(notes)
    _require_features("update", settings, task, option)
    inputs = StageInputs(task, source, source.labels, old, held, None, data.max_length, data.seed)
    with writing(output_dir, "update") as (target, report):
        found = continual.grow_checkpoint(inputs, arrivals, settings, target, report)
        (target / "update.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def tune(checkpoint: str, data: StageData, settings: Tune, output_dir: Path) -> dict:
    """Hyperparameter search for fine-tuning; the same call resumes it. The content of tune.json."""
    task = data.task_with(None, option, Feature.TUNE)
    source = open_checkpoint(checkpoint).for_task(task)
    labels = source.labels if source.has_head(task) else label_names_of(task, data.training)
    inputs = _inputs(source, task, data, labels, labelled=True)
    dataset.require_two_classes(inputs.train, labels)
    _require_features("tune", settings, task, option)
    key = tuning.study_key(inputs, settings)
    study = output_dir.with_name(f"{output_dir.name}.study-{key}.log")
    others = output_dir.absolute().parent.glob(f"{glob.escape(output_dir.name)}.study*.log")
    other = next((path for path in others if path.name != study.name), None)
    if other is not None and not study.exists():
        line = "is of other data, another checkpoint or other settings; a new study starts"
        print(f"{output_dir.with_name(other.name)}: {line}", file=sys.stderr)
    with writing(output_dir, "tune") as (target, report):
        found = tuning.tune_checkpoint(inputs, settings, target, study, report)
        (target / "tune.json").write_text(json.dumps(found, indent=2) + "\n")
    study.unlink()
    return found


def augment(data: StageData, settings: Augment, output: Path) -> tuple[int, int]:
    """Write the training rows and their augmented copies; returns how many there are of each."""
    if output.exists() or output.suffix != ".jsonl":
        raise InputError(f"--output {output}: a new file that ends in .jsonl is expected")
    task = data.task_with(None, option, Feature.AUGMENT)
    try:
        labels = label_names_of(task, data.training)
    except InputError as error:
        if "no label column" not in str(error):
            raise
        labels = ()  # of unlabelled text
    rows = read_rows(task, data.training, names=labels, labelled=bool(labels))
    with Reporter(1).step("augment") as report:
        return len(rows), write_augmented(rows, settings, output, data.seed, report, originals=True)


def export(
    checkpoint: str, data: StageData, request: ExportRequest, output_dir: Path, where: Where = option
) -> Exported:
    """A checkpoint as the model of one runtime, compared with the checkpoint. `data.train`, without labels or with
    them, is for the comparison, and a part of it for INT8."""
    from paredown.export.onnx.exporter import plain_onnx

    task = data.task_with(checkpoint, where)
    wanted = _format(request, data.max_length, task, where)
    source = generating(open_checkpoint(checkpoint, task), task, request.max_new_tokens, where)
    if wanted.precision == "int8-static" and data.train is None:
        raise InputError(f"int8-static is calibrated on rows: give {where('export', 'train')}")
    judged, calibration = None, None
    if data.train is not None:
        int8 = wanted.precision in stages.INT8
        rows = _labelled_if_possible(task, data.train, source) if int8 else read_rows(task, data.train, labelled=False)
        judged = dataset.encode(source.encoder(wanted.max_length), rows.sample(JUDGED))
        if int8:
            calibration = rows.sample(request.rows)
            labelled = calibration.labels is not None and len(calibration.begins)
            task = task.for_rows(calibration if labelled else None)
    with writing(output_dir, "export") as (target, report), tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        report(0.0, "exporting")
        plain = plain_onnx(source, task, Path(scratch) / "plain.onnx")
        artifact = stages.export(source, task, plain, wanted, target, calibration)
        parity = _parity(source, task, artifact, plain, judged)
    return Exported(replace(artifact, path=output_dir), parity)


def quantize(
    checkpoint: str,
    data: StageData,
    request: ExportRequest,
    output_dir: Path,
    where: Where = option,
    *,
    method: str,
    runtime: str,
) -> Exported:
    """`export` in INT8. `method`: dynamic or static; `runtime`: onnxruntime or openvino."""
    if runtime == "openvino" and method == "dynamic":
        names = where("quantize", "method")
        raise InputError(f"{names} dynamic is for onnxruntime; openvino takes {names} static")

    def spelled(stage: str, key: str = "", /) -> str:
        return where("quantize", {"precision": "method", "to": "runtime"}.get(key, key))

    to = "openvino" if runtime == "openvino" else "onnx"
    request = request.model_copy(update={"to": to, "precision": f"int8-{method}"})
    return export(checkpoint, data, request, output_dir, spelled)


def generating(checkpoint: Checkpoint, task: Task, max_new_tokens: int | None, where: Where = option) -> Checkpoint:
    """The checkpoint, its texts so many tokens long at most; InputError for a task that has none."""
    if max_new_tokens:
        task.require(Feature.MAX_NEW_TOKENS, where("", "max_new_tokens"))
    return replace(checkpoint.for_task(task), max_new_tokens=max_new_tokens)


def _inputs(
    source: Checkpoint,
    task: Task,
    data: StageData,
    names: tuple[str, ...] = (),
    *,
    labelled: bool = False,
    judged: bool | None = True,
) -> StageInputs:
    """The rows, read; stderr says what was left out because it stands in two splits. `names`: of the labels.
    `labelled`, `judged`: whether training and validation rows have labels (None: those that do)."""
    train = read_rows(task, data.training, names=names, labelled=labelled)
    validation = read_rows(task, data.validation, names=names, labelled=judged) if data.validation else None
    unlabeled = read_unlabeled_rows(task, data.unlabeled) if data.unlabeled else None
    validation, unlabeled = kept_apart(train, validation, unlabeled)
    return StageInputs(
        task, source, names, train, validation, unlabeled, data.max_length, data.seed, processes=data.training_processes
    )


def kept_apart(train: Rows, validation: Rows | None, unlabeled: Rows | None = None) -> tuple[Rows | None, Rows | None]:
    """Validation without the rows that are also learned from, unlabelled rows without those of validation; stderr says
    how many these were. InputError where validation shares more than `splits.apart` allows."""
    kept = apart([train], [validation], unlabeled)
    tell([*repeats(train, validation), *kept.notes])
    return kept.judged[0], kept.unlabeled


def _made(inputs: StageInputs, path: Path, result: dict) -> Made:
    """The checkpoint of `inputs`, evaluated on the validation rows."""
    task, rows = inputs.task, inputs.validation
    model = load(inputs.checkpoint, task) if rows is not None else None
    metric = continual.score(model, inputs.checkpoint, task, rows, inputs.max_length)
    return Made(path, task.for_rows(rows), result, metric)


def _require_features(stage: str, settings: Settings, task: Task, where: Where) -> None:
    for place, feature in features_of_stage(stage, settings, where):
        task.require(feature, place)


def _check(stage: str, settings: Settings, inputs: StageInputs, where: Where) -> None:
    model = Model(name="model", steps=[Step.model_validate({stage: settings})])
    start = Start(inputs.checkpoint, inputs.task, inputs.max_length, unlabeled=inputs.unlabeled is not None)
    check_steps(model, start, where)


def _require_validation(settings: Training, inputs: StageInputs, where: Where) -> None:
    if settings.patience and inputs.validation is None:
        raise InputError(f"{where('', 'patience')} stops on validation: give {where('', 'validation')}")


def _student_settings(given: Mapping[str, Any], source: Checkpoint, task: Task, where: Where) -> Distill | Static:
    """Settings of a static student or of another one. Losses inside the models are off where they cannot be compared,
    unless they are asked for."""
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None and key != "static"}
    if given.get("static"):
        about_layers = ("student", "layers", "decoder_layers", "width", "hidden_weight", "relation_weight")
        if any(values.get(key) for key in (*about_layers, "quantize_aware")):
            raise InputError(
                f"{where('distill', 'static')}: a student without layers takes none of the options about layers"
            )
        return checked(Static, {key: value for key, value in values.items() if key not in about_layers}, where)
    values = {"epochs": 3.0, **values}
    if "hidden_weight" not in values:
        student = values.get("student")
        other = student is not None and not same_tokens(source, open_checkpoint(student).for_task(task))
        if other or values.get("width") is not None:
            values["hidden_weight"] = 0.0
    return checked(Distill, values, where)


def _format(request: ExportRequest, max_length: int, task: Task, where: Where) -> stages.ExportFormat:
    """InputError where the task, the runtime and the rest of the request do not go together."""
    names = {key: where("export", key) for key in ExportRequest.model_fields}
    if request.to not in FORMATS:
        raise InputError(f"{names['to']} {request.to}: {nearest(request.to, FORMATS)}")
    runtime = FORMATS[request.to]
    spec = RUNTIMES[runtime].SPEC
    given = {key: getattr(request, key) for key in ("lengths", "batch_sizes", "compute_capabilities")}
    for key, numbers in given.items():
        most = max_length if key == "lengths" else None
        if numbers != sorted(set(numbers)) or (numbers and (numbers[0] < 1 or numbers[-1] > (most or numbers[-1]))):
            limit = f", at most {where('export', 'max_length')} {most}" if most else ""
            shown = ",".join(map(str, numbers))
            raise InputError(f"{names[key]} {shown}: numbers such as 16,32,64, ascending{limit}")
    if spec.gpu:
        task.require(Feature.GPU, f"{names['to']} {runtime}")
    reason = RUNTIMES[runtime].available(building=True) if spec.engine or spec.on_device else None
    if reason is not None:
        raise InputError(reason)
    if spec.engine:
        if request.batch_size:
            raise InputError(
                f"{names['batch_size']}: an engine takes any up to its largest, of {names['batch_sizes']}; leave it out"
            )
    elif request.batch_sizes or request.compute_capabilities:
        raise InputError(
            f"{names['batch_sizes']}, {names['compute_capabilities']}: for {names['to']} tensorrt and tensorrt-rtx"
        )
    if request.lengths or request.batch_size:
        task.require(Feature.FIXED_SHAPES, f"{names['lengths']}, {names['batch_size']}")
    if request.to == "ort":
        task.require(Feature.MOBILE, f"{names['to']} ort")
    if request.precision not in (known := RUNTIMES[runtime].precisions(task)):
        raise InputError(
            f"{names['precision']} {request.precision}: for {task.name}, {runtime} runs {', '.join(known) or 'nothing'}"
        )
    engine = checked(Engine, {key: numbers or None for key, numbers in given.items()}, where)
    return stages.ExportFormat(
        runtime, request.precision, max_length, tuple(request.lengths), request.batch_size, request.to == "ort", engine,
        request.int8,
    )  # fmt: skip


def _labelled_if_possible(task: Task, source: str, checkpoint: Checkpoint) -> Rows:
    """Rows with labels, where there are any that the checkpoint knows: INT8 can be judged without."""
    try:
        return read_rows(task, source, names=checkpoint.labels, labelled=None)
    except InputError:
        return read_rows(task, source, labelled=False)


def _parity(source: Checkpoint, task: Task, artifact: Artifact, plain: Path, judged: list[list[int]] | None) -> str:
    """Compare with the checkpoint, answers and logits, on token ids of rows; without rows on random tokens.

    Rounding turns near ties, of which random tokens have many: there, answers count for fp32 alone.
    """
    from paredown.compress.models.inference import forward

    said = ""
    try:
        session = open_artifact(artifact, cores())
    except CannotRunHere as reason:
        session = stand_in(artifact, cores())
        if session is None:
            return f"not compared with the checkpoint: {reason}"
        said = f"{reason}; of its ONNX graph on this CPU, "
    limits = tolerance_of(task, artifact.precision)
    if judged is None and artifact.precision != "fp32":
        limits = replace(limits, min_agreement=0.0)
    rows = judged or artifact.encoder().random_rows(32, source.config.get("vocab_size"))
    comparison = Comparison(task, artifact.name, artifact, session, rows, limits)
    reference = partial(forward, load(source, task))
    expected = run_rows(reference, rows, source.pad_id, task.output)
    parity = comparison.require_parity(expected, None, partial(departure, plain, artifact))
    longest = comparison.longest()
    named = replace(comparison, name=str(source.path), session=reference)
    comparison.require_longest(longest, named.require_longest(longest), task.unit(expected))
    unit = comparison.encoder.unit
    where = f"random {unit}" if judged is None else f"{len(rows)} rows, {parity.agreement:.1%} of the answers agree"
    return said + task.describe_parity(parity.agreement, parity.max_difference, len(rows), where)


def _distilled(
    inputs: StageInputs, settings: Recover | Distill | Static, teachers: Sequence[Checkpoint], out: Path, report: Report
) -> dict:
    """Score the rows with all teachers, then train; the first teacher is the checkpoint itself."""
    judged = inputs if settings.patience else replace(inputs, validation=None)
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        scores = Path(scratch) if has_scores(inputs, settings) else None
        if scores is not None:
            stages.score(judged, teachers, scores, report)
        return stages.distill(judged, settings, teachers[0], out, report, scores)
