"""Atomic publication of a run's results: written beside, then exchanged with what was there.

The rename of the finished directory to JOURNAL is the moment from which on the new one counts. A command that is killed
after it is completed by the next one that holds the lock of the run directory, so that nothing is left of two runs.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paredown.runtime.manifest import sha256_of

PUBLISHED = ("choice.json", "report.html", "bundle.tar.gz", "bundle")
STAMP = ".published"  # the key of the run that published; gone when a choice by another rule did
REPLACE = "replace.json"  # what an older run said about the bundle; it goes when the bundle does
SCRATCH, JOURNAL = ".tmp-publish", ".publish"
BUNDLE, DIGEST = "bundle", ".digest"  # the only directory among them; what the new one is known by, until it is placed
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # a kernel or file system that cannot exchange
EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE, AT_FDCWD


@contextmanager
def publication(run_dir: Path) -> Iterator[Path]:
    """A directory for the files of PUBLISHED and others that go with them; they change places when the block ends well.

    Otherwise what was published stays as it was. Call it under the lock of the run directory.
    """
    finish(run_dir)
    scratch = run_dir / SCRATCH
    scratch.mkdir()
    try:
        yield scratch
        (scratch / DIGEST).write_text(_digest(scratch / BUNDLE))
        for path in scratch.rglob("*"):
            _fsync(path)
        scratch.rename(run_dir / JOURNAL)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    finish(run_dir)


def finish(run_dir: Path) -> None:
    """Complete what a killed command had begun to put into place, remove what it had half written. Under the lock."""
    journal = run_dir / JOURNAL
    shutil.rmtree(run_dir / SCRATCH, ignore_errors=True)
    if not journal.is_dir():
        return
    if (journal / DIGEST).is_file():
        for name in (STAMP, REPLACE):  # of the earlier bundle
            (run_dir / name).unlink(missing_ok=True)
        if (journal / BUNDLE).is_dir():
            _place_bundle(run_dir, journal)
        (journal / DIGEST).unlink()
    for path in sorted(journal.iterdir(), key=lambda p: p.name == STAMP):  # the stamp last
        if path.is_file():
            path.replace(run_dir / path.name)
    shutil.rmtree(journal)


def unfinished(run_dir: Path) -> bool:
    """Whether a command was killed while it published here."""
    return (run_dir / JOURNAL).is_dir()


def _place_bundle(run_dir: Path, journal: Path) -> None:
    """The new bundle takes the place of the earlier one, which goes into the journal and away with it."""
    new, place = journal / BUNDLE, run_dir / BUNDLE
    if not place.exists():
        new.rename(place)
    elif _digest(place) != (journal / DIGEST).read_text() and not _exchange(new, place):
        aside = journal / "earlier"
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        new.rename(place)


def _exchange(a: Path, b: Path) -> bool:
    """Two paths change places in one step; False where kernel or file system do not know how. renameat2(2), Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(HERE, os.fsencode(a), HERE, os.fsencode(b), EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(b))


def _digest(bundle: Path) -> str:
    """sha256 of the names and contents of all files of a directory."""
    total = hashlib.sha256()
    for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(bundle)} {sha256_of(path)}\n".encode())
    return total.hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
