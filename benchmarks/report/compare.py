"""Two runs beside each other, as Markdown: what each selected, and the candidates that both have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paredown.runtime.errors import InputError

from ..measurements import Measurements, correct_rows
from ..selection.choice import CandidateResult, Choice, known
from ..statistics.metric_intervals import drop_interval, paired_drop
from .text import money, short_times


@dataclass(frozen=True)
class Run:
    """A run and its name in the comparison."""

    name: str
    measurements: Measurements
    choice: Choice


def compared(old: Run, new: Run) -> str:
    """The comparison of `new` with `old`. InputError where their tasks or metrics differ."""
    for what, ours, theirs in (
        ("task", old.measurements.task, new.measurements.task),
        ("metric", old.measurements.metric, new.measurements.metric),
    ):
        if ours != theirs:
            raise InputError(f"{new.name}: {what} {theirs}; {old.name} has {ours}: nothing to compare")
    lines = [
        f"**{new.name} against {old.name}**",
        "",
        *(f"- {line}" for line in (*_quality(old, new), *_caveats(old, new))),
    ]
    lines += ["", f"| | {old.name} | {new.name} |", "| --- | --- | --- |"]
    lines += [f"| {title} | {figure(old)} | {figure(new)} |" for title, figure in _FIGURES.items()]
    before, after = ({entry.name: entry for entry in run.choice.candidates} for run in (old, new))
    lines += ["", "| candidate in both | loss, points | times PyTorch | MB |", "| --- | --- | --- | --- |"]
    for name in (name for name in after if name in before):
        cells = [f"{cell(old, before[name])} -> {cell(new, after[name])}" for cell in (_loss, _speedup, _size)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for run, mine, theirs in ((old, before, after), (new, after, before)):
        only = [name for name in mine if name not in theirs]
        lines += ["", f"Only in {run.name}: {', '.join(only)}."] if only else []
    return "\n".join([*lines, ""])


def _quality(old: Run, new: Run) -> list[str]:
    """The paired difference of what was selected, on the test rows where both saw the same, else on validation."""
    ours, theirs = (run.measurements.entry(run.choice.chosen.name) for run in (old, new))
    tested = old.measurements.test_digest == new.measurements.test_digest is not None
    for split, same, one, two in (
        ("test", tested, ours.correct_test, theirs.correct_test),
        ("validation", _same_validation(old, new), ours.correct_validation, theirs.correct_validation),
    ):
        before, after = correct_rows(one), correct_rows(two)
        if same and before is not None and after is not None:
            drop, _ = paired_drop(before, after)
            low, high = drop_interval(before, after)
            what = "better" if high < 0 else "worse" if low > 0 else "no different within the noise"
            points = f"{0.0 - drop:+.2f} points [{-high:+.2f}, {-low:+.2f}] (95 %, paired)"
            return [f"On the same {len(before)} {split} rows {new.name} is {what}: {points}."]
    return ["The two did not see the same rows: their metrics are not paired."]


def _same_validation(old: Run, new: Run) -> bool:
    """The same file, labels and first texts."""
    one, two = (
        (m.data.get("validation"), m.rows.validation, m.gold_validation, m.golden_texts)
        for m in (old.measurements, new.measurements)
    )
    return one == two and one[0] is not None


def _caveats(old: Run, new: Run) -> list[str]:
    """What else differs, and how to compare times."""
    one, two = old.measurements.machine, new.measurements.machine
    lines = []
    if (one.cpu, one.cores) != (two.cpu, two.cores):
        lines.append(f"Another machine: {one.cpu}, {one.cores} cores; {two.cpu}, {two.cores} cores.")
    changed = [
        f"{name} {one.versions.get(name)} -> {v}" for name, v in two.versions.items() if one.versions.get(name) != v
    ]
    ours, theirs = (
        run.choice.rule.model_dump() | {"price_per_hour": run.measurements.prices.price_per_hour} for run in (old, new)
    )
    rules = [f"{key} {ours[key]} -> {theirs[key]}" for key in ours if ours[key] != theirs[key]]
    lines += [f"Another rule: {', '.join(rules)}."] if rules else []
    lines += [f"Other versions: {', '.join(changed)}."] if changed else []
    lines += [f"{run.name} was measured on a noisy machine." for run in (old, new) if run.choice.noisy]
    bundles = f"{old.name}/bundle {new.name}/bundle"
    return [*lines, f"Times of two runs are of two hours; `paredown bench {bundles} --data ROWS` times both in one."]


def _loss(run: Run, entry: CandidateResult) -> str:
    if entry.metric_validation is None:
        return "not evaluated"
    upper = f" (< {entry.drop_upper:.1f})" if run.choice.rule.confidence and entry.drop_upper is not None else ""
    return f"{known(entry.drop_validation):.1f}{upper}"


def _speedup(run: Run, entry: CandidateResult) -> str:
    return (
        "" if entry.latency_ms is None else short_times(entry.speedup_vs_baseline, entry.speedup_ci, run.choice.noisy)
    )


def _size(run: Run, entry: CandidateResult) -> str:
    return "" if entry.size_mb is None else f"{entry.size_mb:.1f}"


def _certificate(run: Run) -> str:
    found = run.choice.certificate
    if found is None:
        return "none"
    lost = f"loses {found.drop:.1f} (< {found.drop_upper_95:.1f})"
    return f"{found.metric:.1f} on {found.rows} {found.split} rows, {lost}"


def _chosen(cell: Callable[[Run, CandidateResult], str]) -> Callable[[Run], str]:
    return lambda run: cell(run, run.choice.chosen)


_FIGURES: dict[str, Callable[[Run], str]] = {
    "selected": lambda run: run.choice.chosen.name,
    "certificate": _certificate,
    "loss on validation": _chosen(_loss),
    "times PyTorch": _chosen(_speedup),
    "times plain INT8": _chosen(
        lambda run, e: short_times(e.speedup_vs_plain_int8, e.speedup_vs_plain_int8_ci, run.choice.noisy)
    ),
    "MB": _chosen(_size),
    "cost per million": _chosen(
        lambda run, e: f"{money(known(e.cost_per_million))} {run.measurements.prices.currency}"
    ),
    "minutes": lambda run: f"{run.measurements.compression_s / 60:.1f}",
}
