import numpy as np
import pytest

from paredown.compress.models.loading import Checkpoint
from paredown.export.checks.parity import TOLERANCES, Expected, Tolerance, compare, gate, longest_row, takes_longest
from paredown.runtime.errors import StepError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS

TASK = TASKS["text-classification"]
THEIRS = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [0.0, 1.0]], dtype=np.float32)
GOLD = np.array([0, 1, 0, 0])


def test_what_is_compared() -> None:
    ours = THEIRS.copy()
    ours[2] = [0.5, 1.0]
    parity = compare(ours, THEIRS, GOLD, TASK)
    assert parity.max_difference == 0.5
    assert parity.mean_difference == pytest.approx(1 / 8)
    assert parity.agreement == 0.75
    assert parity.metric_drop == 25.0
    gate(parity, Tolerance(None, 0.7, 30), "x", "int8-static")


def test_rows_of_several_labels_agree_where_all_of_them_do() -> None:
    task = TASKS["multi-label-classification"]
    ours = np.array([[1.0, 1.0], [-1.0, 1.0]], dtype=np.float32)
    theirs = np.array([[2.0, 3.0], [1.0, 2.0]], dtype=np.float32)
    assert compare(ours, theirs, np.ones((2, 2)), task).agreement == 0.5


@pytest.mark.parametrize(
    ("tolerance", "word"),
    [
        (Tolerance(0.4, 0, 100), r"max logit difference 0\.5 > 0\.4"),
        (Tolerance(None, 0.8, 100), r"agreement 0\.7500 < 0\.8"),
        (Tolerance(None, 0, 5), r"metric drop 25\.00 > 5 points"),
    ],
)
def test_each_limit_fails_the_step_and_names_the_knob(tolerance: Tolerance, word: str) -> None:
    ours = THEIRS.copy()
    ours[2] = [0.5, 1.0]
    with pytest.raises(StepError, match=word + r".*parity\.fp32"):
        gate(compare(ours, THEIRS, GOLD, TASK), tolerance, "x", "fp32")


def test_a_logit_that_is_not_finite_never_passes() -> None:
    ours = THEIRS.copy()
    ours[0, 1] = np.nan
    with pytest.raises(StepError, match="not finite"):
        gate(compare(ours, THEIRS, GOLD, TASK), Tolerance(None, 0, 100), "x", "int8-dynamic")


def test_every_precision_has_limits() -> None:
    from paredown.export.runtimes.registry import RUNTIMES

    assert {p for runtime in RUNTIMES.values() for p in runtime.SPEC.all_precisions} == set(TOLERANCES)


@pytest.mark.parametrize(
    ("second", "texts"), [(False, ()), (False, ["a good film"]), (True, [f"a film{PAIR}the plot"])]
)
@pytest.mark.parametrize("longest", [64, 5, 17])
def test_a_row_of_exactly_the_promised_length(
    teacher: Checkpoint, second: bool, texts: list[str], longest: int
) -> None:
    row = longest_row(teacher.encoder(longest), texts, second=second)
    assert row is not None
    assert len(row) == longest
    assert row.count(3) == 1 + second


def test_no_text_becomes_long_where_the_tokenizer_knows_none(teacher: Checkpoint) -> None:
    assert longest_row(teacher.encoder(64), ["", " "], second=False) is None


def test_what_does_not_take_the_promised_length_fails(teacher: Checkpoint) -> None:
    encoder = teacher.encoder(64)
    row = longest_row(encoder, ["a good film"], second=False)
    wanted = np.array([[1.0, 2.0]], dtype=np.float32)

    def short(batch: dict) -> dict:
        if batch["input_ids"].shape[1] > 63:
            raise RuntimeError("[ONNXRuntimeError] : Gather node: indices element out of data bounds, idx=66")
        return {"logits": wanted}

    def run(session, most: float | None = None):
        expected = Expected(wanted, Tolerance(most, 0, 100))
        return takes_longest(session, row, encoder, TASK, "x/onnxruntime/fp32", expected)

    with pytest.raises(StepError, match=r"does not take a text of 64 tokens, its max_length: .*idx=66"):
        run(short)
    with pytest.raises(StepError, match="not finite for a text of 64 tokens"):
        run(lambda batch: {"logits": wanted * np.nan})
    with pytest.raises(StepError, match=r"from its checkpoint, > 0\.4 \(max_difference\).*parity\.fp32"):
        run(lambda batch: {"logits": wanted + 0.5}, 0.4)
    found = run(lambda batch: {"logits": wanted + 0.5})
    np.testing.assert_array_equal(found, wanted + 0.5)
    assert takes_longest(short, None, encoder, TASK, "x") is None
