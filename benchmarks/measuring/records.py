"""The JSON of `paredown bench --json`, field by field; a key that is missing or misspelt fails where it is written."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import JsonSchemaMode

BENCH_SCHEMA = 1  # raised when a key is renamed, removed or changes its meaning
Interval = tuple[float, float]  # 95 %, lower and upper end


class Record(BaseModel):
    """A part of a result. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Control(Record):
    """The A/A control: the first artefact that can run here, timed against itself."""

    ratio: float
    ratio_ci: Interval


class Conditions(Record):
    """Under which conditions latency was measured."""

    control: Control | None
    noisy: bool = Field(description="no ratio of the run is to be trusted as a point")
    noisy_because: str | None
    processes: int = Field(description="fresh processes per artefact, the unit of the intervals")
    sittings: int
    busy_before: list[float | None] = Field(description="cores that other processes used, before each sitting")
    busy_during: list[float | None]
    steal_share: float | None = Field(description="share of the CPU time that other guests took, 0 to 1")
    load_before: float | None
    seconds: float
    covers: str = Field(description="what the intervals cover, in a sentence")


class SweepPoint(Record):
    """Latency at one batch size, number of threads or length."""

    batch_size: int
    threads: int | None
    tokens: str | None = Field(description="the lengths of the rows, tokens")
    p50_ms: float
    p99_ms: float
    throughput_per_s: float


class BenchEntry(Record):
    """One artefact. Times are single-stream, of one row; of what `cannot_run` there are none."""

    path: str
    runtime: str
    precision: str
    metric: float | None = Field(description="points; null without labels")
    metric_name: str
    size_mb: float
    tokenizer_ms: float
    cannot_run: str | None = None
    drop: float | None = Field(default=None, description="points against the reference, positive is worse")
    drop_upper_95: float | None = None
    mcnemar_p: float | None = None
    negative_flips: int | None = Field(default=None, description="rows that the reference has right and this one wrong")
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    single_stream_threads: int | None = Field(
        default=None, description="CPU threads of one row a call; null: one for each core"
    )
    n: int | None = Field(default=None, description="calls that were timed")
    ratio: float | None = Field(default=None, description="latency against the reference, medians; below 1 is faster")
    ratio_ci: Interval | None = None
    ratio_mean: float | None = None
    ratio_mean_ci: Interval | None = None
    ratio_p95: float | None = None
    ratio_p95_ci: Interval | None = None
    throughput_per_s: float | None = Field(
        default=None, description="rows, in `instances` processes of `threads` threads, at `batch_size` rows a call"
    )
    instances: int | None = None
    threads: int | None = None
    batch_size: int | None = None
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    load_s: float | None = None
    first_call_ms: float | None = None
    cold_start_s: float | None = None
    energy_j: float | None = Field(default=None, description="joules of one row")
    sweep: list[SweepPoint] = []


class BenchResult(Record):
    """The content of `paredown bench --json F`."""

    version: int = Field(default=BENCH_SCHEMA, validation_alias="schema", serialization_alias="schema")
    machine: dict[str, Any]
    reference: str | None = Field(description="the path that ratios and drops are against")
    noisy: bool
    control: Control | None
    conditions: Conditions
    artifacts: list[BenchEntry]
    settings: dict[str, Any]
    notes: list[str] = []

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; of an entry only the keys that were measured."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def schema_of(record: type[BaseModel], mode: JsonSchemaMode = "validation") -> str:
    """The JSON schema of a record, as docs/schemas has it; in the mode "serialization" every key is required."""
    return json.dumps(record.model_json_schema(mode=mode), indent=2) + "\n"
