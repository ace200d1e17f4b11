import json
from pathlib import Path

import pytest

from paredown.pipeline.store import Store, key_of, new_directory, write_atomic
from paredown.runtime.errors import InputError


def test_a_step_is_found_again_with_what_it_returned(tmp_path: Path) -> None:
    store, key = Store(tmp_path), key_of({"a": 1})
    assert store.find("s", key) is None

    def work(out: Path) -> dict:
        (out / "sub").mkdir()
        (out / "sub" / "file").write_text("hello")
        return {"n": 3}

    done = store.run("s", key, {"a": 1}, work)
    found = store.find("s", key)
    assert found is not None
    assert (found.path / "sub" / "file").read_text() == "hello"
    assert found.result == done.result == {"n": 3}
    assert store.find("s", key_of({"a": 2})) is None


@pytest.mark.parametrize("damage", ["change", "delete", "marker", "key"])
def test_a_step_that_is_not_whole_counts_as_missing(tmp_path: Path, damage: str) -> None:
    store, key = Store(tmp_path), key_of({})

    def work(out: Path) -> None:
        (out / "f").write_text("abc")

    path = store.run("s", key, {}, work).path
    marker = path / "step.json"
    if damage == "change":
        (path / "f").write_text("abd")
    elif damage == "delete":
        (path / "f").unlink()
    elif damage == "marker":
        marker.write_text("{")
    else:
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"key": "0" * 64}))
    assert store.find("s", key) is None
    assert not path.exists()


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def work(out: Path) -> None:
        (out / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store(tmp_path).run("s", "0" * 64, {}, work)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_input_error(tmp_path: Path) -> None:
    def work(out: Path) -> None:
        Path("/dev/full").write_bytes(b"x" * 10_000)

    with pytest.raises(InputError, match="No space left on device"):
        Store(tmp_path).run("s", "0" * 64, {}, work)
    assert not list(tmp_path.iterdir())


def test_the_key_follows_every_input() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 1.5}) != key_of({"a": "1"})


def test_new_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half() -> None:
        with new_directory(tmp_path / "out") as out:
            (out / "a").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert not list(tmp_path.iterdir())
    with new_directory(tmp_path / "out") as out:
        (out / "a").write_text("x")
    assert (tmp_path / "out" / "a").read_text() == "x"
    with pytest.raises(InputError, match="exists already"), new_directory(tmp_path / "out"):
        pass


def test_two_commands_do_not_write_one_directory_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-out" / "left").mkdir(parents=True)
    (tmp_path / ".tmp-out" / "half").write_text("x")
    with new_directory(tmp_path / "out") as out:
        assert not list(out.iterdir())
        (out / "mine").write_text("x")
        with pytest.raises(InputError, match="another command writes it"), new_directory(tmp_path / "out"):
            pass
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine"]


def test_write_atomic_replaces(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", "one")
    write_atomic(tmp_path / "f", "two")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["two"]
