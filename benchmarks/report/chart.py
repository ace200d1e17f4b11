"""Scatter charts as pixel positions, for a template to draw."""

from __future__ import annotations

import math


def chart(points: list[dict], key: str, floor: float | None, width: int) -> dict:
    """Pixel positions for one scatter chart: log x, linear y; drawn by the template."""
    height, left, right, top, bottom = (400 if width > 500 else 320), 52, 14, 16, 44
    low, high = min(p[key] for p in points) / 1.25, max(p[key] for p in points) * 1.25
    values = [p["value"] for p in points] + ([floor] if floor is not None else [])
    margin = max(0.3, 0.08 * (max(values) - min(values)))
    bottom_value, top_value = min(values) - margin, max(values) + margin

    def x(value: float) -> float:
        return round(left + (width - left - right) * math.log(value / low) / math.log(high / low), 1)

    def y(value: float) -> float:
        return round(top + (height - top - bottom) * (top_value - value) / (top_value - bottom_value), 1)

    placed = [{**p, "x": x(p[key]), "y": y(p["value"])} for p in points]
    front = sorted((p for p in placed if p["front"]), key=lambda p: p["x"])
    best: list[dict] = []
    for p in front:  # on the latency axis only those that still improve
        if not best or p["value"] > best[-1]["value"]:
            best.append(p)
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "top": top,
        "bottom": height - bottom,
        "points": placed,
        "labels": [_label(p) for p in placed],
        "front": " ".join(f"{p['x']},{p['y']}" for p in best),
        "floor": y(floor) if floor is not None else None,
        "xticks": [(x(t), _short(t)) for t in _log_ticks(low, high, 4 if width < 500 else 8)],
        "yticks": [(y(t), _short(t)) for t in _ticks(bottom_value, top_value)],
    }


def _label(point: dict) -> dict:
    """The number that the table has too; of the one chosen a word more, under it."""
    chosen = point["chosen"]
    return {
        "x": point["x"] + (0 if chosen else 8),
        "y": point["y"] + (26 if chosen else -6),
        "anchor": "middle" if chosen else "start",
        "text": f"{point['number']}: chosen" if chosen else str(point["number"]),
        "bold": chosen,
    }


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
