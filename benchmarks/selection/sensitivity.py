"""Sensitivity of the selection: what wins at another lambda, and how far price and limits may move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paredown.runtime.errors import StepError

from ..statistics.time_intervals import factors, half_width
from .choice import Card, Change, CheapestArrays, FrontierArrays, LambdaRange, LimitChange, Moves, PriceChange, known
from .constraints import FIGURES, Budgets, Limit, gate_of, value_of
from .selection import (
    ChooseSettings,
    Frontier,
    Row,
    bounds_in_sequence,
    costs_tie,
    pick,
    reasons_of,
    values_tie,
)

FARTHEST = 100.0  # times the price, up and down, that is tried
CONFIDENCES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # that the report's slider offers


def card(rows: Sequence[Row], baseline: Row, settings: ChooseSettings, price_per_hour: float) -> Card:
    """What `choice.json` has under "card"."""
    reasons = reasons_of(rows, settings)
    able = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    return Card(
        ranges=lambda_ranges(able),
        price_per_hour=_price(rows, settings, price_per_hour),
        limits=_limits(rows, settings),
        frontier=frontier_arrays(able),
        cheapest=cheapest_arrays(rows, baseline, settings),
    )


def lambda_ranges(able: Sequence[Row]) -> list[LambdaRange]:
    """The selection of rule `lambda` for every value of a point."""
    frontier = Frontier.of(able)
    ends = [0.0, *frontier.breaks()]
    ranges: list[LambdaRange] = []
    for i, start in enumerate(ends):
        middle = (start + ends[i + 1]) / 2 if i + 1 < len(ends) else 2 * start + 1
        name = able[frontier.pick(middle)[0]].name
        if not ranges or ranges[-1].name != name:
            if ranges:
                ranges[-1] = ranges[-1].model_copy(update={"to": float(start)})
            ranges.append(LambdaRange(start=float(start), to=None, name=name))
    return ranges


def frontier_arrays(able: Sequence[Row]) -> FrontierArrays:
    """`Frontier` with names, for the report's slider."""
    arrays = {key: value.tolist() for key, value in vars(Frontier.of(able)).items()}
    return FrontierArrays(names=[row.name for row in able], **arrays)


def cheapest_arrays(rows: Sequence[Row], baseline: Row, settings: ChooseSettings) -> CheapestArrays:
    """What rule `cheapest` reads, of the candidates that keep every limit but those that the report moves: p95 and
    size."""
    moved = settings.budgets.model_copy(update={"p95_ms": None, "size_mb": None})
    reasons = reasons_of(rows, settings.model_copy(update={"budgets": moved}))
    places = [
        i
        for i, (row, reason) in enumerate(zip(rows, reasons, strict=True))
        if reason is None and len(row.correct) and None not in (value_of(row.result, "p95_ms"), row.result.size_mb)
    ]
    able, levels = [rows[i] for i in places], sorted({*CONFIDENCES, settings.confidence})
    bounds = [bounds_in_sequence(rows, baseline, level) for level in levels]
    spread = [float(half_width(np.log(row.costs))) for row in able]
    return CheapestArrays(
        names=[row.name for row in able],
        cost=[row.cost for row in able],
        cost_ci=[
            (row.cost * factors(half)[0], row.cost * factors(half)[1]) if np.isfinite(half) else None
            for row, half in zip(able, spread, strict=True)
        ],
        value=[row.value for row in able],
        steps=[row.steps for row in able],
        p95=[known(value_of(row.result, "p95_ms")) for row in able],
        size=[known(row.result.size_mb) for row in able],
        costs_tie=[[costs_tie(a, b) for b in able] for a in able],
        values_tie=[[values_tie(a, b) for b in able] for a in able],
        confidences=levels,
        upper=[[of[i] for i in places] for of in bounds],
    )


def _name(rows: Sequence[Row], settings: ChooseSettings) -> str | None:
    """What would be selected; None when nothing could be."""
    able = [row for row, reason in zip(rows, reasons_of(rows, settings), strict=True) if reason is None]
    try:
        return pick(able, settings)[0].name if able else None
    except StepError:
        return None


def _price(rows: Sequence[Row], settings: ChooseSettings, price: float) -> PriceChange:
    """The nearest prices of the hour below and above at which another candidate is selected."""

    def name(factor: float) -> str | None:
        return _name([row if row.cannot else row.at_price(factor) for row in rows], settings)

    now, found = name(1.0), []
    for sign in (-1, 1):
        factors = FARTHEST ** (sign * np.linspace(0, 1, 41)[1:])
        at = _first_change(name, now, [float(f) for f in factors])
        found.append(None if at is None else Change(at=price * at, name=name(at)))
    return PriceChange(now=price, lower=found[0], upper=found[1])


def _first_change(name: Callable[[float], str | None], now: str | None, factors: Sequence[float]) -> float | None:
    """The first of the factors at which the selection is another one, made exact to a thousandth by bisection."""
    near = 1.0
    for factor in factors:
        if name(factor) != now:
            far = factor
            while abs(far / near - 1) > 1e-3:
                middle = (near * far) ** 0.5
                near, far = (middle, far) if name(middle) == now else (near, middle)
            return far
        near = factor
    return None


def _limits(rows: Sequence[Row], settings: ChooseSettings) -> list[LimitChange]:
    """For max_drop, every limit that was set, and the budgets that were not: where the selection would change."""
    given = [Limit(key, value) for key, value in settings.budgets.model_dump(exclude_none=True).items()]
    given += [gate_of(text) for text in settings.gates]
    found = []

    def add(text: str, given: bool, moves: Moves) -> None:
        found.append(LimitChange(limit=text, given=given, tighter=moves.tighter, looser=moves.looser))

    if settings.rule == "cheapest":
        limit = Limit("drop_upper" if settings.confidence else "drop_validation", settings.max_drop)
        moves = _moves(rows, settings, limit, lambda value: settings.model_copy(update={"max_drop": value}))
        add(f"max_drop {settings.max_drop:g} point{'s' * (settings.max_drop != 1)}", True, moves)
    for limit in given:
        add(str(limit), True, _moves(rows, settings, limit, _mover(settings, limit)))
    for key in Budgets.model_fields:
        if key not in {limit.figure for limit in given}:
            limit = Limit(key, np.inf)
            moves = _moves(rows, settings, limit, _mover(settings, limit))
            add(f"{key} {limit.sign} any {FIGURES[key].unit}", False, moves)
    return found


def _mover(settings: ChooseSettings, limit: Limit) -> Callable[[float], ChooseSettings]:
    """Settings with this limit at another value."""
    if limit.figure in Budgets.model_fields and str(limit) not in {str(gate_of(gate)) for gate in settings.gates}:
        return lambda value: settings.model_copy(
            update={"budgets": settings.budgets.model_copy(update={limit.figure: value})}
        )
    others = [gate for gate in settings.gates if str(gate_of(gate)) != str(limit)]
    unit = FIGURES[limit.figure].unit
    return lambda value: settings.model_copy(
        update={"gates": [*others, f"{limit.figure} {limit.sign} {value!r} {unit}"]}
    )


def _moves(
    rows: Sequence[Row], settings: ChooseSettings, limit: Limit, moved: Callable[[float], ChooseSettings]
) -> Moves:
    """The nearest tighter and looser value of a limit that changes the selection.

    It can only change where the limit passes a candidate's own figure: tighter, the first figure that is no longer let
    in ("at" is the limit that must be kept for the selection to stay); looser, the first that comes in.
    """
    now = _name(rows, settings)
    figures = {value_of(row.result, limit.figure) for row in rows if not row.cannot}
    ordered = sorted((f for f in figures if f is not None), reverse=limit.sign == ">=")
    outward = 1 if limit.sign == "<=" else -1
    inside = [f for f in ordered if (f - limit.value) * outward <= 0]
    tighter = looser = None
    for i in range(len(inside) - 1, -1, -1):
        name = _name(rows, moved(inside[i - 1])) if i else None
        if name != now:
            if limit.figure not in ("drop_upper", "drop_validation") or inside[i] > 0:  # max_drop is never below 0
                tighter = Change(at=inside[i], name=name)
            break
    for figure in ordered[len(inside) :]:
        name = _name(rows, moved(figure))
        if name != now:
            looser = Change(at=figure, name=name)
            break
    return Moves(tighter=tighter, looser=looser)
