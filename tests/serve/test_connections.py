"""Sockets that send half of a request, against a server that answers everybody else."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from paredown.serve import connections
from paredown.serve.front import Gate
from paredown.serve.process import Server
from paredown.serve.settings import Settings
from serving import PATIENCE_S, eventually
from starlette.responses import PlainTextResponse

HALF, WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nX", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def server() -> Iterator[tuple[Server, Callable[[], socket.socket]]]:
    """A server, and how to connect to it."""
    server = Server(uvicorn.Config(PlainTextResponse("yes"), log_config=None, lifespan="off"), Settings(), Gate())
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
    serving.connections.most = 4
    with caplog.at_level(logging.WARNING, logger="paredown"):
        halves = []
        for _ in range(12):
            halves.append(connect())
            halves[-1].sendall(HALF)
        for _ in range(3):
            asking = connect()
            for _ in range(2):  # the connection is kept
                asking.sendall(WHOLE)
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
    assert connections.Connections(10**12).most < 10**12
