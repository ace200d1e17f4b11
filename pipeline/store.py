"""The step store: results of steps under the sha256 of their inputs, complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil
from filelock import FileLock, Timeout

from paredown.export.bundle.archive import copy_tree
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.manifest import sha256_of

MARKER = "step.json"
SOON_S = 1.0  # seconds after which a process that waits for another one says so
FAILED = "failed.json"  # in the place of the marker: the step ran, and gave no result to be trusted


@dataclass(frozen=True)
class Done:
    """A finished step: its directory, what its work returned, the seconds it took when it ran, when it ended (UTC, ISO
    8601), and the machine that did it; the last two are empty where an older version did it."""

    path: Path
    result: dict
    seconds: float
    at: str = ""
    host: str = ""


@dataclass(frozen=True)
class Failed:
    """A step without a result to be trusted: the directory (or the URL of the object) that says so, why, and the
    machine that did it; empty where an older version did."""

    path: Path | str
    reason: str
    host: str = ""


class DiskError(StepError):
    """What a file system did to a step. It says nothing about the step, so it is not recorded as its failure."""


def key_of(inputs: dict) -> str:
    """sha256 of the inputs as canonical JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Shared(Protocol):
    """A store that other machines have too, without a common file system (object_store.py). All raise DiskError."""

    url: str

    def has(self, key: str) -> bool: ...

    def marker(self, key: str) -> dict | None: ...

    def fetch(self, marker: dict, into: Path) -> bool: ...

    def offer(self, directory: Path) -> dict: ...

    def failure(self, key: str) -> Failed | None: ...

    def fail(self, key: str, record: dict) -> Failed: ...


class Store:
    """Directories `NAME-KEY` below one root. A step is there when its marker is, and its files still hash as noted.

    Several processes may work on one store, on several machines too where the file system is shared: a step is made in
    a directory of its process, and that is renamed when it is complete, marker and all. `claim` makes the second of two
    processes wait, where the file system has locks; where both make a step, the first result is taken. Machines without
    a common file system share steps through object storage (object_store.py).
    """

    def __init__(self, root: Path, older: Path | None = None, host: str = "", shared: Shared | None = None) -> None:
        """`older`: another store whose steps count too; what is needed of it is linked (or copied) here. `host`: the
        name of this machine for people. `shared`: what it has counts when the two first meet in a step, this store
        keeps copies of its steps, and those that are made here are given to it."""
        self.root = root
        self.older = older
        self.shared = shared
        self.host = host or platform.node()

    def find(self, name: str, key: str) -> Done | None:
        """The finished step, its files verified; a damaged one counts as missing, and the next `run` replaces it."""
        path = self._path(name, key)
        self._borrow(path)
        here = _intact(path, key)
        return here if self.shared is None else self._agree(self.shared, path, key, here)

    def has(self, name: str, key: str) -> bool:
        """Whether the marker of a finished step is here, in the older or in the shared store; nothing is verified."""
        roots, directory = [self.root, *([] if self.older is None else [self.older])], self._path(name, key).name
        here = any((root / directory / MARKER).is_file() for root in roots)
        return here or (self.shared is not None and self.shared.has(key))

    def peek(self, name: str, key: str) -> Done | None:
        """As `find`, but nothing is brought from another store: for those who only read."""
        return _intact(self._path(name, key), key)

    def failure(self, name: str, key: str) -> Failed | None:
        """The failure that was recorded for a step; None where it has not failed. Those of the older store are left."""
        path = self._own(name, key)
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            marker = json.loads((path / FAILED).read_bytes())
            if marker["key"] == key:
                return Failed(path, str(marker["reason"]), str(marker.get("host", "")))
        return None if self.shared is None else self.shared.failure(key)

    def _agree(self, shared: Shared, path: Path, key: str, here: Done | None) -> Done | None:
        """A step as the shared store has it: brought here where it is missing or another one, uploaded where the shared
        store lacks it or has a damaged one. `here`: what this store has.

        A copy that is as the shared store had it once (`store` in its marker) stays, whatever is there later. Other
        bytes are there where a damaged object was replaced, or the last of two markers counts. They are a result of
        the same inputs, versions and threads; but processes may be reading the copy, and what was made and measured
        here was made of it: with other bytes the bundle would not be the model that was measured. For the same reason
        a copy that the shared store never had makes way before it is used: later steps may be there, of the other one.
        """
        try:
            there = shared.marker(key)
            if there is None and here is not None:
                there = shared.offer(here.path)
            if there is None:
                return here
            if here is not None:
                step = json.loads((here.path / MARKER).read_bytes())
                if step.get("store") == shared.url:
                    return here
                if all(step[part] == there["step"][part] for part in ("files", "result")):
                    self._agreed(here.path, step | {"store": shared.url})
                    return here
            with self._scratch(path) as scratch:
                if shared.fetch(there, scratch):
                    return self._publish(scratch, path, key, of=shared.url) or _done(path, there["step"])
        except OSError as error:
            raise disk_error(error, self.root) from error
        return here if here is None else self._agree(shared, path, key, here)

    def _agreed(self, path: Path, marker: dict) -> None:
        """Write the marker of a finished step anew."""
        with self._scratch(path) as scratch:
            write_atomic(scratch / MARKER, json.dumps(marker, indent=1))
            (scratch / MARKER).replace(path / MARKER)

    def _borrow(self, path: Path) -> None:
        """Bring a finished step of the older store here, whole or not at all; its files are never written again."""
        if self.older is None or path.exists() or not (self.older / path.name / MARKER).is_file():
            return
        with self._scratch(path) as scratch:
            scratch.rmdir()
            copy_tree(self.older / path.name, scratch, _link)
            self._publish(scratch, path, json.loads((scratch / MARKER).read_bytes())["key"])

    def run(self, name: str, key: str, inputs: dict, work: Callable[[Path], dict | None]) -> Done:
        """Do the work in a directory of this process, fsync and hash its files, write the marker, rename. Where another
        process was quicker, its result is taken."""
        path = self._path(name, key)
        try:
            with self._scratch(path) as scratch:
                began = time.monotonic()
                result = work(scratch) or {}
                files = {}
                for file in sorted(p for p in scratch.rglob("*") if p.is_file()):
                    _fsync(file)
                    files[file.relative_to(scratch).as_posix()] = [sha256_of(file), file.stat().st_size]
                seconds = round(time.monotonic() - began, 3)
                at = datetime.now(UTC).isoformat(timespec="seconds")
                marker = {
                    "key": key, "inputs": inputs, "files": files, "result": result, "seconds": seconds,
                    "at": at, "host": self.host,
                }  # fmt: skip
                write_atomic(scratch / MARKER, json.dumps(marker, indent=1))
                done = self._publish(scratch, path, key) or Done(path, result, seconds, at, self.host)
            return done if self.shared is None else self._agree(self.shared, path, key, done) or done
        except OSError as error:
            raise disk_error(error, self.root) from error

    def fail(self, name: str, key: str, inputs: dict, reason: str, traceback: str = "") -> Done | Failed:
        """Record that a step gave no result to be trusted: it is not tried again until its directory is deleted. The
        result of another process that had one meanwhile is returned in its place.

        `traceback`: of an error that nobody foresaw, for whoever mends it; it names files of this machine, and stays
        here.
        """
        if self.shared is not None and (found := self.find(name, key)) is not None:
            return found
        path, why = self._path(name, key), {"reason": reason, "host": self.host}
        with self._scratch(path) as scratch:
            if traceback:
                (scratch / "traceback.txt").write_text(traceback, encoding="utf-8")
            if self.shared is None:
                write_atomic(scratch / FAILED, json.dumps({"key": key, "inputs": inputs, **why}, indent=1))
            there = self._publish(scratch, path, key) if any(scratch.iterdir()) else None
        if self.shared is not None:
            return there or self.shared.fail(key, {"name": name, **why})
        return there or Failed(path, **why)

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the steps of a key while one is made: another process waits, and finds it. `waiting` is called where
        this one has to wait. It ends with its process; on a file system without locks nothing is held."""
        file = self.root / f".tmp-{key[:16]}.lock"
        lock, held = FileLock(file, fallback_to_soft=False), True
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=SOON_S)
            except Timeout:
                waiting()
                lock.acquire()
        except (NotImplementedError, OSError):
            held = False
        try:
            yield
        finally:
            if held:
                file.unlink(missing_ok=True)
                lock.release()

    @contextmanager
    def _scratch(self, path: Path) -> Iterator[Path]:
        """An empty directory for a step of this process alone; removed where it was not published."""
        scratch = self.root / f".tmp-{path.name}-{_place()}-{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _publish(self, scratch: Path, path: Path, key: str, *, of: str = "") -> Done | None:
        """Give a complete directory its name, unless an intact step of this key has it, which is returned. A failure
        or a damaged step makes way; `of`: an intact one too that is not of the shared store with this URL."""
        while True:
            try:
                scratch.rename(path)
                return None
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if (there := _intact(path, key, of)) is not None:
                return there
            aside = scratch.with_name(f"{scratch.name}.old")
            with suppress(FileNotFoundError):  # another process was quicker
                path.rename(aside)
                if _intact(aside, key, of) is not None:  # published in between
                    with suppress(OSError):
                        aside.rename(path)
                        continue
            shutil.rmtree(aside, ignore_errors=True)

    def clean(self) -> None:
        """Remove what killed processes of this machine left half done; what others left stays."""
        mine = re.compile(rf"\.tmp-.*-{_place()}-(\d+)(\.old)?")
        for scratch in self.root.glob(".tmp-*"):
            found = mine.fullmatch(scratch.name)
            if found is not None and not _runs(int(found[1])):
                shutil.rmtree(scratch, ignore_errors=True)
            elif scratch.suffix == ".lock":
                _remove_free(scratch)

    def _path(self, name: str, key: str) -> Path:
        """The directory of a step: under its name, or under that of another model's finished step with the same key."""
        mine, end = self._own(name, key), f"-{key[:16]}"
        if mine.exists():
            return mine
        with suppress(OSError):
            names = os.listdir(self.root)  # noqa: PTH208 - there may be thousands, and glob takes five times as long
            same = sorted(name for name in names if name.endswith(end) and not name.startswith("."))
            return next((self.root / name for name in same if (self.root / name / MARKER).is_file()), mine)
        return mine

    def _own(self, name: str, key: str) -> Path:
        """The directory that a step has under its own name."""
        return self.root / f"{name}-{key[:16]}"


def _intact(path: Path, key: str, of: str = "") -> Done | None:
    """The finished step of a key in a directory, its files verified; `of`: only one of the shared store with this
    URL."""
    try:
        marker = json.loads((path / MARKER).read_bytes())
        intact = marker["key"] == key and all(
            (path / file).stat().st_size == size and sha256_of(path / file) == sha
            for file, (sha, size) in marker["files"].items()
        )
        return _done(path, marker) if intact and of in ("", marker.get("store")) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _done(path: Path, marker: dict) -> Done:
    """The step that a marker tells of."""
    return Done(path, marker["result"], marker["seconds"], marker.get("at", ""), marker.get("host", ""))


@cache
def _place() -> str:
    """Within which numbers of processes are unique: this machine, or the container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _runs(pid: int) -> bool:
    """Whether a process is there that has not ended: one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _remove_free(file: Path) -> None:
    """Remove a lock file that no process holds."""
    try:
        with FileLock(file, timeout=0, fallback_to_soft=False):
            file.unlink(missing_ok=True)
    except (Timeout, NotImplementedError, OSError):
        return


def writable(run_dir: Path) -> None:
    """InputError when the nearest directory above (or at) `run_dir` that exists cannot be written. Makes nothing."""
    above = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{run_dir}: cannot write in {above}; choose another --output-dir")


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the run directory; InputError names the holder when another process does. The lock ends with its process."""
    path = run_dir / ".lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, timeout=0).acquire()
    except Timeout:
        holder = path.read_text().strip() or "another process"
        raise InputError(f"{run_dir}: in use by {holder}; wait for it, or choose another --output-dir") from None
    except OSError as error:
        raise InputError(f"{run_dir}: cannot write there: {error.strerror}; choose another --output-dir") from None
    with held:
        path.write_text(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        yield


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new content, never half."""
    scratch = path.with_name(f".tmp-{path.name}")
    try:
        scratch.write_text(text, encoding="utf-8")
        _fsync(scratch)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise disk_error(error, path) from error


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory that appears under its name only when the block has ended well.

    InputError when it exists, or when another process is making it. What a killed one left incomplete is removed.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; remove it or choose another --output-dir")
    scratch = path.parent / f".tmp-{path.name}"
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with _writer_lock(scratch, path):
            try:
                scratch.mkdir(exist_ok=True)
                for left in scratch.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield scratch
                if path.is_dir():
                    path.rmdir()
                scratch.rename(path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, path) from error


@contextmanager
def _writer_lock(scratch: Path, path: Path) -> Iterator[None]:
    """Hold the lock file beside `scratch`. It ends with its process; only its holder removes the file."""
    file = scratch.with_name(f"{scratch.name}.lock")
    try:
        held = FileLock(file, timeout=0).acquire()
    except Timeout:
        raise InputError(f"{path}: another command writes it now; wait, or choose another --output-dir") from None
    with held:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def disk_error(error: OSError, where: Path) -> InputError | StepError:
    """One line for a disk that is full or may not be written. BrokenPipeError is raised as it is: nobody reads."""
    if isinstance(error, BrokenPipeError):
        raise error
    path = error.filename or where
    if error.errno == 13 and Path(path).is_file() and not os.access(path, os.R_OK):
        return InputError(f"{path}: {error.strerror}")
    if error.errno in (13, 30):  # EACCES, EROFS
        return InputError(f"{path}: cannot write there: {error.strerror}; choose another --output-dir")
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return InputError(f"{path}: {error.strerror}; free some space and run again, finished steps are kept")
    return DiskError(f"{path}: {error.strerror or error}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
