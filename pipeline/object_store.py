"""A step store in object storage, which any machine reaches by its URL: s3://BUCKET/PREFIX, gs://, az:// or file://.

    KEY/WRITER/FILE   what one process has uploaded; another process has another WRITER
    KEY/step.json     the marker, written last: which writer's files count, each with sha256 and size
    KEY/failed.json   the step gave no result to be trusted

Object storage has no rename. So the files come first, under a name that nobody else uses, and one object says that they
are complete. Where two processes make a step, the first marker counts (If-None-Match), or the last one where a service
has no conditional writes; either names one complete set of files. Nothing of a step is ever deleted here.
https://filesystem-spec.readthedocs.io/en/latest/api.html
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError, missing_extra, nearest, one_line
from paredown.runtime.manifest import BundleError, inside, sha256_of

from .progress import tell
from .store import FAILED, MARKER, DiskError, Failed, key_of

# What brings the file system of a scheme, and the names that fsspec has for it.
SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "file": ""}
README = "README.txt"
ABOUT = (
    b"Steps of paredown runs, by the sha256 of their inputs. step.json in each folder names the files that count.\n"
    b"A folder may be deleted. The machines that have a copy of its step upload it again: delete the copies first.\n"
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TRIES, WAIT_S = 3, 1.0  # of a conditional write without an answer, and the seconds between two


def open_store(url: str, seen: str = "") -> ObjectStore:
    """The store at a URL. InputError where the URL is none, a package is missing, or it cannot be written there; also
    where it lacks the object `seen`, which another machine has written (`ObjectStore.seen`): it is another store."""
    scheme, separator, place = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise InputError(f"--store {url}: a URL such as s3://BUCKET/PREFIX is expected; {nearest(scheme, SCHEMES)}")
    if not place.strip("/"):
        raise InputError(
            f"--store {url}: a {'directory' if scheme == 'file' else 'bucket'} is expected after {scheme}://"
        )
    if scheme == "file" and not place.startswith("/"):
        raise InputError(f"--store {url}: an absolute path is expected: file://{Path(place).absolute()}")
    try:
        import fsspec

        options = {"auto_mkdir": True} if scheme == "file" else {"use_listings_cache": False}
        files, root = fsspec.url_to_fs(url, skip_instance_cache=True, **options)
    except ImportError:
        if scheme == "s3":
            raise missing_extra("s3fs", "s3") from None
        raise InputError(
            f"--store {url}: '{SCHEMES[scheme]}' is not installed: pip install {SCHEMES[scheme]}"
        ) from None
    except Exception as error:  # each library has its own: no account, a malformed name
        raise InputError(f"--store {url}: {one_line(error)}") from None
    store = ObjectStore(files, root, url.rstrip("/"))
    try:
        if seen and store._read(seen) is None:
            raise InputError(
                f"--store {url}: it is not the store of the other machines: what they wrote is not there; give one "
                "that all machines reach (s3:// with the same endpoint, file:// on a common file system)"
            )
        store.write(README, ABOUT)
    except DiskError as error:
        raise InputError(f"--store {error}") from None
    return store


class ObjectStore:
    """Steps below one prefix. A step is there when its marker is, and counts when its files hash as the marker says."""

    def __init__(self, files: Any, root: str, url: str) -> None:
        """`files`: a file system of fsspec; `root`: the prefix in it; `url`: the same for people."""
        self.files = files
        self.root = root.rstrip("/")
        self.url = url
        self.read: dict[str, bytes] = {}  # markers by key, as they were read last
        self.damaged: dict[str, bytes] = {}  # markers that are not used, by key; another one in their place is
        self.told: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether a step has a marker; nothing is verified."""
        return self._read(f"{key}/{MARKER}") is not None

    def marker(self, key: str) -> dict | None:
        """What the store says of a step: `writer`, and `step` as the marker of a local store has it. None where it has
        no marker, or a damaged one; what is found in its place is told, and left."""
        text = self._read(f"{key}/{MARKER}")
        if text is None:
            if key not in self.damaged and self._half_done(key):
                self._tell(
                    f"{self.url}/{key}: files without {MARKER}, of an upload that did not end, or has not yet; they "
                    "are not used"
                )
            return None
        if text == self.damaged.get(key):
            return None
        self.read[key] = text
        try:
            return _checked(json.loads(text), key)
        except (ValueError, KeyError, TypeError, AttributeError, BundleError):
            self._damage(key, f"{self.url}/{key}/{MARKER}: damaged: it is not what was written")
            return None

    def fetch(self, marker: dict, into: Path) -> bool:
        """Download the files of a step and its marker into an empty directory, each verified. False where one is
        missing or has another content, which is told."""
        key = marker["step"]["key"]
        for name, (sha, size) in marker["step"]["files"].items():
            path, target = f"{key}/{marker['writer']}/{name}", into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._reaching(path):
                    self.files.get_file(f"{self.root}/{path}", str(target))
            except FileNotFoundError:
                self._damage(key, f"{self.url}/{path}: missing; {MARKER} names it")
                return False
            found = _written(target)
            if found != (sha, size):
                self._damage(key, f"{self.url}/{path}: sha256 {found[0]}, {found[1]} bytes; {MARKER} has {sha}, {size}")
                return False
        (into / MARKER).write_text(json.dumps(marker["step"] | {"store": self.url}, indent=1), encoding="utf-8")
        return True

    def offer(self, directory: Path) -> dict:
        """Upload a complete step of a local store. The marker that counts now: of this upload, or of another process
        that was quicker."""
        step = json.loads((directory / MARKER).read_bytes())
        step.pop("store", None)
        key, given = step["key"], {"writer": uuid.uuid4().hex, "step": step}
        for name in step["files"]:
            path = f"{key}/{given['writer']}/{name}"
            with self._writing(path):
                self.files.put_file(str(directory / name), f"{self.root}/{path}")
        text = json.dumps({**given, "sha256": key_of(given)}, indent=1).encode()
        for tried in range(1, TRIES + 1):
            refused = self._create(f"{key}/{MARKER}", text)
            if self.has(key):  # of whom, and whether an error came before or after it, is seen by reading
                if (there := self.marker(key)) is not None:
                    return there
                break  # a damaged one
            if refused is not None and _unsupported(refused):
                break
            if tried == TRIES:  # not written without the condition: another process may be told that its marker counts
                with self._writing(f"{key}/{MARKER}"):
                    raise refused or OSError("it is not there after it was written")
            time.sleep(WAIT_S)
        self.write(f"{key}/{MARKER}", text)
        return given

    def _create(self, path: str, content: bytes) -> Exception | None:
        """Write one object unless it is there; the error of the service, or of its library."""
        try:
            self.files.pipe_file(f"{self.root}/{path}", content, mode="create")
        except Exception as error:  # each library has its own
            return error
        return None

    def failure(self, key: str) -> Failed | None:
        """The failure that was recorded for a step; `path` is its URL."""
        text = self._read(f"{key}/{FAILED}")
        with suppress(ValueError, KeyError, TypeError):
            if text is not None and (found := json.loads(text))["key"] == key:
                return Failed(f"{self.url}/{key}/{FAILED}", str(found["reason"]), str(found.get("host", "")))
        return None

    def fail(self, key: str, record: dict) -> Failed:
        """Record that a step gave no result to be trusted; `record` has its `reason` and its `host`."""
        self.write(f"{key}/{FAILED}", json.dumps(record | {"key": key}, indent=1).encode())
        return Failed(f"{self.url}/{key}/{FAILED}", record["reason"], record["host"])

    @contextmanager
    def seen(self) -> Iterator[str]:
        """The name of a new object, for other machines to find (`open_store`). It is deleted in the end, where that is
        allowed."""
        name = f"seen-{uuid.uuid4().hex}.txt"
        self.write(name, b"Written to find out whether other machines see this store; it may be deleted.\n")
        try:
            yield name
        finally:
            with suppress(Exception):  # a role may not be allowed to delete
                self.files.rm_file(f"{self.root}/{name}")

    def write(self, path: str, content: bytes) -> None:
        """Write one object, in the place of another one."""
        with self._writing(path):
            self.files.pipe_file(f"{self.root}/{path}", content)

    def _read(self, path: str) -> bytes | None:
        """The content of an object, None where it is missing."""
        try:
            with self._reaching(path):
                return self.files.cat_file(f"{self.root}/{path}")
        except FileNotFoundError:
            return None

    def _half_done(self, key: str) -> bool:
        """Whether there are files of a step that has no marker."""
        with suppress(FileNotFoundError), self._reaching(key):
            return any(path.rpartition("/")[2] != FAILED for path in self.files.find(f"{self.root}/{key}"))
        return False

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            with self._reaching(path):
                yield
        except FileNotFoundError as error:
            raise DiskError(f"{self.url}/{path}: cannot write there: {one_line(error)}") from error

    @contextmanager
    def _reaching(self, path: str) -> Iterator[None]:
        """DiskError for what the network, the service or its library says, when the library has tried again in vain.
        FileNotFoundError, and what the local disk says, stay as they are."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each library has its own
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise
            raise DiskError(
                f"{self.url}/{path}: {one_line(error)}; check the address, the credentials and the network, and run it "
                "again: what is done is kept"
            ) from error

    def _damage(self, key: str, what: str) -> None:
        self.damaged[key] = self.read[key]
        self._tell(f"{what}; it is not used, and replaced when the step is made or found here")

    def _tell(self, note: str) -> None:
        if note not in self.told:
            self.told.add(note)
            tell([note])


def _checked(marker: dict, key: str) -> dict:
    """A marker as it was written, of the step of this key, whose files stay in their directory. ValueError, KeyError,
    TypeError, AttributeError or BundleError for any other."""
    given = {"writer": marker["writer"], "step": marker["step"]}
    if marker["sha256"] != key_of(given) or marker["step"]["key"] != key:
        raise ValueError("another content")
    step = marker["step"]
    if not (isinstance(step["result"], dict) and isinstance(step["seconds"], int | float)):
        raise ValueError("no step")
    if not re.fullmatch("[0-9a-f]{32}", marker["writer"]):
        raise ValueError("no writer")
    for name, (sha, size) in step["files"].items():
        if inside(name) == MARKER or not isinstance(sha, str) or not isinstance(size, int):
            raise ValueError(name)
    return given


def _unsupported(error: Exception) -> bool:
    """Whether it says that a service, or its library, has no conditional writes (HTTP 501 is ENOSYS in s3fs)."""
    return isinstance(error, NotImplementedError | TypeError) or getattr(error, "errno", None) == errno.ENOSYS


def _written(path: Path) -> tuple[str, int]:
    """sha256 and size of a file, which is on the disk now."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return sha256_of(path), path.stat().st_size
