"""Which labels of new rows are new: neither names nor indices of those that a model has."""

import pytest

from paredown.pipeline.steps.continual import new_labels
from paredown.runtime.errors import InputError


@pytest.mark.parametrize(
    ("known", "found", "wanted"),
    [
        (("bad", "good"), ("bad", "mixed"), ["mixed"]),
        (("bad", "good"), ("0", "1"), []),  # indices
        (("bad", "good"), ("1", "mixed"), ["mixed"]),
        (("bad", "good"), ("good", "2"), ["2"]),  # no index yet
        ((" bad", "good"), ("bad", "good"), []),
        (("LABEL_0", "LABEL_1"), ("LABEL_0", "LABEL_2"), ["LABEL_2"]),
        (("1", "2"), ("1", "2", "7"), ["7"]),
        (("1 star", "2 stars"), ("2 stars", "3 stars"), ["3 stars"]),
        (("True", "False"), ("True", "unsure"), ["unsure"]),
    ],
)
def test_new_labels(known: tuple[str, ...], found: tuple[str, ...], wanted: list[str]) -> None:
    assert new_labels(known, found, "new.csv") == wanted


def test_a_number_that_can_be_a_new_name_and_an_index_is_refused() -> None:
    with pytest.raises(InputError, match=r"new\.csv: '0' is a new label, or the index of '1'"):
        new_labels(("1", "2"), ("0", "1"), "new.csv")
    with pytest.raises(InputError, match="'1' is a new label, or the index of 'good'"):
        new_labels(("bad", "good"), ("1", "5"), "new.csv")
