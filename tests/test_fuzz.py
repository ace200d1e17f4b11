"""Random damage to everything that comes from strangers: it is accepted, or refused in one line, and soon.

A few seconds by default, always the same ones. PAREDOWN_FUZZ_S=600 makes it ten minutes, of a seed that it prints;
PAREDOWN_FUZZ_SEED repeats one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import random
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from paredown.compress.models.validation import WEIGHTS, find_weights, read_config
from paredown.export.bundle.archive import pack, unpack
from paredown.pipeline.cli import bundle as bundles
from paredown.runtime.errors import InputError, said
from paredown.runtime.manifest import BundleError, check_files, digest_line, read_manifest, write_manifest
from paredown.runtime.model_scan import check_model_file
from paredown.runtime.selftest import golden_rows
from paredown.serve.config import Settings
from paredown.serve.http.middleware import InFlight
from paredown.serve.server import Server

SECONDS = float(os.environ.get("PAREDOWN_FUZZ_S", "6"))
SEED = os.environ.get("PAREDOWN_FUZZ_SEED") or (str(time.time_ns()) if SECONDS > 60 else "0")
PARTS = 6
SOON_S = 20  # for one input, on a busy machine
ODD = [
    None, True, False, 0, -1, 1, 2**63, 10**400, 0.5, -1e300, 1e308, "", "x", "\x1b[31m", "\u202e", "\ud800", "../x",
    "/etc/passwd", "a" * 10_000, [], {}, [[]], [None], [1.0], [99.0], [1.0, 2.0, 3.0], [2.0, 1.0], [-5.0, 1e9],
    {"": {}}, {"a": None},
]  # fmt: skip
EXAMPLE = {
    "schema": 3, "name": "a", "version": "1", "task": "text-classification", "answer": "label",
    "runtime": "onnxruntime",
    "precision": "fp32", "model": "model/m.onnx", "inputs": ["input_ids"],
    "outputs": ["logits"], "labels": ["a", "b"], "max_length": 8,
    "pad_id": 0, "batch_size": None,
    "length_policy": {"truncate": "right", "pad": "right", "pad_to": "longest"}, "golden": "golden.json",
    "requirements": {"numpy": "2"}, "environment": {"numpy": {"version": "2", "bytes": 3}}, "tool": {"paredown": "0"},
    "opset": {"ai.onnx": 17}, "isa": {"needs_one_of": [], "packed_on": ["avx2"]},
    "source": {"checkpoint": "c", "candidate": "x", "details": {}},
    "metric": {"metric": "macro F1", "metric_validation": 81.5, "metric_validation_ci": [80.0, 82.0],
               "metric_test": 80.5, "metric_test_ci": [79.0, 82.0], "drop_upper_95": None},
    "packed_on": {}, "files": {},
}  # fmt: skip
GOLDEN = {
    "tolerance": {"onnxruntime": 0.1},
    "rows": [{"text": "a", "input_ids": [1, 2], "output": [0.5, 0.1], "answer": "a"}],
}
CONFIG = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 100, "hidden_size": 32,
    "num_attention_heads": 2, "id2label": {"0": "a", "1": "b"}, "pad_token_id": 0, "problem_type": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle, right in all but its tokenizer, which nothing here opens."""
    home = tmp_path_factory.mktemp("fuzz") / "bundle"
    (home / "model").mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["f"], to=1),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["m", "m"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(home / "model" / "m.onnx"))
    (home / "golden.json").write_text(json.dumps(GOLDEN))
    (home / "tokenizer.json").write_text("{}")
    files = {
        path.relative_to(home).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }
    write_manifest(home, EXAMPLE | {"files": files})
    return home


@pytest.fixture
def tries() -> Callable[[], Iterator[random.Random]]:
    """Generators of random numbers, one for each try, until the time is over; how to repeat the last one is printed."""

    def each() -> Iterator[random.Random]:
        until, count = time.monotonic() + SECONDS / PARTS, 0
        try:
            while time.monotonic() < until or count < 3:
                begin = time.monotonic()
                yield random.Random(f"{SEED}-{count}")
                assert time.monotonic() - begin < SOON_S
                count += 1
        finally:
            print(f"PAREDOWN_FUZZ_SEED={SEED}: {count} tries went well")

    return each


def refused(error: Exception) -> None:
    """One line that does no harm to a terminal once the command line has printed it."""
    shown = said(error)
    assert "\n" not in shown
    assert shown.isprintable()
    assert len(shown) < 3000


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, removed, doubled or truncated."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 8, 100, 512])
        how = chance.randrange(5)
        if how == 0:
            data[at : at + size] = chance.randbytes(size)
        elif how == 1:
            del data[at : at + size]
        elif how == 2:
            data[at:at] = data[at : at + size]
        elif how == 3:
            data[at : at + 1] = bytes([chance.choice([0, 255, 32, 48, 57, 127, 128])])
        else:
            data[at : at + size] = str(chance.choice([0, -1, 2**31, 2**63, 10**18])).encode()[:size]
    return bytes(data)


def altered(value: object, chance: random.Random) -> object:
    """A copy of JSON with a few values that are others, too many or missing."""
    copy = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        parent: Any = None
        key: Any = None
        place = copy
        while isinstance(place, (dict, list)) and place and (parent is None or chance.random() < 0.7):
            parent, key = place, chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = place[key]
        if parent is None:
            return chance.choice(ODD)
        how = chance.random()
        if how < 0.15:
            del parent[key]
        elif how < 0.25 and isinstance(parent, dict):
            parent[chance.choice(["more", "", "\x1b[2J", "../x"])] = deepcopy(chance.choice(ODD))
        else:
            parent[key] = deepcopy(chance.choice(ODD))
    return copy


def test_archives(bundle: Path, tries: Callable, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path / "right.tar.gz").read_bytes()
    tar = gzip.decompress(packed)
    archive, out = tmp_path / "a.tar.gz", tmp_path / "deep" / "out"
    for chance in tries():
        how = chance.randrange(4)
        if how == 0:
            raw = damaged(packed, chance)
        elif how == 1:
            raw = gzip.compress(damaged(tar, chance), 1)
        elif how == 2:
            raw = gzip.compress(_sealed(damaged(tar, chance)), 1)  # what a checksum keeps out is let in
        else:
            raw = gzip.compress(_extended(chance) + tar, 1)
        archive.write_bytes(raw)
        try:
            unpack(archive, out)
            manifest = read_manifest(out)
            check_files(out, manifest)
        except BundleError as error:
            refused(error)
        found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if not path.is_dir()}
        assert found <= {"right.tar.gz", "a.tar.gz", "deep"}
        assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
        _remove(out)


def _sealed(tar: bytes) -> bytes:
    """With right checksums of what looks like headers."""
    data = bytearray(tar)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def _extended(chance: random.Random) -> bytes:
    """Extended headers, each with records that are more or less right."""
    raw = io.BytesIO()
    for _ in range(chance.randint(1, 5)):
        info = tarfile.TarInfo(chance.choice(["x", "././@LongLink", "x/manifest.json"]))
        info.type = chance.choice([b"x", b"g", b"L", b"K", b"X", b"S", b"0", b"5", b"2", b"\0"])
        key = chance.choice(["path", "size", "comment", "GNU.sparse.size", "linkpath", "hdrcharset", ""])
        value = chance.choice(["a", "../evil", "/evil", "9" * 20, "-1", "0", "\0", "x/model/m.onnx", "9" * 10_000])
        record = f" {key}={value}\n".encode()
        size = len(record) + chance.choice([1, 2, 2, 2, 3, 0, 10**6])
        content = (f"{size}".encode() + record) * chance.choice([1, 1, 2, 50])
        info.size = len(content)
        raw.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
    return raw.getvalue()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def test_manifests(bundle: Path, tries: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    right = json.loads((bundle / "manifest.json").read_text())
    for chance in tries():
        raw = json.dumps(altered(right, chance)).encode()
        if chance.random() < 0.2:
            raw = damaged(raw, chance)
        (tmp_path / "manifest.json").write_bytes(raw)
        (tmp_path / "manifest.sha256").write_bytes(digest_line(raw))
        try:
            manifest = read_manifest(tmp_path)
            with capsys.disabled(), contextlib.redirect_stdout(io.StringIO()):
                bundles._show_sizes(manifest)
            bundles._judged(manifest["metric"], "rows.csv", chance.uniform(0, 100), chance.choice([1, 20, 2000]))
            check_files(bundle, manifest)
        except BundleError as error:
            refused(error)


def test_golden_rows(bundle: Path, tries: Callable, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for chance in tries():
        raw = json.dumps(altered(GOLDEN, chance)).encode()
        (tmp_path / "golden.json").write_bytes(damaged(raw, chance) if chance.random() < 0.3 else raw)
        with contextlib.suppress(BundleError):
            golden_rows(tmp_path, manifest)


def test_model_files(bundle: Path, tries: Callable, tmp_path: Path) -> None:
    raw = (bundle / "model" / "m.onnx").read_bytes()
    for chance in tries():
        (tmp_path / "m.onnx").write_bytes(damaged(raw, chance))
        try:
            check_model_file(tmp_path / "m.onnx", "onnxruntime")
        except ValueError as error:
            refused(error)


def test_checkpoints(tries: Callable, tmp_path: Path) -> None:
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"format": "pt"}}
    for chance in tries():
        raw = json.dumps(altered(CONFIG, chance)).encode()
        (tmp_path / "config.json").write_bytes(damaged(raw, chance) if chance.random() < 0.2 else raw)
        try:
            read_config(tmp_path / "config.json")
        except InputError as error:
            refused(error)
        head = json.dumps(altered(header, chance)).encode()
        weights = struct.pack("<Q", len(head)) + head + bytes(4)
        (tmp_path / WEIGHTS).write_bytes(damaged(weights, chance) if chance.random() < 0.5 else weights)
        try:
            find_weights(tmp_path)
        except InputError as error:
            refused(error)


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body of a request, and says how long it is."""
    with contextlib.suppress(ClientDisconnect):
        size = len(await Request(scope, receive).body())
        await PlainTextResponse(f"{size}")(scope, receive, send)


def test_the_protocol(tries: Callable, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(uvicorn.Config(_application, log_config=None, lifespan="off", ws="none"), Settings(), InFlight())
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    right = (
        b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde"
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
        b"3;e=1\r\nabc\r\n0\r\nX: y\r\n\r\n"
        b"GET /d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n"
    )
    try:
        with caplog.at_level(logging.ERROR):
            for chance in tries():
                _speak(listener.getsockname(), right, chance)
                if chance.random() < 0.1:
                    with socket.create_connection(listener.getsockname(), SOON_S) as asking:
                        asking.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                        assert asking.recv(100).startswith(b"HTTP/1.1 200 ")
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
        until = time.monotonic() + SOON_S
        while server.connections.buffered or server.server_state.connections:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        server.should_exit = True
        thread.join()


def _speak(where: tuple[str, int], right: bytes, chance: random.Random) -> None:
    """Send something like requests, in pieces, and leave sooner or later."""
    raw = right * chance.choice([1, 1, 3, 50])
    if chance.random() < 0.8:
        raw = damaged(raw, chance)
    if chance.random() < 0.05:
        raw += b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * chance.choice([10_000, 40_000, 300_000])
    with contextlib.suppress(OSError), socket.create_connection(where, 1) as one:
        size = chance.choice([1, 7, 100, 5000, len(raw)])
        size = max(size, len(raw) // 50, 1)
        for at in range(0, len(raw), size):
            one.sendall(raw[at : at + size])
        if chance.random() < 0.5:
            one.shutdown(socket.SHUT_WR)
        one.settimeout(chance.choice([0.01, 0.05]))
        while one.recv(65536):
            pass
