"""The Python API: `import paredown`. Each function calls what the command of the same name calls (`single_stage`).

Data are what the commands take (a path, a `datasets` name), or rows in memory: a list of dictionaries or of texts, a
`datasets.Dataset`, a pandas DataFrame. Models are a checkpoint directory or hub id, a result of these functions, or
(model, tokenizer) of transformers. Errors: InputError for input that can be mended, StepError for a result that cannot
be trusted (both in `paredown.runtime.errors`).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from paredown.benchmarks.measuring import records
from paredown.benchmarks.measuring.records import Interval, Record
from paredown.benchmarks.selection.choice import CandidateResult, Certificate, Choice
from paredown.benchmarks.selection.one_for_all import OneForAll
from paredown.runtime.errors import InputError, StepError

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from paredown.export.artifact import Artifact
    from paredown.export.predictor import Predictor

    from .recipe.schema import Recipe
    from .run import Outcome
    from .single_stage import StageData

Data = Any  # str, Path, list of dictionaries or texts, datasets.Dataset, pandas.DataFrame
Model = Any  # str, Path, CompressedModel, (model, tokenizer)


class Candidate(CandidateResult):
    """A candidate of a run: the keys of its entry in choice.json, and where its artefact lies."""

    artifact_path: Path | None = None  # a directory; None for a candidate that failed

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"no {name!r}; it has {', '.join(type(self).model_fields)}")

    @property
    def onnx_path(self) -> Path | None:
        """The ONNX file; None for candidates of another runtime."""
        file = None if self.artifact_path is None else self.artifact_path / "model.onnx"
        return file if file is not None and file.is_file() else None


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_dir: Path
    chosen: Candidate  # the one in the bundle
    baseline: Candidate  # the checkpoint as given, in PyTorch fp32
    candidates: tuple[Candidate, ...]
    certificate: Certificate | None  # what the test rows say of `chosen`; None without any
    choice: Choice = field(repr=False)  # choice.json
    failed: tuple[str, ...] = ()  # one line for each step that failed

    @property
    def bundle(self) -> Path:
        return self.run_dir / "bundle"

    @property
    def report(self) -> Path:
        return self.run_dir / "report.html"

    def table(self) -> DataFrame | list[dict[str, Any]]:
        """One row for each candidate: a DataFrame where pandas is installed, else a list of dictionaries."""
        return _frame([_row(entry) for entry in self.candidates])


@dataclass(frozen=True)
class MachineResults:
    """A finished run on several machines."""

    run_dir: Path
    machines: dict[str, RunResult]  # by the name that measure_on gives each
    one_for_all: OneForAll  # one_for_all.json: the candidate that suits all of them


def _row(entry: Candidate) -> dict[str, Any]:
    latency = entry.latency_ms
    return {
        "name": entry.name,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "metric_validation": entry.metric_validation,
        "drop_validation": entry.drop_validation,
        "drop_upper_95": entry.drop_upper_95,
        "p50_ms": latency and latency.p50,
        "p95_ms": latency and latency.p95,
        "p99_ms": latency and latency.p99,
        "speedup_vs_baseline": entry.speedup_vs_baseline,
        "speedup_vs_plain_int8": entry.speedup_vs_plain_int8,
        "throughput_per_s": entry.throughput_per_s,
        "size_mb": entry.size_mb,
        "cost_per_million": entry.cost_per_million,
        "rejected_because": entry.rejected_because,
    }


@dataclass(frozen=True)
class CompressedModel:
    """A checkpoint directory that transformers reads too, unless its layers were pruned unevenly: then
    `CompressedModel.model` does."""

    path: Path
    task: str
    _kept: Any = field(default=None, repr=False, compare=False)  # a temporary directory, gone with this object

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def model(self) -> PreTrainedModel:
        """Loaded in float32, on the CPU, in evaluation mode."""
        from paredown.compress.models.loading import load, open_checkpoint
        from paredown.tasks.registry import task_named

        task = task_named(self.task)
        return load(open_checkpoint(self.path, task), task)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path)

    @property
    def size_mb(self) -> float:
        """Of all its files, in MB (1e6 bytes)."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file()) / 1e6


@dataclass(frozen=True)
class ExportedModel:
    """A directory with the model of one runtime, its tokenizer and artifact.json."""

    path: Path
    task: str
    runtime: str
    precision: str
    size_mb: float  # of what has to be shipped
    _kept: Any = field(default=None, repr=False, compare=False)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def onnx_path(self) -> Path | None:
        file = self.path / "model.onnx"
        return file if file.is_file() else None


class BenchResult(records.BenchResult):
    """Artefacts side by side: the content of `paredown bench --json`. `ratio` is against the first that runs here."""

    def table(self) -> DataFrame | list[dict[str, Any]]:
        """One row for each artefact: a DataFrame where pandas is installed, else a list of dictionaries."""
        keys = ("path", "runtime", "precision", "p50_ms", "p95_ms", "p99_ms", "ratio", "ratio_ci", "throughput_per_s")
        return _frame([{key: getattr(entry, key) for key in (*keys, "metric", "size_mb")} for entry in self.artifacts])


class Evaluation(Record):
    """The metric of a bundle on labelled rows, in points."""

    metric: float
    metric_name: str
    rows: int


class ManifestMetric(Record):
    """What the run measured: points and their 95 % intervals; null: not measured."""

    metric: str
    metric_validation: float
    metric_validation_ci: Interval | None
    metric_test: float | None
    metric_test_ci: Interval | None
    drop_upper_95: float | None = None
    certificate: dict[str, Any] | None = None


class Manifest(Record):
    """manifest.json of a bundle; further keys are those of `paredown schema --of manifest`."""

    model_config = ConfigDict(extra="allow")

    name: str
    version: str
    task: str
    runtime: str
    precision: str
    model: str
    inputs: list[str]
    outputs: list[str]
    labels: list[str]
    max_length: int
    metric: ManifestMetric


class Bundle:
    """A verified bundle, opened on this machine; a context manager. Without torch."""

    def __init__(self, path: str | Path, *, public_key: str | Path | None = None, threads: int | None = None) -> None:
        """Raises BundleError where a check fails. `public_key`: PEM file; the bundle must be signed by its private key.

        `threads`: of the runtime; None: those with which a single row is answered the fastest.
        """
        from paredown.export.bundle.archive import unpacked
        from paredown.export.predictor import Predictor

        self._files = contextlib.ExitStack()
        try:
            self.path = self._files.enter_context(unpacked(Path(path)))
            if public_key is not None:
                from paredown.export.bundle.signature import check_signature

                check_signature(self.path, Path(public_key))
            self._predictor: Predictor = Predictor(self.path, threads)
        except BaseException:
            self._files.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """manifest.json."""
        return Manifest(**self._predictor.manifest)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._predictor.labels

    def __call__(self, texts: Sequence[str], text_pairs: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One answer for each text, as `paredown predict` gives it. Images are data URIs (`tasks.parsing.image_of`)."""
        if isinstance(texts, str):
            raise InputError("a list of texts is expected, not one text: model([text])")
        return self._predictor(texts, text_pairs)

    def evaluate(self, data: Data, *, text: str | None = None, label: str | None = None) -> Evaluation:
        """The metric on labelled rows. `text`, `label`: names of columns."""
        with _written({"data": data}) as files:
            metric, rows = self._predictor.score(files["data"], text, label)
        return Evaluation(metric=metric, metric_name=self._predictor.task.metric_name, rows=rows)

    def close(self) -> None:
        """Remove what an archive was unpacked to."""
        self._files.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_bundle(path: str | Path, *, public_key: str | Path | None = None, threads: int | None = None) -> Bundle:
    """Open a bundle (a directory, its .tar.gz, or a run directory that holds one), verified as `paredown verify` does.

    >>> model = paredown.load_bundle("runs/demo/bundle")
    >>> model(["a fine film"])[0]["label"]
    """
    return Bundle(path, public_key=public_key, threads=threads)


def run(
    recipe: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    on: str = "local",
    store: str | None = None,
) -> RunResult:
    """Do the job of a recipe: a YAML file, or its content as a dictionary (paths relative to the current directory).

    Finished steps are kept in `output_dir` (default: runs/NAME), and the same call goes on after them. `on`: where the
    steps are done: on this machine, side by side where cores and memory allow ("local"), or on a Ray cluster ("ray":
    that of $RAY_ADDRESS or of this machine; "ray://HOST:PORT"), whose machines have to see `output_dir` under the same
    path, or `store`: the URL of a store in object storage, such as s3://BUCKET/PREFIX, which shares the steps between
    machines. Raises InputError, StepError. A recipe that measures on several machines: `run_on_each`.
    """
    from .run import run as run_recipe

    job, run_dir = _recipe_of(recipe, output_dir)
    outcome = run_recipe(job, run_dir, on=on, store=store)
    return _result(outcome)


def run_on_each(
    recipe: str | Path | Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    on: str = "local",
    store: str | None = None,
) -> MachineResults:
    """Do the job of a recipe whose `measure_on` is a list of machines; each has its results in `machines/NAME`, a run
    directory. Arguments as those of `run`. Raises InputError; StepError where a machine has no result."""
    from .machines import run_on_each as run_recipe

    job, run_dir = _recipe_of(recipe, output_dir)
    outcomes = run_recipe(job, run_dir, on=on, store=store)
    outcomes.require_all()
    results = {name: _result(outcome) for name, outcome in outcomes.machines.items()}
    return MachineResults(outcomes.run_dir, results, outcomes.one_for_all)


def _recipe_of(recipe: str | Path | Mapping[str, Any], output_dir: str | Path | None) -> tuple[Recipe, Path]:
    """A recipe that was read, and its run directory."""
    from .recipe.loader import read_recipe
    from .run import default_run_dir

    if isinstance(recipe, Mapping):
        import yaml

        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            file = Path(scratch) / "recipe.yaml"
            file.write_text(yaml.safe_dump(_yaml(recipe), allow_unicode=True), encoding="utf-8")
            job = read_recipe(file, base=Path.cwd())
    else:
        file = Path(recipe)
        job = read_recipe(file)
    return job, default_run_dir(job, file) if output_dir is None else Path(output_dir)


def compress(
    checkpoint: Model,
    *,
    train: Data,
    validation: Data,
    test: Data | None = None,
    unlabeled: Data | None = None,
    students: Sequence[str | Path] = (),
    minutes: float = 30.0,
    max_drop: float = 1.0,
    budgets: Mapping[str, float] | None = None,
    task: str | None = None,
    max_length: int | None = None,
    text: str | None = None,
    label: str | None = None,
    seed: int = 13,
    recipe: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
) -> RunResult:
    """The whole job without a recipe: search for smaller models, measure them, select one and pack it.

    `minutes`: of the whole job. `students`: checkpoints of smaller students to try. `max_drop`: points of the metric
    that may be lost. `budgets`: hard limits such as {"p95_ms": 20, "size_mb": 10}. `task`: default: what the checkpoint
    is made for. `max_length`: in tokens; default: 128, 256 or 512, as 99 % of the training rows need.
    `text` and `label`: names of the columns (default: detected).
    `recipe`: further keys of a recipe, such as {"targets": [...], "latency": {...}}. Raises InputError, StepError.

    >>> result = paredown.compress("checkpoint", train="train.csv", validation="validation.csv", minutes=30)
    >>> result.chosen.name, result.chosen.speedup_vs_baseline
    """
    from .whole_job import WholeJob, absolute, whole_job

    given = {"train": train, "validation": validation, "test": test, "unlabeled": unlabeled}
    columns = {key: name for key, name in {"text": text, "label": label}.items() if name is not None}
    with _checkpoint(checkpoint) as source, _written(given) as files:
        job = WholeJob(
            absolute(source), {key: absolute(file) for key, file in files.items()} | columns, minutes=minutes,
            max_drop=max_drop, budgets=dict(budgets or {}), students=[absolute(str(one)) for one in students],
            task=task, max_length=max_length, seed=seed, more=dict(recipe or {}),
        )  # fmt: skip
        return _result(whole_job(job, None if output_dir is None else Path(output_dir)))


def prune(
    model: Model,
    data: Data,
    *,
    speedup: float | None = None,
    heads: float | None = None,
    ffn: float | None = None,
    layers: int | Sequence[int] | None = None,
    channels: float | None = None,
    even: bool = False,
    importance: Literal["fisher", "taylor", "magnitude"] = "fisher",
    recover_epochs: float = 0.0,
    task: str | None = None,
    max_length: int = 128,
    text: str | None = None,
    label: str | None = None,
    seed: int = 13,
    training_processes: int = 1,
    output_dir: str | Path | None = None,
) -> CompressedModel:
    """Structured pruning of attention heads, FFN neurons, layers or channels, the least important first.

    `data`: rows that importance is measured on; labels are not needed; `text` and `label` name their
    columns (default: detected). `speedup`: how many times faster, measured on
    this machine; else `heads`, `ffn` and `channels` (of a convolutional network) are shares to keep, 0..1, and
    `layers` how many or which. `even`: all layers get the same shape. `importance`: fisher, or a published score.
    `recover_epochs`: of fine-tuning with knowledge distillation after pruning, in so many `training_processes`.
    """
    from paredown.compress.config import Prune, Recover

    from . import single_stage
    from .spelling import argument, checked

    recover = checked(Recover, {"epochs": recover_epochs}, argument) if recover_epochs else None
    kept = layers if layers is None or isinstance(layers, int) else list(layers)
    given = {"speedup": speedup, "heads": heads, "ffn": ffn, "layers": kept, "even": even, "recover": recover}
    given |= {"channels": channels, "importance": importance}
    settings = checked(Prune, given, argument)
    how = {**_reading(max_length, text, label), "seed": seed, "training_processes": training_processes}
    with _stage(model, {"train": data}, output_dir, task, **how) as stage:
        made = single_stage.prune(stage.checkpoint, stage.data, settings, stage.output_dir, argument)
        if made.failed:
            raise StepError(f"prune, recover: {made.failed}; the pruned model before it is in {made.path}")
    return CompressedModel(made.path, made.task.name, stage.kept)


def distill(
    teacher: Model,
    student: Model | int | Literal["static"],
    data: Data,
    *,
    unlabeled: Data | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    task: str | None = None,
    max_length: int = 128,
    text: str | None = None,
    label: str | None = None,
    seed: int = 13,
    training_processes: int = 1,
    output_dir: str | Path | None = None,
) -> CompressedModel:
    """Knowledge distillation. `student`: a number of the teacher's layers, "static" (a bag of embeddings), or another
    checkpoint. `data`: rows to learn on; labels are not needed; `text` and `label` name columns.
    `training_processes`: that training and scoring are spread over. Hinton et al. 2015, arXiv 1503.02531."""
    from . import single_stage
    from .spelling import argument

    how = {**_reading(max_length, text, label), "seed": seed, "training_processes": training_processes}
    rows = {"train": data, "unlabeled": unlabeled}
    with (
        _stage(teacher, rows, output_dir, task, **how) as stage,
        contextlib.ExitStack() as during,
    ):
        given: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
        if student == "static":
            given["static"] = True
        elif isinstance(student, int):
            given["layers"] = student
        else:
            given["student"] = during.enter_context(_checkpoint(student))
        made = single_stage.distill(stage.checkpoint, stage.data, given, stage.output_dir, argument)
    return CompressedModel(made.path, made.task.name, stage.kept)


def export(
    model: Model,
    to: Literal["onnx", "ort", "openvino", "executorch", "litert", "tensorrt", "tensorrt-rtx"] = "onnx",
    *,
    precision: str = "fp32",
    data: Data | None = None,
    task: str | None = None,
    max_length: int = 128,
    text: str | None = None,
    label: str | None = None,
    output_dir: str | Path | None = None,
) -> ExportedModel:
    """A checkpoint as the model of a runtime, compared with the checkpoint. `precision`: fp32, fp16, bf16, int8 (the
    runtime's usual kind), int8-dynamic, int8-static, ...; `data`: training rows that INT8 is calibrated and judged on;
    `text` and `label` name its columns.
    """
    from . import single_stage
    from .spelling import argument, checked

    usual = "int8-dynamic" if to in ("onnx", "executorch", "litert") else "int8-static"
    given = {"to": to, "precision": usual if precision == "int8" else precision}
    request = checked(single_stage.ExportRequest, given, argument)
    with _stage(model, {"train": data}, output_dir, task, **_reading(max_length, text, label)) as stage:
        made = single_stage.export(stage.checkpoint, stage.data, request, stage.output_dir, _data_argument)
    return _exported(made.artifact, stage)


def quantize(
    model: Model,
    data: Data | None = None,
    *,
    method: Literal["dynamic", "static"] = "dynamic",
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime",
    task: str | None = None,
    max_length: int = 128,
    text: str | None = None,
    label: str | None = None,
    output_dir: str | Path | None = None,
) -> ExportedModel:
    """Post-training INT8 quantisation. `data`: training rows; "static" is calibrated on them, and with them what INT8
    costs is measured: matrix products that cost too much stay in float. `text` and `label` name its columns."""
    from . import single_stage

    request = single_stage.ExportRequest()
    with _stage(model, {"train": data}, output_dir, task, **_reading(max_length, text, label)) as stage:
        made = single_stage.quantize(
            stage.checkpoint, stage.data, request, stage.output_dir, _data_argument, method=method, runtime=runtime
        )
    return _exported(made.artifact, stage)


def bench(
    models: Sequence[Model | ExportedModel],
    data: Data,
    *,
    task: str | None = None,
    max_length: int = 128,
    text: str | None = None,
    label: str | None = None,
    **settings: Any,
) -> BenchResult:
    """Latency, throughput and quality side by side, in one run; ratios are against the first that runs here.

    `models`: checkpoints, exported models, bundles, ONNX files of other tools. `settings`: of
    `benchmarks.measuring.latency.LatencySettings`: threads, batch_size, processes, min_seconds, ...
    """
    from paredown.benchmarks.measuring.latency import LatencySettings
    from paredown.tasks.registry import task_named

    from .model_checks import task_of
    from .results import side_by_side
    from .spelling import argument, checked

    if isinstance(models, str | Path) or not len(models):
        raise InputError("bench: a list of models is expected: bench([a, b], data)")
    with contextlib.ExitStack() as during:
        files = during.enter_context(_written({"data": data}))
        scratch = Path(during.enter_context(tempfile.TemporaryDirectory(prefix="paredown-")))
        paths = [during.enter_context(_checkpoint(model)) for model in models]
        kind = (task_named(task) if task else task_of(paths[0])).with_columns(text, label)
        timing = checked(LatencySettings, settings, argument)
        found = side_by_side.run(paths, files["data"], timing, max_length, scratch, kind)
    return BenchResult(**found.to_json())


def _result(outcome: Outcome) -> RunResult:
    folders = {entry.name: entry.artifact for entry in outcome.measurements.candidates}

    def candidate(entry: CandidateResult) -> Candidate:
        folder = folders.get(entry.name)
        return Candidate(**dict(entry), artifact_path=None if folder is None else outcome.run_dir / folder)

    choice = outcome.choice
    return RunResult(
        run_dir=outcome.run_dir,
        chosen=candidate(choice.chosen),
        baseline=candidate(choice.baseline),
        candidates=tuple(map(candidate, choice.candidates)),
        certificate=choice.certificate,
        choice=choice,
        failed=tuple(outcome.failed),
    )


@dataclass(frozen=True)
class _Stage:
    """The arguments of a stage, as `single_stage` takes them."""

    checkpoint: str
    data: StageData
    output_dir: Path
    kept: Any  # a temporary directory, which goes with the result


def _reading(max_length: int, text: str | None, label: str | None) -> dict[str, Any]:
    """How the rows of a stage are read."""
    return {"max_length": max_length, "text_column": text, "label_column": label}


@contextlib.contextmanager
def _stage(
    model: Model, data: Mapping[str, Data | None], output_dir: str | Path | None, task: str | None, **settings: Any
) -> Iterator[_Stage]:
    from .model_checks import task_of
    from .single_stage import StageData
    from .spelling import argument, checked

    out, kept = _output(output_dir)
    with _checkpoint(model) as source, _written(data) as files:
        rows = checked(StageData, {**files, **settings, "task": task or task_of(source).name}, argument)
        yield _Stage(source, rows, out, kept)


def _exported(artifact: Artifact, stage: _Stage) -> ExportedModel:
    return ExportedModel(
        artifact.path, artifact.task, artifact.runtime, artifact.precision, artifact.size_mb(), stage.kept
    )


def _data_argument(stage: str, key: str = "", /) -> str:
    """Arguments of `export` and `quantize`, whose rows are `data`."""
    return "data" if key == "train" else key or stage


def _output(output_dir: str | Path | None) -> tuple[Path, Any]:
    """The directory to write, and a temporary one that is gone with the result, where none was named."""
    if output_dir is not None:
        return Path(output_dir), None
    kept = tempfile.TemporaryDirectory(prefix="paredown-")
    return Path(kept.name) / "model", kept


@contextlib.contextmanager
def _checkpoint(model: Model) -> Iterator[str]:
    """A model as a path or a hub id; one in memory is saved while the block lasts."""
    if isinstance(model, str | os.PathLike):
        yield os.fspath(model)
        return
    pair = isinstance(model, tuple) and len(model) == 2 and all(hasattr(part, "save_pretrained") for part in model)
    if not pair:
        raise InputError(
            f"a model is a checkpoint directory, a hub id, or (model, tokenizer) of transformers, not {model!r:.80}"
        )
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        for part in model:
            part.save_pretrained(folder)
        yield folder


@contextlib.contextmanager
def _written(data: Mapping[str, Data | None]) -> Iterator[dict[str, str]]:
    """Rows as what the commands read: paths and names as they are, rows in memory as JSON lines while the block lasts;
    what is None is left out."""
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        found = {}
        for name, rows in data.items():
            if isinstance(rows, str | os.PathLike):
                found[name] = os.fspath(rows)
            elif rows is not None:
                file = Path(folder) / f"{name}.jsonl"
                lines = (json.dumps(row, ensure_ascii=False, default=_plain) for row in _records(rows, name))
                file.write_text("\n".join(lines) + "\n", encoding="utf-8")
                found[name] = str(file)
        yield found


def _records(rows: Any, name: str) -> list[dict[str, Any]]:
    """Rows in memory as dictionaries; class numbers of a `datasets.Dataset` as their names."""
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a DataFrame
        return rows.to_dict("records")
    names = {
        column: feature.names for column, feature in getattr(rows, "features", {}).items() if hasattr(feature, "names")
    }
    found = []
    for row in rows if isinstance(rows, Iterable) and not isinstance(rows, Mapping) else ():
        if isinstance(row, str):
            found.append({"text": row})
        elif isinstance(row, Mapping):
            found.append(
                {key: names[key][value] if key in names and value is not None else value for key, value in row.items()}
            )
        else:
            break
    else:
        if found:
            return found
    raise InputError(
        f"{name}: rows are a path, a `datasets` name or Dataset, a DataFrame, or a list of dictionaries or of texts, "
        f"not {type(rows).__name__}"
    )


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InputError(f"rows: a value of the type {type(value).__name__} cannot be written as JSON")


def _yaml(value: Any) -> Any:
    """Mappings, sequences and paths as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _yaml(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_yaml(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _frame(rows: list[dict[str, Any]]) -> DataFrame | list[dict[str, Any]]:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


__all__ = [
    "BenchResult",
    "Bundle",
    "Candidate",
    "CompressedModel",
    "ExportedModel",
    "RunResult",
    "bench",
    "compress",
    "distill",
    "export",
    "load_bundle",
    "prune",
    "quantize",
    "run",
]
