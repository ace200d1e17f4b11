"""Unpacking trusts nothing: whatever the bytes are, it is one error or the very same files, and nothing outside."""

import gzip
import io
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import EXAMPLE

from paredown.export.bundle import archive as archive_module
from paredown.export.bundle.archive import pack, unpack
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError, check_files, digest_line, read_manifest, write_manifest

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive of a small bundle: right in all but its model, which nothing here opens."""
    import hashlib

    bundle = tmp_path_factory.mktemp("small") / "bundle"
    (bundle / "model").mkdir(parents=True)
    for name in EXAMPLE["files"]:
        (bundle / name).write_text(name * 50)
    files = {
        name: {"sha256": hashlib.sha256((bundle / name).read_bytes()).hexdigest(), "bytes": len(name) * 50}
        for name in EXAMPLE["files"]
    }
    write_manifest(bundle, EXAMPLE | {"files": files, "model": "golden.json"})
    return pack(bundle, bundle.parent / "a.tar.gz").read_bytes()


def attempt(raw: bytes, home: Path) -> dict[str, bytes] | None:
    """Unpack bytes in a fresh directory; the files, or None after one BundleError that left nothing anywhere."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "a.tar.gz").write_bytes(raw)
    out = home / "deep" / "out"
    try:
        unpack(home / "a.tar.gz", out)
        check_files(out, read_manifest(out))
    except BundleError as error:
        lines = str(error).splitlines()
        assert len(lines) == 1, lines
        if out.exists():  # unpacked, then found wrong by its hashes
            shutil.rmtree(out)
        assert {p.name for p in home.rglob("*") if not p.is_dir()} == {"a.tar.gz"}
        return None
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "home"


@FUZZ
@given(where=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit(packed: bytes, home: Path, where: int, bit: int) -> None:
    where %= len(packed)
    found = attempt(packed[:where] + bytes([packed[where] ^ (1 << bit)]) + packed[where + 1 :], home)
    assert found is None or found == attempt(packed, home)


@FUZZ
@given(where=st.integers(0))
def test_a_cut_archive(packed: bytes, home: Path, where: int) -> None:
    found = attempt(packed[: where % len(packed)], home)
    assert found is None or found == attempt(packed, home)  # all but the last checksum may be there


@FUZZ
@given(where=st.integers(0), byte=st.integers(0, 255), count=st.integers(1, 8))
def test_a_damaged_tar_inside_a_right_gzip(packed: bytes, home: Path, where: int, byte: int, count: int) -> None:
    tar = bytearray(gzip.decompress(packed))
    where %= len(tar)
    tar[where : where + count] = bytes([byte]) * count
    found = attempt(gzip.compress(bytes(tar), 1), home)
    assert found is None or found == attempt(packed, home)


NAMES = st.sampled_from(
    ["x/manifest.json", "x/../../evil", "/evil", "//evil", "x/model/m.onnx", "x/..", "..", ".", "", "x/a\\b", "x/é",
     "x/" + "d/" * 200 + "f", "x/manifest.json/evil", "evil", "x/./manifest.json", "x/model.sig"]
)  # fmt: skip
TARGETS = st.sampled_from(["/etc/passwd", "../../evil", ""])
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
     tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE]
)  # fmt: skip


@FUZZ
@given(extra=st.lists(st.tuples(NAMES, KINDS, TARGETS), min_size=1, max_size=3), first=st.booleans())
def test_members_that_climb_link_or_come_twice(packed: bytes, home: Path, extra: list, first: bool) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        own = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    evil = []
    for name, kind, target in extra:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        evil.append((info, b""))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for info, content in evil + own if first else own + evil:
            tar.addfile(info, io.BytesIO(content))
    found = attempt(raw.getvalue(), home)
    assert found is None or set(found) <= set(attempt(packed, home) or ()) | {"model.sig"}


@pytest.mark.parametrize("where", [".", "./small", "small"])
def test_an_archive_that_plain_tar_made(packed: bytes, home: Path, where: str) -> None:
    files = attempt(packed, home)
    assert files is not None
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for folder in (where, f"{where}/model"):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(f"{where}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert attempt(raw.getvalue(), home) == files


def bomb(*blocks: bytes) -> bytes:
    return gzip.compress(b"".join(blocks) + bytes(1024), 9)


def test_oversized_archives_are_refused_without_being_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    big = tarfile.TarInfo("x/manifest.json")
    big.size = 5 * 10**9
    header = big.tobuf(tarfile.PAX_FORMAT)
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2**31
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 2**31
    tracemalloc.start()
    assert attempt(bomb(header), home) is None
    assert attempt(bomb(long_name.tobuf(tarfile.GNU_FORMAT), bytes(10**7)), home) is None
    assert attempt(bomb(pax.tobuf(tarfile.USTAR_FORMAT), bytes(10**7)), home) is None
    many = [tarfile.TarInfo(f"x/{i}").tobuf() for i in range(1100)]
    assert attempt(bomb(*many), home) is None
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    monkeypatch.setattr(archive_module, "MANIFEST_LIMIT", 10)
    member = tarfile.TarInfo("x/manifest.json")
    member.size = 20
    assert attempt(bomb(member.tobuf(), bytes(512)), home) is None


def test_a_right_digest_of_a_wrong_manifest_is_no_way_in(home: Path) -> None:
    for raw in (b"{}", b"[]", b'{"schema": 3}', b'{"schema": 3, "files": {"../evil": {}}}'):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in (("manifest.json", raw), ("manifest.sha256", digest_line(raw)), ("../evil", b"x")):
                info = tarfile.TarInfo(f"x/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert attempt(packed.getvalue(), home) is None


def test_a_directory_that_holds_something_is_not_unpacked_into(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def extended(count: int, records: bytes, kind: bytes = tarfile.XHDTYPE, times: int = 1) -> bytes:
    """An archive that begins with so many pax headers of these records, each with a file behind it."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, len(records)
    one = header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    one = one * times + tarfile.TarInfo("x/a").tobuf(tarfile.USTAR_FORMAT)
    return bomb(*[one] * count)


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    digits = len(str(size))
    while len(str(size + digits)) != digits:
        digits = len(str(size + digits))
    return b"%d %s=%s\n" % (size + digits, key, value)


@pytest.mark.parametrize(
    "made",
    [
        lambda: extended(
            1, record(b"comment", b"9" * 400_000)
        ),  # CVE-2024-6232: quadratic in tarfile of Python before 3.11.10
        lambda: extended(1, b"9" * 10**6),
        lambda: extended(900, record(b"comment", b"a" * (2**20 - 100))),  # 900 MB of headers
        lambda: extended(1, record(b"comment", b"a"), tarfile.XGLTYPE, 20_000),
        lambda: extended(1, record(b"path", b"\xff")),
        lambda: extended(1, record(b"size", b"-1")),
        lambda: extended(1, record(b"size", b"9" * 30)),
        lambda: extended(1, record(b"GNU.sparse.map", b"0,1")),
        lambda: extended(1, b"5 a=b\n"),
        lambda: extended(1, b"0 a=b\n"),
        lambda: extended(1, b"999999999 a=b\n"),
    ],
    ids=range(11),  # the bytes hold the time of the day, and the workers have to collect the same names
)
def test_extended_headers_take_neither_time_nor_memory(made: Callable[[], bytes], home: Path) -> None:
    raw = made()
    import tracemalloc

    begin = time.monotonic()
    tracemalloc.start()
    assert attempt(raw, home) is None
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert time.monotonic() - begin < 30


def test_names_that_need_an_extended_header(packed: bytes, home: Path, tmp_path: Path) -> None:
    """Long ones and those outside ASCII, as GNU tar and as pax write them; also a global header, as git writes it."""
    import hashlib

    unpack_to = tmp_path / "bundle"
    (tmp_path / "a.tar.gz").write_bytes(packed)
    unpack(tmp_path / "a.tar.gz", unpack_to)
    manifest = read_manifest(unpack_to)
    names = ["model/" + "long" * 40 + ".txt", "model/\u00e9.txt", "model/" + "d" * 60 + "/" + "e" * 90]
    for name in names:
        (unpack_to / name).parent.mkdir(exist_ok=True)
        (unpack_to / name).write_text("x")
        manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    write_manifest(unpack_to, manifest)
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz", format=kind, pax_headers={"comment": "0" * 40}) as tar:
            tar.add(unpack_to, "x")
        found = attempt(raw.getvalue(), home)
        assert found is not None
        assert set(names) < set(found)
    two = gzip.compress(gzip.decompress(packed)[:1000]) + gzip.compress(gzip.decompress(packed)[1000:])
    assert attempt(two, home) == attempt(packed, home)


def test_an_archive_has_a_deadline(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed)
    with pytest.raises(BundleError, match="deadline"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", -1.0)
    assert not (tmp_path / "out").exists()
