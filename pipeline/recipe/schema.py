"""The recipe: what to compress, with which data, into which candidates, measured and chosen how.

Every field is described once, here or beside the stage that uses it; unknown keys are errors that name the line.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from paredown.benchmarks.measuring.latency import LatencySettings
from paredown.benchmarks.selection.cost import Prices
from paredown.benchmarks.selection.selection import ChooseSettings
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
    Stage,
    Static,
    Timed,
    Trim,
    Truncate,
    Tune,
    Update,
)
from paredown.export.checks.parity import Tolerance, tolerance_of
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Bucket, Engine
from paredown.runtime.errors import InputError, nearest
from paredown.tasks.registry import TASKS, task_named

from .task_support import features_of

NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"
LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"  # what Ray takes as the value of a label
ONE, SEVERAL = "[one]", "[several]"  # the two forms of measure_on, in pydantic's location of an error


def _known(name: str) -> str:
    """ValueError for a task that nobody brings."""
    try:
        return task_named(name).name
    except InputError as error:
        raise ValueError(str(error)) from None


if TYPE_CHECKING:
    Runtime = str
else:
    Runtime = Literal[tuple(RUNTIMES)]  # the table's names
Precision = Literal["fp32", "fp16", "bf16", "int8-dynamic", "int8-static", "int8-weight", "int4-weight"]
Sink = Literal["mlflow", "tensorboard", "wandb"]
TaskName = Annotated[str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": [*TASKS]})]


class Data(Settings):
    """Files (.csv, .jsonl, .parquet, .conll; relative to the recipe), directories of images, or `datasets` names
    (`name:split`)."""

    train: str = Field(description="labelled training rows; calibration rows are drawn from them")
    validation: str = Field(description="labelled rows that the selection uses")
    test: str | None = Field(
        default=None,
        description="labelled rows for the certificate and the published metrics, used for nothing else "
        "(none: a third of validation is held out)",
    )
    distillation_rows: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="how many of the training rows students learn from: the teacher answers all of them (0: all)",
    )
    unlabeled: str | None = Field(default=None, description="further text of the same kind, for distillation")
    recombined: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="further unlabelled texts, each made of parts of two training texts, for distillation",
    )
    text: str | None = Field(
        default=None, description="name of the column of texts, words or images (default: detected)"
    )
    label: str | None = Field(default=None, description="name of the column of labels or tags (default: detected)")
    groups: str | None = Field(
        default=None, description="validation column of groups that are also evaluated one by one"
    )


class Step(Settings):
    """One stage; exactly one key."""

    finetune: Finetune | None = Field(default=None, description="fine-tune on the labelled rows")
    prune: Prune | None = Field(
        default=None, description="structured pruning of heads, feed-forward neurons and layers"
    )
    recover: Recover | None = Field(
        default=None, description="fine-tune what the steps before it left, by distillation from the checkpoint"
    )
    distill: Distill | None = Field(default=None, description="distil into a student made of some of the layers")
    static: Static | None = Field(default=None, description="train a static student; must be the first step of a model")
    truncate: Truncate | None = Field(
        default=None, description="read the first and the last tokens of longer texts only, inside the model"
    )
    trim: Trim | None = Field(default=None, description="reduce the vocabulary; must be the last step of a model")

    @model_validator(mode="after")
    def _one(self) -> Step:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"a step is exactly one of: {', '.join(Step.model_fields)}")
        return self

    @property
    def stage(self) -> tuple[str, Stage]:
        """The stage's name and its settings."""
        return next((name, settings) for name, settings in self if settings is not None)


class Arrivals(Update):
    """`update` with new rows; they are train, validation and test rows in all later steps."""

    new: str = Field(description="new labelled rows; labels that the checkpoint does not know are allowed")
    new_validation: str | None = Field(
        default=None, description="new labelled rows for evaluation (none: a fifth of `new` is held out)"
    )
    new_test: str | None = Field(default=None, description="new labelled rows for the published metrics")


class Adapt(Settings):
    """One step that makes the teacher, before any model is compressed; exactly one key."""

    augment: Augment | None = Field(default=None, description="add augmented copies of the training rows")
    finetune: Finetune | None = Field(default=None, description="train on the labelled rows, in full or with adapters")
    tune: Tune | None = Field(default=None, description="finetune with a hyperparameter search")
    update: Arrivals | None = Field(default=None, description="continual learning on new rows")

    @model_validator(mode="after")
    def _one(self) -> Adapt:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"a step of adapt is exactly one of: {', '.join(Adapt.model_fields)}")
        return self

    @property
    def stage(self) -> tuple[str, Augment | Finetune | Tune | Arrivals]:
        """The stage's name and its settings."""
        return next((name, settings) for name, settings in self if settings is not None)


class Cascade(Settings):
    """The first model answers rows where it is confident, the second one the rest; one ONNX file."""

    first: str = Field(description="name of the first model, the faster one")
    then: str = Field(description="name of the second model, or of a cascade that stands before this one")
    max_drop: Annotated[float, Field(ge=0)] = Field(
        default=0.2, description="points that it may be expected to lose against the second model; sets the threshold"
    )


class Model(Settings):
    """A smaller model and the steps that make it; the original checkpoint is always the teacher."""

    name: Annotated[str, Field(pattern=NAME)] = Field(description="letters, digits, dot, dash")
    steps: list[Step] = Field(
        default_factory=list, description="compression steps, in order (none: the original checkpoint)"
    )
    cascade: Cascade | None = Field(default=None, description="two of the other models instead of steps (onnxruntime)")

    @property
    def window(self) -> int | None:
        """How many tokens of a row it reads at most, where that is less than `max_length`."""
        return min((step.truncate.first + step.truncate.last for step in self.steps if step.truncate), default=None)

    @model_validator(mode="after")
    def _order(self) -> Model:
        stages = [step.stage[0] for step in self.steps]
        if self.cascade is not None and stages:
            raise ValueError("a cascade has no steps of its own; give them to the models that it names")
        if "static" in stages[1:]:
            raise ValueError("static: must be the first step, it learns from the checkpoint itself")
        if "trim" in stages[:-1]:
            raise ValueError(
                "trim: must be the last step, the steps after it would learn other tokens than the teacher"
            )
        late = self.steps[stages.index("truncate") :] if "truncate" in stages else []
        if any(step.distill and step.distill.student for step in late):
            raise ValueError("truncate: must come after distill with a student, which is another model")
        if any(step.prune and step.prune.latency_ms is not None for step in late):
            raise ValueError("prune: latency_ms is predicted for whole rows; give speedup after truncate")
        if stages[:1] == ["static"] and stages[1:] not in ([], ["trim"]):
            raise ValueError("static: has no layers for further steps; only trim may follow")
        return self


class Search(Settings):
    """Search for small models: shapes and their training together."""

    minutes: Annotated[float, Field(gt=0)] = Field(
        description="time limit of the search, training included, before measuring"
    )
    students: list[str] = Field(
        default_factory=list, description="checkpoints of smaller pretrained students to try, directories or hub ids"
    )
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="minimum speed-up against the unpruned model in `target` (default: any)"
    )
    target: Timed = Field(
        default_factory=Timed, description="runtime, precision and batch size of the predicted latency"
    )


class Target(Settings):
    """A runtime and a precision that every model is exported to and measured in."""

    runtime: Runtime = Field(
        description="what loads the artefact (docs/tensorrt.md: the last four need an NVIDIA GPU to run; "
        "executorch, litert: phones and embedded devices)"
    )
    precision: Precision = Field(default="fp32", description="number format; int8-weight and int4-weight: of decoders")

    @model_validator(mode="after")
    def _known(self) -> Target:
        known = RUNTIMES[self.runtime].SPEC.all_precisions
        if self.precision not in known:
            raise ValueError(f"{self.runtime} runs {', '.join(known)}, not {self.precision}")
        return self


class Gate(Settings):
    """Limits of the parity gate for one precision."""

    max_difference: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="maximum absolute difference of a logit"
    )
    min_agreement: Annotated[float, Field(ge=0, le=1)] = Field(description="share of rows with the same prediction")
    max_metric_drop: Annotated[float, Field(ge=0)] = Field(description="points lost against the own checkpoint")


def default_targets(task: str = "text-classification") -> list[Target]:
    """Every runtime and precision that may pay on a server's CPU for the task (fp16 is for GPUs)."""
    return [
        Target.model_validate({"runtime": name, "precision": precision})
        for name, runtime in RUNTIMES.items()
        for precision in runtime.precisions(task_named(task))
        if not runtime.SPEC.gpu and not runtime.SPEC.on_device and precision != "fp16"
    ]


def _targets_of(given: dict) -> list[Target]:
    return default_targets(given.get("task", "text-classification"))  # a task that is wrong is an error of its own


def _in_quotes(given: object) -> object:
    """ValueError for what YAML has read as a number: 01234567 is octal to it."""
    if isinstance(given, int | float):
        raise ValueError("put it in quotes: YAML reads digits as a number")
    return given


class MeasureOn(Settings):
    """A machine that a run measures on; one of the two."""

    label: Annotated[str, Field(pattern=LABEL)] | None = Field(
        default=None, description="its label in a Ray cluster: ray start --labels paredown=NAME"
    )
    fingerprint: Annotated[str, BeforeValidator(_in_quotes), Field(pattern="^[0-9a-f]{8,64}$")] | None = Field(
        default=None, description="the beginning of its fingerprint, as `paredown doctor` prints it"
    )

    @model_validator(mode="after")
    def _one(self) -> MeasureOn:
        if (self.label is None) is (self.fingerprint is None):
            raise ValueError("label or fingerprint is expected, one of them")
        return self

    def matches(self, label: str | None, fingerprint: str) -> bool:
        """Whether it is the machine with this label and fingerprint."""
        return label == self.label if self.label is not None else fingerprint.startswith(self.fingerprint or "")

    @property
    def name(self) -> str:
        """What its results are kept under, of several machines."""
        return self.label or self.fingerprint or ""

    def __str__(self) -> str:
        return f"labelled {self.label}" if self.label is not None else f"of fingerprint {self.fingerprint}"


def _each_once(given: list[MeasureOn]) -> list[MeasureOn]:
    """ValueError for a machine that is named twice, by the beginning of its fingerprint too."""
    for one, other in combinations(given, 2):
        short, long = sorted((one.name, other.name), key=len)
        if short == long or (one.label is None and other.label is None and long.startswith(short)):
            raise ValueError(f"the machine {other} is given twice; name each once")
    return given


MeasureOnEach = Annotated[list[MeasureOn], Field(min_length=1), AfterValidator(_each_once)]


class Recipe(Settings):
    """The whole job."""

    name: Annotated[str, Field(pattern=NAME)] = Field(default="model", description="the served model's name")
    task: TaskName = Field(default="text-classification", description="task of the model")
    checkpoint: str = Field(description="directory (relative to the recipe) or hub id of the fine-tuned checkpoint")
    data: Data = Field(description="rows of the data set")
    max_length: int = Field(default=128, ge=4, description="maximum input length, tokens; longer inputs are truncated")
    lengths: list[Bucket] = Field(
        default_factory=list,
        description="input lengths that calls are padded to (max_length is always the last), for runtimes "
        "that are faster with few shapes; max_length alone is fixed in the model. Empty: no "
        "padding",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="maximum number of generated tokens (default: that of generation_config.json, or 64)",
    )
    seed: int = Field(default=13, ge=0, lt=2**32, description="seed of all random number generators")
    training_processes: Processes = Field(default=1, description=PROCESSES)
    calibration_rows: Annotated[int, Field(ge=1)] = Field(
        default=300,
        description="training rows for the evaluation of INT8; static INT8 uses three in four for calibration",
    )
    int8: Int8 = Field(
        default_factory=Int8, description="what INT8 may cost before matrix products of a model go back to float"
    )
    teachers: list[str] = Field(
        default_factory=list,
        description="further fine-tuned checkpoints with the same labels; students learn the mean of all logits",
    )
    robustness_rows: int = Field(
        default=200, ge=0, description="validation rows that are evaluated with typos, in capitals and doubled"
    )
    explain_rows: int = Field(
        default=0, ge=0, description="validation rows for attribution agreement with the teacher (captum)"
    )
    adapt: list[Adapt] = Field(
        default_factory=list,
        description="training steps before compression; their result is the teacher",
    )
    models: list[Model] = Field(default_factory=list, description="smaller models to try beside the checkpoint itself")
    search: Search | None = Field(
        default=None, description="search for models, in place of `models` or in addition to them"
    )
    targets: list[Target] = Field(default_factory=_targets_of, description="what each model is exported to")
    tensorrt: Engine = Field(default_factory=Engine, description="what TensorRT engines are built for")
    parity: dict[Precision, Gate] = Field(
        default_factory=dict, description="limits of the parity gate, where the defaults do not fit"
    )
    latency: LatencySettings = Field(default_factory=LatencySettings, description="how latency is measured")
    measure_on: (
        Annotated[
            Annotated[MeasureOn, Tag(ONE)] | Annotated[MeasureOnEach, Tag(SEVERAL)],
            Discriminator(lambda given: SEVERAL if isinstance(given, list) else ONE),
        ]
        | None
    ) = Field(
        default=None,
        description="the machine that measures (default: this one); another one is reached with --on ray. A list: one "
        "machine of each kind, with measurements, choice and bundle for each",
    )
    cost: Prices = Field(default_factory=Prices, description="what serving costs")
    choose: ChooseSettings = Field(default_factory=ChooseSettings, description="selection rule")
    report_to: list[Sink] = Field(default_factory=list, description="experiment trackers that receive the results")

    @model_validator(mode="after")
    def _distinct(self) -> Recipe:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names) or BASELINE in names:
            raise ValueError(f"models: names must differ from each other and from '{BASELINE}'")
        plain = {BASELINE, *(model.name for model in self.models if model.cascade is None)}
        before = set(plain)  # the second model of a cascade may be a cascade that stands before it
        for model in self.models:
            if model.cascade is None:
                continue
            for name, known in ((model.cascade.first, plain), (model.cascade.then, before)):
                if name not in known:
                    raise ValueError(f"models: cascade '{model.name}': '{name}': {nearest(name, sorted(known))}")
            before.add(model.name)
            if not any(RUNTIMES[target.runtime].SPEC.cascade for target in self.targets):
                raise ValueError(f"models: cascade '{model.name}' needs a target with runtime onnxruntime")
        if self.lengths != sorted(set(self.lengths)) or max(self.lengths, default=0) > self.max_length:
            raise ValueError(f"lengths: ascending and at most max_length ({self.max_length}) are expected")
        if self.lengths == [self.max_length] and any(model.cascade for model in self.models):
            raise ValueError("lengths: a cascade asks its second model about shorter rows; give more than one length")
        task = task_named(self.task)
        for where, feature in features_of(self):
            refusal = task.refusal(feature)
            if refusal is not None:
                raise ValueError(f"{where}: {refusal}")
        for target in self.targets:
            known = RUNTIMES[target.runtime].precisions(task)
            if target.precision not in known:
                raise ValueError(
                    f"targets: {target.runtime} {target.precision}: for {self.task}, {target.runtime} runs "
                    f"{', '.join(known) or 'nothing'}"
                )
        if not any(RUNTIMES[target.runtime].SPEC.in_bundles for target in self.targets):
            raise ValueError("targets: at least one runtime besides pytorch is needed, a bundle runs without torch")
        return self

    @property
    def machines(self) -> list[MeasureOn]:
        """The machines that measure; empty where it names none."""
        return self.measure_on if isinstance(self.measure_on, list) else [self.measure_on] if self.measure_on else []

    def tolerance(self, precision: str) -> Tolerance:
        """The parity gate's limits for a precision."""
        given = self.parity.get(precision)  # type: ignore[call-overload]
        return Tolerance(**given.model_dump()) if given else tolerance_of(task_named(self.task), precision)


BASELINE = "teacher"  # the original checkpoint
