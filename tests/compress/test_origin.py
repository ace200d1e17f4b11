"""Licence and language go from a checkpoint to what is made of it; its text and figures do not."""

from pathlib import Path

from paredown.compress.checkpoint import load, open_checkpoint, save
from paredown.compress.origin import card_head
from paredown.compress.tasks import TASKS


def test_a_checkpoint_inherits_the_licence_of_its_source(copy_of_teacher: Path, tmp_path: Path) -> None:
    text = "---\nlicense: mit\nlanguage: en\npipeline_tag: fill-mask\n---\n# Accuracy 99\n"
    (copy_of_teacher / "README.md").write_text(text)
    assert card_head(copy_of_teacher)["pipeline_tag"] == "fill-mask"
    source = open_checkpoint(copy_of_teacher, TASKS["text-classification"])
    saved = save(load(source, TASKS["text-classification"]), source, tmp_path / "saved")
    assert card_head(saved.path) == {"license": "mit", "language": "en"}
    assert "99" not in (saved.path / "README.md").read_text()


def test_a_card_that_is_none_says_nothing(tmp_path: Path) -> None:
    for odd in (b"", b"---", b"---\n- a\n---\n", b"---\n!!python/object:os.system x\n---\n", b"\xff", b"no head"):
        (tmp_path / "README.md").write_bytes(odd)
        assert card_head(tmp_path) == {}
