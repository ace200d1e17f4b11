"""The JSON of measurements.json, field by field: everything that was measured in a run, raw samples included."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from .measuring.latency import LatencySettings, Timing
from .measuring.records import Conditions, Record, SweepPoint
from .selection.cost import Prices
from .selection.selection import ChooseSettings

MEASUREMENTS_SCHEMA = 3  # raised when a key is renamed, removed or changes its meaning
Answers = str | list[list[float]]  # `Task.correct`: "1" for each row that is right, "0" for others; or points of a row


class Open(Record):
    """A record whose further keys depend on the task, step or runtime."""

    model_config = ConfigDict(extra="allow")


class Machine(Open):
    """`export.hardware.machine`."""

    cpu: str = ""
    cores: int
    memory_gb: float = 0.0
    isa: list[str] = Field(default=[])
    gpus: list[str] = Field(default=[])
    python: str = ""
    versions: dict[str, str] = Field(default={})


class RowCounts(Record):
    """Rows of each split; a pair of texts is one row."""

    train: int
    unlabeled: int
    validation: int
    test: int


class CheckpointSource(Record):
    """What identifies a checkpoint."""

    name: str | None = Field(default=None, description="OWNER/NAME on the Hub, or that of its directory")
    commit: str | None = Field(default=None, description="of its repository on the Hub")
    weights: dict[str, str] = Field(default={}, description="sha256 of its weights, by file")


class Origin(CheckpointSource):
    """The checkpoint that the run began with, and the step that keeps its licence, notices and card."""

    path: str = Field(description="relative to the run directory")
    files: list[str]
    architecture: str | None = None
    others: dict[str, CheckpointSource] = Field(
        default={}, description="further teachers and the checkpoints of students, by their digests"
    )


class Made(Open):
    """What a step of the recipe found out."""

    promised_speedup: float | None = None
    training_s: float | None = None
    rows_per_s: float | None = None
    changed_tokens: float | None = Field(default=None, description="share of the tokens of validation, 0 to 1")
    layers: list[dict[str, int]] = Field(default=[], description="heads and neurons (ffn) of each layer, where pruned")


class Adapted(Open):
    """What a step before compression found out."""

    path: str | None = Field(default=None, description="of the step, relative to the run directory")
    said: str


class SearchSummary(Record):
    """What the search tried."""

    trials: int
    trained: list[str]  # a sentence on each model that is measured
    dropped: dict[str, str]  # why the others are not, by name
    next: str = ""  # what more minutes would go into


class ParityResult(Record):
    """An artefact against its checkpoint on validation."""

    max_difference: float
    mean_difference: float
    agreement: float = Field(description="share of rows with the same answer, 0 to 1")
    metric_drop: float = Field(description="points, positive is worse")


class Flip(Record):
    """A validation row that the baseline has right and the candidate wrong."""

    text: str
    gold: str
    now: str
    confidence: float


class Int8Cost(Open):
    """What INT8 costs against the float model, on calibration rows that judge; null where it gave no number."""

    measure: str
    unit: str
    rows: int
    before: float | None = Field(description="with every matrix product in INT8")
    after: float | None
    standard_error: float | None


class Engine(Open):
    """A TensorRT engine."""

    built_with: str
    built_for: list[str]
    mb: float
    build_s: float
    int8_products: int
    products: int
    layers: dict[str, int]


class Details(Open):
    """`details` of artifact.json: how the artefact was made. Of a model of several parts, theirs are inside."""

    cascade: CascadeDetails | None = None
    engine: Engine | None = None
    int8_cost: Int8Cost | None = None
    products: int = Field(default=0, description="matrix products that could be INT8")
    left_in_float: list[str] | None = None

    def inner(self) -> dict[str, Details]:
        """The details of its parts: of the two models of a cascade, of an encoder and a decoder."""
        if self.cascade is not None:
            parts = {"first": self.cascade.first, "then": self.cascade.then}
            return {name: part for name, part in parts.items() if part is not None}
        extra = self.model_extra or {}
        return {name: Details.model_validate(value) for name, value in extra.items() if isinstance(value, dict)}


class CascadeDetails(Open):
    """How much of the work the first model of a cascade does, and how its models were made."""

    answered_by_first: float | None = Field(default=None, description="share of the validation rows, 0 to 1")
    asked: list[float] | None = Field(
        default=None, description="share of the validation rows that each model behind the first is asked about, 0 to 1"
    )
    first_metric: float | None = None
    first: Details | None = None
    then: Details | None = None


Details.model_rebuild()


def correct_rows(answers: Answers | None) -> np.ndarray | None:
    """(rows,) bool, or (rows, 2) float64 of points gained and possible: `Task.correct`."""
    if answers is None:
        return None
    if isinstance(answers, list):
        return np.array(answers, dtype=np.float64)
    return np.frombuffer(answers.encode(), dtype=np.uint8) == ord("1")


class CandidateMeasurement(Record):
    """One candidate: how it was made, what it answered, how long it took. `failed` or `cannot_run` say why not."""

    name: str
    model: str
    runtime: str
    precision: str
    steps: list[dict[str, Any]] = Field(description="the recipe's steps, each with its `stage`")
    failed: str | None = None
    cannot_run: str | None = None
    artifact: str | None = Field(default=None, description="directory, relative to the run directory")
    size_mb: float | None = None
    details: Details | None = None
    compression_s: float = 0.0
    reference: bool = Field(default=False, description="measured for comparison only")
    parameters: int | None = None
    made: dict[str, Made] = Field(default={})
    parity: ParityResult | None = None
    metric_validation: float | None = None
    correct_validation: Answers | None = None
    beside_validation: dict[str, float | None] | None = Field(default=None, description="further metrics of the task")
    metric_test: float | None = None
    correct_test: Answers | None = None
    beside_test: dict[str, float | None] | None = None
    robustness: dict[str, Answers] = Field(default={})
    predicted_validation: list[int] | None = None
    calibration_error: float | None = None
    flips: list[Flip] = Field(default=[])
    attribution_agreement: list[float | None] | None = None
    timing: Timing | None = Field(default=None, description="raw samples, in milliseconds")
    why_slower: str | None = None
    profile: str | None = None
    sweep: list[SweepPoint] | None = None
    new_tokens_per_s: float | None = None

    @property
    def is_cascade(self) -> bool:
        """Two models, of which the first answers what it is sure of."""
        return any(step["stage"] == "cascade" for step in self.steps)


class Measurements(Record):
    """The content of measurements.json."""

    version: Literal[3] = Field(validation_alias="schema", serialization_alias="schema")
    name: str
    task: str
    metric: str
    labels: list[str]
    machine: Machine
    hosts: dict[str, int] = Field(
        default={},
        description="machines that did steps of this run, failed ones too, first the one that measured, and how many "
        "each did",
    )
    rows: RowCounts
    data: dict[str, str] = Field(default={}, description="where the rows of each split come from")
    data_digests: dict[str, str] = Field(default={}, description="sha256 of the file of each split, when it was read")
    notes: list[str] = Field(default=[])
    certificate_split: str | None
    golden_texts: list[str]
    reference_texts: list[str] = Field(default=[])
    latency: LatencySettings
    prices: Prices
    choose: ChooseSettings
    gold_validation: list[int] | None
    keys: dict[str, list[str]] = Field(description="the group of each validation row, by kind of group")
    test_digest: str | None = None
    conditions: Conditions
    tokenizer_ms: float
    tokens_median: float | None
    compression_s: float
    measured_at: str = Field(default="", description="when the last sitting ended, UTC, ISO 8601")
    commit: str | None = Field(
        default=None,
        description="git commit of the working directory when it was published, + where tracked files differ",
    )
    control: Timing | None
    baseline: str = Field(description="name of the candidate that is the checkpoint as given, PyTorch fp32")
    checkpoint: str
    origin: Origin | None = None
    candidates: list[CandidateMeasurement]
    adapt: dict[str, Adapted] = Field(default={})
    search: SearchSummary | None = None

    def entry(self, name: str) -> CandidateMeasurement:
        """The candidate of this name; KeyError where there is none."""
        for entry in self.candidates:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the keys that were set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
