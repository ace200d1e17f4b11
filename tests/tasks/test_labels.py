"""A label column is read in one way, or refused: names or indices, whatever spelling a table has for them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from paredown.compress.data import dataset
from paredown.runtime.errors import InputError
from paredown.tasks.columns import LABELS, TEXT, WORDS, Columns

STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


def read(tmp_path: Path, names: tuple[str, ...], cells: list, columns: Columns = TEXT) -> list:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "a good film", "labels": cell}) + "\n" for cell in cells))
    return [np.asarray(label).tolist() for label in dataset.read(str(file), names=names, columns=columns).gold]


def label_names(tmp_path: Path, cells: list[str], columns: Columns = TEXT) -> tuple[str, ...]:
    file = tmp_path / "rows.csv"
    file.write_text("text,labels\n" + "".join(f"a film,{cell}\n" for cell in cells))
    return dataset.label_names(str(file), columns=columns)


@pytest.mark.parametrize(
    ("names", "cells", "expected"),
    [
        (("negative", "positive"), [0.0, 1.0], [0, 1]),  # a pandas column that once had a hole
        (("negative", "positive"), ["0.0", "1.0"], [0, 1]),
        (("negative", "positive"), [False, True], [0, 1]),
        (("negative", "positive"), ["False", "TRUE"], [0, 1]),
        (("LABEL_0", "LABEL_1"), [True, False], [1, 0]),
        (("negative", "positive"), ["positive", 0], [1, 0]),
        ((" negative", "positive "), ["negative", " positive"], [0, 1]),
        (("1", "2", "3"), [1, 2.0, "3"], [0, 1, 2]),
        (("4", "3", "2", "1"), [1, 2, 3, 4], [3, 2, 1, 0]),
        (("1.0", "0.0"), [1, 0], [0, 1]),
        (("0", "1"), [True, 1.0, "0"], [1, 1, 0]),
        (("True", "False"), [True, "false"], [0, 1]),
        (("false", "true"), [1, 0], [1, 0]),
        (("01", "02"), ["02", "01"], [1, 0]),
        (STARS, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (("covid19", "flu"), [0, 1], [0, 1]),
        (("a", "nan"), ["nan", "a"], [1, 0]),
    ],
)
def test_one_label_in_every_spelling(tmp_path: Path, names: tuple[str, ...], cells: list, expected: list) -> None:
    assert read(tmp_path, names, cells) == expected


@pytest.mark.parametrize(
    ("names", "cells", "words"),
    [
        (("1", "2", "3", "4", "5"), [0, 1, 2, 3, 4], "'0' can only be an index, and '1', '2'"),
        (("1", "2", "3", "4", "5"), [0.0, 1.0], "'0.0' can only be an index"),
        (("0", "2"), ["0", "2", "1"], "'1' can only be an index"),
        (STARS, [1, 2, 3, 4], "1 can be the label '1 star' or the one with index 1, '2 stars'"),
        (("true", "false"), [0, 1], "0 can be the label 'false' or the one with index 0, 'true'"),
        (("a", "b"), ["a", math.nan], "line 2: column 'labels' is empty"),
        (("a", "b"), ["a", None], "line 2: column 'labels' is empty"),
        (("a", "b"), ["a", "nan"], "unknown label 'nan'.*missing label"),
        (("a", "b"), ["a", math.inf], "inf is not a label"),
        (("a", "b"), [["a"]], "one label is expected"),
        (("a", "b"), ["a", 0.5], "unknown label '0.5'"),
        (("a", "b"), [-1, 1], "unknown label '-1'"),
    ],
)
def test_two_readings_or_none(tmp_path: Path, names: tuple[str, ...], cells: list, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, names, cells)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([[0], [0, 1]], [[1, 0], [1, 1]]),
        ([["a"], ["b", "a"], []], [[1, 0], [1, 1], [0, 0]]),
        ([[0.0], [1.0]], [[1, 0], [0, 1]]),
        (["a;b", ""], [[1, 1], [0, 0]]),
    ],
)
def test_lists_of_labels(tmp_path: Path, cells: list, expected: list) -> None:
    assert read(tmp_path, ("a", "b"), cells, LABELS) == expected


@pytest.mark.parametrize(
    "cells", [[[1, 0], [0, 1]], [[0, 1], []], ["1;0", "0;1"], [[1.0, 0.0]], [["0", "1"], ["1", "0"]]]
)
@pytest.mark.parametrize("names", [("a", "b"), ("0", "1")])
def test_zeros_and_ones_are_no_list_of_labels(tmp_path: Path, names: tuple[str, ...], cells: list) -> None:
    with pytest.raises(InputError, match="a 0 or 1 for every label"):
        read(tmp_path, names, cells, LABELS)
    with pytest.raises(InputError, match="a 0 or 1 for every label"):
        dataset.label_names(str(tmp_path / "rows.jsonl"), columns=LABELS)


@pytest.mark.parametrize("cells", [[[1, 0, 1]], [[0], [1]], [[True, False]], [[0.5]], [[None]]])
def test_other_lists_that_are_no_labels(tmp_path: Path, cells: list) -> None:
    with pytest.raises(InputError, match=r"a 0 or 1 for every label|unknown label"):
        read(tmp_path, ("a",), cells, LABELS)


def test_tags_are_decided_like_labels(tmp_path: Path) -> None:
    assert read(tmp_path, ("O", "B-x"), [["O", "B-x", "O"]], WORDS) == [[0, 1, 0]]
    assert read(tmp_path, ("O", "B-x"), [[0.0, 1.0, 0.0]], WORDS) == [[0, 1, 0]]
    with pytest.raises(InputError, match="'0' can only be an index"):
        read(tmp_path, ("1", "2"), [[0, 1, 1]], WORDS)


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["1.0", "0.0"], ("0", "1")),
        (["1.0", "0"], ("0", "1")),
        (["True", "False"], ("False", "True")),
        (["10", "9"], ("9", "10")),
        (["02", "10", "01"], ("01", "02", "10")),
        (["1.0", "2.5"], ("1.0", "2.5")),
    ],
)
def test_names_for_a_new_head(tmp_path: Path, cells: list[str], names: tuple[str, ...]) -> None:
    assert label_names(tmp_path, cells) == names


@pytest.mark.parametrize("cells", [["a", "nan"], ["a", "NaN"], ["a", ""], ["0", "<NA>"], ["a", "NaT"]])
def test_a_missing_label_is_no_class(tmp_path: Path, cells: list[str]) -> None:
    with pytest.raises(InputError, match="is empty"):
        label_names(tmp_path, cells)


@pytest.mark.parametrize("cells", [["true", "True"], ["True", "1"]])
def test_one_class_in_two_spellings(tmp_path: Path, cells: list[str]) -> None:
    with pytest.raises(InputError, match="one label in two spellings"):
        label_names(tmp_path, cells)
