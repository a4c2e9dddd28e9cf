"""WebSocket over HTTP/2 (RFC 8441): the handshake, the ends, and what several on one connection are to each other.

What HTTP/1.1 is held to as well is in `test_ws_flow`, which is run over both.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import h2.settings
import h2client
import pytest
from h2client import CANCEL, H2Client, Header, Tunnel
from inprocess import Flag, InProcess, Truncated, answer, exchanges, read_body
from libraries import start_task
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri
from ws import (
    ACCEPT,
    CONNECT,
    Recorder,
    accept,
    accepted2,
    assert_accepted2,
    binary,
    close,
    disconnect,
    echo,
    extended_connect,
    ping,
    read,
    sent,
    serve2,
    text,
)

from gunicorn_asgi.errors import ApplicationError, ClientDisconnected

pytestmark = pytest.mark.both_libraries

NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM = 0, 1, 7
CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
INITIAL_WINDOW_SIZE = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
BLOCK = b"x" * 65536


def settled(server: InProcess, **kind: Any) -> H2Client:
    client = h2client.connect(server, **kind)
    client.synchronize()
    return client


# RFC 8441, 3: SETTINGS_ENABLE_CONNECT_PROTOCOL.


@pytest.mark.parametrize(("ws", "offered"), [("auto", True), ("none", False)])
def test_the_first_settings_and_no_other_offer_extended_connect(
    parser: str, ws: str, offered: bool
) -> None:
    """RFC 8441, 3. With option ws=none it is not offered, and then :protocol is no pseudo header field."""
    with serve2(echo, parser, ws=ws) as server:
        client = settled(server)
        assert [settings.get(CONNECT_PROTOCOL) for settings in client.server_settings] == [
            1 if offered else None
        ]
        stream = client.tunnel(extended_connect())
        if offered:
            accepted2(stream)
        else:
            assert stream.read_reset() == PROTOCOL_ERROR
            assert len(server.log.take("warning")) == 1


# Section 4: the request.


def without(name: bytes) -> list[Header]:
    return [field for field in extended_connect() if field[0] != name]


def with_pseudo(name: bytes, value: bytes) -> list[Header]:
    return [(key, value if key == name else old) for key, old in extended_connect()]


BODY = (b"content-length", b"5")
REFUSED: dict[str, tuple[list[Header], int]] = {
    "no version": (extended_connect(version=None), 400),
    "version 12": (extended_connect(version=b"12"), 400),
    "version 13 twice": (extended_connect(fields=[(b"sec-websocket-version", b"13")]), 400),
    "another protocol": (extended_connect(protocol=b"connect-udp"), 501),
    "a content-length": (extended_connect(fields=[BODY]), 400),
    "subprotocols that are none": (
        extended_connect(fields=[(b"sec-websocket-protocol", b"a b")]),
        400,
    ),
    "an extension that is none": (
        extended_connect(fields=[(b"sec-websocket-extensions", b"a;;b")]),
        400,
    ),
    "no authority and no host": (without(b":authority"), 400),
}
MALFORMED: dict[str, list[Header]] = {
    "no :scheme": without(b":scheme"),
    "no :path": without(b":path"),
    "an empty :path": with_pseudo(b":path", b""),
    ":protocol with GET": with_pseudo(b":method", b"GET"),
    "Upgrade": extended_connect(fields=[(b"upgrade", b"websocket")]),
    "Connection": extended_connect(fields=[(b"connection", b"upgrade")]),
}


@pytest.mark.parametrize(("headers", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_handshake_that_is_refused_is_answered_and_no_application_sees_it(
    parser: str, headers: list[Header], status: int
) -> None:
    with serve2(None, parser) as server:
        client = settled(server)
        stream = client.tunnel(headers)
        response = stream.read_response()
        assert response.status == status
        versions = [b"13"] if any(b"Sec-WebSocket-Version" in response.body for _ in "x") else []
        assert response.values(b"sec-websocket-version") == versions
        server.end_lingering()
        assert stream.read_reset() == NO_ERROR  # the client's side is still open
        assert len(server.log.take("warning")) == 1
        assert not server.call(
            lambda: [
                exchanges(connection)
                for connection in server.server.connections
                if exchanges(connection)
            ]
        )


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_handshake_that_is_no_request_resets_its_stream(
    parser: str, headers: list[Header]
) -> None:
    """RFC 8441, 4, and RFC 9113, 8.1.1."""
    with serve2(None, parser) as server:
        client = settled(server)
        assert client.tunnel(headers).read_reset() == PROTOCOL_ERROR
        assert len(server.log.take("warning")) == 1
        client.synchronize()


def test_a_handshake_whose_stream_has_ended_is_refused(parser: str) -> None:
    """RFC 8441, 5: END_STREAM is the end of a TCP connection, so there is nothing left to speak on."""
    with serve2(None, parser) as server:
        client = settled(server)
        response = client.tunnel(extended_connect(), end=True).read_response()
        assert response.status == 400
        assert len(server.log.take("warning")) == 1


def test_a_content_length_of_0_means_no_content(parser: str) -> None:
    with serve2(echo, parser) as server:
        ws = accepted2(settled(server).tunnel(extended_connect(fields=[(b"content-length", b"0")])))
        ws.send(text("a"))
        assert ws.read_message() == "a"


def test_the_scope(parser: str) -> None:
    """docs/asgi.md, 76 to 81 and 117."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await accept(receive, send)

    fields = [
        (b"sec-websocket-protocol", b"chat, superchat"),
        (b"cookie", b"a=b"),
        (b"cookie", b"c=d"),
        (b"x-one", b"1"),
    ]
    with serve2(app, parser, ws_per_message_deflate=False) as server:
        client = settled(server)
        connect_2 = accepted2(client.tunnel(extended_connect(b"/caf%C3%A9?a=b%20c", fields)))
        assert connect_2.answer_close() == (1000, "")
        (scope,) = scopes
        expected = {
            "type": "websocket",
            "http_version": "2",
            "scheme": "ws",
            "path": "/café",
            "raw_path": b"/caf%C3%A9",
            "query_string": b"a=b%20c",
            "root_path": "",
            "client": client.name,
            "server": server.address,
            "subprotocols": ["chat", "superchat"],
            "extensions": {"websocket.http.response": {}},
        }
        assert {key: scope[key] for key in expected} == expected
        assert scope["headers"][0] == (b"host", b"a")
        joined = [fields[0], (b"cookie", b"a=b; c=d"), fields[3]]  # RFC 9113, 8.2.3
        assert scope["headers"][1:] == [(b"sec-websocket-version", b"13"), *joined]
        assert scope.keys() == expected.keys() | {"asgi", "headers"}


# Section 5: the answer.


def test_an_acceptance_is_a_200_with_the_applications_headers(parser: str) -> None:
    """And nothing of HTTP/1.1's handshake."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"X-One", b"1"), (b"set-cookie", b"a=b"), (b"x-one", b"2")]
        await accept(receive, send, subprotocol="b", headers=headers)
        await read(receive)

    with serve2(app, parser) as server:
        stream = settled(server).tunnel(
            extended_connect(fields=[(b"sec-websocket-protocol", b"a, b")])
        )
        response = stream.read_head()
        assert_accepted2(response)
        assert response.values(b"sec-websocket-protocol") == [b"b"]
        assert [field for field in response.headers if field[0] in (b"x-one", b"set-cookie")] == [
            (b"x-one", b"1"),
            (b"set-cookie", b"a=b"),
            (b"x-one", b"2"),
        ]


@pytest.mark.parametrize(
    "name", [b"content-length", b"Content-Length", b"transfer-encoding", b"connection"]
)
def test_fields_that_frame_a_message_are_not_in_the_answer(parser: str, name: bytes) -> None:
    """RFC 9110, 9.3.6: a 2xx to CONNECT has no Content-Length, which the frames would contradict."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        value = {b"transfer-encoding": b"chunked", b"connection": b"close"}.get(name, b"5")
        await accept(receive, send, headers=[(name, value), (b"x-a", b"b")])
        while (data := await read(receive)) is not None:
            await send(sent(data))

    with serve2(app, parser) as server:
        stream = settled(server).tunnel(extended_connect())
        ws = accepted2(stream)
        assert (b"x-a", b"b") in stream.headers
        ws.send(text("long enough"))
        assert ws.read_message() == "long enough"


def test_an_acceptance_that_is_not_allowed_raises_and_may_be_followed_by_one_that_is(
    parser: str,
) -> None:
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for headers in (
            [(b"sec-websocket-accept", b"x")],
            [(b"x\n", b"y")],
            [(b"x", b"y\r\nz: 1")],
            [("x", "y")],
            5,
        ):
            with pytest.raises(ApplicationError) as caught:
                await send({**ACCEPT, "headers": headers})
            raised.append(str(caught.value))
        await send(ACCEPT)
        await read(receive)

    with serve2(app, parser) as server:
        accepted2(settled(server).tunnel(extended_connect()))
        assert len(raised) == 5


@pytest.mark.parametrize("early", [b"", text("early")])
def test_a_close_before_the_acceptance_is_a_403(parser: str, early: bytes) -> None:
    """docs/asgi.md, 84."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        await send({"type": "websocket.close", "code": 4001})
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.close"})

    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect(), early)
        assert stream.read_response().status == 403
        server.end_lingering()
        assert stream.read_reset() == NO_ERROR  # RFC 9113, 8.1: nobody waits for the rest
        client.synchronize()


@pytest.mark.parametrize("has_length", [False, True])
def test_a_denial_is_streamed(parser: str, has_length: bool) -> None:
    """docs/asgi.md, 117 to 120; a body larger than the client's windows."""
    parts = [b"a" * 50_000, b"b" * 50_000, b"", b"c" * 50_000]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"x-why", b"because")] + (
            [(b"content-length", b"150000")] if has_length else []
        )
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        for number, body in enumerate(parts):
            await send(
                {
                    "type": "websocket.http.response.body",
                    "body": body,
                    "more_body": number < len(parts) - 1,
                }
            )

    with serve2(app, parser) as server:
        stream = settled(server).tunnel(extended_connect())
        response = stream.read_response()
        assert (response.status, response[b"x-why"], response.body) == (
            401,
            b"because",
            b"".join(parts),
        )
        assert len(response.values(b"content-length")) == has_length


def test_a_denial_that_waits_for_the_client_has_write_timeout(parser: str) -> None:
    """And not what is left of ``ws_accept_timeout``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send(
            {"type": "websocket.http.response.body", "body": b"x" * 100_000, "more_body": True}
        )
        await send({"type": "websocket.http.response.body", "body": b"end"})

    with serve2(app, parser, ws_accept_timeout=10.0, write_timeout=60.0) as server:
        client = settled(server, settings={INITIAL_WINDOW_SIZE: 0})
        stream = client.tunnel(extended_connect())
        server.wait_queued()
        server.advance(50)
        client.open_window(200_000, stream)
        response = stream.read_response()
        assert response.body == b"x" * 100_000 + b"end"


@pytest.mark.parametrize("how", ["raises", "returns", "is too short"])
def test_a_denial_that_is_not_whole_cannot_be_taken_for_it(parser: str, how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [(b"content-length", b"10")],
            }
        )
        await send(
            {
                "type": "websocket.http.response.body",
                "body": b"abc",
                "more_body": how != "is too short",
            }
        )
        if how == "raises":
            raise ValueError

    with serve2(app, parser) as server:
        stream = settled(server).tunnel(extended_connect())
        with pytest.raises(Truncated):
            stream.read_response()
        server.wait_until(lambda: server.log.lines)
        assert len(server.log.take("error")) == 1


@pytest.mark.parametrize("how", ["raises", "returns", "cancels itself"])
def test_an_application_that_fails_before_it_has_answered_is_a_500(parser: str, how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if how == "raises":
            raise ValueError
        if how == "cancels itself":
            raise asyncio.CancelledError

    with serve2(app, parser) as server:
        stream = settled(server).tunnel(extended_connect())
        assert stream.read_response().status == 500
        server.wait_until(lambda: server.log.lines)
        assert len(server.log.take("error")) == 1


@pytest.mark.parametrize("listens", [True, False])
def test_an_application_that_does_not_answer_is_a_500_after_a_while(
    parser: str, listens: bool
) -> None:
    """``ws_accept_timeout``; it is told, and ended if it does not listen. A sibling does not notice."""
    told: list[Any] = []
    waiting, ended = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/sibling":
            await echo(scope, receive, send)
            return
        assert await receive() == CONNECT
        waiting.set()
        try:
            if listens:
                told.append(await receive())
            else:
                await asyncio.Event().wait()
        finally:
            ended.set()

    with serve2(app, parser, ws_accept_timeout=5, ws_ping_interval=0) as server:
        client = settled(server)
        sibling = accepted2(client.tunnel(extended_connect(b"/sibling")))
        stream = client.tunnel(extended_connect())
        waiting.wait()
        server.advance(3)
        client.synchronize()
        assert not stream.status
        server.advance(4)
        assert stream.read_response().status == 500
        server.settle()
        server.advance(4)
        ended.wait()
        assert told == ([disconnect(1006)] if listens else [])
        server.end_lingering()
        assert stream.read_reset() == NO_ERROR
        assert len(server.log.take("error")) == 1
        assert not server.log.take("warning")
        sibling.send(text("a"))
        assert sibling.read_message() == "a"


# Messages, by the core of the websockets package.


class Sans:
    """The core of the websockets package on a stream of the h2 package."""

    def __init__(self, stream: Tunnel, extensions: Iterable[Any] = ()) -> None:
        self.stream = stream
        self.core = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN, max_size=None)
        self.core.extensions = list(extensions)
        self.frames: deque[Any] = deque()

    def flush(self) -> None:
        for data in self.core.data_to_send():
            if data:
                self.stream.send(data)

    def read(self) -> str | bytes:
        """The next message; pings are answered meanwhile."""
        payload, kind = b"", None
        while True:
            self.frames += self.core.events_received()
            while self.frames:
                frame = self.frames.popleft()
                kind = frame.opcode if frame.opcode in (Opcode.TEXT, Opcode.BINARY) else kind
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    payload += bytes(frame.data)
                    if frame.fin:
                        return payload.decode() if kind is Opcode.TEXT else payload
            assert self.stream.receive(), "the stream ended"
            self.core.receive_data(self.stream.take(len(self.stream.buffer)))
            assert self.core.parser_exc is None, self.core.parser_exc
            self.flush()

    def read_end(self) -> None:
        while self.stream.receive():
            self.core.receive_data(self.stream.take(len(self.stream.buffer)))
            self.flush()
        self.core.receive_eof()
        self.flush()


SIZES = [0, 1, 125, 126, 127, 16_384, 65_535, 65_536, 200_000, 1_500_000]


@pytest.mark.parametrize("compressed", [False, True])
def test_messages_of_all_sizes_and_in_fragments_come_back(parser: str, compressed: bool) -> None:
    """RFC 6455, 5.4 and 5.6; RFC 7692. Larger than every window, both ways."""
    with serve2(echo, parser) as server:
        factory = ClientPerMessageDeflateFactory()
        fields = [(b"sec-websocket-extensions", b"permessage-deflate")] if compressed else []
        stream = settled(server).tunnel(extended_connect(fields=fields))
        response = stream.read_head()
        assert_accepted2(response)
        extensions = []
        if compressed:
            assert response[b"sec-websocket-extensions"].startswith(b"permessage-deflate")
            parameters = [
                part.strip().partition("=")
                for part in response[b"sec-websocket-extensions"].decode().split(";")[1:]
            ]
            extensions = [
                factory.process_response_params(
                    [(name, value or None) for name, _, value in parameters], []
                )
            ]
        ws = Sans(stream, extensions)
        for size in SIZES:
            data = bytes(range(256)) * (size // 256) + bytes(size % 256)
            ws.core.send_binary(data)
            ws.core.send_text(("é" * (size // 2)).encode())
            ws.flush()
            assert ws.read() == data, size
            assert ws.read() == "é" * (size // 2)
        ws.core.send_text(b"a", fin=False)
        ws.core.send_ping(b"between")
        ws.core.send_continuation(b"b" * 70_000, fin=False)
        ws.core.send_continuation(b"", fin=True)
        ws.flush()
        assert ws.read() == "a" + "b" * 70_000
        ws.core.send_close(4000, "bye")
        ws.flush()
        ws.read_end()
        assert (ws.core.close_code, ws.core.state) == (4000, State.CLOSED)


@pytest.mark.parametrize("slow", [False, True], ids=["accepted at once", "accepted later"])
def test_frames_that_come_before_the_acceptance_are_kept(parser: str, slow: bool) -> None:
    """In the packet of the handshake, and behind it; as much as the stream's window is, which is not opened meanwhile."""
    go, asked = Flag(), Flag()
    app = Recorder()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        if slow:
            await go.reached()
        await app(scope, receive, send)

    with serve2(late, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect(), text("a") + ping(b"p") + text("b"))
        asked.wait()
        if slow:
            stream.send(binary(b"x" * 1000) * 60)
            client.synchronize()
            assert stream.room() < 65535 - 60_000
            go.set()
        ws = accepted2(stream)
        assert ws.read_pong() == b"p"
        assert ws.close(4000, "bye")[0] == 4000
        server.wait_until(lambda: app.ended)
        assert app.messages["/"][:2] == ["a", "b"]
        assert len(app.messages["/"]) == (62 if slow else 2)
        assert app.ended["/"] == (4000, "bye")


def test_more_than_the_window_before_the_acceptance_ends_only_its_stream(parser: str) -> None:
    """RFC 9113, 6.9.1."""
    told: list[Any] = []
    asked = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send)
            return
        await receive()
        asked.set()
        told.append(await receive())

    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        asked.wait()
        stream.send(b"x" * stream.room())
        frame = struct.pack("!HBBBI", 0, 1, 0, 0, stream.id) + b"x"
        client.send(frame)
        assert stream.read_reset() == 3
        assert client.get().body == b"ok"
        server.wait_until(lambda: told)
        assert told == [disconnect(1006)]
        assert len(server.log.take("warning")) == 1


# The ends.


@pytest.mark.parametrize("how", ["END_STREAM", "RST_STREAM", "loss", "trailers"])
@pytest.mark.parametrize("when", ["handshake", "open", "closing"])
def test_an_end_without_a_close_is_1006(parser: str, how: str, when: str) -> None:
    """RFC 8441, 5; docs/asgi.md, 95 and 96. Behind the application's own Close, its code stays."""
    told: list[Any] = []
    ready = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        if when != "handshake":
            await send(ACCEPT)
        if when == "closing":
            await send({"type": "websocket.close", "code": 4321})
        ready.set()
        told.append(await receive())
        with pytest.raises(ClientDisconnected):
            await send(sent("a") if when != "handshake" else ACCEPT)

    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ready.wait()
        if when != "handshake":
            stream.read_head()
        if how == "END_STREAM":
            stream.send_eof()
        elif how == "RST_STREAM":
            stream.reset()
        elif how == "trailers":
            client.h2.send_headers(stream.id, [(b"x", b"y")], end_stream=True)
            client.flush()
        else:
            client.reset()
        server.wait_until(lambda: told)
        assert told == [disconnect(4321 if when == "closing" else 1006)]
        server.wait_until(lambda: not server.server.tasks)
        server.wait_until(
            lambda: not any(exchanges(connection) for connection in server.server.connections)
        )
        if how == "trailers" and when != "handshake":
            # RFC 9113, 8.5: only DATA on a connected stream, anything else is a stream error.
            assert stream.read_reset() == PROTOCOL_ERROR
        if how == "trailers":
            server.log.take("warning")
        elif how != "loss":
            client.synchronize()


def test_the_server_ends_its_side_behind_its_close_and_the_client_need_not_hurry(
    parser: str,
) -> None:
    """RFC 8441, 5; RFC 6455, 7.1.1: Close, Close, END_STREAM, END_STREAM, and no RST_STREAM."""
    app = Recorder()
    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ws = accepted2(stream)
        stream.send(close(1000))
        assert ws.read_close() == (1000, "")
        while not stream.has_ended:
            assert client.read_some()
        server.advance(1)
        stream.send_eof()
        client.synchronize()
        server.advance(10)
        with suppress(AssertionError, OSError):
            client.synchronize()  # the connection is idle by now, and may be gone
        assert stream.reset_code is None


@pytest.mark.parametrize("who", ["client", "application", "violation"])
def test_a_client_that_never_ends_its_side_is_reset(parser: str, who: str) -> None:
    """Some seconds behind the server's END_STREAM. The connection goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if who == "application":
            await send({"type": "websocket.close"})
        await receive()

    with serve2(app, parser, keepalive=60) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ws = accepted2(stream)
        if who != "application":
            stream.send(close(1000) if who == "client" else text("a", mask=None))
        ws.read_close()
        if who == "application":
            stream.send(close(1000))
        while not stream.has_ended:
            assert client.read_some()
        stream.send(binary(b"still here"))
        client.synchronize()
        assert stream.reset_code is None
        server.advance(4)
        client.synchronize()
        assert stream.reset_code == CANCEL
        assert not server.call(
            lambda: [
                exchanges(connection)
                for connection in server.server.connections
                if exchanges(connection)
            ]
        )
        server.log.take("warning")


@pytest.mark.parametrize("how", ["ws_close_timeout", "ws_max_lifetime", "ws_ping_timeout"])
def test_the_deadlines_of_a_websocket_end_its_stream_and_no_other(parser: str, how: str) -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/sibling":
            await receive()
            await answer(send)
            return
        await accept(receive, send)
        if how == "ws_close_timeout":
            await send({"type": "websocket.close", "code": 4000})
        told.append(await receive())

    options = {"ws_close_timeout": 5, "ws_max_lifetime": 0, "ws_ping_interval": 0}
    options.update(
        {
            "ws_max_lifetime": {"ws_max_lifetime": 10},
            "ws_ping_timeout": {"ws_ping_interval": 5, "ws_ping_timeout": 5},
        }.get(how, {})
    )
    with serve2(app, parser, keepalive=60, **options) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ws = accepted2(stream)
        server.advance(12)
        if how == "ws_ping_timeout":
            assert ws.read_ping() == b""
        code = {"ws_close_timeout": 4000, "ws_max_lifetime": 1001, "ws_ping_timeout": 1011}[how]
        assert ws.read_close()[0] == code
        server.advance(8)
        assert stream.read_reset() == CANCEL
        server.wait_until(lambda: told)
        assert told[0]["code"] == code
        server.wait_until(
            lambda: not any(exchanges(connection) for connection in server.server.connections)
        )
        assert client.get("GET", "/sibling").body == b"ok"


@pytest.mark.parametrize("how", ["RST_STREAM", "RST_STREAM, then loss", "loss", "Close"])
def test_an_application_that_ignores_the_end_is_cancelled_and_forgotten(
    parser: str, how: str
) -> None:
    """``asgi_disconnect_grace_period``, from the first that it was told of."""
    waiting, cancelled = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ws = accepted2(stream)
        waiting.wait()
        if how == "Close":
            ws.close(1000)
        elif how.startswith("RST_STREAM"):
            stream.reset()
            client.synchronize()
        if how.endswith("loss"):
            client.reset()
            server.wait_gone()
        server.advance(2)
        assert not cancelled.is_set()
        server.advance(2)
        cancelled.wait()
        server.wait_until(
            lambda: not any(exchanges(connection) for connection in server.server.connections)
        )


def test_frames_before_a_reset_in_the_same_packet_are_read_and_not_answered(parser: str) -> None:
    """What came before an end is the application's; nothing is sent on a stream that is no more (RFC 9113, 5.1)."""
    app = Recorder()
    with serve2(app, parser) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        accepted2(stream)
        client.h2.send_data(stream.id, text("a") + ping(b"p"))
        client.h2.reset_stream(stream.id, CANCEL)
        client.flush()
        server.wait_until(lambda: app.ended)
        assert (app.messages, app.ended) == ({"/": ["a"]}, {"/": (1006, "")})
        frames = raw_frames(client)
        assert not [frame for frame in frames if frame[0] == 0], frames


def raw_frames(client: H2Client) -> list[tuple[int, int]]:
    """Kind and stream of all that comes up to the answer to a PING."""
    client.h2.ping(b"abcdefgh")
    client.flush()
    data, found = b"", []
    while (6, 0) not in found:
        data += client.sock.recv(65536)
        while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3], "big")):
            found.append((data[3], int.from_bytes(data[5:9], "big")))
            data = data[size:]
    return found


# Several on one connection.


def test_many_on_one_connection_do_not_know_of_each_other(parser: str) -> None:
    with serve2(echo, parser) as server:
        client = settled(server)
        sockets = [
            accepted2(client.tunnel(extended_connect(b"/%d" % number))) for number in range(90)
        ]
        for number, ws in enumerate(sockets):
            ws.send(text(f"{number}") + binary(b"%d" % number * 100))
        for number, ws in reversed(list(enumerate(sockets))):
            assert ws.read_message() == f"{number}"
            assert ws.read_message() == b"%d" % number * 100
        assert server.host.nr == 90
        for ws in sockets[::2]:
            assert ws.close()[0] == 1000
        for ws in sockets[1::2]:
            ws.send(text("still"))
            assert ws.read_message() == "still"


def test_a_stream_above_the_limit_is_refused_as_retryable(parser: str) -> None:
    """RFC 9113, 5.1.2: a WebSocket is one stream of them."""
    with serve2(echo, parser, http2_max_concurrent_streams=2) as server:
        client = settled(server)
        first = accepted2(client.tunnel(extended_connect()))
        accepted2(client.tunnel(extended_connect()))
        client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100
        client.h2.remote_settings.acknowledge()
        assert client.tunnel(extended_connect()).read_reset() == REFUSED_STREAM
        first.close()
        accepted2(client.tunnel(extended_connect()))


async def mixed(scope: Any, receive: Any, send: Any) -> None:
    """HTTP answers with what it gets; WebSockets echo but for /sleep, which never reads, and /spam, which only sends."""
    if scope["type"] == "http":
        await answer(send, await read_body(receive))
        return
    if scope["path"] == "/sleep":
        await accept(receive, send)
        await asyncio.Event().wait()
    elif scope["path"] == "/spam":
        await accept(receive, send)
        with suppress(ClientDisconnected):
            while True:
                await send(sent(BLOCK))
    else:
        await echo(scope, receive, send)


def check_siblings(client: H2Client) -> None:
    ws = accepted2(client.tunnel(extended_connect(b"/echo")))
    ws.send(binary(b"y" * 300_000))
    assert ws.read_message() == b"y" * 300_000
    assert client.get("POST", "/", body=b"z" * 300_000).body == b"z" * 300_000
    assert ws.close()[0] == 1000


def test_a_slow_application_stalls_its_own_stream_only(parser: str) -> None:
    """Its window is not opened any more (RFC 9113, 5.2); what it has not read is bounded."""
    with serve2(mixed, parser) as server:
        client = settled(server)
        sleepers = [accepted2(client.tunnel(extended_connect(b"/sleep"))) for _ in range(10)]
        for ws in sleepers:
            assert isinstance(ws.client, Tunnel)
            sent_ = ws.client.push(binary(b"x" * 1000, mask=bytes(4)), 1 << 20)
            assert sent_ < 4 * 65536
            assert not ws.client.room()
        check_siblings(client)
        client.reset()
        server.wait_gone()
        server.advance(5)


@pytest.mark.parametrize("window", [65535, 1000, (1 << 31) - 1], ids=["65535", "small", "large"])
def test_a_slow_client_lets_its_own_application_wait_only(parser: str, window: int) -> None:
    """docs/asgi.md, 71. One that opens its windows wide and reads nothing is held back by the transport."""
    if window > 65535:
        window = 1 << 24
    with serve2(mixed, parser, ws_ping_interval=0, write_timeout=1000) as server:
        client = settled(
            server,
            settings={INITIAL_WINDOW_SIZE: window},
            receive_buffer=4096 if window > 65535 else 0,
        )
        if window > 65535:
            client.open_window(1 << 30)
        client.synchronize()
        client.tunnel(extended_connect(b"/spam"))
        server.wait_clogged()
        for _ in range(5):
            server.settle()
        assert server.unsent() < 8 * len(BLOCK)
        if window <= 65535:
            check_siblings(h2client.connect(server))
            if window < 65535:
                check_siblings(client)
        client.reset()


def test_a_send_that_waits_goes_on_when_the_client_takes_more(parser: str) -> None:
    count = 60

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for number in range(count):
            await send(sent(b"%d" % number + BLOCK))

    with serve2(app, parser, write_timeout=10, ws_ping_interval=0) as server:
        client = settled(server)
        ws = accepted2(client.tunnel(extended_connect()))
        for number in range(count):
            assert ws.read_message() == b"%d" % number + BLOCK
            if number % 10 == 0:
                server.settle()
                server.advance(8)  # one that takes something in time is not reset
        assert ws.answer_close() == (1000, "")


def test_a_client_that_has_taken_something_and_then_nothing_is_reset(parser: str) -> None:
    """``write_timeout``, for each stream: the others go on."""
    with serve2(mixed, parser, write_timeout=10, ws_ping_interval=0, keepalive=60) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect(b"/spam"))
        ws = accepted2(stream)
        for _ in range(3):
            ws.read_message()
        server.wait_clogged()
        for _ in range(4):
            server.advance(7)
        assert stream.read_reset() == CANCEL
        # What has come of it keeps the connection's window shut.
        client.open_window(1 << 20)
        check_siblings(client)


@pytest.mark.parametrize("takes", ["all", "all, and does not end its side", "nothing"])
def test_what_waits_behind_the_end_has_write_timeout_to_leave(parser: str, takes: str) -> None:
    """And not the moment that a client has to end its side, which begins behind that."""
    told = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        sending = start_task(send(sent(BLOCK * 4)))
        await read(receive)
        with suppress(ClientDisconnected):
            await sending
        told.set()

    with serve2(app, parser, write_timeout=50, ws_ping_interval=0, keepalive=300) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        ws = accepted2(stream)
        server.wait_clogged()
        stream.send(close(1000))
        told.wait()
        server.advance(10)
        if takes == "nothing":
            client.synchronize()
            assert stream.reset_code is None
            server.advance(
                100
            )  # the first that was put leaves at once, and counts as a sign of life
            assert stream.read_reset() == CANCEL
            return
        assert ws.read_message() == BLOCK * 4
        assert ws.read_close() == (1000, "")
        if takes == "all":
            ws.read_end()
            client.synchronize()
            assert stream.reset_code is None
        else:
            client.synchronize()
            assert stream.has_ended
            server.advance(4)
            assert stream.read_reset() == CANCEL


# Leaving.


def test_a_worker_that_leaves_closes_all_with_1012_and_siblings_finish(parser: str) -> None:
    """docs/asgi.md, 94. GOAWAY says so, and the connection ends behind the last of them."""
    go = Flag()
    app = Recorder()

    async def both(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await go.reached()
            await answer(send, b"late")
        else:
            await app(scope, receive, send)

    with serve2(both, parser, ws_drain_delay=0, lame_duck=0, ws_ping_interval=0) as server:
        client = settled(server)
        sockets = [
            accepted2(client.tunnel(extended_connect(b"/%d" % number))) for number in range(5)
        ]
        get = client.begin()
        client.synchronize()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(60, 0.5), server.loop)
        for ws in sockets:
            assert ws.read_close() == (1012, "")
            ws.send(close(1012))
            ws.read_end()
        assert {code for _, code in client.goaways} == {NO_ERROR}
        go.set()
        assert client.read_response(get).body == b"late"
        client.read_to_the_end()
        client.close()
        drained.result(10)
        assert app.ended == {f"/{number}": (1012, "") for number in range(5)}
        assert client.goaways[-1] == (get.id, NO_ERROR)


def test_one_that_is_accepted_behind_the_drain_is_closed_at_once(parser: str) -> None:
    go, asked = Flag(), Flag()
    app = Recorder()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await go.reached()
        await app(scope, receive, send)

    with serve2(late, parser, ws_drain_delay=0, lame_duck=0) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect())
        asked.wait()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(60, 0.5), server.loop)
        server.wait_until(lambda: server.server.is_closing_websockets)
        go.set()
        assert accepted2(stream).answer_close() == (1012, "")
        client.read_to_the_end()
        client.close()
        drained.result(10)
        assert app.ended == {"/": (1012, "")}


# The log, and the count.


class Access:
    """Notes what is told of each exchange, as `access_log.Access` is asked."""

    needs_headers = True

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, int, int]] = []

    def begin(self, method: str, raw_path: bytes, *rest: Any) -> Any:
        class Record:
            response_headers: Any = ()
            path = raw_path

        return Record()

    def end(self, record: Any, status: int, sent_: int) -> None:
        self.lines.append((record.path, status, sent_))

    def refused_fields(self, *rest: Any) -> None:
        raise AssertionError("not here")


@pytest.mark.parametrize("how", ["client", "application", "reset", "loss", "denied", "left early"])
def test_the_access_log_has_one_line_at_the_end(parser: str, how: str) -> None:
    """Status 200 for what was accepted, and the bytes of its frames; 499 where there was no answer."""
    asked = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        asked.set()
        if how == "denied":
            await send({"type": "websocket.close"})
        elif how == "left early":
            await receive()
        else:
            await send(ACCEPT)
            await send(sent("hello"))
            if how == "application":
                await send({"type": "websocket.close"})
            await read(receive)

    access = Access()
    with serve2(app, parser, access=access) as server:
        client = settled(server)
        stream = client.tunnel(extended_connect(b"/here?x"))
        asked.wait()
        if how == "denied":
            assert stream.read_response().status == 403
        elif how == "left early":
            stream.reset()
        else:
            ws = accepted2(stream)
            assert ws.read_message() == "hello"
            assert not access.lines
            if how == "client":
                ws.close()
            elif how == "application":
                ws.answer_close()
            elif how == "reset":
                stream.reset()
            else:
                client.reset()
        server.wait_until(lambda: access.lines)
        server.wait_until(lambda: not server.server.tasks)
        server.settle()
        expected = {
            "client": (200, 7 + 4),
            "application": (200, 7 + 4),
            "reset": (200, 7),
            "loss": (200, 7),
        }
        expected.update({"denied": (403, 0), "left early": (499, 0)})
        assert access.lines == [(b"/here", *expected[how])]


def test_a_websocket_counts_for_max_requests(parser: str) -> None:
    with serve2(echo, parser, max_requests=2) as server:
        client = settled(server)
        first = accepted2(client.tunnel(extended_connect()))
        assert (server.host.nr, server.host.retired) == (1, 0)
        accepted2(client.tunnel(extended_connect()))
        assert (server.host.nr, server.host.retired) == (2, 1)
        first.close()


def test_one_above_limit_concurrency_is_a_503(parser: str) -> None:
    with serve2(echo, parser, limit_concurrency=1) as server:
        client = settled(server)
        ws = accepted2(client.tunnel(extended_connect()))
        stream = client.tunnel(extended_connect(), text("early"))
        assert stream.read_response().status == 503
        server.end_lingering()
        assert stream.read_reset() == NO_ERROR
        ws.close()
        server.wait_until(lambda: not server.server.tasks)
        accepted2(client.tunnel(extended_connect()))
        server.advance(1)
        assert len(server.log.take("warning")) == 1
