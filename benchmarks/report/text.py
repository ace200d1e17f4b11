"""Sentences and table cells that the report, the terminal and Markdown share.

No ratio is stated without its interval; that of a noisy run is its interval.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paredown.export.runtimes.registry import RUNTIMES

from ..measurements import Details, Engine, Measurements
from ..measuring.records import Conditions
from ..selection.choice import CandidateResult, Choice, Promise, known

OPEN_RANGE = 20  # a ratio whose ends differ by more than this many times is "at least" its lower end
LOST = ("loss", "untested")  # rejected for what it loses, or could lose
PROMISE = 15  # per cent that a measured speed-up may be off the promised one
# Titles of the table of quality: the figure that must be there, and the cell; `e` is the candidate.
QUALITY = {
    "macro F1": ("macro_f1", "{e.macro_f1:.1f}"),
    "macro F1: drop (95 % bound)": ("macro_f1_drop", "{e.macro_f1_drop:+.1f} ({e.macro_f1_drop_upper_95:.1f})"),
    "calibration error": ("calibration_error", "{e.calibration_error:.1f}"),
    "negative flips": ("negative_flips", "{e.negative_flips} ({e.negative_flip_share:.1f} %)"),
    "attribution agreement (Spearman)": ("attribution_agreement", "{e.attribution_agreement:.2f}"),
    "typos: drop (95 % bound)": ("typos_drop", "{e.typos_drop:+.1f} ({e.typos_drop_upper_95:.1f})"),
    "capitals: drop (95 % bound)": ("case_drop", "{e.case_drop:+.1f} ({e.case_drop_upper_95:.1f})"),
    "repeated text: drop (95 % bound)": ("length_drop", "{e.length_drop:+.1f} ({e.length_drop_upper_95:.1f})"),
    "worst label: drop (95 % bound)": ("label_drop", "{e.label_drop:+.1f} ({e.label_drop_upper_95:.1f})"),
    "worst group: drop (95 % bound)": ("group_drop", "{e.group_drop:+.1f} ({e.group_drop_upper_95:.1f})"),
}


def money(value: float) -> str:
    """Three digits that say something, and two behind the point at least."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value))) if value > 0 else 2}f}"


def times(point: float, lo: float, hi: float, noisy: bool) -> str:
    """A ratio in words: "5.7 times"; of a noisy run its range, "18 to 214 times", or its weakest end, "at least 18
    times", where the other end says nothing."""
    if not noisy or factor(lo) == factor(hi):
        return f"{factor(point)} times"
    if lo > 1 and hi > OPEN_RANGE * lo:
        return f"at least {factor(lo)} times"
    return f"{factor(lo)} to {factor(hi)} times"


def as_fast(point: float, interval: Sequence[float], noisy: bool, than: str = "") -> str:
    """A speed-up in words: "7.7 times as fast as X (95 %: 6.9 to 8.4)"; of a noisy run its range alone."""
    lo, hi = interval
    text = times(point, lo, hi, noisy) + (f" as fast as {than}" if than else "")
    return text if noisy else f"{text} (95 %: {factor(lo)} to {factor(hi)})"


def short_times(point: float | None, interval: Sequence[float] | None, noisy: bool) -> str:
    """A speed-up for a cell of a table: "7.7x", of a noisy run "18 to 214x"; empty where it was not measured."""
    if point is None or interval is None:
        return ""
    lo, hi = interval
    return times(point, lo, hi, noisy).removesuffix(" times") + "x"


def factor(value: float) -> str:
    """A ratio with the digits that say something: 0.05, 0.83, 5.7, 18."""
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}"


def sentence(choice: Choice) -> str:
    """The headline: how fast against both opponents, what the certificate says, size and cost."""
    chosen, base = choice.chosen, choice.baseline
    size = f"{chosen.size_mb:.0f} MB instead of {base.size_mb:.0f}"
    return f"{speed_sentence(choice)} {certificate_sentence(choice)} {size}, and {saving(chosen, choice.noisy)}."


def speed_sentence(choice: Choice) -> str:
    """Against the checkpoint in PyTorch and in plain INT8; of a cascade by mean and p95, whose median says little."""
    chosen, noisy = choice.chosen, choice.noisy
    cascade = chosen.speedup_statistic == "mean"
    text = f"{chosen.name} is {'in the mean ' if cascade else ''}"
    text += as_fast(known(chosen.speedup_vs_baseline), known(chosen.speedup_ci), noisy, "the checkpoint in PyTorch")
    if cascade:
        text += f", at p95 {as_fast(known(chosen.speedup_p95), known(chosen.speedup_p95_ci), noisy)}"
    if choice.plain_int8 == chosen.name:
        text += "; it is the checkpoint in plain INT8"
    elif chosen.speedup_vs_plain_int8 is not None:
        interval = known(chosen.speedup_vs_plain_int8_ci)
        text += f", and {as_fast(chosen.speedup_vs_plain_int8, interval, noisy, 'its plain INT8')}"
    return f"{text}. {cascade_sentence(chosen)}".rstrip()


def cascade_sentence(entry: CandidateResult) -> str:
    """How much of the work the first model of a cascade does, and how well; empty for others."""
    found = entry.cascade
    if not found:
        return ""
    right = "" if found.first_metric is None else f", with {found.first_metric:.1f} {entry.metric} on these"
    share = percent(known(found.answered_by_first))
    return f"Its first model, {found.first}, answers {share} of the validation rows{right}."


def percent(share: float) -> str:
    """A share, 0 to 1, in per cent."""
    return f"{100 * share:.0f} %"


def certificate_sentence(choice: Choice) -> str:
    """What the rows that nothing else has used say of the selected candidate."""
    chosen, found = choice.chosen, choice.certificate
    if found is None:
        drop = _loss(known(chosen.drop_validation), chosen.metric)
        return f"No rows were kept for a certificate: on validation, where it was selected, it {drop}."
    many = f"; {found.looks} candidates of this run were held against these rows" if found.looks > 1 else ""
    loses = "" if found.drop >= 0.05 else "loses "
    return (
        f"On {found.rows} {found.split} rows it {_loss(found.drop, chosen.metric)}, and {loses}not more "
        f"than {max(found.drop_upper_95, 0.0):.1f} points (95 % bound{many})."
    )


def _loss(drop: float, metric: str) -> str:
    if abs(drop) < 0.05:
        return f"has the same {metric}"
    return f"{'loses' if drop > 0 else 'gains'} {abs(drop):.1f} points of {metric}"


def saving(chosen: CandidateResult, noisy: bool) -> str:
    """What a million requests cost against the checkpoint in PyTorch, in per cent, with its 95 % interval."""
    against = known(chosen.cost_vs_baseline)
    ratio, (lo, hi) = against.ratio, against.ci
    if lo < 1 < hi:
        return f"its cost per million requests is between {100 * lo:.0f} and {100 * hi:.0f} % of the checkpoint's"
    less = ratio < 1
    near, far = sorted((100 * abs(1 - lo), 100 * abs(1 - hi)))
    word = "less" if less else "more"
    if noisy:
        return f"costs between {near:.0f} and {far:.0f} % {word} per million requests"
    return f"costs {100 * abs(1 - ratio):.0f} % {word} per million requests (95 %: {near:.0f} to {far:.0f})"


def nearest_sentence(choice: Choice) -> str | None:
    """Where nothing compressed could be selected: the candidate that came nearest, and what would settle it."""
    found = choice.nearest
    if found is None:
        return None
    text = (
        f"Nothing cheaper was shown to be good enough. The nearest is {found.name}: it lost "
        f"{found.drop_validation:.1f} points on {found.validation_rows} validation rows and could lose "
        f"{found.drop_upper:.1f} ({percent(choice.rule.confidence)} confidence)"
    )
    if found.rows_needed is None:
        return f"{text}; more rows would not help, its measured drop is over max_drop."
    return f"{text}; about {found.rows_needed:,} validation rows would settle it."


def bound_title(choice: Choice) -> str:
    """Head of the column that has drops and their bounds."""
    confidence = choice.rule.confidence
    return f"drop (< at {percent(confidence)})" if confidence else "drop (not tested)"


def bounded(entry: CandidateResult, choice: Choice) -> str:
    """Its cell: the measured drop, and the bound at the stated confidence."""
    drop = f"{entry.drop_validation:+.1f}"
    return f"{drop} (< {entry.drop_upper:.1f})" if choice.rule.confidence else drop


def why_not(entry: CandidateResult, choice: Choice) -> str:
    """Why a candidate was not selected, in few words."""
    rule, chosen = choice.rule, choice.chosen
    if entry.drop_validation is None or entry.cost_per_million is None:
        return entry.rejected_because or "not measured"
    if not RUNTIMES[entry.runtime].SPEC.in_bundles:
        return "needs torch"
    if entry.rejected_because is None:
        if entry.name in choice.tied_with:
            return "a tie with the chosen one"
        return "costs more" if entry.cost_per_million > known(chosen.cost_per_million) else "less value for money"
    if entry.rejected_for in LOST:
        more = "loses" if entry.drop_validation > rule.max_drop else "may lose"
        return f"{more} more than {rule.max_drop:g}"
    return entry.rejected_because


def control_warning(choice: Choice) -> str | None:
    """One line when the measurement was too noisy to carry a ratio."""
    if not choice.noisy:
        return None
    return (
        f"The machine was noisy: {choice.conditions.noisy_because}. Ratios are stated as ranges (95 %). Measure "
        "on a quieter machine, let it wait for quiet (latency.wait_s), or measure more processes."
    )


def data_notes(measurements: Measurements) -> list[str]:
    """What was done with the data without being asked; files by their names, for a report is handed on."""
    notes = measurements.notes
    for source in sorted(filter(os.path.isabs, measurements.data.values()), key=len, reverse=True):
        notes = [note.replace(source, Path(source).name) for note in notes]
    return notes


def card_lines(choice: Choice, currency: str) -> list[str]:
    """The decision card in sentences: other values of a point, other prices, other limits, what the run has cost."""
    card, chosen = choice.card, choice.chosen
    unit = f"{currency} per million requests and point"
    ranges = card.ranges
    if len(ranges) == 1:
        lines = [f"Whatever a point is worth, rule lambda would pick {ranges[0].name}."]
    else:
        parts = [f"{r.name} up to {r.to:.3g}" for r in ranges[:-1]] + [f"{ranges[-1].name} above"]
        lines = [f"By what a point is worth ({unit}), rule lambda would pick {', '.join(parts)}."]
    price, found = card.price_per_hour, []
    for change, word in ((price.lower, "at most"), (price.upper, "at least")):
        if change:
            found.append(f"at {word} {change.at:.3g} {_or_nothing(change.name)}")
    now = f"Price of the machine's hour, {price.now:g} {currency}"
    lines.append(
        f"{now}: {' and '.join(found)} would be picked."
        if found
        else f"{now}: a hundredth or a hundred times it would change nothing."
    )
    for limit in card.limits:
        moves = []
        if limit.tighter:
            sense = "above" if ">=" in limit.limit else "below"
            moves.append(f"{sense} {limit.tighter.at:.4g} {_or_nothing(limit.tighter.name)}")
        if limit.looser:
            moves.append(f"from {limit.looser.at:.4g} on {_or_nothing(limit.looser.name)}")
        if moves:
            head = limit.limit if limit.given else f"{limit.limit.split()[0]}, without a limit now"
            lines.append(f"{head}: {', '.join(moves)} would be picked.")
        elif limit.given:
            lines.append(f"{limit.limit}: no other value changes the pick.")
    if chosen.payback_requests is not None:
        days = f", {chosen.payback_days:.3g} days of the traffic" if chosen.payback_days is not None else ""
        lines.append(
            f"What it took to make it, {money(known(chosen.cost_parts).run)} {currency}, is saved after "
            f"{chosen.payback_requests:,.0f} requests{days}."
        )
    return lines


def hosts_line(hosts: Mapping[str, int]) -> str:
    """Which machines did the steps of a run, the one that measured first; empty for one machine."""
    if len(hosts) < 2:
        return ""
    counts = ", ".join(f"{name} ({count} steps)" for name, count in hosts.items())
    return f" Measured by {next(iter(hosts))}; machines of this run: {counts}."


def conditions_line(conditions: Conditions, what: str = "the checkpoint") -> str:
    """How it was measured: what the intervals cover, the control (of `what`), what else the machine did."""
    parts = [f"95 % intervals cover {conditions.covers}"]
    if conditions.control is not None:
        lo, hi = conditions.control.ratio_ci
        parts.append(f"control, {what} against itself: {conditions.control.ratio:.2f} [{lo:.2f}, {hi:.2f}]")
    busy = max((cores for cores in conditions.busy_before if cores is not None), default=None)
    if busy is not None:
        parts.append(f"other programs used up to {busy:.1f} cores before a sitting")
    if conditions.steal_share is not None:
        parts.append(f"{100 * conditions.steal_share:.1f} % of the CPU time was stolen by other guests")
    return "; ".join(parts)


def _or_nothing(name: str | None) -> str:
    return name or "nothing"


def table_rows(choice: Choice) -> Iterable[tuple[str, ...]]:
    """Cells of the table in Markdown, cheapest first: candidate, metric, drop, p50, speed-up, MB, cost, note."""
    for entry in by_cost(choice):
        if entry.metric_validation is None:
            size = "" if entry.size_mb is None else f"{entry.size_mb:.1f}"  # none where a step failed
            yield (entry.name, "", "", "", "", size, "", entry.rejected_because or "")
            continue
        yield (
            entry.name,
            f"{entry.metric_validation:.1f}",
            bounded(entry, choice),
            f"{known(entry.latency_ms).p50:.2f}",
            short_times(entry.speedup_vs_baseline, entry.speedup_ci, choice.noisy),
            f"{entry.size_mb:.1f}",
            money(known(entry.cost_per_million)),
            note(entry, choice),
        )


def by_cost(choice: Choice) -> list[CandidateResult]:
    """All candidates, cheapest first; those without a cost last. Their places are their numbers in the report."""
    return sorted(choice.candidates, key=lambda e: (e.cost_per_million is None, e.cost_per_million or 0.0))


def note(entry: CandidateResult, choice: Choice) -> str:
    """Why a candidate was not selected, or that it was, and what INT8 did to it; empty when it was in the race."""
    chosen = "chosen" if entry.name == choice.chosen.name else None
    lost = (entry.drop_validation or 0) > choice.rule.max_drop
    said = [chosen or entry.rejected_because, entry.why_worse if lost else None]
    return "; ".join(text for text in (*said, entry.int8_products, entry.why_slower) if text)


@dataclass(frozen=True)
class Trained:
    """A model that was trained: rows a second, seconds, and their share of the run, 0 to 1."""

    name: str
    rows_per_s: float
    s: float
    share: float


def learned(measurements: Measurements) -> list[Trained]:
    """Each model that was trained."""
    found = {}
    for entry in measurements.candidates:
        for name, made in entry.made.items():
            if made.training_s is not None:
                share = made.training_s / max(measurements.compression_s, 1e-9)
                found[name] = Trained(name, made.rows_per_s or 0.0, made.training_s, share)
    return list(found.values())


def trimmed(measurements: Measurements) -> dict[str, float]:
    """For each vocabulary that was trimmed the share of the tokens of validation, 0..1, that it no longer gives."""
    made = {name: result for entry in measurements.candidates for name, result in entry.made.items()}
    return {name: result.changed_tokens for name, result in made.items() if result.changed_tokens is not None}


def promises(choice: Choice) -> dict[str, Promise]:
    """What latency tables promised of pruned models and what was measured, by candidate."""
    return {entry.name: entry.promised_speedup for entry in choice.candidates if entry.promised_speedup}


def promise_kept(promise: Promise) -> str:
    """What the 95 % interval of the measured speed-up says of the promised one."""
    lo, hi = (100 * (measured / promise.promised - 1) for measured in promise.measured_ci)
    if lo > PROMISE or hi < -PROMISE:
        return f"missed (aim: within {PROMISE} %)"
    if lo >= -PROMISE and hi <= PROMISE:
        return f"within {PROMISE} %"
    return "the noise is too wide to tell"


def promise_line(name: str, promise: Promise) -> str:
    """What a pruning to a time promised and reached, in one sentence."""
    lo, hi = promise.measured_ci
    measured = f"between {lo:.2f} and {hi:.2f}x" if promise.noisy else f"{promise.measured:.2f}x [{lo:.2f}, {hi:.2f}]"
    return (
        f"{name}: the latency table promised {promise.promised:.2f}x of the unpruned model, measured "
        f"{measured}: {promise_kept(promise)}."
    )


def engines(measurements: Measurements) -> dict[str, Engine]:
    """Each TensorRT engine that was built, by candidate, whether this machine could run it or not."""
    found = {entry.name: entry.details and entry.details.engine for entry in measurements.candidates}
    return {name: engine for name, engine in found.items() if engine}


def int8_products(details: Details | None) -> str | None:
    """How many matrix products of an artefact were left in float; None where every one is INT8, or nothing was judged.

    Of a model with parts (a cascade, an encoder and a decoder), those of all parts together.
    """
    parts = [part for _, part in _int8_parts(details)]
    left = sum(len(part.left_in_float or ()) for part in parts)
    total = sum(part.products for part in parts)
    return f"{left} of {total} matrix products in float" if left else None


def int8_lines(details: Details | None) -> list[str]:
    """What INT8 costs an artefact against its float model, on calibration rows that judge; one line for each part."""
    lines = []
    for name, part in _int8_parts(details):
        found = part.int8_cost
        assert found is not None
        now = "no number" if found.after is None else f"{found.after:.2g}"
        error = "" if found.standard_error is None else f" ± {found.standard_error:.1g}"
        cost = f"{now}{error} points of {found.measure}"
        if found.unit != "points":
            cost = f"{found.measure} {now}{' nats a row' * (found.unit == 'nats a row')}"
        line = f"{name}{': ' * bool(name)}INT8 costs {cost} on {found.rows} rows"
        left = int8_products(part)
        lines.append(f"{line}, with {left} (all in INT8: {found.before or math.inf:.2g})" if left else line)
    return lines


def _int8_parts(details: Details | None, name: str = "") -> list[tuple[str, Details]]:
    """The details that say what INT8 costs, however deep: a cascade has those of its two models inside."""
    if details is None:
        return []
    if details.int8_cost is not None:
        return [(name, details)]
    return [part for key, inner in details.inner().items() for part in _int8_parts(inner, key)]


@dataclass(frozen=True)
class QualityTable:
    """Titles, and cells by candidate."""

    titles: list[str]
    rows: dict[str, list[str]]


def quality_table(choice: Choice) -> QualityTable:
    """Figures of quality beside the metric, without those that the chosen one has none of."""
    chosen = choice.chosen
    columns = {title: cell for title, (field, cell) in QUALITY.items() if getattr(chosen, field) is not None}
    further = {name: f"{{e.beside_validation[{name}]:.1f}}" for name in chosen.beside_validation or ()}
    columns = further | columns
    entries = [entry for entry in choice.candidates if entry.metric_validation is not None]
    return QualityTable(
        list(columns), {entry.name: [cell.format(e=entry) for cell in columns.values()] for entry in entries}
    )
