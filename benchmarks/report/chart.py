"""Scatter charts as pixel positions, for a template to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ..measuring.records import Record
from ..selection.choice import known


class Point(Record):
    """A candidate in the charts; what was not measured is null."""

    name: str
    label: str = Field(description="a name that fits beside a point")
    number: int = Field(description="its place in the table")
    cost: float | None
    p50: float
    value: float | None
    colour: str
    chosen: bool
    base: bool
    able: bool = Field(description="it can be selected")
    front: bool = Field(description="on the frontier of cost and value")
    p95: float
    p99: float
    size: float | None
    memory: float | None
    test: float | None
    f1: float | None
    bound: float
    kept: float | None = Field(description="the baseline's metric less the bound by which the rule judges it, points")
    intervals: dict[str, tuple[float, float]] = Field(description="95 %, by key of the point")


@dataclass(frozen=True)
class Placed:
    """A point at its pixels."""

    x: float
    y: float
    point: Point


@dataclass(frozen=True)
class Label:
    """A text at its pixels; `anchor`: SVG's text-anchor."""

    x: float
    y: float
    anchor: str
    text: str
    bold: bool


@dataclass(frozen=True)
class Chart:
    """A scatter chart in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    points: list[Placed]
    labels: list[Label]
    front: str  # SVG's points of the frontier
    floor: float | None
    xticks: list[tuple[float, str]]
    yticks: list[tuple[float, str]]


def chart(points: list[Point], key: Literal["cost", "p50"], floor: float | None, width: int) -> Chart:
    """One scatter chart of `key` (log) and value (linear); `floor`: a value to mark with a line."""
    height, left, right, top, bottom = (400 if width > 500 else 320), 52, 14, 16, 44
    places = [(known(getattr(p, key)), known(p.value)) for p in points]
    low, high = min(place[0] for place in places) / 1.25, max(place[0] for place in places) * 1.25
    values = [place[1] for place in places] + ([floor] if floor is not None else [])
    margin = max(0.3, 0.08 * (max(values) - min(values)))
    bottom_value, top_value = min(values) - margin, max(values) + margin

    def x(value: float) -> float:
        return round(left + (width - left - right) * math.log(value / low) / math.log(high / low), 1)

    def y(value: float) -> float:
        return round(top + (height - top - bottom) * (top_value - value) / (top_value - bottom_value), 1)

    placed = [Placed(x(at), y(value), point) for (at, value), point in zip(places, points, strict=True)]
    best: list[Placed] = []
    for p in sorted((p for p in placed if p.point.front), key=lambda p: p.x):
        if not best or known(p.point.value) > known(best[-1].point.value):  # on the latency axis those that improve
            best.append(p)
    return Chart(
        width=width,
        height=height,
        left=left,
        right=width - right,
        top=top,
        bottom=height - bottom,
        points=placed,
        labels=[_label(p) for p in placed],
        front=" ".join(f"{p.x},{p.y}" for p in best),
        floor=y(floor) if floor is not None else None,
        xticks=[(x(t), _short(t)) for t in _log_ticks(low, high, 4 if width < 500 else 8)],
        yticks=[(y(t), _short(t)) for t in _ticks(bottom_value, top_value)],
    )


def _label(placed: Placed) -> Label:
    """The number that the table has too; of the one chosen a word more, under it."""
    chosen, number = placed.point.chosen, placed.point.number
    return Label(
        x=placed.x + (0 if chosen else 8),
        y=placed.y + (26 if chosen else -6),
        anchor="middle" if chosen else "start",
        text=f"{number}: chosen" if chosen else str(number),
        bold=chosen,
    )


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    every = [
        m * 10.0**e
        for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in (1, 2, 3, 5, 7)
    ]
    inside = [t for t in every if low <= t <= high]
    step = max(1, math.ceil(len(inside) / most))
    return inside[::step]


def _ticks(low: float, high: float) -> list[float]:
    span = (high - low) / 5
    every = (m * 10.0**e for e in range(-1, 300) for m in (1, 2, 5))
    step = next(s for s in every if s >= span)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.4g}"
