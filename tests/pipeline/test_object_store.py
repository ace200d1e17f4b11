"""Steps in object storage, on a server of S3 (moto) in a process of its own."""

import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import SMALL, paredown, refused, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import object_store
from paredown.pipeline.object_store import ObjectStore, open_store
from paredown.pipeline.store import DiskError, Done, Failed, Store
from paredown.runtime.errors import InputError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
KEY = "0" * 64


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of the server; credentials and address are in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield environment["AWS_ENDPOINT_URL"]
        process.kill()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A prefix in a bucket of this test alone."""
    bucket = f"bucket-{abs(hash(request.node.name))}"
    storage().mkdir(bucket)
    return f"s3://{bucket}/steps"


@cache
def storage() -> Any:
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def objects(url: str) -> list[str]:
    """Below the prefix, without what says what it is for."""
    found = storage().find(url)
    return sorted(path.partition("/steps/")[2] for path in found if not path.endswith("README.txt"))


def machine(home: Path, url: str) -> Store:
    """A store on a machine of its own."""
    return Store(home, shared=open_store(url))


def make(store: Store, text: str = "weights", key: str = KEY) -> Done:
    """A step with two files, one in a directory, and an empty one."""

    def work(out: Path) -> dict:
        (out / "a b").mkdir()
        (out / "a b" / "é.bin").write_text(text)
        (out / "config.json").write_text("{}")
        (out / "empty").touch()
        return {"text": text, "ratio": 0.1}

    return store.run("s", key, {"by": text}, work)


def text_of(done: Done | None) -> str:
    assert done is not None
    return (done.path / "a b" / "é.bin").read_text()


def only_says(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """One note with these words."""
    (note,) = capsys.readouterr().err.strip().splitlines()
    for word in words:
        assert word in note, note


def test_a_second_machine_makes_nothing_again(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = machine(tmp_path / "one", url), machine(tmp_path / "two", url)
    assert first.find("s", KEY) is None
    assert not second.has("s", KEY)
    made = make(first)
    assert second.has("s", KEY)
    assert not (tmp_path / "two").exists()
    found = second.find("s", KEY)
    assert found is not None
    assert text_of(found) == "weights"
    assert found.path == tmp_path / "two" / f"s-{KEY[:16]}"
    assert (found.result, found.host, found.at) == (made.result, made.host, made.at)
    assert Store(tmp_path / "two").find("s", KEY) == found  # it is a step of the local store now
    assert len(objects(url)) == 4
    assert capsys.readouterr().err == ""


def test_what_was_made_before_is_shared_later(url: str, tmp_path: Path) -> None:
    """Of a run without the URL, and of one that lost the network."""
    made = make(Store(tmp_path / "one"))
    assert text_of(machine(tmp_path / "one", url).find("s", KEY)) == text_of(made)
    assert text_of(machine(tmp_path / "two", url).find("s", KEY)) == "weights"


def change(url: str, name: str, content: Callable[[bytes], bytes] | None) -> str:
    """Change or remove the one object whose name ends so; its URL."""
    (path,) = (path for path in storage().find(url) if path.endswith(name))
    if content is None:
        storage().rm_file(path)
    else:
        storage().pipe_file(path, content(storage().cat_file(path)))
    return f"s3://{path}"


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def with_another_result(content: bytes) -> bytes:
    assert b"0.1" in content
    return content.replace(b"0.1", b"0.9")


def elsewhere(content: bytes) -> bytes:
    return content.replace(b"config.json", b"../../out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", flipped, "sha256"),
        ("config.json", lambda _: b"", "0 bytes"),
        ("config.json", None, "missing; step.json names it"),
        ("step.json", lambda content: content[:100], "damaged"),
        ("step.json", with_another_result, "damaged"),
        ("step.json", elsewhere, "damaged"),
        ("step.json", lambda _: b"[]", "damaged"),
        ("step.json", None, "files without step.json"),
    ],
)
def test_damage_is_named_never_used_and_mended_by_who_has_the_step(
    name: str, content: Callable[[bytes], bytes] | None, said: str, url: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make(machine(tmp_path / "one", url))
    changed = change(url, name, content)
    before = objects(url)
    second = machine(tmp_path / "two", url)
    assert second.find("s", KEY) is None
    assert second.find("s", KEY) is None
    only_says(capsys, changed.removesuffix("/step.json"), said, "not used")
    assert not list((tmp_path / "two").glob("*"))
    assert objects(url) == before  # nothing is deleted
    assert text_of(make(second, "again")) == "again"
    assert set(before) <= set(objects(url))
    assert text_of(machine(tmp_path / "three", url).find("s", KEY)) == "again"
    one = machine(tmp_path / "one", url)
    assert text_of(one.find("s", KEY)) == "weights"  # of which the steps after it were made
    assert list((tmp_path / "one").iterdir()) == [tmp_path / "one" / f"s-{KEY[:16]}"]


def test_a_step_of_the_same_bytes_takes_the_place_of_a_damaged_one(url: str, tmp_path: Path) -> None:
    make(machine(tmp_path / "one", url))
    change(url, "config.json", flipped)
    second = machine(tmp_path / "two", url)
    assert second.find("s", KEY) is None
    make(second)
    assert text_of(machine(tmp_path / "three", url).find("s", KEY)) == "weights"


def broken(shared: ObjectStore) -> ObjectStore:
    """The same store, after its marker was damaged, which has been noted here."""
    shared.write(f"{KEY}/step.json", b"{")
    assert shared.marker(KEY) is None
    return shared


def test_a_damaged_marker_that_another_machine_has_replaced_is_read(url: str, tmp_path: Path) -> None:
    first, second = Store(tmp_path / "one", shared=broken(open_store(url))), machine(tmp_path / "two", url)
    assert first.find("s", KEY) is None
    make(second)
    assert first.has("s", KEY)
    assert text_of(first.find("s", KEY)) == "weights"


def test_a_damaged_marker_that_another_machine_has_replaced_is_not_replaced_again(url: str, tmp_path: Path) -> None:
    first = Store(tmp_path / "one", shared=broken(open_store(url)))
    make(machine(tmp_path / "two", url), "second")
    assert text_of(make(first, "first")) == "second"
    assert text_of(machine(tmp_path / "three", url).find("s", KEY)) == "second"


def test_a_copy_makes_way_for_that_of_the_store_only_before_it_was_shared(url: str, tmp_path: Path) -> None:
    """Then no process reads it, and nothing was made of it with this store."""
    make(Store(tmp_path / "one"), "alone")
    make(machine(tmp_path / "two", url), "shared")
    one = machine(tmp_path / "one", url)
    assert text_of(one.find("s", KEY)) == "shared"
    directory = (tmp_path / "one" / f"s-{KEY[:16]}").stat().st_ino
    broken(open_store(url))
    make(machine(tmp_path / "three", url), "later")
    assert text_of(one.find("s", KEY)) == text_of(machine(tmp_path / "one", url).find("s", KEY)) == "shared"
    assert (tmp_path / "one" / f"s-{KEY[:16]}").stat().st_ino == directory


def test_a_damaged_copy_is_downloaded_again(url: str, tmp_path: Path) -> None:
    made = make(machine(tmp_path / "one", url))
    (made.path / "config.json").write_text("[]")
    found = machine(tmp_path / "one", url).find("s", KEY)
    assert found is not None
    assert (found.path / "config.json").read_text() == "{}"


KILLED = """
import os, signal, sys
from pathlib import Path
from s3fs import S3FileSystem
from paredown.pipeline.object_store import open_store
from paredown.pipeline.store import Store

calls = 0
name, at, moment = sys.argv[3], int(sys.argv[4]), sys.argv[5]
original = getattr(S3FileSystem, name)

async def kill(*args, **kwargs):
    global calls
    calls += 1
    if moment == "after":
        await original(*args, **kwargs)
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "before":
        await original(*args, **kwargs)

setattr(S3FileSystem, name, kill)
store = Store(Path(sys.argv[1]), shared=open_store(sys.argv[2]))
store.run("s", "0" * 64, {}, lambda out: {"n": [(out / name).write_text(name) for name in "abc"]})
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("call", "at"), [("_put_file", 1), ("_put_file", 3), ("_pipe_file", 2)])
def test_an_upload_that_is_killed_leaves_the_whole_step_or_none(
    call: str, at: int, moment: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", KILLED, tmp_path / "one", url, call, str(at), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left, second = objects(url), machine(tmp_path / "two", url)
    if (call, moment) == ("_pipe_file", "after"):
        assert second.find("s", KEY) is not None
    else:
        assert second.find("s", KEY) is None
        if left:
            only_says(capsys, f"{url}/{KEY}: files without step.json")
        make(second, "second")
        assert set(left) < set(objects(url))
    again = machine(tmp_path / "one", url)  # where the step is whole, and was not shared yet
    again.clean()
    found, other = again.find("s", KEY), second.find("s", KEY)
    assert found is not None
    assert other is not None
    assert found.result == other.result
    assert [path.name for path in (tmp_path / "one").iterdir()] == [f"s-{KEY[:16]}"]


RACE = """
import sys, time
from pathlib import Path
from paredown.pipeline.object_store import open_store
from paredown.pipeline.store import Store

home, url, text = Path(sys.argv[1]), *sys.argv[2:]
store = Store(home / text, shared=open_store(url))

def work(out):
    (home / f"ready-{text}").touch()
    while len(list(home.glob("ready-*"))) < 2:
        time.sleep(0.001)
    return {"text": (out / "f").write_text(text * 100_000) and text}

store.run("s", "0" * 64, {}, work)
done = store.find("s", "0" * 64)
print(done.result["text"], (done.path / "f").read_text()[0])
"""


def test_two_machines_that_make_the_same_step_agree_on_one(url: str, tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", RACE, tmp_path, url, text], stdout=subprocess.PIPE, text=True)
        for text in "ab"
    ]
    said = {process.communicate(timeout=60)[0] for process in both}
    assert said in ({"a a\n"}, {"b b\n"})
    third = machine(tmp_path / "three", url).find("s", KEY)
    assert third is not None
    assert f"{third.result['text']} {(third.path / 'f').read_text()[0]}\n" in said
    assert len({path.split("/")[1] for path in objects(url)} - {"step.json"}) == 2  # each under a name of its own


class Unconditional:
    """A storage without conditional writes: it refuses them, or takes them for others."""

    def __init__(self, refuses: bool) -> None:
        self.files, self.refuses = fsspec.filesystem("memory", skip_instance_cache=True), refuses

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        if mode == "create" and self.refuses:
            raise OSError(38, "A header you provided implies functionality that is not implemented")
        self.files.pipe_file(path, content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)


@pytest.mark.parametrize("refuses", [True, False])
def test_without_conditional_writes_the_last_marker_counts(
    refuses: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ObjectStore(Unconditional(refuses), f"/{tmp_path.name}", "memory://steps")
    one, two = Store(tmp_path / "one", shared=shared), Store(tmp_path / "two", shared=shared)
    make(one, "first")
    assert text_of(two.find("s", KEY)) == "first"
    shared.write(f"{KEY}/step.json", b"{")
    assert Store(tmp_path / "three", shared=shared).find("s", KEY) is None
    assert text_of(make(Store(tmp_path / "three", shared=shared), "last")) == "last"
    assert text_of(Store(tmp_path / "four", shared=shared).find("s", KEY)) == "last"
    assert text_of(one.find("s", KEY)) == text_of(two.find("s", KEY)) == "first"
    only_says(capsys, "memory://steps", "damaged")


class Unsteady:
    """A storage whose conditional writes raise an error, as often as it is told; `after`: when the object
    is written."""

    def __init__(self, times: int, after: bool) -> None:
        self.files, self.times, self.after = fsspec.filesystem("memory", skip_instance_cache=True), times, after
        self.plain: list[str] = []

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        self.plain += [path] if mode != "create" else []
        fails, self.times = mode == "create" and self.times > 0, self.times - (mode == "create")
        if not fails or self.after:
            self.files.pipe_file(path, content, mode=mode)
        if fails:
            raise OSError(errno.EBUSY, "a conflicting operation is in progress")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)


@pytest.mark.parametrize(("times", "after"), [(2, False), (1, True), (3, False)])
def test_a_conditional_write_without_an_answer_is_repeated_and_never_done_without_the_condition(
    times: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "WAIT_S", 0.0)
    files = Unsteady(times, after)
    store = Store(tmp_path / "one", shared=ObjectStore(files, f"/{tmp_path.name}", "memory://steps"))
    if times == object_store.TRIES:
        with pytest.raises(DiskError, match=r"memory://steps/0+/step.json: .*conflicting"):
            make(store)
    else:
        make(store)
        two = Store(tmp_path / "two", shared=ObjectStore(files, f"/{tmp_path.name}", "memory://steps"))
        assert text_of(two.find("s", KEY)) == "weights"
    assert not files.plain
    assert Store(tmp_path / "one").find("s", KEY) is not None


def test_a_failure_is_known_everywhere_until_it_is_deleted_or_the_step_is_done(url: str, tmp_path: Path) -> None:
    one, two = machine(tmp_path / "one", url), machine(tmp_path / "two", url)
    failed = one.fail("s", KEY, {"file": "/home/me/train.csv"}, "the loss is not finite", "File /home/me/a.py")
    assert failed == two.failure("s", KEY) == Failed(f"{url}/{KEY}/failed.json", "the loss is not finite", one.host)
    assert two.find("s", KEY) is None
    assert b"/home" not in storage().cat_file(str(failed.path))
    assert next((tmp_path / "one").glob("s-*/traceback.txt")).read_text() == "File /home/me/a.py"
    storage().rm_file(str(failed.path))
    assert one.failure("s", KEY) is two.failure("s", KEY) is None
    done = make(two)
    assert two.fail("s", KEY, {}, "late") == two.find("s", KEY)
    assert two.fail("s", KEY, {}, "late").path == done.path
    assert one.failure("s", KEY) is None


def test_a_store_that_is_lost_in_the_middle_loses_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of the store, not of the step, and the step is kept here."""
    store = machine(tmp_path / "one", url)
    bucket = url.removeprefix("s3://").partition("/")[0]

    def work(out: Path) -> dict:
        (out / "f").write_text("weights")
        storage().rm(bucket, recursive=True)
        return {}

    with pytest.raises(DiskError, match=r"s3://bucket-.*/f: cannot write there: .*bucket"):
        store.run("s", KEY, {}, work)
    assert Store(tmp_path / "one").find("s", KEY) is not None
    storage().mkdir(bucket)
    assert machine(tmp_path / "one", url).find("s", KEY) is not None
    assert machine(tmp_path / "two", url).find("s", KEY) is not None


def test_a_full_disk_is_not_an_error_of_the_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(machine(tmp_path / "one", url))
    two = machine(tmp_path / "two", url)

    def full(*_: object) -> None:
        Path("/dev/full").write_bytes(b"x" * 10_000)

    monkeypatch.setattr(two.shared.files, "get_file", full)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="No space left on device"):
        two.find("s", KEY)
    assert not list((tmp_path / "two").iterdir())


def test_a_directory_is_a_store_too(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'shared'}"
    make(machine(tmp_path / "one", url))
    assert text_of(machine(tmp_path / "two", url).find("s", KEY)) == "weights"


@pytest.fixture
def recipe(teacher: Checkpoint, files: dict, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s4://bucket/steps", ["--store s4://bucket/steps", "s3://BUCKET/PREFIX", "did you mean 's3'?"]),
        ("bucket/steps", ["--store bucket/steps", "s3://BUCKET/PREFIX"]),
        ("s3://", ["--store s3://", "a bucket is expected"]),
        ("file://data/steps", ["--store file://data/steps: an absolute path is expected: file:///"]),
        ("gs://bucket/steps", ["'gcsfs' is not installed: pip install gcsfs"]),
        ("s3://no-such-bucket/steps", ["--store s3://no-such-bucket/steps", "cannot write there"]),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(
    given: str, words: list[str], server: str, recipe: Path, tmp_path: Path
) -> None:
    for command in (["run", recipe], ["step", recipe, "scores"]):
        refused(paredown(*command, "--output-dir", tmp_path / "run", "--store", given), *words)
    assert not (tmp_path / "run").exists()


def test_what_a_library_says_of_a_url_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As adlfs without an account."""
    account = ValueError("Must provide either a connection_string or\naccount_name with credentials!!")
    monkeypatch.setattr(fsspec, "url_to_fs", Mock(side_effect=account))
    with pytest.raises(InputError, match=r"^--store az://c/steps: Must provide .* or account_name with credentials!!$"):
        open_store("az://c/steps")


def test_a_machine_with_another_store_under_the_same_url_is_refused(tmp_path: Path) -> None:
    """As of a file:// on the disk of each machine."""
    url = f"file://{tmp_path / 'shared'}"
    with open_store(url).seen() as seen:
        open_store(url, seen)
        (tmp_path / "shared").rename(tmp_path / "of another machine")
        with pytest.raises(InputError, match=f"--store {url}: it is not the store of the other machines"):
            open_store(url, seen)
        assert not (tmp_path / "shared").exists()
        (tmp_path / "of another machine").rename(tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["README.txt"]


def test_nothing_is_written_to_the_store_for_a_recipe_that_is_refused(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("checkpoint: ", "checkpoint: /missing"))
    url = f"file://{tmp_path / 'shared'}"
    for command in (["run", recipe], ["step", recipe, "scores"]):
        refused(paredown(*command, "--output-dir", tmp_path / "run", "--store", url), "/missing")
    assert not (tmp_path / "shared").exists()
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_not_there_is_one_line(server: str, recipe: Path, tmp_path: Path) -> None:
    gone = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = paredown("run", recipe, "--output-dir", tmp_path / "run", "--store", "s3://bucket/steps", env=gone)
    refused(done, "--store s3://bucket/steps", "http://127.0.0.1:9", "the network")
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_store(recipe: Path) -> None:
    refused(paredown("run", recipe, "--dry-run", "--store", "s3://b/steps"), "--dry-run", "leave --store out")
    done = paredown("run", recipe, "--dry-run", env={"PAREDOWN_RUN_STORE": "s3://b/steps"})
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_elsewhere_makes_nothing_again_and_selects_the_same(url: str, recipe: Path, tmp_path: Path) -> None:
    kept, chosen = [], []
    for name in ("one", "two"):
        done = paredown("run", recipe, "--output-dir", tmp_path / name, "--store", url)
        assert done.returncode == 0, done.stderr
        steps = tmp_path / name / "steps"
        kept.append({path.parent.name: path.read_bytes() for path in steps.glob("*/step.json")})
        lines = (tmp_path / name / "choice.json").read_text().splitlines()
        chosen.append([line for line in lines if '"certified_at"' not in line])
    assert kept[0] == kept[1]  # with the time at which each was made
    assert chosen[0] == chosen[1]
    assert paredown("verify", tmp_path / "two" / "bundle").returncode == 0
