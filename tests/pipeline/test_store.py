import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.pipeline.store import Store, key_of, lock, new_directory, write_atomic
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


HOLD = """
import sys, time
from pathlib import Path
from paredown.pipeline.store import lock, new_directory
run, out = map(Path, sys.argv[1:])
with lock(run), new_directory(out):
    print("held", flush=True)
    time.sleep(600)
"""


def test_what_another_process_holds_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, run, out], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):  # the refused one takes nothing from the message for the next
            with pytest.raises(InputError, match=rf"run: in use by process {holder.pid} on .*; wait for it"), lock(run):
                pass
            with pytest.raises(InputError, match="out: another command writes it now"), new_directory(out):
                pass
        holder.kill()
    with lock(run), new_directory(out) as made:
        (made / "a").touch()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_an_input_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write there"), lock(tmp_path / "run"):
        pass
    with pytest.raises(InputError, match="cannot write there"), new_directory(tmp_path / "out"):
        pass
