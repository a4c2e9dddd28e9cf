"""A transport and its handler (`net.transport`): who is waited for, for how long, and what is left."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest
from inprocess import GET, Flag, request, serve
from ways import serving
from ws import close, handshake

from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.http1.connection import H1Connection
from gunicorn_asgi.http1.writer import H1ResponseWriter
from gunicorn_asgi.net.transport import Transport

PIECE = b"0123456789abcdef" * 1024
START = {"type": "http.response.start", "status": 200, "headers": []}


class Endless:
    """Sends without an end, and listens meanwhile."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self.told: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        listener = asyncio.create_task(self.listen(receive))
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            listener.cancel()

    async def listen(self, receive: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        self.told.append(message)


def read_slowly(asked: Any, client: Any, times: int, seconds: float) -> None:
    """Read a little, and put the clock forward, so many times."""
    for _ in range(times):
        client.sock.recv(65536)
        asked.server.settle()
        asked.server.advance(seconds)


@pytest.mark.parametrize("way", ["unix"])
def test_a_half_closed_client_that_reads_slowly_gets_its_response_until_it_stops(
    parser: str, way: str
) -> None:
    """While written data does not leave, only ``write_timeout`` counts."""
    app = Endless()
    with serving(app, parser, way, write_timeout=20.0) as asked:
        client = asked.connect()
        client.send(GET)
        client.send_eof()
        asked.server.wait_clogged()
        read_slowly(asked, client, 4, 15.0)
        assert not app.told
        assert not app.raised
        asked.server.advance_until(lambda: app.raised, 21.0)
        assert [type(error) for error in app.raised] == [ClientDisconnected]


@pytest.mark.parametrize("way", ["unix"])
def test_a_body_is_not_overdue_while_the_response_does_not_leave(parser: str, way: str) -> None:
    """The client reads slowly, and may have no time to send."""
    app = Endless()
    with serving(app, parser, way, write_timeout=20.0, body_timeout=5.0) as asked:
        client = asked.connect()
        client.send(request("POST", "/", b"Content-Length: 1000"))
        asked.server.wait_clogged()
        read_slowly(asked, client, 4, 15.0)
        assert not app.told
        assert not app.raised
        client.close()
        asked.server.wait_until(lambda: app.raised)


def test_an_application_has_its_grace_after_a_websocket_was_closed(parser: str) -> None:
    """``asgi_disconnect_grace_period`` counts from the loss, whatever the end before it."""
    told, cancelled = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        told.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser, asgi_disconnect_grace_period=60) as server:
        client = server.connect()
        client.send(handshake())
        client.read_head()
        client.send(close(1000))
        told.wait()
        client.close()
        server.wait_lost()
        server.advance(20)
        assert not cancelled.is_set()
        server.advance(60)
        cancelled.wait()


def test_a_websocket_that_is_read_slowly_is_delivered_to_its_end(
    parser: str, tmp_path: Any
) -> None:
    """RFC 6455, 7.1.1: the Close frame is the last, however long the client takes."""
    ended = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": PIECE * 4})
        finally:
            ended.set()

    path = str(tmp_path / "socket")
    settings = {"ws_per_message_deflate": False, "ws_ping_interval": 0, "write_timeout": 60}
    with serve(app, parser, bind=path, **settings) as server:
        client = server.connect()
        client.send(handshake())
        client.read_head()
        server.wait_clogged()
        client.send(close(1000))
        ended.wait()
        received = b""
        client.sock.settimeout(1.0)
        for _ in range(2000):
            part = client.sock.recv(65536)
            if not part:
                break
            received += part
            server.settle()
            server.advance(1)
        assert received.endswith(b"\x88\x02\x03\xe8")


@pytest.mark.parametrize("asked", [GET, handshake()], ids=["GET", "WebSocket"])
def test_nothing_of_a_connection_is_left_to_the_garbage_collector(
    parser: str, asked: bytes
) -> None:
    """Also where an upgrade has replaced a handler."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(START)
            await send({"type": "http.response.body"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    def count() -> int:
        kinds = (Transport, H1Connection, H1ResponseWriter)
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    with serve(app, parser) as server:
        gc.collect()
        gc.disable()
        before = server.call(count)  # of other tests
        try:
            client = server.connect()
            client.send(asked)
            client.read_head()
            client.close()
            server.wait_until(server.is_idle)
            server.settle()
            assert server.call(count) <= before
        finally:
            gc.enable()


async def disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("size", [20_000, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("way", ["1.1", "unix", "tls"])
def test_a_head_and_a_large_body_arrive_whole(parser: str, way: str, size: int) -> None:
    """Whether the loop sends them in one system call or in several."""
    body = os.urandom(size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (transport,) = asked.server.server.connections
        transport.write_head_and_body(b"head", body)
        await disconnected(receive)

    with serving(app, parser, way) as asked:
        client = asked.connect()
        client.send(GET)
        while len(client.buffer) < size + 4:
            assert client.receive()
        assert client.buffer == b"head" + body


@pytest.mark.parametrize("way", ["1.1", "unix", "tls"])
def test_a_large_body_that_is_not_read_pauses_the_application(parser: str, way: str) -> None:
    """The loop counts what the kernel did not take of a head and a body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (transport,) = asked.server.server.connections
        transport.write_head_and_body(b"head", bytes(16_000_000))
        await disconnected(receive)

    with serving(app, parser, way) as asked:
        client = asked.connect(receive_buffer=65536)
        client.send(GET)
        asked.server.wait_clogged()


@pytest.mark.parametrize("way", ["1.1", "tls"])
def test_many_writes_to_a_client_that_has_reset_are_not_warned_of(
    parser: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop has had no turn to notice it. asyncio would log each write after the fifth."""
    began, has_reset = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (transport,) = asked.server.server.connections
        began.set()
        has_reset.wait()
        for _ in range(20):
            transport.write(PIECE)
        transport.write(PIECE * 20)
        await disconnected(receive)

    with serving(app, parser, way) as asked:
        client = asked.connect()
        client.send(GET)
        began.wait()
        client.reset()
        has_reset.set()
        asked.server.wait_until(asked.server.is_idle)
    assert not caplog.records
