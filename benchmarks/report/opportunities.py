"""What would allow a cheaper candidate than the selected one, and what that would gain."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paredown.export.runtimes.registry import RUNTIMES

from ..measurements import Measurements
from ..selection.choice import CandidateResult, Choice, Rule, known
from ..selection.constraints import gate_of
from ..selection.selection import ChooseSettings, rows_needed
from .text import LOST, factor, money

Wanted = tuple[str, CandidateResult, str]  # what to change, the candidate that it would allow, and how
SHOWN, LEAST_GAIN, MOST_ROWS, MOST_LOSS = 3, 1.05, 20.0, 3.0  # times cheaper; times the validation rows; of max_drop


@dataclass(frozen=True)
class Opportunity:
    """What to change, what it would gain, and how."""

    what: str
    gain: str
    how: str


def opportunities(measurements: Measurements, choice: Choice) -> list[Opportunity]:
    """A larger loss, more validation rows, more minutes of search. Of the first two those that gain something beyond
    the ones before; what more minutes gain nobody knows before."""
    currency = measurements.prices.currency
    found = [
        Opportunity(what, _gain(entry, choice, currency), how)
        for wanted in (_larger_loss(choice, measurements.choose), _more_rows(choice, measurements.rows.validation))
        for what, entry, how in _gaining(wanted, choice)
    ]
    search = measurements.search
    if search is not None and search.next and not search.next.startswith("little"):
        found.append(Opportunity("More minutes", "unknown", f"next in the search: {search.next}"))
    return found


def _gaining(wanted: Iterable[Wanted], choice: Choice) -> list[Wanted]:
    """Of what is wanted, the least first, those whose candidates are cheaper than the ones before; SHOWN at most."""
    found, best = [], _cost(choice.chosen)
    for what, entry, how in wanted:
        cost = _cost(entry)
        if best >= LEAST_GAIN * cost:
            best = cost
            found.append((what, entry, how))
    return found[:SHOWN]


def _larger_loss(choice: Choice, recipe: ChooseSettings) -> Iterator[Wanted]:
    """The cheapest candidate of each loss that would have to be allowed, up to MOST_LOSS times `max_drop` or a point
    more than it."""
    now, cheapest = choice.rule.max_drop, {}
    for entry in _cheaper(choice):
        most = math.ceil(round(10 * known(entry.drop_upper), 6)) / 10
        if most <= max(MOST_LOSS * now, now + 1) and _cost(entry) < _cost(cheapest.get(most, choice.chosen)):
            cheapest[most] = entry
    for most, entry in sorted(cheapest.items()):
        how = f"{choose_again(choice.rule, recipe, most)}; expected: {entry.name}"
        yield f"Allow a loss of {most:g} points", entry, how


def choose_again(rule: Rule, recipe: ChooseSettings, max_drop: float) -> str:
    """The command that selects by rule `cheapest` at another `max_drop`, and otherwise as `rule`, which need not be
    that of the recipe."""
    words = [f"paredown choose RUN_DIR --max-drop {max_drop:g}"]
    if recipe.rule != "cheapest":
        words.append("--rule cheapest")
    if recipe.confidence != rule.confidence:
        words.append(f"--confidence {rule.confidence:g}")
    theirs = _limits_by_figure(recipe.budgets.model_dump(exclude_none=True), recipe.gates)
    ours = _limits_by_figure(rule.budgets, rule.gates)
    for figure in sorted({*theirs, *ours}):
        lifted = bool(theirs.get(figure, set()) - ours.get(figure, set()))
        words += [f"--no-limit {figure}"] if lifted else []
        words += sorted(ours.get(figure, set()) - (set() if lifted else theirs.get(figure, set())))
    return " ".join(words)


def _limits_by_figure(budgets: Mapping[str, float], gates: Sequence[str]) -> dict[str, set[str]]:
    """The limits on each figure as options of `paredown choose`."""
    found: dict[str, set[str]] = {}
    for figure, value in budgets.items():
        found.setdefault(figure, set()).add(f"--{figure.replace('_', '-')} {value:g}")
    for gate in gates:
        found.setdefault(gate_of(gate).figure, set()).add(f"--gate {shlex.quote(gate)}")
    return found


def _cost(entry: CandidateResult) -> float:
    return known(entry.cost_per_million)


def _more_rows(choice: Choice, now: int) -> Iterator[Wanted]:
    """The cheaper candidates whose measured loss is allowed and whose bound is not, by the rows that could show it.
    `now`: the validation rows that there are."""
    wanted = []
    for entry in _cheaper(choice):
        if entry.rejected_for == "untested":  # its bound is that of the one before it
            continue
        drop = known(entry.drop_validation)
        rows = rows_needed(now, drop, known(entry.drop_upper), choice.rule.max_drop)
        if rows is not None and rows <= MOST_ROWS * now:
            wanted.append((rows, entry))
    for rows, entry in sorted(wanted, key=lambda pair: pair[0]):
        how = f"if {entry.name} loses {known(entry.drop_validation):.1f} points on these too"
        yield f"{rows:,} validation rows in place of {now:,}", entry, how


def _cheaper(choice: Choice) -> list[CandidateResult]:
    """Measured candidates that a bundle can hold, cheaper than the selected one, with a bound over `max_drop`."""
    if choice.rule.rule != "cheapest":
        return []
    return [
        entry
        for entry in choice.candidates
        if entry.drop_upper is not None
        and entry.cost_per_million is not None
        and RUNTIMES[entry.runtime].SPEC.in_bundles
        and _cost(entry) < _cost(choice.chosen)
        and entry.rejected_for in LOST
    ]


def _gain(entry: CandidateResult, choice: Choice, currency: str) -> str:
    """The costs; their ratio only where the run was not noisy."""
    now, then = _cost(choice.chosen), _cost(entry)
    text = f"{money(then)} {currency} per million requests instead of {money(now)}"
    text += "" if choice.noisy else f", {factor(now / then)} times less"
    return f"{text}; {entry.size_mb:.1f} MB instead of {choice.chosen.size_mb:.1f}"
