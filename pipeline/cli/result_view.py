"""What a run came to, for a terminal of 80 columns and more: the selected candidate, those beside it, the next command.

On 80 columns names and reasons take two lines where they must; wider terminals show the speed-up, the cost and the
name that `choose --candidate` takes.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from paredown.benchmarks.measurements import Measurements
from paredown.benchmarks.report.text import (
    by_cost,
    card_lines,
    cascade_sentence,
    certificate_sentence,
    control_warning,
    factor,
    money,
    nearest_sentence,
    saving,
    short_times,
    why_not,
)
from paredown.benchmarks.selection.choice import CandidateResult, Choice, known
from paredown.benchmarks.selection.one_for_all import OneForAll

SHOWN = 5  # rows, unless all are asked for
WIDE = 110  # columns from which on the speed-up, the cost and full names are shown
SHORT = {"onnxruntime": "ORT", "openvino": "OpenVINO", "pytorch": "PyTorch", "int8-dynamic": "int8"}
MARK, NAME = ">", 9  # letters of a metric's name at the head of its column


def result(choice: Choice, measurements: Measurements, width: int, everything: bool) -> RenderableType:
    """All of it but for the next commands, for so many columns. `everything`: every candidate, and what other prices
    and limits would select."""
    currency = measurements.prices.currency
    entries = by_cost(choice) if everything else nearest_rows(choice)
    parts: list[RenderableType] = [chosen_block(choice), Text(), _table(entries, choice, currency, width)]
    left = len(choice.candidates) - len(entries)
    notes = [_legend(choice)]
    if left:
        notes.append(f"{left} more candidates: --all")
    notes += [line for line in (nearest_sentence(choice), control_warning(choice), *choice.notes) if line]
    parts += [Text(note, style="dim" if i == 0 else "") for i, note in enumerate(notes)]
    if everything:
        parts += [Text(f"- {line}") for line in card_lines(choice, currency)]
    return Group(*parts)


def chosen_block(choice: Choice) -> RenderableType:
    """The selected candidate: how fast against both opponents, what its certificate says, size and cost."""
    chosen, noisy = choice.chosen, choice.noisy
    mean = " in the mean" if chosen.speedup_statistic == "mean" else ""
    speed = f"{_ms(_usual(chosen))} ms a row{mean}: "
    speed += f"{_interval(chosen.speedup_vs_baseline, chosen.speedup_ci, noisy)} PyTorch"
    if choice.plain_int8 == chosen.name:
        speed += "; it is plain INT8"
    elif chosen.speedup_vs_plain_int8 is not None:
        speed += f", {_interval(chosen.speedup_vs_plain_int8, chosen.speedup_vs_plain_int8_ci, noisy)} plain INT8"
    sizes = f"{_mb(chosen.size_mb)} MB of {_mb(choice.baseline.size_mb)}, and {saving(chosen, noisy)}."
    lines = [speed, certificate_sentence(choice), sizes, cascade_sentence(chosen)]
    head = Text.assemble(("Chosen: ", "bold"), (chosen.name, "bold green"))
    return Group(head, *(Padding(Text(line), (0, 0, 0, 2)) for line in lines if line))


def nearest_rows(choice: Choice) -> list[CandidateResult]:
    """The selected one, what it is compared with (PyTorch, plain INT8), and those nearest to it in cost; cheapest
    first."""
    able = [entry for entry in by_cost(choice) if entry.cost_per_million]
    cost = known(choice.chosen.cost_per_million)
    first = [choice.chosen.name, choice.baseline.name, choice.plain_int8]
    by_distance = sorted(able, key=lambda e: (e.name not in first, abs(math.log(known(e.cost_per_million) / cost))))
    kept = {entry.name for entry in by_distance[:SHOWN]}
    return [entry for entry in able if entry.name in kept]


def for_all_machines(found: OneForAll, run_dirs: Path) -> list[Text]:
    """The candidate that suits several machines, what each of them loses with it, and how it is selected. `run_dirs`:
    where each machine has its run directory."""
    head = Text.assemble(("One for all: ", "bold"), (found.name or "none", "bold green"))
    lines = [head, Text(f"  {found.why}")]
    for name, on in found.machines.items():
        more = 100 * (on.cost_vs_own - 1)
        cost = (
            f"{abs(more):.0f} % {'more' if more > 0 else 'less'} cost than"
            if not on.costs_tie
            else "a tie in cost with"
        )
        against = "its own choice" if on.name == on.own else f"{cost} its own choice, {on.own}"
        speed = short_times(on.speedup_vs_baseline, on.speedup_ci, on.noisy)
        said = f"{against}; {speed} PyTorch; loss {on.drop_validation:+.1f} ({on.drop_upper:.1f}) points"
        lines.append(Text(f"  {name}: {said}"))
    for name, on in found.machines.items():
        if on.name != on.own:
            path = str(_as_typed(run_dirs / name))
            command = shlex.join(["paredown", "choose", path, "--candidate", on.name])
            lines.append(Text.assemble(("Next:   ", "bold"), (command, "cyan")))
    return lines


def _as_typed(run_dir: Path) -> Path:
    """A run directory relative to the working directory, where it is below that."""
    near = Path(os.path.relpath(run_dir))
    return near if ".." not in near.parts else run_dir


def next_commands(choice: Choice, run_dir: Path) -> list[Text]:
    """Where report and bundle are, and what people do with a run, to be pasted: each one line, however long."""
    path = _as_typed(run_dir)
    commands = [["paredown", "serve", str(path / "bundle")], ["paredown", "report", str(path), "--all"]]
    if choice.rule.rule == "cheapest":
        commands.append(["paredown", "choose", str(path), "--max-drop", f"{2 * choice.rule.max_drop or 1:g}"])
    lines = [
        ("Report: ", str(path / "report.html")),
        ("Bundle: ", f"{path / 'bundle'} (and .tar.gz)"),
        *(("Next:   ", shlex.join(command)) for command in commands),
    ]
    return [Text.assemble((title, "bold"), (line, "cyan")) for title, line in lines]


def _table(entries: Sequence[CandidateResult], choice: Choice, currency: str, width: int) -> Table:
    """One line a candidate. Figures are whole at any width; names and reasons take several lines where they must."""
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", width=width)
    table.add_column("", no_wrap=True, width=1)
    table.add_column("candidate" if wide else "model", overflow="fold", ratio=3 if wide else 1)
    if not wide:
        table.add_column("runtime", no_wrap=True)
    metric = choice.chosen.metric  # the legend has its name too
    figures = [
        (metric if wide or len(metric) <= NAME else "metric", _metric),
        ("loss (max)", lambda e: _loss(e, choice)),
        ("ms", _latency),
    ]
    if wide:
        figures.append(("speed-up", lambda e: short_times(e.speedup_vs_baseline, e.speedup_ci, choice.noisy)))
    figures.append(("MB", lambda e: "" if e.size_mb is None else _mb(e.size_mb)))
    if wide:
        figures.append((f"{currency}/M", lambda e: "" if e.cost_per_million is None else money(e.cost_per_million)))
    for title, _ in figures:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold", ratio=2 if wide else 1)
    for entry in entries:
        chosen = entry.name == choice.chosen.name
        runtime = " ".join(SHORT.get(part, part) for part in (entry.runtime, entry.precision))
        name = [entry.name] if wide else [_model(entry), runtime]
        cells = [MARK if chosen else "", *name, *(cell(entry) for _, cell in figures)]
        table.add_row(*cells, "" if chosen else why_not(entry, choice), style="bold green" if chosen else None)
    return table


def _legend(choice: Choice) -> str:
    confidence = choice.rule.confidence
    most = f", at most that in brackets with {100 * confidence:.0f} % confidence" if confidence else ""
    return (
        f"loss: points of {choice.chosen.metric} lost on validation{most}; ms: median of one row, of a cascade the mean"
    )


def _interval(point: float | None, interval: Sequence[float] | None, noisy: bool) -> str:
    lo, hi = known(interval)
    shown = short_times(point, interval, noisy)
    return shown if noisy else f"{shown} [{factor(lo)} to {factor(hi)}]"


def _model(entry: CandidateResult) -> str:
    """The model's name, of a cascade those of its models, which may stand in lines of their own."""
    model = entry.name.split("/")[0]
    return model.replace("-then-", " > ") if entry.cascade else model


def _metric(entry: CandidateResult) -> str:
    return "" if entry.metric_validation is None else f"{entry.metric_validation:.1f}"


def _loss(entry: CandidateResult, choice: Choice) -> str:
    if entry.drop_validation is None:
        return ""
    most = f" ({entry.drop_upper:.1f})" if choice.rule.confidence else ""
    return f"{entry.drop_validation:+.1f}{most}"


def _latency(entry: CandidateResult) -> str:
    return "" if entry.latency_ms is None else _ms(_usual(entry))


def _usual(entry: CandidateResult) -> float:
    """Milliseconds that stand for a candidate: the median, of a cascade, whose rows differ widely, the mean."""
    latency = known(entry.latency_ms)
    return latency.mean if entry.speedup_statistic == "mean" else latency.p50


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _mb(value: float | None) -> str:
    value = known(value)
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
