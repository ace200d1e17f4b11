"""A bundle in three lines. That each task answers as `predict` does is in tests/pipeline/test_every_task.py."""

from pathlib import Path

import pytest

from paredown.runtime import Model
from paredown.runtime.answers import ANSWERS
from paredown.runtime.model import DECODE
from paredown.runtime.selftest import BundleError


def test_one_text_or_several(finished: Path) -> None:
    model = Model(finished / "bundle")
    one, two = model(["a good film", "a bad film"])
    assert one.keys() == {"label", "score", "scores"}
    assert {one["label"], two["label"]} <= set(model.labels)
    assert model("a good film")["scores"] == pytest.approx(one["scores"], abs=1e-2)
    assert model("a good film", top_k=1)["scores"] == pytest.approx({one["label"]: one["score"]}, abs=1e-2)
    assert model([]) == []
    texts = ["a good film", "long " * 60, ""]
    assert len(model(texts, batch_size=1)) == 3


@pytest.mark.parametrize(
    ("texts", "seconds", "why"),
    [
        ("a", "b", "takes no second text"),
        (["a", "b"], ["c", "d"], "takes no second text"),
        ("a", ["b"], "not a list"),
        ("a\x1eb", None, "U\\+001E"),
        ("\ud800", None, "lone surrogate"),
    ],
)
def test_what_predict_refuses_is_refused(texts: object, seconds: object, why: str, finished: Path) -> None:
    with pytest.raises(ValueError, match=why):
        Model(finished / "bundle")(texts, seconds)  # pyright: ignore[reportArgumentType]


def test_every_kind_of_answer_is_decoded() -> None:
    assert DECODE.keys() == ANSWERS.keys()


def test_a_bundle_that_is_not_whole_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Model(tmp_path)
