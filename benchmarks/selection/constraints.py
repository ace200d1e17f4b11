"""Hard limits on a candidate: budgets (the key names the unit) and gates (the text does)."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .choice import CandidateResult

NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?|"
GATE = re.compile(rf"\s*(?P<figure>\w+)\s*(?P<sign>[<>=]*)\s*(?P<value>{NUMBER})(?P<unit>.*)")


@dataclass(frozen=True)
class Figure:
    """A figure that can be limited: its unit, which way is good, the fields that lead to it in a `CandidateResult`."""

    unit: str
    better: Literal["less", "more"]
    path: tuple[str, ...] = ()


FIGURES = {
    "p50_ms": Figure("ms", "less", ("latency_ms", "p50")),
    "p95_ms": Figure("ms", "less", ("latency_ms", "p95")),
    "p99_ms": Figure("ms", "less", ("latency_ms", "p99")),
    "mean_ms": Figure("ms", "less", ("latency_ms", "mean")),
    "throughput_per_s": Figure("rows/s", "more"),
    "server_per_s": Figure("requests/s", "more"),
    "speedup_vs_baseline": Figure("x", "more"),
    "speedup_mean": Figure("x", "more"),
    "speedup_vs_plain_int8": Figure("x", "more"),
    "load_s": Figure("s", "less"),
    "first_call_ms": Figure("ms", "less"),
    "cold_start_s": Figure("s", "less"),
    "size_mb": Figure("MB", "less"),
    "memory_mb": Figure("MB", "less"),
    "gpu_memory_mb": Figure("MB", "less"),
    "energy_j": Figure("J/row", "less"),
    "cost_per_million": Figure("per million", "less"),
    "payback_requests": Figure("requests", "less"),
    "metric_validation": Figure("points", "more"),
    "drop_validation": Figure("points", "less"),
    "drop_upper": Figure("points", "less"),
    "drop_upper_95": Figure("points", "less"),
    "macro_f1": Figure("points", "more"),
    "macro_f1_drop": Figure("points", "less"),
    "macro_f1_drop_upper_95": Figure("points", "less"),
    "negative_flips": Figure("rows", "less"),
    "negative_flip_share": Figure("%", "less"),
    "calibration_error": Figure("points", "less"),
    "attribution_agreement": Figure("rho", "more"),
    "label_drop": Figure("points", "less"),
    "label_drop_upper_95": Figure("points", "less"),
    "group_drop": Figure("points", "less"),
    "group_drop_upper_95": Figure("points", "less"),
    "typos_drop": Figure("points", "less"),
    "typos_drop_upper_95": Figure("points", "less"),
    "case_drop": Figure("points", "less"),
    "case_drop_upper_95": Figure("points", "less"),
    "length_drop": Figure("points", "less"),
    "length_drop_upper_95": Figure("points", "less"),
}


class Budgets(BaseModel):
    """Hard limits: a candidate that breaks one, or lacks the figure, is never selected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    p95_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="p95 latency of one row, at most, ms"
    )
    size_mb: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="model and tokenizer on disk, at most, MB"
    )
    memory_mb: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="peak memory of its process, at most, MB"
    )
    cost_per_million: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="money per million requests, at most"
    )
    drop_upper_95: float | None = Field(
        default=None,
        description="one-sided 95 % upper bound of the validation drop, over all candidates together, at most, points",
    )


@dataclass(frozen=True)
class Limit:
    """`figure` at most (less is better) or at least (more is better) `value`, in the figure's unit."""

    figure: str
    value: float

    @property
    def sign(self) -> str:
        return "<=" if FIGURES[self.figure].better == "less" else ">="

    def __str__(self) -> str:
        unit = FIGURES[self.figure].unit
        return f"{self.figure} {self.sign} {self.value:g} {'point' if (self.value, unit) == (1, 'points') else unit}"

    def broken_by(self, entry: CandidateResult) -> str | None:
        """Why a candidate's entry breaks the limit; None when it keeps it."""
        found = value_of(entry, self.figure)
        if found is None:
            return f"{self.figure} was not measured, and the budget needs it"
        if (found > self.value) if self.sign == "<=" else (found < self.value):
            return (
                f"{self.figure} {found:.4g} is {'over' if self.sign == '<=' else 'under'} the budget of {self.value:g}"
            )
        return None


def value_of(entry: CandidateResult, figure: str) -> float | None:
    """A figure of a candidate; None where it was not measured."""
    found: object = entry
    for name in FIGURES[figure].path or (figure,):
        found = None if found is None else getattr(found, name)
    return found if isinstance(found, int | float) else None


def gate_of(text: str) -> Limit:
    """A gate such as `p99_ms <= 20 ms`. ValueError says what is missing: figure, direction, number or unit."""
    match = GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no gate; write one like 'p99_ms <= 20 ms'")
    name, sign, number, unit = (match[key].strip() for key in ("figure", "sign", "value", "unit"))
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, 1)
        raise ValueError(
            f"'{text}': unknown figure '{name}'; " + (f"did you mean '{close[0]}'?" if close else ", ".join(FIGURES))
        )
    limit = Limit(name, float(number or 1))
    if not math.isfinite(limit.value):
        raise ValueError(f"'{text}': {number} is too large; leave the gate out")
    meant = f"{name} {limit.sign} {number or 'NUMBER'} {FIGURES[name].unit}"
    if sign != limit.sign:
        reason = "has no direction" if not sign else f"{FIGURES[name].better} is better"
        raise ValueError(f"'{text}': {reason}; write '{meant}'")
    if not number or (unit + "s" * (unit == "point")) != FIGURES[name].unit:
        reason = "has no number" if not number else f"has the unit '{unit}'" if unit else "has no unit"
        raise ValueError(f"'{text}': {reason}; write '{meant}'")
    return limit


def limits_of(budgets: Budgets, gates: Sequence[str]) -> list[Limit]:
    """All limits, budgets first."""
    return [Limit(key, value) for key, value in budgets.model_dump(exclude_none=True).items()] + [
        gate_of(text) for text in gates
    ]


def broken(entry: CandidateResult, limits: Sequence[Limit]) -> str | None:
    """Why an entry breaks the first of the limits that it breaks."""
    return next((reason for limit in limits if (reason := limit.broken_by(entry))), None)


def excess(entry: CandidateResult, limits: Sequence[Limit]) -> float:
    """How far an entry is over the limits that it breaks, added up, each relative to the limit; inf where a figure is
    missing."""
    total = 0.0
    for limit in limits:
        found = value_of(entry, limit.figure)
        if found is None:
            return math.inf
        if limit.broken_by(entry):
            total += abs(found - limit.value) / max(abs(limit.value), 1e-9)
    return total
