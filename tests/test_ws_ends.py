"""Ends of WebSockets that come behind messages which the application has not taken (docs/asgi.md, 95, 96 and 100), on every way."""

from __future__ import annotations

import asyncio
from typing import Any

import h2client
import pytest
from costs import buffered
from h2client import Tunnel
from inprocess import Flag, InProcess
from ways import serving
from ws import (
    ACCEPT,
    CONNECT,
    WebSocket,
    accepted2,
    close,
    disconnect,
    extended_connect,
    handshake,
    received,
    serve2,
    text,
)

from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.websocket.reader import FrameReader

pytestmark = pytest.mark.both_libraries

MANY = [f"message {number}" for number in range(100)]
LARGE = ["x" * 200_000]


class Slow:
    """Takes nothing before it is told, and then everything."""

    def __init__(self) -> None:
        self.accepted, self.go, self.ended = Flag(), Flag(), Flag()
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        await send(ACCEPT)
        self.accepted.set()
        await self.go.reached()
        while not self.messages or self.messages[-1]["type"] != "websocket.disconnect":
            self.messages.append(await receive())
        self.ended.set()


def pushing(raised: list[BaseException], accepted: Flag) -> Any:
    """An application that sends for ever and never reads, and notes what ends it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        accepted.set()
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.05)
        except BaseException as error:
            raised.append(error)
            raise

    return app


def open2(server: InProcess) -> tuple[Tunnel, WebSocket]:
    client = h2client.connect(server)
    client.synchronize()
    stream = client.tunnel(extended_connect())
    return stream, accepted2(stream)


@pytest.mark.parametrize("is_slow", [True, False])
@pytest.mark.parametrize(
    "messages",
    [MANY[:1], MANY[:33], MANY, LARGE],
    ids=["one", "one too many", "many", "a large one"],
)
def test_the_end_of_a_stream_does_not_overtake_a_close(
    parser: str, messages: list[str], is_slow: bool
) -> None:
    """RFC 6455, 5.5.1: it is answered; RFC 8441, 5: END_STREAM is the end of a TCP connection, behind all that was sent on it."""
    app = Slow()
    if not is_slow:
        app.go.set()
    with serve2(app, parser) as server:
        stream, ws = open2(server)
        app.accepted.wait()
        send_to_the_end(stream, b"".join(map(text, messages)) + close(1001, "bye"))
        server.settle()
        app.go.set()
        assert ws.read_close() == (1001, "")
        app.ended.wait()
        assert app.messages == [*map(received, messages), disconnect(1001, "bye")]


def test_nor_a_violation(parser: str) -> None:
    app = Slow()
    with serve2(app, parser) as server:
        stream, ws = open2(server)
        app.accepted.wait()
        send_to_the_end(stream, b"".join(map(text, MANY[:3])) + b"\xf3\x80\0\0\0\0")
        server.settle()
        app.go.set()
        assert ws.read_close()[0] == 1002
        app.ended.wait()
        assert app.messages[:-1] == [*map(received, MANY[:3])]
        assert app.messages[-1]["code"] == 1002
        assert len(server.log.take("warning")) == 1


def send_to_the_end(stream: Tunnel, data: bytes) -> None:
    """The last of it with END_STREAM."""
    if len(data) > 5000:
        stream.send(data[:-10])
        data = data[-10:]
    stream.client.upload(stream, data)


def test_an_application_that_never_reads_hears_of_the_end_of_a_stream(parser: str) -> None:
    """``ws_close_timeout``."""
    raised: list[BaseException] = []

    with serve2(pushing(raised, Flag()), parser, ws_close_timeout=5.0) as server:
        stream, _ = open2(server)
        send_to_the_end(stream, b"".join(map(text, MANY)))
        server.settle()
        server.advance(7)
        server.wait_until(lambda: raised)
        assert [type(error) for error in raised] == [ClientDisconnected]


@pytest.mark.parametrize("way", ["1.1", "tls"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_leaves_behind_messages_nobody_reads_is_noticed(
    parser: str, way: str, reads: bool
) -> None:
    """asyncio's TLS keeps it to itself while nothing is read. What has come before can still be read, with the client's own code."""
    app = Slow()
    raised: list[BaseException] = []

    with serving(app if reads else pushing(raised, app.accepted), parser, way) as asked:
        client = asked.connect()
        client.send(handshake())
        client.read_head()
        app.accepted.wait()
        client.send(b"".join(map(text, MANY)) + close(1001, "bye"))
        asked.server.wait_paused()
        client.close()
        for _ in range(2 if reads else 10):
            asked.server.advance(1)
            asked.server.run(asyncio.sleep(0.02))
        if reads:
            app.go.set()
            app.ended.wait()
            assert app.messages == [*map(received, MANY), disconnect(1001, "bye")]
        else:
            asked.server.wait_until(lambda: raised)
            assert [type(error) for error in raised] == [ClientDisconnected]
        asked.server.advance(10)
        asked.server.wait_until(asked.server.is_idle)


@pytest.mark.parametrize("way", ["1.1", "tls", "h2"])
def test_what_had_come_before_a_worker_leaves_can_still_be_read(parser: str, way: str) -> None:
    app = Slow()
    with serve2(app, parser) if way == "h2" else serving(app, parser, way) as asked:
        server = asked if isinstance(asked, InProcess) else asked.server
        if way == "h2":
            client, _ = open2(server)
        else:
            client = asked.connect()
            client.send(handshake())
            client.read_head()
        app.accepted.wait()
        client.send(b"".join(map(text, MANY)))
        server.wait_paused()
        server.call(
            lambda: [
                connection.handler.close_websockets()
                for connection in list(server.server.connections)
            ]
        )
        app.go.set()
        app.ended.wait()
        assert app.messages == [*map(received, MANY), disconnect(1012)]
        client.close()


def test_pieces_that_come_while_there_are_enough_messages_are_not_copied_again_and_again() -> None:
    """A client may send a byte at a time, and as many as the window has."""
    reader = FrameReader(1 << 20, 2, None)
    data = b"".join(map(text, MANY))
    assert reader.read(data[:200]) is None
    assert reader.is_full
    held = max(buffered(reader), key=len)
    for position in range(200, len(data)):
        assert reader.read(data[position : position + 1]) is None
        assert any(piece is held for piece in buffered(reader))
    taken: list[Any] = []
    while reader.is_stopped:
        taken += reader.messages
        reader.messages.clear()
        reader.resume()
        assert reader.read() is None
    assert [*taken, *reader.messages] == MANY
