"""One candidate for machines of several kinds; every case is a choice of each machine, made from its numbers."""

from candidates import candidate, measured

from paredown.benchmarks.measurements import CandidateMeasurement
from paredown.benchmarks.selection.choice import Choice
from paredown.benchmarks.selection.one_for_all import OneForAll, one_for_all
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.pipeline.results.publish import decide

SMALL, MIDDLE, LARGE = (f"{name}/onnxruntime/fp32" for name in ("small", "middle", "large"))


def chosen(*candidates: CandidateMeasurement, **settings: object) -> Choice:
    return decide(measured(*candidates), ChooseSettings.model_validate({"max_drop": 2, **settings}))


def found(models: dict[str, dict[str, str]] | None = None, **choices: Choice) -> OneForAll:
    """`models`: those that are others on a machine than elsewhere."""
    made = {machine: {entry.name: entry.name for entry in choice.candidates} for machine, choice in choices.items()}
    for machine, others in (models or {}).items():
        made[machine] |= others
    return one_for_all(choices, made, {})


def three(small: float, middle: float, large: float, **settings: object) -> Choice:
    """The machine's choice among three candidates, by the milliseconds of each."""
    return chosen(candidate(SMALL, small, 2), candidate(MIDDLE, middle, 1), candidate(LARGE, large), **settings)


def test_where_every_machine_has_the_same_choice_it_is_that_one() -> None:
    one = found(edge=three(1.0, 2.0, 4.0), server=three(0.5, 2.0, 4.0))
    assert (one.name, one.why) == (SMALL, "every machine's own choice")
    assert {name: (on.cost_vs_own, on.costs_tie, on.own) for name, on in one.machines.items()} == {
        "edge": (1.0, True, SMALL), "server": (1.0, True, SMALL)
    }  # fmt: skip


def test_else_it_is_the_one_that_loses_least_where_it_loses_most() -> None:
    """The fastest of each machine costs the other one twice and three times as much; the second of both 1.3 times."""
    edge, server = three(1.0, 1.3, 3.0), three(2.0, 1.3, 1.0)
    one = found(edge=edge, server=server)
    assert (edge.chosen.name, server.chosen.name, one.name) == (SMALL, LARGE, MIDDLE)
    assert {name: round(on.cost_vs_own, 1) for name, on in one.machines.items()} == {"edge": 1.3, "server": 1.3}
    assert [on.costs_tie for on in one.machines.values()] == [False, False]
    assert one.machines["edge"].drop_validation == 0.25
    assert "3 candidates" in one.why
    assert one.against.keys() == {"teacher/pytorch/fp32"}


def test_a_limit_that_one_machine_sets_against_it_counts() -> None:
    """p95 of the small one is too long on the edge; the middle one is left."""
    limits = {"budgets": {"p95_ms": 2.5}}
    one = found(edge=three(4.0, 2.0, 8.0, **limits), server=three(0.5, 1.0, 2.0, **limits))
    assert one.name == MIDDLE
    assert "p95_ms" in one.against[SMALL]["edge"]
    assert one.against[SMALL].keys() == {"edge"}


def test_where_there_is_none_it_says_what_is_against_the_nearest() -> None:
    """The edge has time for the small one alone, which loses too much on the server."""
    limits = {"budgets": {"p95_ms": 2.5}}
    edge = chosen(candidate(SMALL, 1.0, 1), candidate(LARGE, 9.0), **limits)
    server = chosen(candidate(SMALL, 1.0, 40), candidate(LARGE, 2.0), **limits)
    one = found(edge=edge, server=server)
    assert (one.name, one.machines) == (None, {})
    assert one.why.startswith(f"no candidate satisfies the rule on every machine; the nearest is {SMALL}; on server: ")
    assert "loses 10.00 points, max_drop is 2" in one.why
    assert one.against[LARGE].keys() == {"edge"}


def test_models_that_are_pruned_to_a_time_are_others_on_each_machine() -> None:
    """Under one name; and one model under two names, as a search may give it, is the same."""
    edge, server = three(1.0, 2.0, 4.0), three(1.0, 2.0, 4.0)
    other = {"server": {SMALL: "of the server", MIDDLE: "of the server too"}}
    one = found(other, edge=edge, server=server)
    assert one.name == LARGE
    assert round(one.machines["edge"].cost_vs_own, 1) == 4.0
    none = found({"server": {entry.name: entry.name + "!" for entry in server.candidates}}, edge=edge, server=server)
    assert (none.name, none.why) == (None, "no candidate that may be selected is the same model on every machine")
    renamed = found({"server": {SMALL: MIDDLE, MIDDLE: SMALL}}, edge=edge, server=three(2.0, 1.0, 4.0))
    assert {name: on.name for name, on in renamed.machines.items()} == {"edge": SMALL, "server": MIDDLE}


def test_rule_lambda_weighs_value_and_rule_knee_takes_its_ties() -> None:
    worth = {"rule": "lambda", "value_per_point": 100.0}
    edge, server = three(1.0, 1.1, 1.2, **worth), three(1.0, 1.1, 1.2, **worth)
    assert found(edge=edge, server=server).name == edge.chosen.name
    poor = chosen(candidate(SMALL, 1.0, 40), candidate(LARGE, 1.5), **worth)
    assert found(edge=poor, server=chosen(candidate(SMALL, 1.0), candidate(LARGE, 1.5), **worth)).name == LARGE
    knee = {"rule": "knee", "confidence": 0}
    edge = chosen(candidate(SMALL, 1.0, 80), candidate(MIDDLE, 2.0, 4), candidate(LARGE, 9.0), **knee)
    server = chosen(candidate(SMALL, 1.0), candidate(MIDDLE, 5.0, 40), candidate(LARGE, 9.0, 80), **knee)
    assert (edge.chosen.name, server.chosen.name) == (MIDDLE, SMALL)
    one = found(edge=edge, server=server)
    assert one.name is None
    assert f"not at the knee of the frontier, which is {MIDDLE}" in str(one.against)


def test_a_machine_without_a_choice_leaves_none() -> None:
    choice = three(1.0, 2.0, 4.0)
    one = one_for_all({"server": choice}, {"server": {}}, {"edge": "no candidate keeps the budgets"})
    assert (one.name, one.why) == (None, "edge has no choice: no candidate keeps the budgets")
