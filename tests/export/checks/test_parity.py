import numpy as np
import pytest

from paredown.export.checks.parity import TOLERANCES, Tolerance, compare, gate
from paredown.runtime.errors import StepError
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
    from paredown.export.artifact import PRECISIONS

    assert {p for ps in PRECISIONS.values() for p in ps} == set(TOLERANCES)
