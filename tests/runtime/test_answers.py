"""What outputs say, for people: ends of an answer, scores."""

import numpy as np
import pytest

from paredown.runtime.answers import LONGEST, best_scores, classes, likeliest_part, several_labels


def test_the_end_is_not_before_the_start_and_not_far_behind_it() -> None:
    places = np.array([[-1, -1], *([i, i + 1] for i in range(40))])
    logits = np.full((41, 2), -5.0)
    logits[10, 0], logits[5, 1], logits[12, 1] = 5, 6, 4
    assert likeliest_part(logits, places)[:2] == (9, 12)
    logits[12, 1], logits[40, 1] = -5, 9  # 31 tokens
    start, end, _ = likeliest_part(logits, places)
    assert (start, end) != (9, 40)
    assert end - start <= LONGEST
    logits[0] = 20
    assert likeliest_part(logits, places)[:2] == (0, 0)
    assert likeliest_part(logits[:1], places[:1])[:2] == (0, 0)  # nothing of the context is left


def test_scores_of_one_label_and_of_several() -> None:
    logits = np.array([[0.0, np.log(3.0)]])
    (one,) = classes(logits, ("a", "b"))
    assert one == {"label": "b", "score": pytest.approx(0.75), "scores": pytest.approx({"a": 0.25, "b": 0.75})}
    (several,) = several_labels(np.array([[2.0, -2.0]]), ("a", "b"))
    assert several["labels"] == ["a"]
    assert sum(several["scores"].values()) == pytest.approx(1.0)


def test_the_best_scores_come_first() -> None:
    answer = {"label": "b", "score": 0.6, "scores": {"a": 0.1, "b": 0.6, "c": 0.3}}
    assert list(best_scores(answer, 2)["scores"].items()) == [("b", 0.6), ("c", 0.3)]
    assert list(best_scores(answer, 9)["scores"]) == ["b", "c", "a"]
    assert best_scores(answer, None) is answer
    assert best_scores({"value": 1.5}, 2) == {"value": 1.5}
