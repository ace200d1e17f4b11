import pytest
from candidates import JUDGED, candidate, choice_of, measured, result

from paredown.benchmarks.report.figures import LETTERS, PERCENTILES, confusions, latencies, parts

STATIC, PRUNED = "static/onnxruntime/int8-dynamic", "pruned/onnxruntime/int8-dynamic"
INNER, OUTER = (
    "pruned-then-teacher/onnxruntime/int8-dynamic",
    "static-then-pruned-then-teacher/onnxruntime/int8-dynamic",
)
LAYERS = [{"heads": 1, "ffn": 320}, {"heads": 6, "ffn": 160}]


def joined(first: str, then: str) -> list:
    return [{"stage": "cascade", "first": first, "then": then, "max_drop": 1.0}]


def cascades():
    """A run whose cascade of three has a cascade behind its first model."""
    pruned = [{"stage": "prune", "speedup": 2.0, "recover": {"epochs": 1.4}}]
    return measured(
        candidate("teacher/onnxruntime/int8-dynamic", 4.0),
        candidate(STATIC, 0.1, steps=[{"stage": "static", "width": 128}]),
        candidate(PRUNED, 1.0, steps=pruned, parameters=14_800_000, made={"pruned-1-prune": {"layers": LAYERS}}),
        candidate(INNER, 2.0, steps=joined("pruned", "teacher")),
        candidate(OUTER, 0.5, steps=joined("static", INNER.split("/")[0]), details={"cascade": {"asked": [0.4, 0.1]}}),
    )


def test_a_cascades_models_in_the_order_in_which_a_row_meets_them() -> None:
    found = parts(cascades(), result(OUTER))
    assert [(part.name, part.asked) for part in found] == [("static", 1.0), ("pruned", 0.4), ("teacher", 0.1)]
    assert [part.made for part in found] == [
        "static (width 128)", "prune (speedup 2.0), trained 1.4 epochs", "the checkpoint",
    ]  # fmt: skip
    assert found[1].parameters == 14_800_000
    first, last = found[1].layers
    assert (first.heads, first.ffn, last.heads, last.ffn) == (1, 320, 6, 160)
    assert first.heads_px == pytest.approx(last.heads_px / 6)
    assert first.ffn_px == pytest.approx(2 * last.ffn_px)


def test_a_single_model_is_one_part() -> None:
    (part,) = parts(cascades(), result(STATIC))
    assert (part.name, part.asked, part.layers) == ("static", 1.0, [])


def test_latencies_share_one_axis() -> None:
    names = [STATIC, OUTER, "teacher/pytorch/fp32"]
    found = latencies(cascades(), choice_of(result(OUTER), result("teacher/pytorch/fp32")), names)
    assert found is not None
    assert [strip.name for strip in found.strips] == names
    assert [strip.chosen for strip in found.strips] == [False, True, False]
    for strip in found.strips:
        assert len(strip.ms) == len(PERCENTILES)
        assert strip.px == sorted(strip.px)
        assert found.left <= strip.px[0] <= strip.px[-1] <= found.width
        assert len(strip.label) <= LETTERS
    static, _, base = found.strips
    assert base.ms[2] / static.ms[2] == pytest.approx(100, rel=0.05)
    assert static.px[-1] < base.px[0]
    assert latencies(measured(), choice_of(result(), result()), []) is None


def test_confusions_of_the_chosen_one_beside_the_checkpoints() -> None:
    gold = [0] * 200 + [1] * (JUDGED - 200)
    ours, theirs = gold.copy(), gold.copy()
    ours[:30], ours[200:210], theirs[:12] = [1] * 30, [0] * 10, [1] * 12
    run = measured(candidate(STATIC, 0.1, predicted_validation=ours), gold_validation=gold)
    base = run.candidates[0].model_copy(update={"predicted_validation": theirs})
    run = run.model_copy(update={"candidates": [base, *run.candidates[1:]]})
    found = confusions(run, choice_of(result(STATIC), result("teacher/pytorch/fp32")))
    assert [(x.gold, x.predicted, x.rows, x.before) for x in found] == [("no", "yes", 30, 12), ("yes", "no", 10, 0)]
    assert confusions(cascades(), choice_of(result(STATIC), result("teacher/pytorch/fp32"))) == []


def test_layers_of_a_pruning_that_was_distilled_away_are_not_shown() -> None:
    steps = [{"stage": "prune", "speedup": 2.0, "recover": {}}, {"stage": "distill", "layers": 3}]
    made = {"pruned-1-prune": {"layers": LAYERS}}
    (part,) = parts(measured(candidate(PRUNED, 1.0, steps=steps, made=made)), result(PRUNED))
    assert part.layers == []
    assert part.made == "prune (speedup 2.0), trained 2 epochs; distill (layers 3)"
