"""Selects one candidate: budgets, then the rule; ties go to the cheaper, then the simpler one.

The cheapest of many that look good enough is often one that only looks so (the winner's curse). Each candidate is
therefore judged by an upper bound of its drop, at a stated confidence of the selection: rule `cheapest` tests them in a
fixed sequence, the other rules compare bounds that hold for all candidates together.
The arithmetic needs nothing but `measurements.json`, so that another rule can be tried without running again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from paredown.runtime.errors import InputError, StepError, nearest

from ..statistics.metric_intervals import Z95_TWO_SIDED, paired_drop, upper_bounds
from ..statistics.time_intervals import half_width
from .choice import CandidateResult, NearestMiss, Rejected, Selection, known
from .choice import Rule as RuleRecord
from .constraints import Budgets, broken, excess, gate_of, limits_of

Rule = Literal["cheapest", "lambda", "knee"]
SIMPLICITY = (
    1.1  # costs that tie: what the simpler one may cost more, so that a noisy hour does not change the selection
)


class ChooseSettings(BaseModel):
    """The rule and its knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: Rule = Field(
        default="cheapest", description="cheapest within max_drop, lambda (most value for money) or knee"
    )
    max_drop: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="cheapest: points of the validation metric that may be lost against the original checkpoint",
    )
    confidence: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.8,
        description="at which the selection is sound, however many candidates there are, 0 to 1 (0: measured drops, "
        "not tested)",
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
    """A candidate as choice.json has it, and what the comparison needs besides."""

    result: CandidateResult
    steps: int  # how much was done to make it; 0: the checkpoint itself in fp32
    correct: np.ndarray  # (validation rows,) bool, or (validation rows, 2) float64: as metric_intervals.py has them
    costs: np.ndarray  # (processes,) money per million requests as each process alone has it, paired by process
    unhurried: float = 0.0  # what of its cost does not follow the price of the machine's hour: storage, energy
    cannot: str | None = None  # why it is never selected, whatever the rule
    together: float | None = None  # bound of its drop that holds for all candidates at once, points
    behind: str | None = None  # the candidate before it in the sequence whose bound is the higher one

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def cost(self) -> float:
        """Money per million requests."""
        return known(self.result.cost_per_million)

    @property
    def value(self) -> float:
        """The measured metric, points."""
        return known(self.result.metric_validation)

    @property
    def drop(self) -> float:
        """The measured drop against the baseline, points."""
        return known(self.result.drop_validation)

    @property
    def kept(self) -> float:
        """The metric that it keeps at the stated confidence, points: the baseline's less the bound of its drop."""
        return self.value + self.drop - (self.drop if self.together is None else self.together)

    @property
    def drop_upper(self) -> float:
        """The bound by which the rule judges it, points; the measured drop where `with_bounds` was not asked."""
        bound = self.result.drop_upper
        return self.drop if bound is None else bound

    def updated(self, **figures: object) -> Row:
        """The same candidate with other values of these fields of its result."""
        return replace(self, result=self.result.model_copy(update=figures))

    def at_price(self, factor: float) -> Row:
        """The same candidate where the machine's hour costs `factor` times as much."""
        cost = factor * (self.cost - self.unhurried) + self.unhurried
        costs = factor * (self.costs - self.unhurried) + self.unhurried
        return replace(self.updated(cost_per_million=cost), costs=costs)


Pick = tuple[Row, list[Row], str]  # the one selected, those that tie (it among them), why


def choose(rows: Sequence[Row], baseline: Row, settings: ChooseSettings, named: str | None = None) -> Selection:
    """Apply the rule. StepError when no candidate keeps the budgets.

    `named`: the candidate to select whatever the rule says; InputError where it is none, or breaks a limit.
    """
    rows = with_bounds(rows, baseline, settings)
    reasons = reasons_of(rows, settings)
    able = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    if not able:
        raise StepError("no candidate keeps the budgets: " + _nearest_misses(rows, reasons, settings))
    picked, tied, why = pick(able, settings) if named is None else _by_name(rows, reasons, named)
    candidates = []
    for row, reason in zip(rows, reasons, strict=True):
        bound = row.result.drop_upper_95
        kind: Rejected | None = None if reason is None else "unable" if row.cannot else "limit"
        if reason is None and settings.rule == "cheapest" and row is not picked and (reason := too_much(row, settings)):
            kind = "untested" if row.drop <= settings.max_drop and row.behind else "loss"
        inferior = None if bound is None else bound <= settings.max_drop
        candidates.append(row.updated(non_inferior=inferior, rejected_because=reason, rejected_for=kind).result)
    return Selection(
        chosen=next(entry for entry in candidates if entry.name == picked.name),
        baseline=baseline.result,
        rule=RuleRecord(
            **settings.model_dump(exclude={"budgets"}), budgets=settings.budgets.model_dump(exclude_none=True)
        ),
        why=why,
        tied_with=[row.name for row in tied if row is not picked],
        runner_up=_runner_up(able, picked, settings),
        nearest=nearest_miss(able, picked, settings),
        pareto=[row.name for row in pareto(able)],
        pareto_clear=[row.name for row in clear(pareto(able))],
        candidates=candidates,
    )


def with_bounds(rows: Sequence[Row], baseline: Row, settings: ChooseSettings) -> list[Row]:
    """The rows with one-sided bounds of their drops, points: `drop_upper`, by which the rule judges (confidence 0: the
    measured drop), and `drop_upper_95` and `together`, which hold for all candidates that were judged on these rows.

    The checkpoint itself in a runtime that changed no answer has nothing to bound: its drop is its bound.
    """
    judged = [row for row in rows if len(row.correct) and not unchanged(row, baseline)]
    ours, answers = _Answers.of(baseline), tuple(_Answers.of(row) for row in judged)
    at95 = _bounds(ours, answers, 0.95) if judged else ()
    together = _bounds(ours, answers, settings.confidence) if settings.confidence and judged else ()
    upper, behind = together, [None] * len(judged)
    if settings.confidence and settings.rule == "cheapest":
        upper, behind = _in_sequence(judged, ours, settings.confidence)
    found = {}
    for i, row in enumerate(judged):
        bounds = {"drop_upper_95": float(at95[i])}
        bounds["drop_upper"] = float(upper[i]) if settings.confidence else row.drop
        found[row.name] = replace(
            row.updated(**bounds), together=float(together[i]) if settings.confidence else None, behind=behind[i]
        )
    return [
        found.get(row.name) or (row.updated(drop_upper=row.drop, drop_upper_95=row.drop) if len(row.correct) else row)
        for row in rows
    ]


def _in_sequence(judged: Sequence[Row], baseline: _Answers, confidence: float) -> tuple[list[float], list[str | None]]:
    """Bounds for tests in a fixed sequence, and the candidate that sets each where it is another one.

    Candidates are tested one after the other, each at the full confidence, until the first one fails: the chance that
    one of those that passed loses more than `max_drop` is then that of a single test (Maurer et al. 1995; Westfall and
    Krishen 2001). The order may not depend on the drops. It is that of the standard error of the drop: those that
    change few answers come first. A bound is the highest of those up to the candidate, so that all of them pass
    together at any `max_drop`.
    """
    order = sorted(range(len(judged)), key=lambda i: _paired(baseline, _Answers.of(judged[i]))[1])
    upper, behind = [0.0] * len(judged), list[str | None]([None] * len(judged))
    highest, setter = -math.inf, None
    for i in order:
        alone = float(_bounds(baseline, (_Answers.of(judged[i]),), confidence)[0])
        if alone >= highest:
            highest, setter = alone, judged[i].name
        else:
            behind[i] = setter
        upper[i] = highest
    return upper, behind


def bounds_in_sequence(rows: Sequence[Row], baseline: Row, confidence: float) -> list[float]:
    """The bounds of all rows by which rule `cheapest` judges them at a confidence, points; inf where none was
    evaluated."""
    judged = [row for row in rows if len(row.correct) and not unchanged(row, baseline)]
    bounds = [row.drop for row in judged]
    if confidence and judged:
        bounds, _ = _in_sequence(judged, _Answers.of(baseline), confidence)
    found = dict(zip((row.name for row in judged), bounds, strict=True))
    return [found.get(row.name, row.drop if len(row.correct) else math.inf) for row in rows]


def unchanged(row: Row, baseline: Row) -> bool:
    """True for the checkpoint itself in a runtime and precision that changed no answer."""
    if row.steps or row.correct.shape != baseline.correct.shape:
        return False
    if row.correct.dtype == bool:
        return bool((row.correct == baseline.correct).all())
    return bool(np.allclose(row.correct, baseline.correct, rtol=1e-3, atol=1e-4))


def too_much(row: Row, settings: ChooseSettings) -> str | None:
    """Why rule `cheapest` does not take a candidate that keeps the budgets; None where it may."""
    most, drop, upper = settings.max_drop, row.drop, row.drop_upper
    if upper <= most:
        return None
    if drop > most:
        return f"loses {drop:.2f} points, max_drop is {most:g}"
    lost = f"could lose {upper:.2f} points ({100 * settings.confidence:.0f} % confidence), max_drop is {most:g}"
    return f"not tested, as {row.behind}, which changes fewer answers, {lost}" if row.behind else lost


def nearest_miss(able: Sequence[Row], picked: Row, settings: ChooseSettings) -> NearestMiss | None:
    """The candidate cheaper than the selected one that came nearest to `max_drop`, where nothing was compressed.

    `rows_needed`: see there.
    """
    if settings.rule != "cheapest" or picked.steps:
        return None
    misses = [row for row in able if row.cost < picked.cost and too_much(row, settings)]
    if not misses:
        return None
    row = min(misses, key=lambda r: (r.drop_upper, r.behind is not None))
    drop, upper, rows = row.drop, row.drop_upper, len(row.correct)
    return NearestMiss(
        name=row.name,
        drop_validation=drop,
        drop_upper=upper,
        validation_rows=rows,
        rows_needed=rows_needed(rows, drop, upper, settings.max_drop),
    )


def rows_needed(rows: int, drop: float, upper: float, most: float) -> int | None:
    """About how many validation rows would show that a candidate loses at most `most` points, where `rows` of them
    bound its `drop` by `upper`: the bound's width shrinks with the square root. None where it already loses too much.
    """
    margin = most - drop
    return math.ceil(rows * ((upper - drop) / margin) ** 2) if margin > 0 else None


def reasons_of(rows: Sequence[Row], settings: ChooseSettings) -> list[str | None]:
    """Why each candidate can never be selected; None for one that can."""
    limits = limits_of(settings.budgets, settings.gates)
    return [row.cannot or broken(row.result, limits) for row in rows]


def pick(able: Sequence[Row], settings: ChooseSettings) -> Pick:
    """The rule on candidates that keep the budgets. StepError when none is within `max_drop`."""
    if settings.rule == "cheapest":
        return _cheapest(able, settings)
    kept = (
        f", by the metric that each keeps at {100 * settings.confidence:.0f} % confidence"
        if settings.confidence
        else ""
    )
    if settings.rule == "knee":
        chosen, tied, why = _knee(able)
        return chosen, tied, why + kept
    assert settings.value_per_point is not None
    best, others = Frontier.of(able).pick(settings.value_per_point)
    why = f"the most value for money when a point is worth {settings.value_per_point:g} per million requests{kept}"
    return able[best], [able[i] for i in others], why


def _by_name(rows: Sequence[Row], reasons: Sequence[str | None], name: str) -> Pick:
    """A candidate that was asked for. InputError where there is none of that name, or it breaks a limit."""
    for row, reason in zip(rows, reasons, strict=True):
        if row.name == name:
            if reason is not None:
                raise InputError(f"--candidate '{name}' cannot be selected: {reason}")
            return row, [row], "selected by name"
    raise InputError(f"--candidate: no candidate '{name}'; {nearest(name, [row.name for row in rows])}")


def pareto(rows: Sequence[Row], value: Callable[[Row], float] = lambda row: row.value) -> list[Row]:
    """Those that no other beats in cost without losing value, cheapest first; `value`: the measured metric."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r.cost, -value(r))):
        if not front or value(row) > value(front[-1]):
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
    """What rule `lambda` reads, as arrays: the report's slider works on the same ones by the same rule.

    `value_half[i, j]` and `cost_half[i, j]`: half of the 95 % interval of the difference of i and j.
    """

    cost: np.ndarray  # (n,) money per million requests
    value: np.ndarray  # (n,) points: what each keeps at the stated confidence
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
            np.array([row.kept for row in rows]),
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
        """Every lambda at which the selection may change, ascending: where two gains meet, or a tie begins or ends.

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


def _cheapest(able: Sequence[Row], settings: ChooseSettings) -> Pick:
    good = [row for row in able if too_much(row, settings) is None]
    most = f"{settings.max_drop:g} point{'s' * (settings.max_drop != 1)}"
    shown = f"shown to lose at most {most} ({100 * settings.confidence:.0f} % confidence)"
    if not settings.confidence:
        shown = f"that lose at most {most} on these validation rows (not tested: confidence is 0)"
    if not good:
        best = min(able, key=lambda r: r.drop_upper)
        raise StepError(
            f"no candidate is {shown}; the nearest is {best.name}: {too_much(best, settings)}. Raise choose.max_drop "
            "(--max-drop), give more validation rows, or add a target in fp32, which keeps the checkpoint itself"
        )
    least = min(good, key=lambda r: r.cost)
    tied = [row for row in good if costs_tie(row, least)]
    best = max(tied, key=lambda r: r.value)  # among equals in cost: not one that is measurably worse, then the simpler
    picked = _simplest([row for row in tied if values_tie(best, row)])
    if len(good) == 1:
        return picked, tied, f"the only candidate {shown}"
    return picked, tied, f"the cheapest of the {len(good)} candidates {shown}"


def _knee(able: Sequence[Row]) -> Pick:
    """The frontier's point farthest above the line between its ends (Satopaa et al. 2011, Kneedle); log cost."""
    front = pareto(able, lambda row: row.kept)
    knee = front[0]
    if len(front) > 2:
        x = np.log([row.cost for row in front])
        y = np.array([row.kept for row in front])
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


@lru_cache(maxsize=64)
def _bounds(baseline: _Answers, candidates: tuple[_Answers, ...], confidence: float) -> np.ndarray:
    return upper_bounds(baseline.array(), [candidate.array() for candidate in candidates], confidence)


@lru_cache(maxsize=10_000)
def _paired(a: _Answers, b: _Answers) -> tuple[float, float]:
    return paired_drop(a.array(), b.array())


def _nearest_misses(rows: Sequence[Row], reasons: Sequence[str | None], settings: ChooseSettings) -> str:
    """The three that come nearest to keeping every limit, and why they do not; what is never selected comes last."""
    limits = limits_of(settings.budgets, settings.gates)
    order = sorted(
        zip(rows, reasons, strict=True), key=lambda e: (e[0].cannot is not None, excess(e[0].result, limits))
    )
    return "; ".join(f"{row.name}: {reason}" for row, reason in order[:3])
