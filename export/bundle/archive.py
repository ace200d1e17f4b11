"""Packs a bundle as .tar.gz (same bundle, same bytes) and unpacks untrusted archives."""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import DIGEST, MANIFEST, MANIFEST_LIMIT, SIGNATURE, BundleError, inside, read_manifest

ARCHIVE_LIMIT = 4 * 10**9  # bytes, unpacked
HEADER_LIMIT = 2**20  # bytes of one extended header
HEADERS_LIMIT = 2**23  # of all headers together
FILES_LIMIT = 1000
BLOCK = 512  # of a tar archive
MACHINES = "machines"  # in a run directory those of several machines, where the recipe's `measure_on` is a list
CHUNK = 2**18  # bytes that are read at once
GZIP = 16 + zlib.MAX_WBITS
MAGIC = b"\x1f\x8b"  # what a gzip file begins with


def pack(bundle: Path, archive: Path) -> Path:
    """Write a .tar.gz of the bundle: the same bundle gives the same bytes."""
    name = read_manifest(bundle)["name"]
    write_tar_gz(archive, ((f"{name}/{path.relative_to(bundle).as_posix()}", path) for path in files_of(bundle)))
    return archive


def files_of(folder: Path) -> list[Path]:
    """Every file below a directory, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_tar_gz(archive: Path, files: Iterable[tuple[str, Path]]) -> None:
    """Files under names of their own: no owner, time or mode of this machine goes into the bytes."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, path in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)


def unpack(archive: Path, out: Path, seconds: float | None = None) -> Path:
    """Copy the files that the archive's manifest names into the new directory `out`; never more than it says.

    Nothing else of the archive is followed: no links, devices, permissions or paths that leave the directory. Raises
    BundleError, also when it takes more than `seconds`, and then leaves nothing behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; unpack to a new directory")
    try:
        with archive.open("rb") as raw:
            if raw.read(2) != MAGIC:
                raise BundleError(f"{archive}: not a bundle, which is a directory with {MANIFEST}, or its .tar.gz")
            raw.seek(0)
            stream = _Stream(archive, raw, math.inf if seconds is None else time.monotonic() + seconds)
            members = _members(archive, stream)
            out.mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, DIGEST):
                _copy(stream, members.pop(name), out / name)
            files = read_manifest(out)["files"]
            for name, member in members.items():
                if name != SIGNATURE and (name not in files or member.size != files[name]["bytes"]):
                    raise BundleError(f"{archive}: {name!r} is not what the manifest says")
                _copy(stream, member, out / name)
    except BundleError:
        shutil.rmtree(out, ignore_errors=True)
        raise
    except (zlib.error, OSError, ValueError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise BundleError(f"{archive}: not a readable .tar.gz: {' '.join(str(error).split())}") from None
    return out


@dataclass(frozen=True)
class Member:
    """An entry of a tar archive."""

    name: str
    kind: bytes  # the header's typeflag
    size: int  # bytes
    place: int  # of its content in the unpacked stream


def entries(stream: _Stream) -> Iterator[Member]:
    """The entries of a tar archive (POSIX.1-2001 pax, ustar, GNU long names), each before its content is skipped.

    A reader of our own, because `tarfile` takes a time that grows with the square of a header's size (CVE-2024-6232)
    and any amount of memory for all headers together. ValueError where it is damaged; BundleError over HEADERS_LIMIT.
    """
    always: dict[str, str] = {}  # of global headers
    once: dict[str, str] = {}
    spent = 0
    while True:
        block = stream.read(BLOCK)
        if not block or block.count(0) == BLOCK:  # also the first of the two that end it
            return
        name, kind, size = _header(block)
        extended = kind in (b"x", b"X", b"g", b"L", b"K")
        spent += BLOCK + (size if extended else 0)
        if spent > HEADERS_LIMIT or (extended and size > HEADER_LIMIT):
            limits = f"{HEADER_LIMIT / 2**20:g} MB, or all of them over {HEADERS_LIMIT / 2**20:g} MB"
            raise BundleError(f"{stream.archive}: a header of the archive is over {limits}")
        if extended:
            content = stream.read(size)
            if len(content) < size:
                raise ValueError("truncated")
            stream.skip_to(stream.place + -size % BLOCK)
            if kind in (b"x", b"X"):
                once |= _records(content)
            elif kind == b"g":
                always |= _records(content)
            elif kind == b"L":
                once["path"] = _text(content)
            continue
        said, once = always | once, {}
        if any(key.startswith("GNU.sparse.") for key in said):
            kind = b"S"
        if "size" in said:
            if not re.fullmatch("[0-9]{1,18}", said["size"]):
                raise ValueError("a size that is no number")
            size = int(said["size"])
        name = said.get("path", name)
        if kind == b"\0":
            kind = b"5" if name.endswith("/") else b"0"
        member = Member(name.rstrip("/"), kind, size, stream.place)
        yield member
        if kind not in b"123456":  # links, devices, directories, fifos have no content
            stream.skip_to(member.place + size + -size % BLOCK)


def _header(block: bytes) -> tuple[str, bytes, int]:
    """(name, typeflag, size) of a header block."""
    if len(block) < BLOCK:
        raise ValueError("truncated")
    unsigned = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    signed = unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    if _number(block[148:156]) not in (unsigned, signed):
        raise ValueError("not a tar archive, or damaged: a header's checksum is wrong")
    name, prefix = _text(block[:100]), _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name, block[156:157], _number(block[124:136])


def _number(field: bytes) -> int:
    """Octal digits; or, GNU's, base 256 behind a first byte of 128."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not re.fullmatch(b"[0-7]*", digits):
        raise ValueError("damaged: a header holds a number that is none")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()  # UnicodeDecodeError is a ValueError


def _records(content: bytes) -> dict[str, str]:
    """The pairs of an extended header: records of "LENGTH KEY=VALUE\\n"; of the keys, those that count here."""
    found, at = {}, 0
    while at < len(content) and content[at]:
        blank = content.find(b" ", at, at + 10)
        digits = content[at:blank] if blank > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not blank + 1 < end <= len(content) or content[end - 1] != ord("\n"):
            raise ValueError("damaged: an extended header is not what it says")
        key, equals, value = content[blank + 1 : end - 1].partition(b"=")
        if not equals:
            raise ValueError("damaged: an extended header has a key without a value")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            found[key.decode()] = value.decode()
        at = end
    return found


def _members(archive: Path, stream: _Stream) -> dict[str, Member]:
    """The archive's files by their name in the bundle; nothing is copied yet."""
    found: list[Member] = []
    total = 0
    for member in entries(stream):
        total += member.size
        found.append(member)
        if total > ARCHIVE_LIMIT or len(found) > FILES_LIMIT:
            raise BundleError(f"{archive}: unpacks to more than {ARCHIVE_LIMIT / 1e9:g} GB or {FILES_LIMIT} files")
    if not found:
        raise BundleError(f"{archive}: an empty archive; is this a bundle?")
    names = [member.name.removeprefix("./") for member in found]  # `tar c ./bundle` and `tar c .` write these
    in_a_folder = MANIFEST not in names
    members: dict[str, Member] = {}
    for name, member in zip(names, found, strict=True):
        name = inside((name.partition("/")[2] if in_a_folder else name) or name or ".")
        if member.kind == b"5":
            continue
        if member.kind != b"0" or name in members:
            raise BundleError(f"{archive}: {member.name!r} is not a regular file, or is there twice")
        members[name] = member
    for name in (MANIFEST, DIGEST, SIGNATURE):
        if name in members and members[name].size > MANIFEST_LIMIT:
            raise BundleError(f"{archive}: {name} is over {MANIFEST_LIMIT / 1e6:g} MB")
        if name not in members and name != SIGNATURE:
            raise BundleError(f"{archive}: no {name} inside; is this a bundle?")
    return members


class _Stream:
    """What a .gz unpacks to, read within bounds: no more at once than was asked for, and nothing after `until`."""

    def __init__(self, archive: Path, raw: BinaryIO, until: float) -> None:
        """`until`: time.monotonic."""
        self.archive, self._raw, self._until = archive, raw, until
        self._begin()

    def _begin(self) -> None:
        self._raw.seek(0)
        self.place = 0
        self._packed, self._unpacker = b"", zlib.decompressobj(GZIP)

    def read(self, size: int) -> bytes:
        """`size` bytes, or as many as are left."""
        parts = []
        while size:
            if time.monotonic() > self._until:
                raise BundleError(f"{self.archive}: not unpacked before the deadline")
            if self._unpacker.eof:  # several .gz behind one another are one
                self._packed = self._unpacker.unused_data or self._raw.read(CHUNK)
                if not self._packed.startswith(b"\x1f\x8b"):
                    break
                self._unpacker = zlib.decompressobj(GZIP)
            packed = self._packed or self._raw.read(CHUNK)
            part = self._unpacker.decompress(packed, min(size, CHUNK))
            self._packed = self._unpacker.unconsumed_tail
            if not part and not packed and not self._unpacker.eof:
                raise ValueError("truncated")
            parts.append(part)
            self.place += len(part)
            size -= len(part)
        return b"".join(parts)

    def skip_to(self, place: int) -> None:
        """Go to a place of the unpacked bytes; ValueError where it ends before."""
        if place > 2 * ARCHIVE_LIMIT:
            raise BundleError(f"{self.archive}: unpacks to more than {ARCHIVE_LIMIT / 1e9:g} GB")
        if place < self.place:
            self._begin()
        while self.place < place:
            if not self.read(min(CHUNK, place - self.place)):
                raise ValueError("truncated")


@contextlib.contextmanager
def unpacked(bundle: Path, seconds: float | None = None) -> Iterator[Path]:
    """The bundle as a directory: itself, the one of a run directory, or its archive unpacked while the block lasts,
    within `seconds`."""
    if bundle.is_dir():
        inner = bundle / "bundle"
        of_machines = [str(file.parents[1]) for file in sorted(bundle.glob(f"{MACHINES}/*/bundle/{MANIFEST}"))]
        if of_machines and not inner.exists():
            raise InputError(f"{bundle}: a run on several machines; give that of one: {', '.join(of_machines)}")
        yield inner if (inner / MANIFEST).is_file() and not (bundle / MANIFEST).exists() else bundle
    elif bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            yield unpack(bundle, Path(scratch) / "bundle", seconds)
    else:
        raise InputError(f"{bundle}: no such bundle; it is a directory with {MANIFEST}, or its .tar.gz")


def copy_tree(source: Path, out: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """All files below `source`, in new directories: a copy of what may not be written may be."""
    for file in sorted(source.rglob("*")):
        target = out / file.relative_to(source)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(file, target)


def _copy(stream: _Stream, member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    stream.skip_to(member.place)
    left = member.size
    with target.open("xb") as file:
        while left:
            part = stream.read(min(CHUNK, left))
            if not part:
                raise ValueError("truncated")
            file.write(part)
            left -= len(part)
