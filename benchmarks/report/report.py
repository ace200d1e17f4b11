"""The report: one self-contained HTML page, Markdown for a pull request, a picture of the frontier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from paredown.export.bundle.model_card import escaped
from paredown.export.hardware import version
from paredown.runtime.errors import missing_extra

from ..measurements import Measurements
from ..measuring.records import Record
from ..selection.choice import CandidateResult, CheapestArrays, Choice, FrontierArrays, LambdaRange, Rule, known
from .chart import Point, chart
from .figures import confusions, latencies, parts
from .opportunities import opportunities
from .text import (
    bound_title,
    bounded,
    by_cost,
    card_lines,
    conditions_line,
    control_warning,
    data_notes,
    engines,
    hosts_line,
    learned,
    money,
    nearest_sentence,
    note,
    promise_kept,
    promise_line,
    promises,
    quality_table,
    sentence,
    short_times,
    table_rows,
    trimmed,
)

TEMPLATE = Path(__file__).with_name("report.html")
SCRIPT = Path(__file__).with_name("report.js")
RESOLVED = "recipe.resolved.yaml"  # in a run directory: the recipe with every default
# What the interactive chart can show, label by key of a point.
AXES: dict[Literal["x", "y"], dict[str, str]] = {
    "x": {"cost": "{currency} per million requests", "p50": "p50 latency, ms", "p95": "p95 latency, ms",
          "p99": "p99 latency, ms", "size": "MB to ship", "memory": "peak memory, MB"},
    "y": {"value": "{metric}, validation", "test": "{metric}, test", "f1": "macro F1, validation",
          "bound": "{metric} at the lower 95 % bound, validation"},
}  # fmt: skip
# Okabe and Ito's palette, distinct for colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


class PageData(Record):
    """What report.js works on."""

    points: list[Point]
    axes: dict[Literal["x", "y"], dict[str, str]] = Field(
        description="what the chart can show: label by key of a point"
    )
    frontier: FrontierArrays
    ranges: list[LambdaRange] = Field(validation_alias="lambda", serialization_alias="lambda")
    cheapest: CheapestArrays
    rule: Rule
    base: float = Field(description="the metric of the checkpoint on validation, points")
    currency: str
    metric: str


def rerun(run: str) -> str:
    """The command that makes a run again, from what its directory lacks. `run`: the directory as it is typed."""
    return f"paredown run {run}/{RESOLVED} --output-dir {run}"


@dataclass(frozen=True)
class Reproduction:
    """How the page's run is made again: the command that made this selection, the run directory as it is typed, and the
    recipe's text."""

    command: str
    run: str = "RUN_DIR"
    recipe: str = ""


def write_report(path: Path, measurements: Measurements, choice: Choice, again: Reproduction) -> Path:
    """Write the page to `path`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    models = list(dict.fromkeys(entry.model for entry in measurements.candidates))
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
    floor = None
    if choice.rule.rule == "cheapest":
        floor = known(choice.baseline.metric_validation) - choice.rule.max_drop
    rows = by_cost(choice)
    points = [
        _point(number, entry, choice, colours)
        for number, entry in enumerate(rows, start=1)
        if entry.metric_validation is not None
    ]
    currency = measurements.prices.currency
    page = template.render(
        m=measurements,
        c=choice,
        chosen=choice.chosen,
        base=choice.baseline,
        rows=rows,
        money=money,
        sentence=sentence(choice),
        noisy=control_warning(choice),
        nearest=nearest_sentence(choice),
        notes=data_notes(measurements),
        short_times=lambda point, interval: short_times(point, interval, choice.noisy),
        bound_title=bound_title(choice),
        bounded=lambda entry: bounded(entry, choice),
        colours=colours,
        currency=currency,
        quality=quality_table(choice),
        charts=[
            ("Cost and value", "cost", [chart(points, "cost", floor, width) for width in (860, 360)]),
            ("Latency and value", "p50", [chart(points, "p50", floor, width) for width in (860, 360)]),
        ],
        note=lambda entry: note(entry, choice),
        card=card_lines(choice, currency),
        conditions=conditions_line(choice.conditions),
        hosts=hosts_line(measurements.hosts),
        flips=measurements.entry(choice.chosen.name).flips,
        data=page_data(measurements, choice, points),
        script=SCRIPT.read_text(encoding="utf-8"),
        parts=parts(measurements, choice.chosen),
        latencies=latencies(measurements, choice, [entry.name for entry in rows]),
        confusions=confusions(measurements, choice),
        learned=learned(measurements),
        trimmed=trimmed(measurements),
        promises=promises(choice),
        promise_kept=promise_kept,
        engines=engines(measurements),
        opportunities=opportunities(measurements, choice),
        before=measurements.entry(choice.baseline.name).parameters,
        version=version("paredown") or "",
        again=again,
        rerun=rerun(again.run),
    )
    path.write_text(page, encoding="utf-8")
    return path


def _point(number: int, entry: CandidateResult, choice: Choice, colours: dict[str, str]) -> Point:
    latency, base = known(entry.latency_ms), known(choice.baseline.metric_validation)
    arrays = choice.card.cheapest
    costs = dict(zip(arrays.names, arrays.cost_ci, strict=True))
    found = {"p50": latency.p50_ci, "value": entry.metric_validation_ci, "test": entry.metric_test_ci}
    found["cost"] = costs.get(entry.name)
    return Point(
        name=entry.name,
        label=_label(entry, choice),
        number=number,
        cost=entry.cost_per_million,
        p50=latency.p50,
        value=entry.metric_validation,
        colour=colours[entry.name.split("/")[0]],
        chosen=entry.name == choice.chosen.name,
        base=entry.name == choice.baseline.name,
        able=entry.rejected_because is None,
        front=entry.name in choice.pareto,
        p95=latency.p95,
        p99=latency.p99,
        size=entry.size_mb,
        memory=entry.memory_mb,
        test=entry.metric_test,
        f1=entry.macro_f1,
        bound=base - known(entry.drop_upper_95),
        kept=None if entry.drop_upper is None else base - entry.drop_upper,
        intervals={key: interval for key, interval in found.items() if interval is not None},
    )


def _label(entry: CandidateResult, choice: Choice) -> str:
    """The model, with its runtime and precision where it was measured in several."""
    model, _, target = entry.name.partition("/")
    others = [other for other in choice.candidates if other.name.startswith(f"{model}/")]
    return f"{model}, {target.replace('/', ' ')}" if len(others) > 1 else model


def page_data(measurements: Measurements, choice: Choice, points: list[Point]) -> str:
    """`PageData` as JSON that may stand inside a script element."""
    words = {"currency": measurements.prices.currency, "metric": measurements.metric}
    axes: dict[Literal["x", "y"], dict[str, str]] = {
        side: {
            key: text.format(**words) for key, text in of.items() if any(getattr(p, key) is not None for p in points)
        }
        for side, of in AXES.items()
    }
    data = PageData(
        points=points,
        axes=axes,
        frontier=choice.card.frontier,
        ranges=choice.card.ranges,
        cheapest=choice.card.cheapest,
        rule=choice.rule,
        base=known(choice.baseline.metric_validation),
        **words,
    )
    return data.model_dump_json(by_alias=True).replace("<", "\\u003c")


def markdown(measurements: Measurements, choice: Choice, command: str) -> str:
    """The choice for a pull request: sentence, card, table, groups, how it was measured."""
    currency, chosen = measurements.prices.currency, choice.chosen
    titles = (measurements.metric, bound_title(choice), "p50 ms", "speed-up", "MB", f"{currency} / million")
    head = f"| candidate | {' | '.join(titles)} | |"
    lines = [f"**{sentence(choice)}**", ""]
    for warning in (control_warning(choice), nearest_sentence(choice), *data_notes(measurements)):
        lines += [f"> {warning}", ""] if warning else []
    lines += [f"It is {choice.why}. " + (f"Ties with {', '.join(choice.tied_with)}." if choice.tied_with else "")]
    lines += ["", *(f"- {line}" for line in card_lines(choice, currency)), ""]
    lines += [head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for cells in table_rows(choice):
        bold = cells[0] == chosen.name
        shown = [*cells[:-1], cells[-1] if bold else escaped(cells[-1])]
        lines.append("| " + " | ".join(f"**{c}**" if bold and c else c for c in shown) + " |")
    for kind, groups in (chosen.slices or {}).items():
        lines += ["", f"By {kind}:", "", "| | rows | metric | drop (95 %) |", "| --- | ---: | ---: | ---: |"]
        for part in groups[:10]:
            drop = "{:+.1f} [{:+.1f}, {:+.1f}]".format(part.drop, *part.drop_ci)
            lines.append(f"| {escaped(part.name)} | {part.rows} | {part.metric:.1f} | {drop} |")
    if promised := promises(choice):
        lines += ["", *(f"- {promise_line(name, promise)}" for name, promise in promised.items())]
    machine = measurements.machine
    lines += [
        "",
        f"{machine.cpu}, {machine.cores} cores; {conditions_line(choice.conditions)}.{hosts_line(measurements.hosts)}",
        "",
    ]
    return "\n".join([*lines, "```console", f"$ {command}", "```", ""])


def write_picture(path: Path, measurements: Measurements, choice: Choice) -> Path:
    """The frontier as `path`'s suffix says, .svg or .png, for slides: cost and value of every candidate."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plot") from None
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.add_subplot()
    entries = [entry for entry in choice.candidates if entry.metric_validation is not None]
    models = dict.fromkeys(entry.name.split("/")[0] for entry in entries)
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}
    place = {entry.name: (known(entry.cost_per_million), known(entry.metric_validation)) for entry in entries}
    for model, colour in colours.items():
        mine = [entry for entry in entries if entry.name.split("/")[0] == model]
        faces = ["none" if entry.rejected_because is not None else colour for entry in mine]
        x, y = zip(*(place[entry.name] for entry in mine), strict=True)
        axes.scatter(x, y, s=60, c=faces, edgecolors=colour)
        axes.scatter([], [], s=60, c=colour, label=model)
    front = sorted(place[name] for name in choice.pareto)
    axes.plot(*zip(*front, strict=True), ":", color="#777777", zorder=0)
    name = choice.chosen.name
    at = place[name]
    axes.scatter(*at, s=260, facecolors="none", edgecolors="#0b6e4f", linewidths=2.5)
    costs = [cost for cost, _ in place.values()]
    right = at[0] ** 2 > min(costs) * max(costs)
    side, shift = ("right", -14) if right else ("left", 14)
    axes.annotate(name, at, (shift, -18), textcoords="offset points", ha=side, color="#0b6e4f", weight="bold")
    axes.set_xscale("log")
    axes.set_xlabel(f"{measurements.prices.currency} per million requests (log)")
    axes.set_ylabel(f"{measurements.metric}, validation")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=200)
    return path
