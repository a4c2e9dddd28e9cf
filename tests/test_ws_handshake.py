"""The opening handshake over HTTP/1.1: RFC 6455, 4; RFC 9110, 7.8; docs/asgi.md, 76 to 86, 93, 117 to 120.

Either parser of fields reads it; an answer other than 101 is an ordinary response, and the last one on its connection.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from certificates import make_authority
from gunicorn.config import Config
from inprocess import (
    GET,
    Client,
    Flag,
    InProcess,
    Response,
    Truncated,
    answer,
    mirror,
    read_body,
    request,
    serve,
)
from libraries import start_task
from tables import each
from ws import (
    ACCEPT,
    CONNECT,
    KEY,
    Recorder,
    accept,
    accept_key,
    accepted,
    assert_accepted,
    binary,
    close,
    connect,
    cont,
    disconnect,
    echo,
    handshake,
    options,
    ping,
    read,
    received,
    sent,
    text,
)

from gunicorn_asgi.errors import ApplicationError, ClientDisconnected

pytestmark = pytest.mark.both_libraries

START: dict[str, Any] = {"type": "websocket.http.response.start", "status": 200, "headers": []}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


async def either(scope: Any, receive: Any, send: Any) -> None:
    """Tells by the answer what kind of request it was."""
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
    else:
        with suppress(EOFError):
            await answer(send, b"plain " + await read_body(receive))


@pytest.fixture(scope="module")
def server(parser: str) -> Iterator[InProcess]:
    with ExitStack() as stack:
        yield stack.enter_context(serve(either, parser))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_authority(tmp_path_factory.mktemp("certificate"), "server"))
    return context


def assert_last(response: Response, client: Client) -> None:
    """It says that it is the last, and it is."""
    assert b"close" in options(response.values(b"connection")), response
    assert not response.values(b"sec-websocket-accept"), response
    assert client.read_rest() == b""


# What is a handshake.

HANDSHAKES = {
    "plain": handshake(),
    "HTTP/1.1 with a target": handshake(target="/chat?room=1"),
    "upgrade in capitals": handshake(upgrade=b"WebSocket", connection=b"UPGRADE"),
    "connection with other options": handshake(connection=b"keep-alive, Upgrade"),
    "connection in two lines": handshake(b"Connection: keep-alive"),
    "connection in two lines, the other way": handshake(
        b"Connection: upgrade", connection=b"keep-alive"
    ),
    "upgrade among others": handshake(upgrade=b"h2c, websocket"),
    "upgrade in two lines": handshake(b"Upgrade: websocket", upgrade=b"h2c"),
    "empty members": handshake(upgrade=b", websocket ,", connection=b",,upgrade,"),
    "white space": handshake(key=b"  " + KEY + b"\t", version=b" 13 "),
    "an origin": handshake(b"Origin: http://example.com"),
    "no body, and said so": handshake(b"Content-Length: 0"),
    "an expectation without a body": handshake(b"Expect: 100-continue"),
    "a last request": handshake(connection=b"close, Upgrade"),
    "absolute-form": handshake(target="http://b/chat"),
    "another key": handshake(b"X: y", key=KEY),
}


@pytest.mark.parametrize("data", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_a_handshake_is_accepted(server: InProcess, data: bytes) -> None:
    """RFC 6455, 4.2.1: names of fields, and these values, are read without regard to case; RFC 9110, 5.6.1: as lists."""
    client = server.connect()
    client.send(data)
    ws = accepted(client)
    ws.send(text("a"))
    assert ws.read_message() == "a"
    assert ws.close() == (1000, "")


def test_the_key_is_answered(server: InProcess) -> None:
    """RFC 6455, 4.2.2, 5.4; the first is the example of 1.3."""
    assert accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    source = random.Random(6455)
    for key in (
        KEY,
        b"AQIDBAUGBwgJCgsMDQ4PEC==",
        *(base64.b64encode(source.randbytes(16)) for _ in range(20)),
    ):
        client = server.connect()
        client.send(handshake(key=key))
        assert_accepted(client.read_head(), key)
        client.close()


def test_nothing_is_negotiated_that_was_not_offered(server: InProcess) -> None:
    """RFC 6455, 4.1: a client has to fail the connection."""
    client = server.connect()
    client.send(handshake())
    response = client.read_head()
    assert not response.values(b"sec-websocket-extensions")
    assert not response.values(b"sec-websocket-protocol")


# What is refused.

ENDING = b"\r\n\r\n"
REFUSED: dict[str, tuple[bytes, int]] = {
    # 4.2.1, 6 and 4.4
    "no version": (handshake(version=None), 426),
    "an empty version": (handshake(version=b""), 426),
    "an older version": (handshake(version=b"8"), 426),
    "a newer version": (handshake(version=b"14"), 426),
    "no number": (handshake(version=b"x"), 426),
    "thirteen in another way": (handshake(version=b"013"), 426),
    "two versions": (handshake(version=b"13, 8"), 426),
    "no version and no key": (handshake(version=None, key=None), 426),
    # 4.2.1, 5: "when decoded, is 16 bytes in length"
    "no key": (handshake(key=None), 400),
    "an empty key": (handshake(key=b""), 400),
    "a key of 15 bytes": (handshake(key=base64.b64encode(bytes(15))), 400),
    "a key of 17 bytes": (handshake(key=base64.b64encode(bytes(17))), 400),
    "a key that is no base64": (handshake(key=b"!!!!!!!!!!!!!!!!!!!!!!=="), 400),
    "a key with garbage in it": (handshake(key=b"dGhlIHNh bXBsZSBub25jZQ=="), 400),
    "a key with garbage around it": (handshake(key=b"!" + KEY), 400),
    "a key without its padding": (handshake(key=KEY.rstrip(b"=")), 400),
    "a key that is no ASCII": (handshake(key=b"\xe9" * 22 + b"=="), 400),
    # 11.3.1: "must not appear more than once"
    "two keys": (handshake(b"Sec-WebSocket-Key: " + KEY), 400),
    "two keys in one line": (handshake(key=KEY + b", " + KEY), 400),
    # 4.1, 10, and 11.3.4: tokens
    "a subprotocol of two words": (handshake(b"Sec-WebSocket-Protocol: a b"), 400),
    "a subprotocol in quotes": (handshake(b'Sec-WebSocket-Protocol: "a"'), 400),
    "a subprotocol that is no ASCII": (handshake(b"Sec-WebSocket-Protocol: caf\xe9"), 400),
    # 4.1, 2; RFC 9110, 15.5.6
    **{
        method: (handshake(method=method), 405)
        for method in ("POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "GETT")
    },
    # 4.1: the client speaks frames behind it, so nobody could tell a body from them
    "a body with a length": (handshake(b"Content-Length: 5") + b"hello", 400),
    # RFC 6585, 5: to read them takes microseconds each, in which nobody else is served
    "very many extensions": (handshake(*[b"Sec-WebSocket-Extensions: " + b"a," * 4000] * 3), 431),
    "very many subprotocols": (handshake(*[b"Sec-WebSocket-Protocol: " + b"a," * 4000] * 3), 431),
    "a body in chunks": (
        handshake(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize(
    "behind",
    [b"", GET, text("a") + ping(), handshake()],
    ids=["alone", "a request", "frames", "a handshake"],
)
@each("data, status", REFUSED)
def test_a_handshake_is_refused(server: InProcess, data: bytes, status: int, behind: bytes) -> None:
    """One answer with the exact status, one line in the log, and nothing behind it is taken for a request."""
    server.log.take("warning")
    client = server.connect()
    client.send(data + behind)
    response = client.read_response("HEAD" if data.startswith(b"HEAD ") else "GET")
    assert response.status == status
    if status == 426:
        # RFC 6455, 4.4, and RFC 9110, 15.5.22 and 7.8: "MUST also send an 'Upgrade' connection option"
        assert response[b"sec-websocket-version"] == b"13"
        assert response[b"upgrade"] == b"websocket"
        assert b"upgrade" in options(response.values(b"connection"))
    elif status == 405:
        assert response[b"allow"] == b"GET"
    assert_last(response, client)
    client.close()
    (line,) = server.log.take("warning")
    assert line.text.startswith("Invalid request from ip=127.0.0.1: ")


def test_two_lines_of_the_version_are_refused(server: InProcess) -> None:
    """RFC 6455, 11.3.5: not more than once in a request."""
    client = server.connect()
    client.send(handshake(b"Sec-WebSocket-Version: 13"))
    assert client.read_response().status in (400, 426)
    assert client.read_rest() == b""


NO_HANDSHAKES = {
    "HTTP/1.0": handshake(
        http="1.0"
    ),  # RFC 9110, 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request"
    "no connection": handshake(connection=None),
    "another connection option": handshake(connection=b"keep-alive"),
    "no upgrade": handshake(upgrade=None),
    "another protocol": handshake(upgrade=b"h2c"),
    "a longer name": handshake(upgrade=b"websockets"),
    "a version of it": handshake(upgrade=b"websocket/13"),
    "a body and no connection": handshake(b"Content-Length: 5", connection=None, method="POST")
    + b"hello",
}


@pytest.mark.parametrize("data", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES.keys())
def test_what_is_no_handshake_is_an_ordinary_request(server: InProcess, data: bytes) -> None:
    client = server.connect()
    client.send(data)
    response = client.read_response()
    assert response.status == 200
    assert response.body == (b"plain hello" if data.endswith(b"hello") else b"plain ")
    if b"HTTP/1.0" not in data:
        assert client.is_open()


def test_websockets_can_be_switched_off(parser: str) -> None:
    """``ws="none"``: RFC 9110, 7.8: "A server MAY ignore a received Upgrade header field"."""
    with serve(mirror, parser, ws="none") as server:
        client = server.connect()
        for data in (
            handshake(target="/a"),
            handshake(target="/b", version=None, key=None),
            handshake(b"Content-Length: 2", method="POST") + b"hi",
        ):
            client.send(data)
            response = client.read_response()
            assert response.status == 200
            assert not response.values(b"upgrade")
            scope = ast.literal_eval(response.body.decode())
            assert scope["type"] == "http"
            assert scope["scheme"] == "http"
            assert "websocket.http.response" not in scope["extensions"]
            assert (b"upgrade", b"websocket") in scope["headers"]
        assert client.is_open()


# The scope.


class Scopes:
    """Accepts, and keeps the scope as it was."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        await echo(scope, receive, send)

    def of(self, server: InProcess, *fields: bytes, **kind: Any) -> dict[str, Any]:
        ws = connect(server, *fields, **kind)
        ws.client.close()
        return self.seen.pop()


def test_the_scope_of_a_websocket(parser: str) -> None:
    """docs/asgi.md, 76 to 81 and 117: no ``method``."""
    app = Scopes()
    with serve(app, parser) as server:
        ws = connect(
            server, b"X-Custom: caf\xe9", b"Cookie: a=b", b"X-Custom: 2", target="/caf%C3%A9?a=%20b"
        )
        (scope,) = app.seen
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/café",
            "raw_path": b"/caf%C3%A9",
            "query_string": b"a=%20b",
            "root_path": "",
            "headers": [
                (b"host", b"a"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-key", KEY),
                (b"sec-websocket-version", b"13"),
                (b"x-custom", b"caf\xe9"),
                (b"cookie", b"a=b"),
                (b"x-custom", b"2"),
            ],
            "client": ws.client.name,
            "server": server.address,
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        assert {
            name: type(scope[name]) for name in ("headers", "client", "server", "subprotocols")
        } == {
            "headers": list,
            "client": tuple,
            "server": tuple,
            "subprotocols": list,
        }


SUBPROTOCOLS: dict[str, tuple[list[bytes], list[str]]] = {
    "one": ([b"chat"], ["chat"]),
    "a list": ([b"chat, superchat"], ["chat", "superchat"]),
    "a list without spaces": ([b"c,b,a"], ["c", "b", "a"]),
    "two lines": ([b"chat", b"superchat"], ["chat", "superchat"]),
    "lists in several lines": ([b"a, b", b"c", b"d,e"], ["a", "b", "c", "d", "e"]),
    "white space": ([b" a\t,\t b "], ["a", "b"]),
    "empty members": ([b", a ,, b,"], ["a", "b"]),
    "case is kept": ([b"Chat, CHAT"], ["Chat", "CHAT"]),
    "characters of a token": (
        [b"v10.stomp, graphql-ws, a!#$%&'*+.^_`|~"],
        ["v10.stomp", "graphql-ws", "a!#$%&'*+.^_`|~"],
    ),
}


@pytest.mark.parametrize(("lines", "expected"), SUBPROTOCOLS.values(), ids=SUBPROTOCOLS.keys())
def test_subprotocols_are_a_list_in_the_clients_order(
    parser: str, lines: list[bytes], expected: list[str]
) -> None:
    """docs/asgi.md, 80; RFC 6455, 4.2.1, 8, and 11.3.4: "MAY appear multiple times"."""
    app = Scopes()
    with serve(app, parser) as server:
        scope = app.of(server, *(b"Sec-WebSocket-Protocol: " + line for line in lines))
        assert scope["subprotocols"] == expected


def test_the_scheme_is_wss_over_tls(parser: str, tls: ssl.SSLContext) -> None:
    """docs/asgi.md, 78; and messages of every size go through TLS."""
    app = Scopes()
    with serve(app, parser, tls=tls) as server:
        ws = connect(
            server, b"Sec-WebSocket-Extensions: permessage-deflate", tls=True, early=text("early")
        )
        assert app.seen[0]["scheme"] == "wss"
        assert ws.read_message() == "early"
        for size in (0, 1, 126, 65536, 1_000_000):
            ws.send(binary(bytes(size)))
            assert ws.read_message() == bytes(size)
        assert ws.close(4000) == (4000, "")


@pytest.mark.parametrize(
    ("proto", "scheme"), [(b"https", "wss"), (b"wss", "wss"), (b"http", "ws"), (b"ws", "ws")]
)
def test_the_scheme_is_the_one_a_trusted_proxy_tells(
    parser: str, proto: bytes, scheme: str
) -> None:
    app = Scopes()
    with serve(app, parser, forwarded_allow_ips="127.0.0.1") as server:
        scope = app.of(server, b"X-Forwarded-Proto: " + proto, b"X-Forwarded-For: 203.0.113.7")
        assert (scope["scheme"], scope["client"][0]) == (scheme, "203.0.113.7")
    with serve(app, parser, forwarded_allow_ips="10.0.0.1") as server:
        scope = app.of(server, b"X-Forwarded-Proto: " + proto, b"X-Forwarded-For: 203.0.113.7")
        assert (scope["scheme"], scope["client"][0]) == ("ws", "127.0.0.1")


@pytest.mark.skipif("root_path" not in Config().settings, reason="this Gunicorn has no root_path")
def test_root_path_stands_before_the_path(parser: str) -> None:
    """docs/asgi.md, 29 and 79."""
    app = Scopes()
    with serve(app, parser, root_path="/api") as server:
        scope = app.of(server, target="/chat%20room")
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
            "/api",
            "/api/chat room",
            b"/api/chat%20room",
        )


def test_the_state_is_a_copy_and_so_is_all_of_the_scope(parser: str) -> None:
    """docs/asgi.md, 18, 38 and 79."""
    seen: list[str] = []
    state = {"shared": [1]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(repr({name: value for name, value in scope.items() if name != "client"}))
        scope["state"]["mine"] = 1
        scope["asgi"].clear()
        scope["extensions"]["websocket.http.response"]["x"] = 1
        scope["extensions"].clear()
        scope["headers"].clear()
        scope["subprotocols"].append("x")
        await echo(scope, receive, send)

    with serve(app, parser, state=state) as server:
        for _ in range(3):
            connect(server).client.close()
        assert len(set(seen)) == 1
        assert "'state': {'shared': [1]}" in seen[0]
        assert state == {"shared": [1]}


def test_a_websocket_counts_as_a_request(parser: str) -> None:
    with serve(echo, parser) as server:
        connect(server)
        connect(server)
        assert server.call(lambda: server.host.nr) == 2


# Accepting.


def test_the_handshake_waits_for_the_application(parser: str) -> None:
    """docs/asgi.md, 82 and 83: connect comes first and once, and no message before it is accepted."""
    asked, go = Flag(), Flag()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        early = start_task(receive())
        await asyncio.sleep(0)
        asked.set()
        await go.reached()
        seen.append(early.done())
        await send(ACCEPT)
        seen.append(await early)
        while await read(receive) is not None:
            pass

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + text("early"))
        asked.wait()
        server.settle()
        assert not client.has_more()
        go.set()
        accepted(client).close()
        server.wait_until(lambda: len(seen) == 3)
        assert seen == [CONNECT, False, received("early")]


EARLY = {
    "a message": (text("a"), ["a"]),
    "messages": (text("a") + binary(b"b") + text(""), ["a", b"b", ""]),
    "fragments": (text("a", fin=False) + ping(b"p") + cont("b"), ["ab"]),
    "a part of a frame": (text("a") + text("bcd")[:7], ["a", "bcd"]),
    "a part of a header": (text("a") + text("bcd")[:1], ["a", "bcd"]),
}


@pytest.mark.parametrize("slow", [False, True], ids=["accepted at once", "accepted later"])
@pytest.mark.parametrize(("early", "expected"), EARLY.values(), ids=EARLY.keys())
def test_frames_in_the_packet_of_the_handshake_are_kept(
    parser: str, early: bytes, expected: list[Any], slow: bool
) -> None:
    """docs/asgi.md, 83."""
    go = Flag()
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if slow:
            await go.reached()
        await accept(receive, send)
        while (data := await read(receive)) is not None:
            got.append(data)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + early)
        server.settle()
        go.set()
        ws = accepted(client)
        if "bcd" in expected:
            ws.send(text("bcd")[7:] if len(early) > len(text("a")) + 1 else text("bcd")[1:])
        ws.send(text("last") + close(1000))
        ws.read_close()
        ws.read_end()
        server.wait_until(lambda: len(got) == len(expected) + 1)
        assert got == [*expected, "last"]


@pytest.mark.parametrize("slow", [False, True], ids=["accepted at once", "accepted later"])
def test_a_close_in_the_packet_of_the_handshake_is_answered_behind_it(
    parser: str, slow: bool
) -> None:
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if slow:
            await go.reached()
        await accept(receive, send)
        told.extend([await receive(), await receive()])

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + text("a") + close(4000, "bye"))
        if not slow:  # who has closed its side before is taken for gone
            client.send_eof()
        server.settle()
        go.set()
        ws = accepted(client)
        assert ws.read_close()[0] == 4000
        ws.read_end()
        server.wait_until(lambda: told)
        assert told == [received("a"), disconnect(4000, "bye")]


def test_what_comes_before_the_handshake_is_accepted_is_bounded(parser: str) -> None:
    """A client need not wait for the answer, but memory does not follow it; and what was held is not lost."""
    go = Flag()
    count = 0
    size = 65530

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal count
        await go.reached()
        await accept(receive, send)
        while (data := await read(receive)) is not None:
            assert data == b"x" * size
            count += 1

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        client.sock.settimeout(0.3)
        message = binary(b"x" * size, mask=bytes(4))
        total = 0
        with suppress(TimeoutError):
            while total < 64 << 20:
                total += client.sock.send(message[total % len(message) :])
        assert total < 64 << 20
        assert server.held() < 1 << 20
        go.set()
        client.sock.settimeout(10)
        if total % len(message):
            client.send(message[total % len(message) :])
        ws = accepted(client)
        assert ws.close() == (1000, "")
        server.wait_until(lambda: count == -(-total // len(message)))


def test_a_handshake_waits_its_turn_behind_other_requests(parser: str) -> None:
    """RFC 9112, 9.3.2: answers in their order."""
    go, called = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/slow":
                await go.reached()
            await answer(send, scope["path"].encode() + await read_body(receive))
        else:
            called.set()
            await echo(scope, receive, send)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(
            request("GET", "/a")
            + request("POST", "/slow", body=b"body")
            + handshake()
            + text("early")
        )
        assert client.read_response().body == b"/a"
        server.settle()
        assert not called.is_set()
        go.set()
        assert client.read_response().body == b"/slowbody"
        ws = accepted(client)
        assert ws.read_message() == "early"
        assert ws.is_alive()
        assert ws.close() == (1000, "")


def test_a_request_behind_a_handshake_is_no_request(parser: str) -> None:
    """After the 101 there are only frames (RFC 9110, 7.8), and these bytes are none."""
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope["type"])
        await echo(scope, receive, send)

    with serve(app, parser) as server:
        ws = connect(server, early=GET)
        assert ws.read_failure() == 1002
        assert calls == ["websocket"]


def test_a_handshake_byte_by_byte(parser: str) -> None:
    with serve(echo, parser, delivery="bytes") as server:
        ws = connect(server, early=text("a"))
        assert ws.read_message() == "a"
        ws.close()


ACCEPTED_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-b", b"1"),
    (b"set-cookie", b"a=1"),
    (b"x-a", b"2"),
    (b"set-cookie", b"b=2"),
    (b"x-b", b"3"),
    (b"x-latin", b"caf\xe9"),
]


def test_headers_of_the_acceptance_are_sent_in_order(parser: str) -> None:
    """docs/asgi.md, 86."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, headers=ACCEPTED_HEADERS)
        await read(receive)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        response = client.read_head()
        assert_accepted(response)
        ours = {b"connection", b"upgrade", b"sec-websocket-accept", b"date", b"server"}
        assert [
            field for field in response.headers if field[0].lower() not in ours
        ] == ACCEPTED_HEADERS


def test_the_applications_date_and_server_are_the_only_ones(parser: str) -> None:
    """docs/asgi.md, 73, and one date."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, headers=[(b"Date", b"today"), (b"server", b"mine")])
        await read(receive)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        response = client.read_head()
        assert_accepted(response)
        assert (response[b"date"], response[b"server"]) == (b"today", b"mine")


FORBIDDEN: dict[str, Any] = {
    "sec-websocket-protocol": {"headers": [(b"sec-websocket-protocol", b"chat")]},
    "sec-websocket-accept": {"headers": [(b"sec-websocket-accept", b"x")]},
    "sec-websocket-extensions": {
        "headers": [(b"x", b"y"), (b"Sec-WebSocket-Extensions", b"permessage-deflate")]
    },
    "sec-websocket-version": {"headers": [(b"SEC-WEBSOCKET-VERSION", b"13")]},
    "upgrade": {"headers": [(b"Upgrade", b"h2c")]},
    "a line end": {"headers": [(b"x", b"a\r\nb: c")]},
    "a line feed": {"headers": [(b"x", b"a\nb")]},
    "a NUL": {"headers": [(b"x", b"a\0b")]},
    "no name": {"headers": [(b"", b"a")]},
    "a space in the name": {"headers": [(b"a b", b"c")]},
    "str": {"headers": [("x", "y")]},
    "no pairs": {"headers": [b"x: y"]},
    "no list": {"headers": 5},
    "a subprotocol that was not offered": {"subprotocol": "other"},
    "a subprotocol in another case": {"subprotocol": "CHAT"},
    "a subprotocol that is no str": {"subprotocol": b"chat"},
    "an empty subprotocol": {"subprotocol": ""},
}


@pytest.mark.parametrize("message", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_an_acceptance_that_is_not_allowed_raises(parser: str, message: dict[str, Any]) -> None:
    """docs/asgi.md, 10, 11, 55, 85 and 86; nothing is sent by it, so that the next may be right."""
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(ApplicationError) as caught:
            await send({**ACCEPT, **message})
        raised.append(str(caught.value))
        await send({**ACCEPT, "subprotocol": "chat"})
        await read(receive)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake(b"Sec-WebSocket-Protocol: chat"))
        response = client.read_head()
        assert_accepted(response)
        assert response[b"sec-websocket-protocol"] == b"chat"
        assert raised
        assert raised[0].isprintable()


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"connection"])
def test_fields_that_frame_a_message_are_not_in_a_101(parser: str, name: bytes) -> None:
    """RFC 9110, 8.6, and RFC 9112, 6.1; whether the application hears of it or they are left out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        value = {
            b"content-length": b"5",
            b"transfer-encoding": b"chunked",
            b"connection": b"close",
        }[name]
        try:
            await send({**ACCEPT, "headers": [(name, value)]})
        except ApplicationError:
            await send(ACCEPT)
        while (data := await read(receive)) is not None:
            await send(sent(data))

    with serve(app, parser) as server:
        ws = connect(server)
        ws.send(text("a"))
        assert ws.read_message() == "a"


@pytest.mark.parametrize("chosen", ["b", "a", "c", None])
def test_the_chosen_subprotocol_is_told(parser: str, chosen: str | None) -> None:
    """docs/asgi.md, 85."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, subprotocol=chosen)
        await read(receive)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake(b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: c"))
        response = client.read_head()
        assert_accepted(response)
        assert response.values(b"sec-websocket-protocol") == (
            [] if chosen is None else [chosen.encode()]
        )


def test_headers_of_the_acceptance_may_be_any_iterable(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, headers=((name, b"y") for name in (b"x-a", b"x-b")))
        await read(receive)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        response = client.read_head()
        assert (response[b"x-a"], response[b"x-b"]) == (b"y", b"y")


# Denying.


@pytest.mark.parametrize(
    "message", [{}, {"code": 4001}, {"code": 1000, "reason": "no"}, {"reason": None}]
)
def test_a_close_before_the_acceptance_is_a_403(parser: str, message: dict[str, Any]) -> None:
    """docs/asgi.md, 84."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert await receive() == CONNECT
        await send({"type": "websocket.close", **message})
        told.append(await receive())
        with pytest.raises(ClientDisconnected):
            await send(ACCEPT)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + GET)
        response = client.read_response()
        assert response.status == 403
        assert_last(response, client)
        server.wait_until(lambda: told)
        assert told == [disconnect(1006)]


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("no")


async def raises_behind_connect(scope: Any, receive: Any, send: Any) -> None:
    assert await receive() == CONNECT
    raise ValueError("no")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    pass


async def returns_behind_connect(scope: Any, receive: Any, send: Any) -> None:
    assert await receive() == CONNECT


async def is_cancelled(scope: Any, receive: Any, send: Any) -> None:
    raise asyncio.CancelledError


async def starts_a_denial_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "status": 401, "headers": [(b"x", b"y")]})
    raise ValueError("no")


async def starts_a_denial_and_returns(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "status": 401})


FAILURES = [
    raises,
    raises_behind_connect,
    returns,
    returns_behind_connect,
    is_cancelled,
    starts_a_denial_and_raises,
    starts_a_denial_and_returns,
]


@pytest.mark.parametrize("app", FAILURES, ids=lambda app: app.__name__)
def test_an_application_that_fails_before_it_has_answered_is_a_500(
    parser: str, app: Callable[..., Any]
) -> None:
    """docs/asgi.md, 93, and one line in the log, with the traceback where there is one."""
    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake(target="/here") + GET)
        response = client.read_response()
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert not response.values(b"x")
        assert_last(response, client)
        server.wait_until(lambda: server.log.lines)
        (line,) = server.log.take("error")
        assert "/here" in line.text
        assert (type(line.error) is ValueError) == ("raises" in app.__name__)


@pytest.mark.parametrize("status", [204, 304])
def test_a_denial_without_a_body_has_an_end(parser: str, status: int) -> None:
    """As any response without one: an application that goes on is told that nobody listens."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        try:
            while True:
                await send(
                    {"type": "websocket.http.response.body", "body": b"x", "more_body": True}
                )
                await asyncio.sleep(0.01)
        except BaseException as error:
            raised.append(error)
            raise

    with serve(app, parser, ws_accept_timeout=1000.0) as server:
        client = server.connect()
        client.send(handshake())
        assert client.read_response().status == status
        server.advance(6)
        server.wait_until(lambda: not server.server.tasks)
        assert [type(error) for error in raised] == [ClientDisconnected]
        assert client.read_rest() == b""


def test_an_application_that_ignores_the_end_of_such_a_denial_is_cancelled(parser: str) -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 204})
        await send(body(b"", True))
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            raised.append(error)
            raise

    with serve(app, parser, ws_accept_timeout=1000.0) as server:
        client = server.connect()
        client.send(handshake())
        assert client.read_response().status == 204
        server.advance(6)
        server.advance(6)
        server.wait_until(lambda: not server.server.tasks)
        assert [type(error) for error in raised] == [asyncio.CancelledError]
        assert client.read_rest() == b""


@pytest.mark.parametrize("kind", ["close", "response"])
def test_a_receive_that_waits_returns_when_the_denial_is_complete(parser: str, kind: str) -> None:
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        receiver = start_task(receive())
        await asyncio.sleep(0)
        if kind == "close":
            await send({"type": "websocket.close"})
        else:
            await send({**START, "status": 403})
            await send(body(b""))
        got.append(await receiver)

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        assert client.read_response().status == 403
        server.wait_until(lambda: got)
        assert got == [disconnect(1006)]


@pytest.mark.parametrize(
    "status", [200, 204, 302, 304, 401, 404, 418, 451, 500, 503, 599, 600, 999]
)
def test_a_denial_is_an_ordinary_response(parser: str, status: int) -> None:
    """docs/asgi.md, 118, 119 and 64: any status, and the body that it may have."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["extensions"]["websocket.http.response"] == {}
        assert await receive() == CONNECT
        await send(
            {**START, "status": status, "headers": [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]}
        )
        await send(body(b"denied \xff"))
        told.extend([await receive(), await receive()])

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + GET)
        response = client.read_response()
        assert response.status == status
        assert response.body == (b"" if status in (204, 304) else b"denied \xff")
        assert [field for field in response.headers if field[0].startswith(b"x-")] == [
            (b"x-b", b"1"),
            (b"x-a", b"2"),
            (b"x-b", b"3"),
        ]
        assert len(response.values(b"date")) == 1
        assert not response.values(b"upgrade")
        assert_last(response, client)
        server.wait_until(lambda: len(told) == 2)
        assert told == [disconnect(1006)] * 2


@pytest.mark.parametrize("has_length", [False, True])
def test_a_denial_is_streamed(parser: str, has_length: bool) -> None:
    """docs/asgi.md, 120."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {**START, "status": 403, "headers": [(b"content-length", b"9")] if has_length else []}
        )
        await send(body(b"one", True))
        await go.reached()
        await send(body(b"two", True))
        await send(body(b"", True))
        await send(body(b"three"[:3]))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        head = client.read_head()
        assert head.status == 403
        assert options(head.values(b"connection")) == [b"close"]
        assert head.values(b"content-length") == ([b"9"] if has_length else [])
        client.recv_until(b"one")
        go.set()
        rest = client.read_rest()
        # Parts of one turn of the loop are one chunk.
        chunked = (b"\r\n6\r\ntwothr\r\n", b"\r\n3\r\ntwo\r\n3\r\nthr\r\n")
        assert rest in ((b"twothr",) if has_length else [part + b"0\r\n\r\n" for part in chunked])


def test_the_keys_of_a_denial_have_defaults(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401})
        await send({"type": "websocket.http.response.body"})

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        response = client.read_response()
        assert (response.status, response.body) == (401, b"")
        assert_last(response, client)


def test_a_denial_longer_than_its_content_length_raises(parser: str) -> None:
    """docs/asgi.md, 65."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 403, "headers": [(b"content-length", b"3")]})
        with pytest.raises(ApplicationError):
            await send(body(b"four"))
        await send(body(b"abc"))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        assert client.read_response().body == b"abc"
        assert client.read_rest() == b""


@pytest.mark.parametrize("how", ["too short", "raises", "returns"])
def test_a_denial_that_is_not_whole_cannot_be_taken_for_it(parser: str, how: str) -> None:
    """docs/asgi.md, 65 to 67."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 403, "headers": [(b"content-length", b"10")]})
        await send(body(b"half", how != "too short"))
        if how == "raises":
            raise ValueError

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        with pytest.raises((Truncated, ConnectionResetError)):
            client.read_response()
        server.wait_until(lambda: server.log.lines)
        (line,) = server.log.take("error")
        assert (type(line.error) is ValueError) == (how == "raises")


DENYING: dict[str, list[Any]] = {
    # messages, of which the last one raises
    "no status": [{"type": "websocket.http.response.start"}],
    "a status that is no number": [{**START, "status": "403"}],
    "a status below": [{**START, "status": 99}],
    "a status above": [{**START, "status": 1000}],
    "a status that would accept it": [{**START, "status": 101}],
    "a header that is no bytes": [{**START, "headers": [("x", "y")]}],
    "a header with a line end": [{**START, "headers": [(b"x", b"a\r\nb")]}],
    "a body first": [body(b"x")],
    "two starts": [START, START],
    "accept behind the start": [START, ACCEPT],
    "close behind the start": [START, {"type": "websocket.close"}],
    "send behind the start": [START, sent("x")],
    "a body of str": [START, body("x")],
    "the names of HTTP": [{"type": "http.response.start", "status": 200, "headers": []}],
    "a body with the name of HTTP": [START, {"type": "http.response.body", "body": b"x"}],
    "send before all": [sent("x")],
    "no type": [{}],
    "no dict": [None],
    "an unknown type": [{"type": "websocket.unknown"}],
    "a message for the application": [{"type": "websocket.connect"}],
}


@pytest.mark.parametrize("messages", DENYING.values(), ids=DENYING.keys())
def test_a_message_that_is_not_allowed_before_the_answer_raises(
    parser: str, messages: list[Any]
) -> None:
    """docs/asgi.md, 9 to 11, 62, 63 and 119; what is allowed can still follow."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages[:-1]:
            await send(message)
        try:
            await send(messages[-1])
        except ApplicationError as error:
            raised.append(error)
        if len(messages) == 1:
            await send({**START, "status": 403})
        await send(body(b"right"))

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake())
        response = client.read_response()
        assert (response.status, response.body) == (403 if len(messages) == 1 else 200, b"right")
        assert raised
        assert str(raised[0]).isprintable()


def test_messages_of_a_denial_behind_the_acceptance_raise(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for message in (START, body(b"x"), ACCEPT):
            with pytest.raises(ApplicationError):
                await send(message)
        await send(sent("still here"))
        await read(receive)

    with serve(app, parser) as server:
        ws = connect(server)
        assert ws.read_message() == "still here"
        ws.close()


def test_a_large_denial_waits_for_a_client_that_does_not_read(parser: str) -> None:
    """docs/asgi.md, 71 holds for it, too."""
    block = b"x" * 65536

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 403})
        for number in range(200):
            await send(body(block, number < 199))

    with serve(app, parser) as server:
        client = server.connect(receive_buffer=8192)
        client.send(handshake())
        server.wait_clogged()
        assert server.unsent() < 4 * len(block)
        assert client.read_response().body == block * 200
        assert client.read_rest() == b""


# A client that leaves, and an application that does not answer.


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("early", [b"", text("early")], ids=["nothing", "a message"])
def test_a_client_that_leaves_before_the_answer_is_1006(
    parser: str, how: str, early: bytes
) -> None:
    """docs/asgi.md, 95, 96 and 99."""
    asked = Flag()
    told: list[Any] = []
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        asked.set()
        told.extend([await receive(), await receive()])
        try:
            await send(ACCEPT)
        except OSError as error:
            raised.append(error)
            raise

    with serve(app, parser) as server:
        client = server.connect()
        client.send(handshake() + early)
        asked.wait()
        getattr(client, how)()
        for _ in range(5):
            server.settle()
            server.advance(2)
        server.wait_until(lambda: raised)
        assert told == [disconnect(1006)] * 2
        assert type(raised[0]) is ClientDisconnected


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_acceptance_in_the_turn_of_the_loss_leaves_nothing_behind(
    parser: str, tls: ssl.SSLContext, scheme: str, turns: int
) -> None:
    """With TLS, the loss is told a turn later, and to the protocol that there was when it happened."""
    waiting, ended = Flag(), Flag()
    answers: list[asyncio.Future[None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        answers.append(asyncio.get_running_loop().create_future())
        waiting.set()
        await answers[0]
        try:
            with suppress(ClientDisconnected):
                await send(ACCEPT)
            assert await receive() == disconnect(1006)
        finally:
            ended.set()

    with serve(app, parser, tls=tls if scheme == "https" else None) as server:
        client = server.connect()
        if scheme == "https":
            client.start_tls()
        client.send(handshake())
        waiting.wait()
        server.abort_and(lambda: answers[0].set_result(None), turns)
        ended.wait()
        server.wait_until(server.is_idle)


def test_a_client_that_closes_its_side_before_the_answer_is_gone(parser: str) -> None:
    """There is no half of a WebSocket: who does not listen is cancelled, and who does is told."""
    waiting, cancelled = Flag(), Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/listens":
            waiting.set()
            told.append(await receive())
            cancelled.set()
            return
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    for path in ("/listens", "/sleeps"):
        waiting, cancelled = Flag(), Flag()
        with serve(app, parser, ws_accept_timeout=3600) as server:
            client = server.connect()
            client.send(handshake(target=path))
            waiting.wait()
            client.send_eof()
            assert client.read_rest() == b""
            client.close()
            if path == "/sleeps":
                for _ in range(5):
                    server.settle()
                    server.advance(2)
            cancelled.wait()
            server.wait_until(server.is_idle)
            assert not server.log.take("error")
    assert told == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_an_application_that_does_not_answer_is_a_500_after_a_while(parser: str) -> None:
    """``ws_accept_timeout``; it is told, and ended if it does not listen.

    The log has one line, which does not blame the client.
    """
    waiting, cancelled = Flag(), Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        waiting.set()
        told.append(await receive())
        with pytest.raises(ClientDisconnected):
            await send(ACCEPT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serve(app, parser, ws_accept_timeout=5) as server:
        client = server.connect()
        client.send(handshake(target="/here") + text("early"))
        waiting.wait()
        server.advance(3)
        assert not client.has_more()
        assert not told
        server.advance(4)
        response = client.read_response()
        assert response.status == 500
        assert_last(response, client)
        client.close()
        server.wait_until(lambda: told)
        assert told == [disconnect(1006)]
        for _ in range(5):
            server.settle()
            server.advance(2)
        cancelled.wait()
        (line,) = server.log.take("error")
        assert "/here in time (5 s, option ws_accept_timeout)" in line.text
        assert not server.log.take("warning")


def test_the_time_to_answer_can_be_unlimited(parser: str) -> None:
    waiting, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting.set()
        await go.reached()
        await send(ACCEPT)
        await read(receive)

    with serve(app, parser, ws_accept_timeout=0) as server:
        client = server.connect()
        client.send(handshake())
        waiting.wait()
        server.advance(1000)
        go.set()
        accepted(client).close()


def test_a_denial_that_has_begun_has_no_deadline_but_that_of_responses(parser: str) -> None:
    began, go = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 403})
        await send(body(b"a", True))
        began.set()
        await go.reached()
        await send(body(b"b"))

    with serve(app, parser, ws_accept_timeout=5) as server:
        client = server.connect()
        client.send(handshake())
        began.wait()
        server.advance(20)
        go.set()
        assert client.read_response().body == b"ab"


def test_many_at_once_do_not_know_of_each_other(parser: str) -> None:
    app = Recorder()
    with serve(app, parser) as server:
        sockets = [connect(server, target=f"/{number}") for number in range(20)]
        for round_ in range(3):
            for number, ws in enumerate(sockets):
                ws.send(text(f"{round_} {number}"))
        for number, ws in enumerate(sockets):
            assert ws.close(4000 + number) == (4000 + number, "")
        server.wait_until(lambda: len(app.ended) == 20)
        assert app.messages == {
            f"/{number}": [f"{round_} {number}" for round_ in range(3)] for number in range(20)
        }
        assert app.ended == {f"/{number}": (4000 + number, "") for number in range(20)}
