"""Pick one candidate: hard budgets first, then the rule; a tie goes to the cheaper one, then to the simpler.

The arithmetic needs nothing but `measurements.json`, so that another rule can be tried without running again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..export.errors import StepError
from .intervals import half_width
from .limits import Budgets, broken, excess, gate_of, limits_of
from .quality import Z95_TWO_SIDED, paired_drop

Rule = Literal["cheapest", "lambda", "knee"]
SIMPLICITY = 1.1  # costs that tie: what the simpler one may cost more, so that a noisy hour does not turn the pick over


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
    gates: list[str] = Field(
        default_factory=list,
        description="further hard limits on any figure, with direction and unit: 'p99_ms <= 20 ms' (docs/choosing.md)",
    )

    @field_validator("gates")
    @classmethod
    def _readable(cls, gates: list[str]) -> list[str]:
        for gate in gates:
            gate_of(gate)
        return gates

    @model_validator(mode="after")
    def _priced(self) -> ChooseSettings:
        if self.rule == "lambda" and self.value_per_point is None:
            raise ValueError("rule lambda needs value_per_point (--value-per-point): what one point is worth")
        return self


@dataclass(frozen=True)
class Row:
    """A candidate's figures, as `choice.json` has them, and what the comparison needs besides."""

    figures: dict  # the keys of DESIGN, "Command line"
    steps: int  # how much was done to make it
    correct: np.ndarray  # (validation rows,) bool, or (validation rows, 2) float64: as quality.py has them
    costs: np.ndarray  # (processes,) money per million requests as each process alone would have it, in step
    unhurried: float = 0.0  # what of its cost does not follow the price of the machine's hour: storage, energy
    cannot: str | None = None  # why it can never be picked, whatever the rule

    @property
    def name(self) -> str:
        return self.figures["name"]

    @property
    def cost(self) -> float:
        return self.figures["cost_per_million"]

    @property
    def value(self) -> float:
        return self.figures["metric_validation"]

    def at_price(self, factor: float) -> Row:
        """The same candidate where the machine's hour costs `factor` times as much."""
        cost = factor * (self.cost - self.unhurried) + self.unhurried
        costs = factor * (self.costs - self.unhurried) + self.unhurried
        return replace(self, figures={**self.figures, "cost_per_million": cost}, costs=costs)


Pick = tuple[Row, list[Row], str]  # the one picked, those that tie (it among them), why


def choose(rows: Sequence[Row], baseline: Row, settings: ChooseSettings) -> dict:
    """The content of choice.json but for its card. StepError when no candidate keeps the budgets and the rule."""
    reasons = reasons_of(rows, settings)
    able = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    if not able:
        raise StepError("no candidate keeps the budgets: " + _nearest_misses(rows, reasons, settings))
    picked, tied, why = pick(able, settings)
    candidates = []
    for row, reason in zip(rows, reasons, strict=True):
        entry = dict(row.figures)
        bound = entry.get("drop_upper_95")
        entry["non_inferior"] = None if bound is None else bound <= settings.max_drop
        if reason is not None:
            entry["rejected_because"] = reason
        candidates.append(entry)
    return {
        "chosen": next(entry for entry in candidates if entry["name"] == picked.name),
        "baseline": baseline.figures,
        "rule": {**settings.model_dump(exclude={"budgets"}), "budgets": settings.budgets.model_dump(exclude_none=True)},
        "why": why,
        "tied_with": [row.name for row in tied if row is not picked],
        "runner_up": _runner_up(able, picked, settings),
        "pareto": [row.name for row in pareto(able)],
        "pareto_clear": [row.name for row in clear(pareto(able))],
        "candidates": candidates,
    }


def reasons_of(rows: Sequence[Row], settings: ChooseSettings) -> list[str | None]:
    """Why each candidate can never be picked; None for one that can."""
    limits = limits_of(settings.budgets, settings.gates)
    return [row.cannot or broken(row.figures, limits) for row in rows]


def pick(able: Sequence[Row], settings: ChooseSettings) -> Pick:
    """The rule on candidates that keep the budgets. StepError when none is within `max_drop`."""
    if settings.rule == "cheapest":
        return _cheapest(able, settings.max_drop)
    if settings.rule == "knee":
        return _knee(able)
    assert settings.value_per_point is not None
    chosen, tied = Frontier.of(able).pick(settings.value_per_point)
    why = f"the most value for money when a point is worth {settings.value_per_point:g} per million requests"
    return able[chosen], [able[i] for i in tied], why


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Those that no other beats in cost without losing value, by the point figures, cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.cost, -r.value)):
        if not front or row.value > front[-1].value:
            front.append(row)
    return front


def clear(front: Sequence[Row]) -> list[Row]:
    """Those of a frontier that are measurably better than every cheaper one: a tie in value goes to the cheaper."""
    return [row for i, row in enumerate(front) if not any(values_tie(row, cheaper) for cheaper in front[:i])]


def costs_tie(a: Row, b: Row) -> bool:
    """True when the difference of two costs is within the noise of their measurement (95 %, paired by process)."""
    logs = np.log(a.costs / b.costs)
    return a is b or bool(abs(logs.mean()) <= half_width(logs))


def values_tie(a: Row, b: Row) -> bool:
    """True when the paired difference of two metrics is within its noise (95 %)."""
    drop, error = _paired(_Answers.of(a), _Answers.of(b))
    return abs(drop) <= Z95_TWO_SIDED * error


@dataclass(frozen=True)
class Frontier:
    """What rule `lambda` looks at, as arrays: the report's slider works on the same ones by the same rule.

    `value_half[i, j]` and `cost_half[i, j]`: half of the 95 % interval of the difference of i and j.
    """

    cost: np.ndarray  # (n,) money per million requests
    value: np.ndarray  # (n,) points
    steps: np.ndarray  # (n,)
    value_half: np.ndarray  # (n, n) points
    cost_half: np.ndarray  # (n, n) money per million requests

    @staticmethod
    def of(rows: Sequence[Row]) -> Frontier:
        answers = [_Answers.of(row) for row in rows]
        value_half = np.array([[Z95_TWO_SIDED * _paired(a, b)[1] for b in answers] for a in answers])
        costs = np.array([row.costs for row in rows])
        return Frontier(
            np.array([row.cost for row in rows]),
            np.array([row.value for row in rows]),
            np.array([row.steps for row in rows]),
            value_half,
            half_width(costs[:, None] - costs[None]),
        )

    def pick(self, value_per_point: float) -> tuple[int, list[int]]:
        """The candidate that maximises lambda * value - cost, or the cheapest (then simplest) that ties with it."""
        gain = value_per_point * self.value - self.cost
        best = int(np.argmax(gain))
        noise = np.hypot(value_per_point * self.value_half[best], self.cost_half[best])
        tied = [int(i) for i in np.flatnonzero(gain[best] - gain <= noise) if i != best] + [best]
        return min(tied, key=lambda i: (self.cost[i], self.steps[i], i)), tied

    def breaks(self) -> np.ndarray:
        """Every lambda at which the pick may change, ascending: where two gains meet, or a tie begins or ends.

        A tie of b and r ends where (l a - d)^2 = l^2 V^2 + C^2, with a and d their differences in value and cost.
        """
        found: list[float] = []
        for i in range(len(self.cost)):
            a, d = self.value[i] - self.value, self.cost[i] - self.cost
            with np.errstate(divide="ignore", invalid="ignore"):
                found.extend(d / a)
                square, half, rest = a**2 - self.value_half[i] ** 2, a * d, d**2 - self.cost_half[i] ** 2
                root = np.sqrt(half**2 - square * rest)
                found.extend((half + root) / square)
                found.extend((half - root) / square)
        kept = np.array([x for x in found if math.isfinite(x) and x > 0])
        return np.unique(kept)


def _cheapest(able: Sequence[Row], max_drop: float) -> Pick:
    good = [row for row in able if row.figures["drop_validation"] <= max_drop]
    if not good:
        best = min(able, key=lambda r: r.figures["drop_validation"])
        raise StepError(
            f"no candidate is within {max_drop:g} points of the checkpoint; the nearest is {best.name} with "
            f"a drop of {best.figures['drop_validation']:.2f}: raise choose.max_drop (--max-drop) or add candidates"
        )
    least = min(good, key=lambda r: r.cost)
    tied = [row for row in good if costs_tie(row, least)]
    best = max(tied, key=lambda r: r.value)  # among equals in cost: not one that is measurably worse, then the simpler
    picked = _simplest([row for row in tied if values_tie(best, row)])
    lose = f"lose at most {max_drop:g} point{'s' * (max_drop != 1)}"
    return picked, tied, f"the cheapest of the {len(good)} candidates that {lose}"


def _knee(able: Sequence[Row]) -> Pick:
    """The frontier's point farthest above the line between its ends (Satopaa et al. 2011, Kneedle); log cost."""
    front = pareto(able)
    knee = front[0]
    if len(front) > 2:
        x = np.log([row.cost for row in front])
        y = np.array([row.value for row in front])
        knee = front[int(np.argmax((y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])))]
    tied = [row for row in able if values_tie(row, knee) and (row.cost <= knee.cost or costs_tie(row, knee))]
    least = min(tied, key=lambda r: r.cost)
    picked = _simplest([row for row in tied if costs_tie(row, least)])
    return picked, tied, "the knee of the frontier: from here on, a point of the metric costs much more"


def _simplest(tied: Sequence[Row]) -> Row:
    """Of those that tie, the least done to it, among what costs about as little as the cheapest."""
    least = min(row.cost for row in tied)
    return min((row for row in tied if row.cost <= SIMPLICITY * least), key=lambda r: (r.steps, r.cost))


def _runner_up(able: list[Row], picked: Row, settings: ChooseSettings) -> str | None:
    """What the same rule would pick if the chosen one were not there."""
    rest = [row for row in able if row is not picked]
    try:
        return pick(rest, settings)[0].name if rest else None
    except StepError:
        return None


class _Answers(NamedTuple):
    """`Row.correct`, such that it can be the key of a cache."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of(row: Row) -> _Answers:
        return _Answers(row.correct.tobytes(), row.correct.dtype.str, row.correct.shape)

    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


@lru_cache(maxsize=10_000)
def _paired(a: _Answers, b: _Answers) -> tuple[float, float]:
    return paired_drop(a.array(), b.array())


def _nearest_misses(rows: Sequence[Row], reasons: Sequence[str | None], settings: ChooseSettings) -> str:
    """The three that come nearest to keeping every limit, and why they do not; what can never be picked comes last."""
    limits = limits_of(settings.budgets, settings.gates)
    order = sorted(
        zip(rows, reasons, strict=True), key=lambda e: (e[0].cannot is not None, excess(e[0].figures, limits))
    )
    return "; ".join(f"{row.name}: {reason}" for row, reason in order[:3])
