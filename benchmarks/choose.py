"""Pick one candidate: hard budgets first, then the rule; a tie goes to the cheaper one, then to the simpler.

The arithmetic needs nothing but `measurements.json`, so that another rule can be tried without running again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..export.errors import InputError, StepError
from .quality import Z95_TWO_SIDED, paired_drop

Rule = Literal["cheapest", "lambda", "knee"]


class Budgets(BaseModel):
    """Hard limits: a candidate that breaks one, or lacks the figure, can never be picked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    p95_ms: Annotated[float, Field(gt=0)] | None = Field(default=None, description="p95 latency of one row, ms")
    size_mb: Annotated[float, Field(gt=0)] | None = Field(default=None, description="model and tokenizer on disk, MB")
    memory_mb: Annotated[float, Field(gt=0)] | None = Field(default=None, description="peak memory of its process, MB")
    cost_per_million: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="money per million requests"
    )
    drop_upper_95: float | None = Field(
        default=None, description="one-sided 95 % upper bound of the validation drop, points (non-inferiority)"
    )


class ChooseSettings(BaseModel):
    """The rule and its knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: Rule = Field(
        default="cheapest", description="cheapest within max_drop, lambda (most value for money) or knee"
    )
    max_drop: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="cheapest: points of the validation metric that may be lost against the checkpoint as it came",
    )
    value_per_point: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="lambda: money per million requests that one point of the metric is worth"
    )
    budgets: Budgets = Field(default_factory=Budgets, description="hard limits")


@dataclass(frozen=True)
class Row:
    """A candidate's figures, as `choice.json` has them, and what the comparison needs besides."""

    figures: dict  # the keys of DESIGN, "Command line"
    steps: int  # how much was done to make it
    correct: np.ndarray  # (validation rows,) bool
    cost_error: float  # standard error of the logarithm of its cost
    cannot: str | None = None  # why it can never be picked, whatever the rule

    @property
    def cost(self) -> float:
        return self.figures["cost_per_million"]

    @property
    def value(self) -> float:
        return self.figures["metric_validation"]


def choose(rows: Sequence[Row], baseline: Row, settings: ChooseSettings) -> dict:
    """The content of choice.json. Raises StepError when no candidate keeps the budgets and the rule."""
    if settings.rule == "lambda" and settings.value_per_point is None:
        raise InputError("rule 'lambda' needs choose.value_per_point (--value-per-point): what one point is worth")
    reasons = [row.cannot or _broken_budget(row, settings.budgets) for row in rows]
    able = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    if not able:
        raise StepError("no candidate keeps the budgets: " + _nearest_misses(rows, reasons))
    if settings.rule == "cheapest":
        picked, tied, why = _cheapest(able, settings.max_drop)
    elif settings.rule == "lambda":
        picked, tied, why = _lambda(able, settings.value_per_point or 0.0)
    else:
        picked, tied, why = _knee(able)
    candidates = []
    for row, reason in zip(rows, reasons, strict=True):
        entry = dict(row.figures)
        if reason is not None:
            entry["rejected_because"] = reason
        candidates.append(entry)
    return {
        "chosen": picked.figures,
        "baseline": baseline.figures,
        "rule": {**settings.model_dump(exclude={"budgets"}), "budgets": settings.budgets.model_dump(exclude_none=True)},
        "why": why,
        "tied_with": [row.figures["name"] for row in tied if row is not picked],
        "runner_up": _runner_up(able, picked, settings),
        "pareto": [row.figures["name"] for row in pareto(able)],
        "candidates": candidates,
    }


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Those that no other beats in cost without losing value, by the point figures, cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.cost, -r.value)):
        if not front or row.value > front[-1].value:
            front.append(row)
    return front


def costs_tie(a: Row, b: Row) -> bool:
    """True when the difference of two costs is within the noise of their measurement (95 %)."""
    error = math.hypot(a.cost_error, b.cost_error)
    return abs(math.log(a.cost / b.cost)) <= Z95_TWO_SIDED * error


def values_tie(a: Row, b: Row) -> bool:
    """True when the paired difference of two metrics is within its noise (95 %)."""
    drop, error = paired_drop(a.correct, b.correct)
    return abs(drop) <= Z95_TWO_SIDED * error


def _cheapest(able: list[Row], max_drop: float) -> tuple[Row, list[Row], str]:
    good = [row for row in able if row.figures["drop_validation"] <= max_drop]
    if not good:
        best = min(able, key=lambda r: r.figures["drop_validation"])
        raise StepError(
            f"no candidate is within {max_drop:g} points of the checkpoint; the nearest is {best.figures['name']} with "
            f"a drop of {best.figures['drop_validation']:.2f}: raise choose.max_drop (--max-drop) or add candidates"
        )
    least = min(good, key=lambda r: r.cost)
    tied = [row for row in good if costs_tie(row, least)]
    picked = _break_tie(tied)
    return picked, tied, f"the cheapest of the {len(good)} candidates that lose at most {max_drop:g} points"


def _lambda(able: list[Row], value_per_point: float) -> tuple[Row, list[Row], str]:
    def gain(row: Row) -> float:
        return value_per_point * row.value - row.cost

    best = max(able, key=gain)
    tied = []
    for row in able:
        _, value_error = paired_drop(best.correct, row.correct)
        error = math.hypot(value_per_point * value_error, best.cost * best.cost_error, row.cost * row.cost_error)
        if row is best or gain(best) - gain(row) <= Z95_TWO_SIDED * error:
            tied.append(row)
    picked = min(tied, key=lambda r: (r.cost, r.steps))
    return picked, tied, f"the most value for money when a point is worth {value_per_point:g} per million requests"


def _knee(able: list[Row]) -> tuple[Row, list[Row], str]:
    """The frontier's point farthest above the line between its ends (Satopaa et al. 2011, Kneedle); log cost."""
    front = pareto(able)
    why = "the knee of the frontier: from here on, a point of the metric costs much more"
    if len(front) < 3:
        return front[0], [front[0]], why
    x = np.log([row.cost for row in front])
    y = np.array([row.value for row in front])
    x, y = (x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0])
    picked = front[int(np.argmax(y - x))]
    return picked, [picked], why


def _break_tie(tied: list[Row]) -> Row:
    """Among equals in cost: not one that is measurably worse, then the simpler, then the nominally cheaper."""
    best = max(tied, key=lambda r: r.value)
    return min((row for row in tied if values_tie(best, row)), key=lambda r: (r.steps, r.cost))


def _runner_up(able: list[Row], picked: Row, settings: ChooseSettings) -> str | None:
    """What the same rule would pick if the chosen one were not there."""
    rest = [row for row in able if row is not picked]
    try:
        if settings.rule == "cheapest":
            return _cheapest(rest, settings.max_drop)[0].figures["name"]
        if not rest:
            return None
        rule = _lambda(rest, settings.value_per_point or 0.0) if settings.rule == "lambda" else _knee(rest)
        return rule[0].figures["name"]
    except (StepError, ValueError):
        return None


def _broken_budget(row: Row, budgets: Budgets) -> str | None:
    figures = {**row.figures, "p95_ms": (row.figures["latency_ms"] or {}).get("p95")}
    for key, limit in budgets.model_dump(exclude_none=True).items():
        value = figures.get(key)
        if value is None:
            return f"{key} was not measured, and the budget needs it"
        if value > limit:
            return f"{key} {value:.4g} is over the budget of {limit:g}"
    return None


def _nearest_misses(rows: Sequence[Row], reasons: Sequence[str | None]) -> str:
    return "; ".join(f"{row.figures['name']}: {reason}" for row, reason in list(zip(rows, reasons, strict=True))[:3])
