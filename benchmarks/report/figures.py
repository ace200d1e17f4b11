"""What the report draws of candidates: the models that they are made of, their latencies, their confusions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paredown.compress.config import Recover

from ..measurements import CandidateMeasurement, Measurements
from ..measuring.latency import SINGLE
from ..selection.choice import CandidateResult, Choice

# Of each stage, the settings that say what it made.
SETTINGS = {
    "prune": ("speedup", "latency_ms", "layers", "heads", "ffn", "channels"),
    "distill": ("layers", "width", "student"),
    "static": ("width",),
    "trim": ("frequent",),
    "truncate": ("first", "last"),
    "finetune": ("epochs",),
    "recover": ("epochs",),
}
REMADE = ("distill", "static")  # stages after which the layers are others than those that were pruned before
PERCENTILES = (5, 25, 50, 75, 95)
WIDTH, NAMES, ROW, BAR = 860, 330, 26, 60  # pixels: of a picture, of its names, of a line, of a bar
LETTERS = 44  # that fit NAMES
CONFUSIONS = 12


@dataclass(frozen=True)
class Bar:
    """The heads and neurons of a layer, and the lengths of their bars, pixels."""

    heads: int
    ffn: int
    heads_px: float
    ffn_px: float


@dataclass(frozen=True)
class Part:
    """One model of a candidate. `asked`: the share of validation rows that reach it, 0 to 1."""

    name: str
    made: str  # its steps
    asked: float
    parameters: int | None
    layers: list[Bar]


def parts(measurements: Measurements, chosen: CandidateResult) -> list[Part]:
    """The models that a candidate is made of, in the order in which a row meets them."""
    entry = measurements.entry(chosen.name)
    cascade = entry.details.cascade if entry.details else None
    asked = [1.0, *((cascade.asked if cascade else None) or ())]
    models = _models(measurements, entry)
    return [_part(model, share) for model, share in zip(models, [*asked, *[1.0] * len(models)], strict=False)]


def _models(measurements: Measurements, entry: CandidateMeasurement) -> list[CandidateMeasurement]:
    """A candidate, or the models of its cascade."""
    step = next((step for step in entry.steps if step["stage"] == "cascade"), None)
    if step is None:
        return [entry]
    known = {
        other.model: other
        for other in measurements.candidates
        if (other.runtime, other.precision) == (entry.runtime, entry.precision)
    }
    return [
        model for name in (step["first"], step["then"]) if name in known for model in _models(measurements, known[name])
    ]


def _part(entry: CandidateMeasurement, asked: float) -> Part:
    remade = _remade(entry.steps)
    layers = [] if remade else next((made.layers for made in reversed(entry.made.values()) if made.layers), [])
    most = [max((layer[key] for layer in layers), default=1) or 1 for key in ("heads", "ffn")]
    bars = [
        Bar(
            layer["heads"],
            layer["ffn"],
            *(BAR * layer[key] / of for key, of in zip(("heads", "ffn"), most, strict=True)),
        )
        for layer in layers
    ]
    return Part(entry.model, "; ".join(map(_words, entry.steps)) or "the checkpoint", asked, entry.parameters, bars)


def _remade(steps: Sequence[Mapping[str, Any]]) -> bool:
    """The layers were made anew after the last pruning."""
    stages = [step["stage"] for step in steps if step["stage"] in ("prune", *REMADE)]
    return bool(stages) and stages[-1] in REMADE


def _words(step: Mapping[str, Any]) -> str:
    """A step of a recipe in words: `prune (speedup 2), trained 1.4 epochs`."""
    given = [f"{key} {step[key]}" for key in SETTINGS.get(step["stage"], ()) if step.get(key) is not None]
    trained = None if step.get("recover") is None else Recover.model_validate(step["recover"])
    return (
        step["stage"]
        + (f" ({', '.join(given)})" if given else "")
        + (f", trained {trained.epochs:g} epochs" if trained else "")
    )


@dataclass(frozen=True)
class Strip:
    """One candidate's latencies of one row a call: pixels of PERCENTILES, and the percentiles in ms."""

    name: str
    label: str
    chosen: bool
    y: int
    px: list[float]
    ms: list[float]


@dataclass(frozen=True)
class Strips:
    """Latencies of candidates under each other, on one logarithmic axis."""

    width: int
    height: int
    left: int
    strips: list[Strip]
    ticks: list[tuple[float, str]]


def latencies(measurements: Measurements, choice: Choice, names: Sequence[str]) -> Strips | None:
    """The distribution of each candidate's single-stream samples; None where nothing was timed."""
    found = {}
    for name in names:
        timing = measurements.entry(name).timing
        if timing is not None and not timing.cannot_run and timing.turns.get(SINGLE):
            found[name] = np.percentile(
                np.concatenate([np.asarray(turn) for turn in timing.turns[SINGLE]]), PERCENTILES
            )
    if not found:
        return None
    low, high = math.log(min(ms[0] for ms in found.values())), math.log(max(ms[-1] for ms in found.values()))
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return round(NAMES + (WIDTH - NAMES - 20) * (math.log(value) - low) / span, 1)

    strips = [
        Strip(
            name,
            _elided(name),
            name == choice.chosen.name,
            ROW * i + ROW // 2,
            [x(v) for v in ms],
            [float(v) for v in ms],
        )
        for i, (name, ms) in enumerate(found.items())
    ]
    powers = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    ticks = [m * 10.0**e for e in powers for m in (1, 2, 5)]
    shown = [(x(t), f"{t:g}") for t in ticks if low <= math.log(t) <= high]
    return Strips(WIDTH, ROW * len(strips) + 24, NAMES, strips, shown)


def _elided(name: str) -> str:
    """A name without its middle, where it is long."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2 - 3]}...{name[-LETTERS // 2 :]}"


@dataclass(frozen=True)
class Confusion:
    """Rows of one label that were given another, by the chosen candidate and by the checkpoint."""

    gold: str
    predicted: str
    rows: int
    before: int


def confusions(measurements: Measurements, choice: Choice) -> list[Confusion]:
    """The most frequent confusions of labels on validation; none where rows have no single label."""
    gold, labels = measurements.gold_validation, measurements.labels
    ours, theirs = (measurements.entry(of.name).predicted_validation for of in (choice.chosen, choice.baseline))
    if gold is None or ours is None or theirs is None or not labels:
        return []
    counts, before = (Counter((g, p) for g, p in zip(gold, given, strict=True) if g != p) for given in (ours, theirs))
    return [Confusion(labels[g], labels[p], n, before[g, p]) for (g, p), n in counts.most_common(CONFUSIONS)]
