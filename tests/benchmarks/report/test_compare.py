import pytest
from candidates import JUDGED, candidate, choice_of, measured, result

from paredown.benchmarks.report.compare import Run, compared
from paredown.benchmarks.selection.choice import Latency
from paredown.runtime.errors import InputError

BASE = "teacher/pytorch/fp32"
LATENCY = Latency(p50=1.0, p95=2.0, p99=3.0, mean=1.1, n=100, p50_ci=(0.9, 1.1))


def run(name: str, lost: int, *others: str, **changes) -> Run:
    """A run that selected `a`, which is wrong on `lost` test rows that the checkpoint has right."""
    chosen = "a/onnxruntime/int8-dynamic"
    entries = [candidate(chosen, 1.0, lost, lost), *(candidate(other, 1.0) for other in others)]
    figures = {"metric_validation": 80.0, "drop_validation": 0.25 * lost, "drop_upper": 1.5, "size_mb": 10.0}
    figures |= {"speedup_vs_baseline": 9.0, "speedup_ci": (8.0, 10.0), "cost_per_million": 0.02, "latency_ms": LATENCY}
    results = [result(each, **figures) for each in (chosen, *others)]
    return Run(name, measured(*entries, **changes), choice_of(results[0], result(BASE), candidates=results))


def test_the_same_test_rows_are_compared_in_pairs() -> None:
    text = compared(run("old", 20), run("new", 4, "b/onnxruntime/fp32"))
    assert f"On the same {JUDGED} test rows new is better: +4.00 points [+" in text
    assert "| a/onnxruntime/int8-dynamic | 5.0 (< 1.5) -> 1.0 (< 1.5) | 9.0x -> 9.0x | 10.0 -> 10.0 |" in text
    assert "Only in new: b/onnxruntime/fp32." in text
    assert "Only in old" not in text
    assert "no different within the noise: +0.25 points" in compared(run("old", 5), run("new", 4))


def test_what_differs_is_said() -> None:
    machine = {"cpu": "another", "cores": 8, "versions": {"onnxruntime": "1.31"}}
    text = compared(run("old", 5), run("new", 4, test_digest="b", machine=machine))
    assert "did not see the same rows" in text
    assert "Another machine: , 2 cores; another, 8 cores." in text
    assert "Other versions: onnxruntime None -> 1.31." in text
    looser = run("new", 4)
    rule = looser.choice.rule.model_copy(update={"max_drop": 2.0, "confidence": 0.0})
    text = compared(run("old", 5), Run("new", looser.measurements, looser.choice.model_copy(update={"rule": rule})))
    assert "Another rule: max_drop 1.0 -> 2.0, confidence 0.8 -> 0.0." in text
    assert "| a/onnxruntime/int8-dynamic | 1.2 (< 1.5) -> 1.0 | 9.0x" in text
    with pytest.raises(InputError, match="new: metric f1; old has accuracy"):
        compared(run("old", 5), run("new", 4, metric="f1"))


def test_a_candidate_that_failed_in_one_of_them_is_a_row() -> None:
    new = run("new", 5)
    failed = result("a/onnxruntime/int8-dynamic", rejected_because="export failed")
    new = Run("new", new.measurements, new.choice.model_copy(update={"candidates": [failed]}))
    assert "| a/onnxruntime/int8-dynamic | 1.2 (< 1.5) -> not evaluated | 9.0x -> " in compared(run("old", 5), new)


def test_other_validation_rows_with_the_same_labels_are_no_pairs() -> None:
    same = {"gold_validation": [0, 1], "data": {"validation": "v.csv"}, "golden_texts": ["a"]}
    old = run("old", 5, test_digest=None, **same)
    assert "On the same 400 validation rows" in compared(old, run("new", 4, test_digest=None, **same))
    other = run("new", 4, test_digest=None, **{**same, "golden_texts": ["b"]})
    assert "did not see the same rows" in compared(old, other)
