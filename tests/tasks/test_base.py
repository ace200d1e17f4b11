"""What every task answers for itself."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, make_checkpoint
from examples import bert

from paredown.compress.models.loading import open_checkpoint
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows


@pytest.mark.parametrize("name", list(TASKS))
def test_features_that_are_not_supported_say_why(name: str) -> None:
    task = TASKS[name]
    for feature, why in task.unsupported.items():
        assert not task.supports(feature)
        expected = re.escape(f"--x: {feature.value} is not supported for {name}: ")
        with pytest.raises(InputError, match=expected):
            task.require(feature, "--x")
        assert not why.endswith(".")


def test_rows_for_trials_are_of_the_kind_that_the_task_reads(tmp_path: Path) -> None:
    bert(tmp_path / "bert", labels=LABELS)
    encoder = open_checkpoint(tmp_path / "bert").encoder()
    one, two = TASKS["text-classification"].example_rows(encoder)
    assert len(encoder.ids([one])[0]) > len(encoder.ids([two])[0])
    assert all(row.count(PAIR) == 1 for row in TASKS["question-answering"].example_rows(encoder))
    assert TASKS["text-classification"].example_input(encoder).shape == (2, 16)
    images = TASKS["image-classification"]
    seen = make_checkpoint(tmp_path / "vit", "vit", layers=1).encoder()
    assert images.example_input(seen).shape == (2, 3, 16, 16)
    assert [row[:11] for row in images.example_rows(seen)] == ["data:image/"] * 2


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_random_rows_are_the_same_each_time(kind: str, tmp_path: Path) -> None:
    encoder = make_checkpoint(tmp_path, kind, layers=1).encoder()
    rows = encoder.random_rows(5, 20)
    for row, again in zip(rows, encoder.random_rows(5, 20), strict=True):
        np.testing.assert_array_equal(row, again)
    assert len(rows) == 5
    if kind == "bert":
        assert all(0 <= token < 20 for row in rows for token in row)
    else:
        assert all(row.shape == (1, 3, 16, 16) and row.dtype == np.float32 for row in rows)


def test_images_are_rows_of_image_classification_alone() -> None:
    with pytest.raises(InputError, match=r"^--image: the bundle is for text-classification; give --text"):
        TASKS["text-classification"].rows_of_images(["a.png"], "--image")
    with pytest.raises(InputError, match="give --image FILE"):
        TASKS["image-classification"].row_texts(["a text"])


def test_row_labels_are_the_one_label_of_each_row() -> None:
    rows = Rows("a.csv", ("a", "b"), np.array([1, 0]), LABELS, None)
    found = TASKS["text-classification"].row_labels(rows)
    assert found is not None
    assert found.tolist() == [1, 0]
    for name in ("multi-label-classification", "token-classification", "text-regression", "text-generation"):
        assert TASKS[name].row_labels(rows) is None


def test_outputs_have_a_line_for_each_row_or_token() -> None:
    ids = [[2, 5, 3], [2, 3]]
    assert TASKS["text-classification"].output_lines(ids) == 2
    assert TASKS["token-classification"].output_lines(ids) == 5
    assert TASKS["token-classification"].output_dims(-1, 4) == (-1, 4)
    assert TASKS["text-classification"].output_dims(-1, 4) == (4,)


def test_regret_is_what_the_other_model_gives_to_its_own_answer_more_than_to_ours() -> None:
    theirs = [np.log([0.7, 0.2, 0.1]), np.log([0.5, 0.4, 0.1])]
    same, other = np.array([9.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    assert TASKS["text-classification"].regrets([same, other], theirs) == pytest.approx([0.0, 0.1])
    tokens = [np.stack([theirs[0], theirs[1]])]
    ours = [np.stack([other, same])]  # one token of two is answered otherwise
    assert TASKS["token-classification"].regrets(ours, tokens) == pytest.approx([0.25])


def test_regret_of_numbers_and_vectors_is_their_distance() -> None:
    for name in ("text-regression", "sentence-embedding"):
        task = TASKS[name]
        ours, theirs = [np.array([1.0]), np.array([2.0])], [np.array([1.5]), np.array([-2.0])]
        np.testing.assert_allclose(task.regrets(ours, theirs), task.distances(ours, theirs))


def test_regret_of_several_labels_counts_each() -> None:
    yes, no = np.log(0.8 / 0.2), np.log(0.3 / 0.7)
    found = TASKS["multi-label-classification"].regrets([np.array([yes, -no])], [np.array([yes, no])])
    assert found == pytest.approx([(0.7 - 0.3) / 2])
