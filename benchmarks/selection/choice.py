"""The JSON of choice.json, field by field; a key that is missing or misspelt fails where it is written."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field

from ..measuring.records import Conditions, Control, Interval, Record, SweepPoint

CHOICE_SCHEMA = 1  # raised when a key is renamed, removed or changes its meaning
T = TypeVar("T")
Rejected = Literal["unable", "limit", "loss", "untested"]


def known(value: T | None) -> T:
    """A figure that is null only where it was not measured, of a candidate that was. ValueError where it is null."""
    if value is None:
        raise ValueError("this figure was not measured")
    return value


class Certificate(Record):
    """What the rows that nothing was selected on say of the selected candidate."""

    split: str
    rows: int
    metric: float = Field(description="points")
    metric_baseline: float
    drop: float = Field(description="points against the baseline, positive is worse")
    drop_upper_95: float = Field(description="one-sided 95 % bound, for all `looks` together")
    certified_at: str
    looks: int = Field(description="candidates of this run that were held against these rows")


class Latency(Record):
    """Milliseconds of one call, one row each."""

    p50: float
    p95: float
    p99: float
    mean: float
    n: int = Field(description="calls")
    p50_ci: Interval
    threads: int | None = Field(default=None, description="CPU threads of the session; null: one for each core")


class BatchLatency(Record):
    """Milliseconds of one call with a batch of rows."""

    p50: float
    p95: float
    p99: float
    n: int


class Serving(Record):
    """The serving configuration of the throughput and the cost: processes, threads of each, rows a call."""

    instances: int
    threads: int
    batch_size: int
    sorted_by_length: bool = Field(default=False, description="rows of a call have similar lengths")


class Promise(Record):
    """What the latency table promised of a pruned model, and what was measured."""

    promised: float
    measured: float
    measured_ci: Interval
    noisy: bool


class CostRatio(Record):
    ratio: float
    ci: Interval


class CostParts(Record):
    """Money per million requests."""

    serving: float
    compression: float
    storage: float
    energy: float
    machines: int | None
    run: float = Field(description="money for the compression run as a whole")


class Cascade(Record):
    first: str
    then: str
    answered_by_first: float | None = Field(description="share of the validation rows, 0 to 1")
    first_metric: float | None


class Slice(Record):
    """A group of validation rows."""

    name: str
    rows: int
    metric: float
    drop: float
    drop_ci: Interval
    drop_upper_95: float


class CandidateResult(Record):
    """One candidate; all of them have the same keys.

    Metrics and drops in points; null for what cannot run here, failed, or was not measured.
    """

    name: str
    runtime: str
    precision: str
    metric: str = Field(description="the metric's name")
    metric_validation: float | None = None
    metric_validation_ci: Interval | None = None
    metric_test: float | None = Field(default=None, description="of the selected candidate and the baseline only")
    metric_test_ci: Interval | None = None
    drop_validation: float | None = None
    drop_test: float | None = None
    drop_upper: float | None = Field(default=None, description="the bound by which the rule judges, at its confidence")
    drop_upper_95: float | None = None
    certificate: Certificate | None = None
    mcnemar_p: float | None = None
    negative_flips: int | None = None
    negative_flip_share: float | None = None
    latency_ms: Latency | None = None
    latency_batch_ms: BatchLatency | None = None
    speedup_vs_baseline: float | None = None
    speedup_ci: Interval | None = None
    speedup_statistic: Literal["median", "mean"] | None = None
    speedup_mean: float | None = None
    speedup_mean_ci: Interval | None = None
    speedup_p95: float | None = None
    speedup_p95_ci: Interval | None = None
    speedup_vs_plain_int8: float | None = None
    speedup_vs_plain_int8_ci: Interval | None = None
    promised_speedup: Promise | None = None
    profile: str | None = None
    sweep: list[SweepPoint] | None = None
    throughput_per_s: float | None = None
    serving: Serving | None = None
    server_per_s: float | None = None
    new_tokens_per_s: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    load_s: float | None = None
    first_call_ms: float | None = None
    cold_start_s: float | None = None
    energy_j: float | None = None
    cost_per_million: float | None = None
    cost_vs_baseline: CostRatio | None = None
    cost_parts: CostParts | None = None
    payback_requests: float | None = None
    payback_days: float | None = None
    macro_f1: float | None = None
    macro_f1_drop: float | None = None
    macro_f1_drop_upper_95: float | None = None
    beside_validation: dict[str, float | None] | None = Field(default=None, description="further metrics of the task")
    beside_test: dict[str, float | None] | None = None
    calibration_error: float | None = None
    attribution_agreement: float | None = None
    slices: dict[str, list[Slice]] | None = None
    label_drop: float | None = None
    label_drop_upper_95: float | None = None
    group_drop: float | None = None
    group_drop_upper_95: float | None = None
    typos_metric: float | None = None
    typos_drop: float | None = None
    typos_drop_upper_95: float | None = None
    case_metric: float | None = None
    case_drop: float | None = None
    case_drop_upper_95: float | None = None
    length_metric: float | None = None
    length_drop: float | None = None
    length_drop_upper_95: float | None = None
    cascade: Cascade | None = None
    int8_products: str | None = Field(default=None, description="how many matrix products were left in float")
    steps: list[dict[str, Any]] = Field(default=[], description="the recipe's steps, each with its `stage`")
    why_slower: str | None = None
    why_worse: str | None = None
    non_inferior: bool | None = None
    rejected_because: str | None = None
    rejected_for: Rejected | None = Field(
        default=None,
        description="unable: it can never be selected here; limit: a budget or gate; loss: it loses, or could lose, "
        "more than max_drop; untested: a candidate that changes fewer answers could lose more than max_drop",
    )


class NearestMiss(Record):
    """The cheaper candidate that came nearest to `max_drop`."""

    name: str
    drop_validation: float
    drop_upper: float
    validation_rows: int
    rows_needed: int | None


class LambdaRange(Record):
    """What rule `lambda` selects where a point is worth between two amounts."""

    start: float = Field(validation_alias="from", serialization_alias="from")
    to: float | None = Field(description="null: without end")
    name: str


class Change(Record):
    """The first value at which another candidate is selected; `name` is null where nothing would be."""

    at: float
    name: str | None


class Moves(Record):
    """The nearest tighter and looser values of a limit that change the selection."""

    tighter: Change | None
    looser: Change | None


class LimitChange(Moves):
    limit: str
    given: bool = Field(validation_alias="set", serialization_alias="set", description="the recipe sets this limit")


class PriceChange(Record):
    """The nearest prices of the machine's hour that change the selection."""

    now: float
    lower: Change | None
    upper: Change | None


class FrontierArrays(Record):
    """`selection.Frontier` with names: what the report's slider computes with."""

    names: list[str]
    cost: list[float]
    value: list[float]
    steps: list[int]
    value_half: list[list[float]]
    cost_half: list[list[float]]


class CheapestArrays(Record):
    """What rule `cheapest` reads of the candidates that it could select: what the report's sliders compute with."""

    names: list[str]
    cost: list[float]
    cost_ci: list[tuple[float, float] | None] = Field(description="95 %; null with a single process")
    value: list[float]
    steps: list[int]
    p95: list[float]
    size: list[float]
    costs_tie: list[list[bool]]
    values_tie: list[list[bool]]
    confidences: list[float]
    upper: list[list[float]] = Field(description="bounds of the drops, points: of each confidence, of each candidate")


class Card(Record):
    """Where another value of a point, price or limit changes the selection."""

    ranges: list[LambdaRange] = Field(validation_alias="lambda", serialization_alias="lambda")
    price_per_hour: PriceChange
    limits: list[LimitChange]
    frontier: FrontierArrays
    cheapest: CheapestArrays


class Rule(Record):
    rule: Literal["cheapest", "lambda", "knee"]
    max_drop: float
    confidence: float
    value_per_point: float | None
    gates: list[str]
    budgets: dict[str, float]


class Selection(Record):
    """What the rule came to, before test rows are opened."""

    chosen: CandidateResult
    baseline: CandidateResult = Field(description="the checkpoint as given, PyTorch fp32")
    rule: Rule
    why: str
    tied_with: list[str]
    runner_up: str | None
    nearest: NearestMiss | None
    pareto: list[str]
    pareto_clear: list[str]
    candidates: list[CandidateResult]


class Choice(Selection):
    """The content of choice.json."""

    version: int = Field(default=CHOICE_SCHEMA, validation_alias="schema", serialization_alias="schema")
    certificate: Certificate | None
    plain_int8: str | None = Field(description="the candidate that `speedup_vs_plain_int8` is against")
    noisy: bool
    card: Card
    control: Control | None
    conditions: Conditions
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; every candidate has every key."""
        return self.model_dump(mode="json", by_alias=True)
