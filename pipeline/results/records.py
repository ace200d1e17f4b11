"""The JSON of choice.json, field by field; a key that is missing or misspelt fails where it is written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from paredown.benchmarks.measuring.records import Conditions, Control, Interval, Record, SweepPoint

CHOICE_SCHEMA = 1  # raised when a key is renamed, removed or changes its meaning


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


class BatchLatency(Record):
    """Milliseconds of one call with a batch of rows."""

    p50: float
    p95: float
    p99: float
    n: int


class Scenario(Record):
    name: str
    batch_size: int


class Serving(Record):
    instances: int
    threads: int
    batch_size: int


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
    """One candidate. Metrics and drops in points; null for what cannot run here, failed, or was not measured."""

    name: str
    runtime: str
    precision: str
    metric: str = Field(description="the metric's name")
    metric_validation: float | None
    metric_validation_ci: Interval | None
    metric_test: float | None = Field(description="of the selected candidate and the baseline only")
    metric_test_ci: Interval | None
    drop_validation: float | None
    drop_test: float | None
    drop_upper: float | None = Field(default=None, description="the bound at the rule's confidence")
    drop_upper_95: float | None = None
    certificate: Certificate | None
    mcnemar_p: float | None
    negative_flips: int | None
    negative_flip_share: float | None
    latency_ms: Latency | None
    latency_batch_ms: BatchLatency | None
    speedup_vs_baseline: float | None
    speedup_ci: Interval | None
    speedup_statistic: Literal["median", "mean"] | None
    speedup_mean: float | None
    speedup_mean_ci: Interval | None
    speedup_p95: float | None
    speedup_p95_ci: Interval | None
    speedup_vs_plain_int8: float | None
    speedup_vs_plain_int8_ci: Interval | None
    promised_speedup: Promise | None
    profile: str | None
    sweep: list[SweepPoint] | None
    throughput_per_s: float | None
    throughput_scenario: Scenario | None
    serving: Serving | None
    server_per_s: float | None
    new_tokens_per_s: float | None = None
    size_mb: float | None
    memory_mb: float | None
    gpu_memory_mb: float | None
    load_s: float | None
    first_call_ms: float | None
    cold_start_s: float | None
    energy_j: float | None
    cost_per_million: float | None
    cost_vs_baseline: CostRatio | None
    cost_parts: CostParts | None
    payback_requests: float | None
    payback_days: float | None
    macro_f1: float | None
    macro_f1_drop: float | None
    macro_f1_drop_upper_95: float | None
    beside_validation: dict[str, float | None] | None = Field(description="further metrics of the task")
    beside_test: dict[str, float | None] | None
    calibration_error: float | None
    attribution_agreement: float | None
    slices: dict[str, list[Slice]] | None
    label_drop: float | None
    label_drop_upper_95: float | None
    group_drop: float | None
    group_drop_upper_95: float | None
    typos_metric: float | None
    typos_drop: float | None
    typos_drop_upper_95: float | None
    case_metric: float | None
    case_drop: float | None
    case_drop_upper_95: float | None
    length_metric: float | None
    length_drop: float | None
    length_drop_upper_95: float | None
    cascade: Cascade | None
    int8_products: Any
    steps: list[dict[str, Any]] = Field(description="the recipe's steps")
    why_slower: str | None
    why_worse: str | None
    non_inferior: bool | None = None
    rejected_because: str | None = None


class NearestMiss(Record):
    """The cheaper candidate that came nearest to `max_drop`."""

    name: str
    drop_validation: float
    drop_upper: float
    validation_rows: int
    rows_needed: int | None


class Rule(Record):
    rule: Literal["cheapest", "lambda", "knee"]
    max_drop: float
    confidence: float
    value_per_point: float | None
    gates: list[str]
    budgets: dict[str, float]


class Choice(Record):
    """The content of choice.json."""

    version: int = Field(default=CHOICE_SCHEMA, alias="schema")
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
    certificate: Certificate | None
    plain_int8: str | None = Field(description="the candidate that `speedup_vs_plain_int8` is against")
    noisy: bool
    card: dict[str, Any] = Field(description="where another price, limit or value of a point changes the selection")
    control: Control | None
    conditions: Conditions
    notes: list[str]
