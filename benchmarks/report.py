"""The report: one HTML page with everything inside it, and the same table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from ..export.errors import missing_extra

TEMPLATE = Path(__file__).with_name("report.html")
# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


def write_report(path: Path, measurements: dict, choice: dict, command: str) -> Path:
    """Write the page to `path`; `command` is what reproduces the run."""
    try:
        import jinja2
    except ImportError:
        raise missing_extra("jinja2", "compress") from None
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    models = list(dict.fromkeys(entry["model"] for entry in measurements["candidates"]))
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
    floor = None
    if choice["rule"]["rule"] == "cheapest":
        floor = choice["baseline"]["metric_validation"] - choice["rule"]["max_drop"]
    points = [
        _point(entry, choice, colours) for entry in choice["candidates"] if entry["metric_validation"] is not None
    ]
    page = template.render(
        m=measurements,
        c=choice,
        chosen=choice["chosen"],
        base=choice["baseline"],
        rows=sorted(choice["candidates"], key=lambda e: (e["cost_per_million"] is None, e["cost_per_million"] or 0.0)),
        sentence=sentence(choice, measurements),
        noisy=control_warning(choice),
        colours=colours,
        currency=measurements["prices"]["currency"],
        charts=[
            ("Cost and value", "cost", [chart(points, "cost", floor, width) for width in (860, 360)]),
            ("Latency and value", "p50", [chart(points, "p50", floor, width) for width in (860, 360)]),
        ],
        note=lambda entry: note(entry, choice),
        learned=learned(measurements),
        promises=promises(choice),
        engines=engines(measurements),
        command=command,
    )
    path.write_text(page, encoding="utf-8")
    return path


def sentence(choice: dict, measurements: dict) -> str:
    """The pick in one sentence, in plain words."""
    chosen, base = choice["chosen"], choice["baseline"]
    drop = chosen["drop_validation"]
    change = "with the same" if drop == 0 else f"{abs(drop):.1f} points {'less' if drop > 0 else 'more'}"
    saved = 100 * (1 - chosen["cost_per_million"] / base["cost_per_million"])
    money = f"{saved:.0f} % less" if saved >= 0 else f"{-saved:.0f} % more"
    mean = chosen["speedup_mean"]
    uneven = not 0.8 < mean / chosen["speedup_vs_baseline"] < 1.25  # a cascade: some rows are far quicker than others
    return (
        f"{chosen['name']} answers {chosen['speedup_vs_baseline']:.1f} times as fast as the checkpoint in PyTorch"
        f"{f' (median; {mean:.1f} times in the mean)' if uneven else ''}, "
        f"{change} {chosen['metric']} on validation, {chosen['size_mb']:.0f} MB instead of {base['size_mb']:.0f}, "
        f"and costs {money} per million requests."
    )


def control_warning(choice: dict) -> str | None:
    """A line when the A/A control does not contain 1: the machine was too noisy for small differences."""
    ratio, (lo, hi) = choice["control"]["ratio"], choice["control"]["ratio_ci"]
    if lo <= 1 <= hi:
        return None
    return (
        f"The machine was noisy: the checkpoint timed against itself gave {ratio:.2f} [{lo:.2f}, {hi:.2f}], "
        "and 1 is not inside. Differences of that size mean nothing: use a quieter machine, or raise min_seconds."
    )


def table_rows(choice: dict) -> Iterable[tuple[str, ...]]:
    """Cells of the terminal's table, cheapest first: candidate, metric, drop, p50, speed-up, MB, cost, note."""
    for entry in sorted(
        choice["candidates"], key=lambda e: (e["cost_per_million"] is None, e["cost_per_million"] or 0.0)
    ):
        if entry["metric_validation"] is None:
            yield (entry["name"], "", "", "", "", f"{entry['size_mb']:.1f}", "", entry["rejected_because"])
            continue
        yield (
            entry["name"],
            f"{entry['metric_validation']:.1f}",
            f"{entry['drop_validation']:+.1f} (< {entry['drop_upper_95']:.1f})",
            f"{entry['latency_ms']['p50']:.2f}",
            f"{entry['speedup_vs_baseline']:.1f}x",
            f"{entry['size_mb']:.1f}",
            f"{entry['cost_per_million']:.3f}",
            "chosen" if entry["name"] == choice["chosen"]["name"] else note(entry, choice),
        )


def note(entry: dict, choice: dict) -> str:
    """Why a candidate was not in question: what broke a budget, or the rule's own limit; empty when it was."""
    if "rejected_because" in entry:
        return entry["rejected_because"]
    rule, notes = choice["rule"], []
    if rule["rule"] == "cheapest" and entry["drop_validation"] > rule["max_drop"]:
        notes.append(f"loses more than {rule['max_drop']:g} points")
    if entry.get("why_slower"):
        notes.append(entry["why_slower"])
    return "; ".join(notes)


def learned(measurements: dict) -> list[dict]:
    """Each model that was trained: rows a second, seconds, and their share of the whole run."""
    found = {}
    for entry in measurements["candidates"]:
        for name, made in entry.get("made", {}).items():
            if "training_s" in made:
                share = made["training_s"] / max(measurements["compression_s"], 1e-9)
                found[name] = {"name": name, "rows_per_s": made["rows_per_s"], "s": made["training_s"], "share": share}
    return list(found.values())


def promises(choice: dict) -> list[dict]:
    """Each timed cut: what its latency table promised and what was measured, in one runtime and precision."""
    return [{"name": e["name"], **e["promised_speedup"]} for e in choice["candidates"] if e.get("promised_speedup")]


def engines(measurements: dict) -> list[dict]:
    """Each TensorRT engine that was built, whether this machine could run it or not."""
    found = [(entry["name"], (entry.get("details") or {}).get("engine")) for entry in measurements["candidates"]]
    return [{"name": name, **engine} for name, engine in found if engine]


def _point(entry: dict, choice: dict, colours: dict[str, str]) -> dict:
    name = entry["name"]
    return {
        "name": name,
        "cost": entry["cost_per_million"],
        "p50": entry["latency_ms"]["p50"],
        "value": entry["metric_validation"],
        "colour": colours[name.split("/")[0]],
        "chosen": name == choice["chosen"]["name"],
        "base": name == choice["baseline"]["name"],
        "able": "rejected_because" not in entry,
        "front": name in choice["pareto"],
    }


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
        "labels": [_label(p, width) for p in placed if p["chosen"] or p["base"]],
        "front": " ".join(f"{p['x']},{p['y']}" for p in best),
        "floor": y(floor) if floor is not None else None,
        "xticks": [(x(t), _short(t)) for t in _log_ticks(low, high, 4 if width < 500 else 8)],
        "yticks": [(y(t), _short(t)) for t in _ticks(bottom_value, top_value)],
    }


def _label(point: dict, width: int) -> dict:
    right_half = point["x"] > width * 0.55
    text = (
        ("chosen: " if point["chosen"] else "") + point["name"]
        if width > 500
        else ("chosen" if point["chosen"] else "as it came")
    )
    return {
        "x": point["x"] + (-12 if right_half else 12),
        "y": point["y"] + (-12 if point["chosen"] else 20),
        "anchor": "end" if right_half else "start",
        "text": text,
        "bold": point["chosen"],
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
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if s >= span or s == 50)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.4g}"
