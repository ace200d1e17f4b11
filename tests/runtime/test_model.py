"""A bundle in three lines. That each task answers as `predict` does is in tests/pipeline/test_every_task.py."""

from pathlib import Path

import pytest

from paredown.runtime import Model
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


def test_second_texts_have_to_be_as_many(finished: Path) -> None:
    model = Model(finished / "bundle")
    with pytest.raises(ValueError, match="2 texts need as many second texts"):
        model(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="2 texts need as many second texts"):
        model(["a", "b"], "c")


def test_a_bundle_that_is_not_whole_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Model(tmp_path)
