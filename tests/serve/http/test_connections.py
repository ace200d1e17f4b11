"""Sockets that send half of a request, against a server that answers everybody else."""

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from serving import PATIENCE_S, eventually
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from paredown.serve.config import Settings
from paredown.serve.http import connections
from paredown.serve.http.middleware import InFlight
from paredown.serve.server import Server

HALF, COMPLETE = b"POST / HTTP/1.1\r\nHost: x\r\nX", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server() -> Iterator[tuple[Server, Callable[[], socket.socket]]]:
    """A server, and how to connect to it."""
    with running(PlainTextResponse("yes")) as found:
        yield found


@contextlib.contextmanager
def running(app: ASGIApp) -> Iterator[tuple[Server, Callable[[], socket.socket]]]:
    server = Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"), Settings(), InFlight())
    listener = socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    opened = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(where, PATIENCE_S))
        return opened[-1]

    yield server, connect
    for one in opened:
        one.close()
    server.should_exit = True
    thread.join()


def closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_half_open_connections_lock_nobody_out(server, caplog: pytest.LogCaptureFixture) -> None:
    serving, connect = server
    serving.connections.limit = 4
    with caplog.at_level(logging.WARNING, logger="paredown"):
        halves = []
        for _ in range(12):
            halves.append(connect())
            halves[-1].sendall(HALF)
        for _ in range(3):
            asking = connect()
            for _ in range(2):  # the connection is kept
                asking.sendall(COMPLETE)
                assert b"200 OK" in asking.recv(1000)
    assert sum(map(closed, halves)) >= 8
    assert len([record for record in caplog.records if "too many connections" in record.message]) == 1


def test_the_head_of_a_request_has_its_time(server, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, connect = server
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    half = connect()
    half.sendall(HALF)
    eventually(lambda: closed(half))
    assert not serving.connections.idle
    silent = connect()
    eventually(lambda: closed(silent))


def test_no_more_are_open_than_files() -> None:
    assert connections.Connections(10**12).limit < 10**12


def answered(one: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    while part := one.recv(65536):
        found += part
    return found


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10**6,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n" * 40_000,
    ],
)
def test_the_head_of_a_request_has_a_size(server, head: bytes) -> None:
    """Whether it arrives at once or a little at a time, complete or without an end."""
    serving, connect = server
    for step in (len(head), 5000):
        asking = connect()
        with contextlib.suppress(ConnectionError):  # it is closed when all has been said
            for at in range(0, len(head), step):
                asking.sendall(head[at : at + step])
        found = answered(asking)
        assert found.startswith(b"HTTP/1.1 431 ")
        assert b"32768 bytes and 100 headers" in found
    assert serving.connections.buffered == 0
    ordinary = connect()
    ordinary.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"a" * 8000 + b"\r\n" + b"Y: b\r\n" * 90 + b"\r\n")
    assert b"200 OK" in ordinary.recv(1000)


@pytest.mark.parametrize("more", [b"1;" + b"a" * 10**6, b"0\r\n" + b"X: " + b"a" * 10**6, b"0\r\n" + b"X: a\r\n" * 500])
def test_what_follows_a_head_has_a_size_too(server, more: bytes) -> None:
    """Extensions of chunks, and trailers: the parser would keep them."""
    asking = server[1]()
    with contextlib.suppress(ConnectionError):
        asking.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + more)
        found = answered(asking)
        assert b" 431 " in found or not found or found.startswith(b"HTTP/1.1 200")
    eventually(lambda: closed(asking))


def test_what_is_no_http_gets_an_error_of_ours(server) -> None:
    asking = server[1]()
    asking.sendall(b"GET / HTTP/9\r\n\r\n")
    head, _, body = answered(asking).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {"error": "Invalid HTTP request received."}


@pytest.mark.parametrize("count", [3, 1000])
def test_pipelined_requests_are_answered_in_order(server, count: int) -> None:
    serving, connect = server
    asking = connect()
    most = 0
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    asking.sendall((COMPLETE + body + chunked) * (count // 3) + COMPLETE * (count % 3))
    found = b""
    while found.count(b"200 OK") < count:
        most = max([most, *(len(one.pipeline) for one in list(serving.server_state.connections))])
        part = asking.recv(10**6)
        assert part
        found += part
    assert most <= 4
    assert found.count(b"HTTP/1.1") == count
    eventually(lambda: serving.connections.buffered == 0)


def test_who_reads_no_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_S", 1)
    with running(PlainTextResponse(b"a" * 10**6)) as (serving, connect):
        asking = connect()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        asking.sendall(COMPLETE * 100)  # asks for 100 MB: more than every buffer on the way holds
        eventually(lambda: serving.connections.unread)
        assert serving.connections.buffered < 10**6
        eventually(lambda: not serving.server_state.connections)
        assert not serving.connections.unread
        assert not serving.connections.buffered


def test_a_slow_reader_of_a_large_answer_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.2)
    size = 5 * 10**6
    with running(PlainTextResponse(b"a" * size)) as (_, connect):
        asking = connect()
        asking.sendall(COMPLETE)
        found = 0
        while found < size:
            time.sleep(0.02)
            part = asking.recv(10**5)
            assert part, found
            found += len(part)


def test_many_pipelined_requests_hold_up_no_other(server) -> None:
    """A hundred clients that ask for everything at once, and one that asks for a little."""
    _, connect = server
    crowd = [connect() for _ in range(100)]
    for one in crowd:
        one.sendall(COMPLETE * 200)
    begin = time.monotonic()
    asking = connect()
    asking.sendall(COMPLETE)
    assert b"200 OK" in asking.recv(1000)
    alone = time.monotonic() - begin
    for one in crowd:
        found = b""
        while found.count(b"200 OK") < 200:
            found += one.recv(10**6)
    assert alone < (time.monotonic() - begin) / 3


def test_connections_that_wait_to_be_taken_come_before_requests() -> None:
    """The loop takes one of them in each of its turns, and a health check may be the last."""

    async def crowd() -> tuple[int, int]:
        every, loop, answered = connections.Connections(100), asyncio.get_running_loop(), []
        for _ in range(500):
            every.schedule(loop, lambda: answered.append(1), pipelined=True)
        for _ in range(2 * connections.TURN_REQUESTS):
            every.close_oldest(1)
            await asyncio.sleep(0)
        meanwhile = len(answered)
        while len(answered) < 500:
            await asyncio.sleep(0)
        return meanwhile, len(answered)

    assert asyncio.run(crowd()) == (2 * connections.TURN_PIPELINED, 500)
