"""A client that reads slowly, or pauses, gets all of its response as long as it gets on within ``write_timeout``.

The application has ended long before; what waits is in the buffers of the transport and of the kernel.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from inprocess import GET, Flag, InProcess, request
from ways import Way, serving

from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.net import kernel
from gunicorn_asgi.net.acceptor import SO_ATTACH_FILTER

pytestmark = pytest.mark.both_libraries

PIECE = b"0123456789abcdef" * 1024
START = {"type": "http.response.start", "status": 200, "headers": []}
CLOSE = {"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]}


class Filling:
    """Sends until the socket takes no more, and a little on top, which is less than a connection holds back for; then it ends."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.server: InProcess | None = None
        self.sent = 0
        self.ended = Flag()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(self.start)
        assert self.server is not None
        (connection,) = self.server.server.connections
        before, still = -1, 0
        while still < 2 and scope["method"] == "GET":
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += len(PIECE)
            await asyncio.sleep(0.002)
            waiting = kernel.unacknowledged(connection.raw)
            still = still + 1 if waiting == before > 0 else 0
            before = waiting
        await send({"type": "http.response.body", "body": b"end"})
        self.ended.set()


@contextmanager
def filled(app: Filling, parser: str, way: str, **settings: Any) -> Iterator[tuple[Way, Any]]:
    """A server, and a client that has read nothing of the response which `app` has ended."""
    with serving(app, parser, way, **settings) as asked:
        app.server = asked.server
        client = asked.connect(receive_buffer=65536)
        client.send(GET)
        app.ended.wait()
        yield asked, client


@pytest.fixture(params=["1.1", "unix", "tls"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("pause", [8, 50])
@pytest.mark.parametrize("start", [START, CLOSE], ids=["kept", "closing"])
def test_a_pause_costs_nothing_of_a_response_that_is_complete(
    parser: str, way: str, start: dict[str, Any], pause: int
) -> None:
    """``keepalive`` counts from when the client has it all, and a closing connection waits as long."""
    app = Filling(start)
    with filled(app, parser, way, keepalive=2, write_timeout=60.0) as (asked, client):
        asked.server.advance(pause)
        assert client.read_response().body == PIECE * (app.sent // len(PIECE)) + b"end"


def test_a_connection_is_kept_for_a_client_that_gets_on_with_its_response(
    parser: str, way: str
) -> None:
    app = Filling(START)
    with filled(app, parser, way, keepalive=3, write_timeout=60.0) as (asked, client):
        for _ in range(3):
            client.buffer += client.sock.recv(16384)
            asked.server.settle()
            asked.server.advance(2)
        assert client.read_response().body.endswith(b"end")
        client.send(request("HEAD"))
        assert client.read_response("HEAD").status == 200


def test_a_worker_that_is_told_to_stop_waits_for_a_client_that_pauses(
    parser: str, way: str
) -> None:
    app = Filling(START)
    with filled(app, parser, way, keepalive=60, write_timeout=60.0) as (asked, client):
        drained = asyncio.run_coroutine_threadsafe(
            asked.server.server.shut_down(60, 0.5), asked.server.loop
        )
        asked.server.settle()
        asked.server.advance(10)
        assert client.read_response().body == PIECE * (app.sent // len(PIECE)) + b"end"
        assert client.read_rest() == b""
        client.close()
        drained.result(10)


def test_a_response_that_nobody_takes_is_given_up_in_the_end(parser: str, way: str) -> None:
    app = Filling(START)
    with filled(app, parser, way, keepalive=2, write_timeout=20.0) as (asked, _):
        asked.server.advance_until(asked.server.is_idle, 45)


@pytest.mark.parametrize("fields", [[], [b"Connection: close"]], ids=["kept", "closing"])
def test_a_large_response_over_tls_has_all_the_time_that_its_client_gets_on(
    parser: str, fields: list[bytes]
) -> None:
    """Closing, too: the time that the loop has for that begins when all is still to be sent."""
    size = 6_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % size)],
            }
        )
        await send({"type": "http.response.body", "body": bytes(size)})

    with serving(app, parser, "tls", write_timeout=1.0) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(request("GET", "/", *fields))
        asked.server.wait_clogged()
        for _ in range(25):  # in the time of the clock on the wall, too
            before = len(client.buffer)
            while len(client.buffer) < before + 131072:
                client.receive()
            time.sleep(0.1)
        assert len(client.read_response().body) == size


@pytest.mark.parametrize("way", ["1.1", "tls"])
def test_a_client_that_sends_a_little_now_and_then_and_reads_nothing_is_given_up(
    parser: str, way: str
) -> None:
    """What comes is no reason to wait longer for what does not go."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        except BaseException as error:
            raised.append(error)
            raise

    with serving(app, parser, way, write_timeout=20.0, body_timeout=1000.0) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(request("POST", "/", b"Content-Length: 60000"))
        asked.server.wait_clogged()
        for _ in range(30):
            if raised:
                break
            try:
                client.send(b"x")
            except OSError:
                break
            asked.server.settle()
            asked.server.advance(3)
        asked.server.wait_until(lambda: raised)
        assert [type(error) for error in raised] == [ClientDisconnected]


def deafen(client: Any) -> None:
    """Nothing that is sent to it arrives any more, nor is it acknowledged: a telephone in a tunnel."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
    client.sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such filters")
@pytest.mark.parametrize("way", ["1.1", "tls", "h2", "h2-tls"])
def test_an_idle_client_that_has_vanished_does_not_hold_a_drain(parser: str, way: str) -> None:
    """That the connection will end is all that it would miss."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(app, parser, way, keepalive=60, write_timeout=60.0) as asked:
        client = asked.connect()
        assert asked.ask(client).body == b"hello"
        if asked.is_h2:
            client.synchronize()
        asked.server.wait_until(
            lambda: all(
                not kernel.unacknowledged(connection.raw)
                for connection in asked.server.server.connections
            )
        )
        deafen(client)
        drained = asyncio.run_coroutine_threadsafe(
            asked.server.server.shut_down(60, 0.5), asked.server.loop
        )
        for _ in range(12):
            time.sleep(0.1)
            asked.server.advance(1)
        drained.result(5)
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such filters")
def test_one_that_has_vanished_before_its_response_came_does_not_either(parser: str) -> None:
    """Once its system has not answered for some seconds. In these, it is the clock on the wall that counts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        deafen(client)
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(app, parser, "tls", keepalive=1000, write_timeout=60.0) as asked:
        client = asked.connect()
        client.send(GET)
        asked.server.wait_until(
            lambda: any(
                kernel.is_unresponsive(connection.raw)
                for connection in asked.server.server.connections
            )
        )
        drained = asyncio.run_coroutine_threadsafe(
            asked.server.server.shut_down(60, 0.5), asked.server.loop
        )
        for _ in range(12):
            time.sleep(0.1)
            asked.server.advance(1)
        drained.result(5)
        client.close()


@pytest.mark.parametrize("what", ["body", "file"])
@pytest.mark.parametrize("way", ["1.1", "unix", "tls"])
def test_a_client_that_reads_all_the_time_is_never_taken_for_stuck(
    parser: str, way: str, what: str, tmp_path: Path
) -> None:
    """However little: the socket itself has room again only when a large part of what it holds has left."""
    size = 12_000_000
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % size)],
            }
        )
        if what == "file":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            await send({"type": "http.response.body", "body": bytes(size)})

    with serving(app, parser, way, write_timeout=10.0) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(GET)
        asked.server.wait_until(
            lambda: any(connection.is_blocked for connection in asked.server.server.connections)
        )
        for _ in range(40):
            before = len(client.buffer)
            while (
                len(client.buffer) < before + 65536
            ):  # the client's system says so little by little
                client.receive()
            asked.server.settle()
            asked.server.advance(3)
        assert len(client.read_response().body) == size
