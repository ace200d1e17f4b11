"""A bundle as one .tar.gz, and back: the same bundle gives the same bytes, and unpacking trusts none of them."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..compress.errors import InputError
from .manifest import DIGEST, MANIFEST, MANIFEST_LIMIT, SIGNATURE, BundleError, inside, read_manifest

ARCHIVE_LIMIT = 4 * 10**9  # bytes, unpacked
READ_LIMIT = 2**20  # bytes that one header of the archive may make us read at once
FILES_LIMIT = 1000


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


def unpack(archive: Path, out: Path) -> Path:
    """Copy the files that the archive's manifest names into the new directory `out`; never more than it says.

    Nothing else of the archive is followed: no links, devices, permissions or paths that leave the directory. Raises
    BundleError, and then leaves nothing behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; unpack to a new directory")
    try:
        # mode "r:" on a stream of our own: tarfile would read a header of any size into memory
        with gzip.open(archive) as packed, tarfile.open(fileobj=_Bounded(packed), mode="r:") as tar:  # type: ignore[call-overload]
            members = _members(archive, tar)
            out.mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, DIGEST):
                _copy(tar, members.pop(name), out / name)
            files = read_manifest(out)["files"]
            for name, member in members.items():
                if name != SIGNATURE and (name not in files or member.size != files[name]["bytes"]):
                    raise BundleError(f"{archive}: {name!r} is not what the manifest says")
                _copy(tar, member, out / name)
    except BundleError:
        shutil.rmtree(out, ignore_errors=True)
        raise
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, LookupError, RecursionError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise BundleError(f"{archive}: not a readable .tar.gz: {' '.join(str(error).split())}") from None
    return out


def _members(archive: Path, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The archive's files by their name in the bundle; nothing is copied yet."""
    found: list[tuple[str, tarfile.TarInfo]] = []
    total = 0
    for member in tar:
        total += member.size
        found.append((member.name.removeprefix("./"), member))  # `tar c ./bundle` and `tar c .` write these
        if total > ARCHIVE_LIMIT or len(found) > FILES_LIMIT:
            raise BundleError(f"{archive}: unpacks to more than {ARCHIVE_LIMIT / 1e9:g} GB or {FILES_LIMIT} files")
    in_a_folder = all(name != MANIFEST for name, _ in found)
    members: dict[str, tarfile.TarInfo] = {}
    for name, member in found:
        name = inside((name.partition("/")[2] if in_a_folder else name) or name or ".")
        if member.isdir():
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or name in members:
            raise BundleError(f"{archive}: {member.name!r} is not a regular file, or is there twice")
        members[name] = member
    for name in (MANIFEST, DIGEST, SIGNATURE):
        if name in members and members[name].size > MANIFEST_LIMIT:
            raise BundleError(f"{archive}: {name} is over {MANIFEST_LIMIT / 1e6:g} MB")
        if name not in members and name != SIGNATURE:
            raise BundleError(f"{archive}: no {name} inside; is this a bundle?")
    return members


class _Bounded:
    """A stream that refuses what an honest archive never asks for: a header of more than a megabyte, or no end."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= READ_LIMIT or self.stream.tell() > 2 * ARCHIVE_LIMIT:
            raise BundleError(f"{self.stream.name}: a header of the archive is over {READ_LIMIT / 2**20:g} MB")
        return self.stream.read(size)

    def seek(self, place: int) -> int:
        if place > 2 * ARCHIVE_LIMIT:
            raise BundleError(f"{self.stream.name}: unpacks to more than {ARCHIVE_LIMIT / 1e9:g} GB")
        return self.stream.seek(place)

    def tell(self) -> int:
        return self.stream.tell()


@contextlib.contextmanager
def unpacked(bundle: Path) -> Iterator[Path]:
    """The bundle as a directory: itself, the one of a run directory, or its archive unpacked while the block lasts."""
    if bundle.is_dir():
        inner = bundle / "bundle"
        yield inner if (inner / MANIFEST).is_file() and not (bundle / MANIFEST).exists() else bundle
    elif bundle.is_file():
        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            yield unpack(bundle, Path(scratch) / "bundle")
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


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
