"""Licence and language go from a checkpoint to what is made of it; its text and figures do not."""

from pathlib import Path

import pytest

from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.models.model_card import card_head, origin_files
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS


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


def test_the_files_of_the_origin_are_inside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("LICENSE", "NOTICE.md", "README.md", "config.json", "licence.txt"):
        (checkpoint / name).write_text(name)
    (checkpoint / "LICENSES").mkdir()
    (checkpoint / "LICENSE-COPY").symlink_to("LICENSE")
    assert [p.name for p in origin_files(checkpoint)] == ["LICENSE", "LICENSE-COPY", "NOTICE.md", "README.md"]
    (tmp_path / "secret").write_text("secret")
    (checkpoint / "LICENSE-2").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"LICENSE-2: a link that leads out of the checkpoint"):
        origin_files(checkpoint)


def test_a_snapshot_of_the_hubs_cache_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "4567").write_text("MIT")
    (snapshot / "LICENSE").symlink_to("../../blobs/4567")
    (found,) = origin_files(snapshot)
    assert found.read_text() == "MIT"
    (snapshot / "NOTICE").symlink_to("../../../elsewhere")
    with pytest.raises(InputError, match="NOTICE: a link"):
        origin_files(snapshot)
