"""One candidate for machines of several kinds: it satisfies the rule and every limit on all of them, if there is one.

A candidate is the same on two machines where its model before quantisation, its runtime and its precision are the same.
Its INT8 weights may differ: each kind of machine makes its own. Models that are pruned to a time are made for one kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ..measuring.records import Interval, Record
from .choice import CandidateResult, Choice, known

ONE_FOR_ALL_SCHEMA: Literal[1] = 1  # raised when a key is renamed, removed or changes its meaning


class OnMachine(Record):
    """The candidate on one machine, and that machine's own choice."""

    name: str = Field(description="the candidate's name in this machine's choice.json")
    cost_per_million: float
    cost_vs_own: float = Field(description="its cost by that of this machine's own choice; 1.05: 5 % more")
    costs_tie: bool = Field(description="the two costs are within the noise of their measurement (95 %)")
    speedup_vs_baseline: float | None
    speedup_ci: Interval | None
    noisy: bool
    drop_validation: float = Field(description="points")
    drop_upper: float = Field(description="the bound by which the rule judges, at its confidence, points")
    own: str = Field(description="name of this machine's own choice")


class OneForAll(Record):
    """The content of one_for_all.json."""

    version: Literal[1] = Field(default=ONE_FOR_ALL_SCHEMA, validation_alias="schema", serialization_alias="schema")
    name: str | None = Field(description="of the candidate; null where none satisfies the rule on every machine")
    why: str
    machines: dict[str, OnMachine] = Field(default={}, description="by the name that measure_on gives the machine")
    against: dict[str, dict[str, str]] = Field(
        default={}, description="why other candidates are not it: by candidate, then by machine"
    )


def one_for_all(
    choices: Mapping[str, Choice], models: Mapping[str, Mapping[str, str]], lost: Mapping[str, str]
) -> OneForAll:
    """`choices`: by machine, all under one rule. `models`: for each machine, by the name of a candidate, a key of its
    model before quantisation, its runtime and its precision. `lost`: machines without a choice, and why.

    Where all machines have chosen the same candidate it is that one. Else, of those that satisfy the rule everywhere,
    the one that loses least on the machine where it loses most: by rule `lambda` value less cost, by the others the
    ratio of its cost to that of the machine's own choice (a sum would weigh machines by their prices).
    """
    if lost:
        return OneForAll(name=None, why="; ".join(f"{name} has no choice: {why}" for name, why in lost.items()))
    found: dict[str, dict[str, CandidateResult]] = {}
    for machine, choice in choices.items():
        for entry in choice.candidates:  # of two models that are the same the first one
            found.setdefault(machine, {}).setdefault(models[machine][entry.name], entry)
    first = next(iter(found.values()))
    refusals: dict[str, dict[str, str]] = {}
    for model in (model for model in first if all(model in entries for entries in found.values())):
        reasons = {name: _refusal(found[name][model], choice) for name, choice in choices.items()}
        refusals[model] = {name: why for name, why in reasons.items() if why is not None}
    able = [model for model, reasons in refusals.items() if not reasons]
    against = {first[model].name: why for model, why in refusals.items() if why}
    if not able:
        return OneForAll(name=None, why=_nearest(refusals, found, choices), against=against)

    def loses(model: str) -> tuple[float, float, int]:
        entries = {name: found[name][model] for name in choices}
        own = all(entry.name == choices[name].chosen.name for name, entry in entries.items())
        most = max(_loss(entry, choices[name]) for name, entry in entries.items())
        return not own, most, len(first[model].steps)

    best = min(able, key=loses)
    if not loses(best)[0]:
        why = "every machine's own choice"
    elif len(able) == 1:
        why = "the only candidate that satisfies the rule on every machine"
    else:
        why = f"of the {len(able)} candidates that satisfy the rule on every machine the one that loses least to a "
        why += "machine's own choice, where it loses most"
    on = {name: _on(found[name][best], choice) for name, choice in choices.items()}
    return OneForAll(name=first[best].name, why=why, machines=on, against=against)


def _refusal(entry: CandidateResult, choice: Choice) -> str | None:
    """Why the rule does not let a machine have a candidate. Rule `knee` lets it have what ties with its choice."""
    if entry.rejected_because is not None:
        return entry.rejected_because
    if choice.rule.rule == "knee" and entry.name not in (choice.chosen.name, *choice.tied_with):
        return f"not at the knee of the frontier, which is {choice.chosen.name}"
    return None


def _loss(entry: CandidateResult, choice: Choice) -> float:
    """What a machine loses with a candidate in place of its own choice, in the terms of the rule."""
    ours, own, point = known(entry.cost_per_million), known(choice.chosen.cost_per_million), choice.rule.value_per_point
    if choice.rule.rule == "lambda" and point is not None:
        return ours - own + point * (known(entry.drop_upper) - known(choice.chosen.drop_upper))
    return ours / own


def _nearest(
    refusals: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Mapping[str, CandidateResult]],
    choices: Mapping[str, Choice],
) -> str:
    """Why there is none: what is against the candidate that the fewest machines refuse, the cheapest of these."""
    possible = [
        model for model in refusals if any(entries[model].rejected_for != "unable" for entries in found.values())
    ]
    if not possible:
        return "no candidate that may be selected is the same model on every machine"

    def far(model: str) -> tuple[int, float]:
        entries = {name: entries[model] for name, entries in found.items()}
        costs = [
            math.inf if entry.cost_per_million is None else _loss(entry, choices[name])
            for name, entry in entries.items()
        ]
        return len(refusals[model]), max(costs)

    model = min(possible, key=far)
    reasons = "; ".join(f"on {name}: {why}" for name, why in refusals[model].items())
    name = next(iter(found.values()))[model].name
    return f"no candidate satisfies the rule on every machine; the nearest is {name}; {reasons}"


def _on(entry: CandidateResult, choice: Choice) -> OnMachine:
    arrays = choice.card.cheapest
    ours, own = (arrays.names.index(name) for name in (entry.name, choice.chosen.name))
    return OnMachine(
        name=entry.name,
        cost_per_million=known(entry.cost_per_million),
        cost_vs_own=known(entry.cost_per_million) / known(choice.chosen.cost_per_million),
        costs_tie=arrays.costs_tie[ours][own],
        speedup_vs_baseline=entry.speedup_vs_baseline,
        speedup_ci=entry.speedup_ci,
        noisy=choice.noisy,
        drop_validation=known(entry.drop_validation),
        drop_upper=known(entry.drop_upper),
        own=choice.chosen.name,
    )
