import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paredown.pipeline import store as store_module
from paredown.pipeline.store import Done, Store, key_of, lock, new_directory, write_atomic
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
    assert path.exists()  # another process may be reading it
    assert store.run("s", key, {}, work).path == path
    assert store.find("s", key) is not None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def writes(text: str, store: Store, key: str, also: Callable[[], object] = lambda: None) -> Done:
    def work(out: Path) -> dict:
        (out / "f").write_text(text)
        also()
        return {"text": text}

    return store.run("s", key, {}, work)


RACE = """
import contextlib, sys, time
from pathlib import Path
from paredown.pipeline import store

root, ready, text, locks, name = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]

def work(out):
    print("made", flush=True)
    time.sleep(0.5)
    return {"text": (out / "f").write_text(text) and text}

(ready / text).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.001)
found = store.Store(root)
with found.claim("0" * 64) if locks == "True" else contextlib.nullcontext():
    print((found.find(name, "0" * 64) or found.run(name, "0" * 64, {}, work)).result["text"])
"""


@pytest.mark.parametrize(("locks", "names"), [(True, "ss"), (True, "st"), (False, "ss")])
def test_of_two_that_make_the_same_step_the_first_wins(tmp_path: Path, locks: bool, names: str) -> None:
    """On a file system with locks the second one makes nothing, under another name of the same step too; without them
    its own result is dropped."""
    (tmp_path / "ready").mkdir()
    command = [sys.executable, "-c", RACE, tmp_path / "store", tmp_path / "ready"]
    both = [
        subprocess.Popen([*command, text, str(locks), name], stdout=subprocess.PIPE, text=True)
        for text, name in zip("ab", names, strict=True)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    (path,) = (tmp_path / "store").iterdir()
    (first,) = {lines[-1] for lines in said}
    assert (path / "f").read_text() == first
    assert sum(lines.count("made") for lines in said) == (1 if locks else 2)


def test_a_result_takes_the_place_of_a_failure_and_not_the_other_way_round(tmp_path: Path) -> None:
    store, key = Store(tmp_path), key_of({})
    failed = store.fail("s", key, {}, "no memory")
    assert failed == store.failure("s", key)
    done = writes("a", store, key)
    assert store.failure("s", key) is None
    assert store.fail("s", key, {}, "no memory").path == done.path
    assert store.find("s", key) is not None


KILLED = """
import os, signal, sys
from pathlib import Path
from paredown.pipeline import store
made = store.Store(Path(sys.argv[1]))
name = sys.argv[2]
original = getattr(store, name, None) or getattr(Path, name)
def kill(*args, **kwargs):
    if sys.argv[3] == "after":
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(store if hasattr(store, name) else Path, name, kill)
made.run("s", "0" * 64, {}, lambda out: {"n": (out / "f").write_text("whole")})
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("event", ["_fsync", "sha256_of", "write_atomic", "rename"])
def test_a_killed_process_leaves_the_whole_step_or_none(tmp_path: Path, event: str, moment: str) -> None:
    store = Store(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, event, moment], check=False)
    assert done.returncode == -signal.SIGKILL
    found = store.find("s", "0" * 64)
    assert (found is not None) == ((event, moment) == ("rename", "after"))
    other = tmp_path / f".tmp-s-elsewhere-{os.getpid()}"
    mine = tmp_path / f".tmp-s-{store_module._place()}-{os.getpid()}"
    for kept in (other, mine):  # another machine's, and that of a process that lives
        kept.mkdir()
    store.clean()
    left = {path.name for path in tmp_path.iterdir()} - {other.name, mine.name}
    assert left == ({found.path.name} if found else set())
    assert writes("again", store, "0" * 64).result in ({"n": 5}, {"text": "again"})


def test_what_a_process_left_goes_that_nobody_has_waited_for(tmp_path: Path) -> None:
    """In a container without a process that does."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    scratch = tmp_path / f".tmp-s-{store_module._place()}-{ended.pid}"
    scratch.mkdir()
    Store(tmp_path).clean()
    assert not scratch.exists()
    ended.wait()


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
