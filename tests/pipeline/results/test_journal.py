"""A command may be killed at any operation while it publishes: nothing is left of two runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paredown.pipeline.results import journal as module
from paredown.pipeline.results.journal import PUBLISHED, REPLACE, STAMP, finish, publication, unfinished

MEASURED = "measurements.json"


def fill(path: Path, text: str, stamp: bool = True) -> None:
    """What a run publishes, all of it saying `text`."""
    (path / "bundle" / "model").mkdir(parents=True)
    for name in ("bundle/manifest.json", f"bundle/model/{text}", *PUBLISHED[:3], MEASURED, *([STAMP] if stamp else [])):
        (path / name).write_text(text)


def state(path: Path) -> dict[str, str]:
    return {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}


def publish(path: Path, text: str, stamp: bool = True) -> None:
    with publication(path) as scratch:
        fill(scratch, text, stamp)


class Killed(BaseException):
    pass


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends at its operation of this number on the file system, before it or after it."""
    left = [number]

    def wrapped(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            found = work(*args, **more)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return found

        return run

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, wrapped(getattr(Path, name)))
    monkeypatch.setattr(module, "_exchange", wrapped(module._exchange))
    monkeypatch.setattr(shutil, "rmtree", wrapped(shutil.rmtree))


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("stamp", [True, False])
def test_killed_anywhere_it_is_the_earlier_run_or_after_the_next_command_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, earlier: bool, stamp: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(module, "_exchange", lambda a, b: False)
    whole, old = {}, {}
    for name, text in (("new", "new"), ("old", "old")):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, text, stamp or text == "old")
    whole, old = state(tmp_path / "new"), state(tmp_path / "old") | {REPLACE: "old"}
    seen = set()
    for number in range(1, 1000):
        run_dir = tmp_path / f"run-{number}"
        run_dir.mkdir()
        if earlier:
            fill(run_dir, "old")
            (run_dir / REPLACE).write_text("old")
        with monkeypatch.context() as patch:
            killed_at(number, patch)
            try:
                publish(run_dir, "new", stamp)
            except Killed:
                pass
            else:
                assert state(run_dir) == whole
                break
        with monkeypatch.context() as patch:  # and what completes it is killed as well
            killed_at(number // 2 + 1, patch)
            try:
                finish(run_dir)
            except Killed:
                seen.add("twice")
        finish(run_dir)
        assert not unfinished(run_dir)
        found = state(run_dir)
        assert found in (whole, old if earlier else {}), number
        seen.add(found == whole)
    assert seen == {True, False, "twice"}


def test_a_damaged_bundle_is_replaced_by_one_with_the_same_manifest(tmp_path: Path) -> None:
    publish(tmp_path, "same")
    (tmp_path / "bundle" / "model" / "same").write_text("damaged")
    publish(tmp_path, "same")
    assert (tmp_path / "bundle" / "model" / "same").read_text() == "same"


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    before = state(tmp_path)

    def fails() -> None:
        with publication(tmp_path) as scratch:
            fill(scratch, "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert state(tmp_path) == before
