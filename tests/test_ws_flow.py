"""A WebSocket as its application sees it, and what it does to the client: docs/asgi.md, 87 to 100; RFC 6455, 5.5 and 7.

Nothing here is particular to a version of HTTP: all of it is held over HTTP/1.1 with either parser, and over HTTP/2 on either loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import ssl
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
from certificates import make_authority
from gunicorn.config import Config
from h2client import Tunnel
from inprocess import ROUNDS, Flag, InProcess
from libraries import current_task, start_task
from ws import (
    ACCEPT,
    CONNECT,
    INVALID_CODES,
    VALID_CODES,
    WAYS,
    EndedError,
    Recorder,
    WebSocket,
    accept,
    binary,
    close,
    connect,
    cont,
    disconnect,
    echo,
    frame,
    handshake,
    ping,
    pong,
    read,
    received,
    sent,
    serve_way,
    text,
)

from gunicorn_asgi.asgi.websocket import WebSocketStream
from gunicorn_asgi.errors import ApplicationError, ClientDisconnected

pytestmark = pytest.mark.both_libraries

CLOSE = {"type": "websocket.close"}
BLOCK = b"x" * 65536


async def rest(receive: Any) -> list[Any]:
    """All messages up to the disconnect, and that."""
    messages = []
    while not messages or messages[-1]["type"] != "websocket.disconnect":
        messages.append(await receive())
    return messages


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_authority(tmp_path_factory.mktemp("certificate"), "server"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


parser_names = WAYS
"""For the fixture `parser`: HTTP/2 beside HTTP/1.1."""


def serves(app: Any, parser: str, **settings: Any) -> Any:
    return serve_way(app, parser, ws_per_message_deflate=False, **settings)


# Messages.


def test_messages_come_in_their_order_and_with_one_key(parser: str) -> None:
    """docs/asgi.md, 87, 88 and 91: of ``text`` and ``bytes`` the other is absent, and empty ones are messages too."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        told.extend(await rest(receive))

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(
            text("a")
            + binary(b"b")
            + text("")
            + binary(b"")
            + text("é", fin=False)
            + cont("☃")
            + binary(b"\xff")
        )
        assert ws.close(4000, "bye") == (4000, ws_reason(ws, "bye"))
        server.wait_until(lambda: told)
        assert told == [
            *map(received, ("a", b"b", "", b"", "é☃", b"\xff")),
            disconnect(4000, "bye"),
        ]
        assert all(type(message.get("bytes", b"")) is bytes for message in told)


def ws_reason(ws: WebSocket, reason: str) -> Any:
    """The answer to a Close may repeat the reason or not: RFC 6455, 5.5.1, only speaks of the code."""

    class Either(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return other in ("", str(self))

        def __hash__(self) -> int:
            return hash(str(self))

    return Either(reason)


def test_messages_leave_in_their_order_and_whole(parser: str) -> None:
    """docs/asgi.md, 59, 90 and 91; large ones between small ones."""
    messages: list[Any] = ["a", b"b", "", b"", "é☃𐍈" * 50_000, b"\xff" * 200_000, "c", BLOCK, b"d"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for message in messages:
            await send(sent(message))
        await send({**sent("with the other key"), "bytes": None})
        await send({**sent(b"with the other key"), "text": None})
        await read(receive)

    with serves(app, parser) as server:
        ws = connect(server)
        for message in (*messages, "with the other key", b"with the other key"):
            got = ws.read_message()
            assert type(got) is type(message)
            assert got == message
        assert ws.close() == (1000, "")


def test_pings_are_answered_while_the_application_sends_and_receives(parser: str) -> None:
    """docs/asgi.md, 89: it knows nothing of them."""
    with serves(echo, parser) as server:
        ws = connect(server)
        for number in range(50):
            ws.send(ping(b"%d" % number) + text(f"{number}") + pong(b"unasked"))
            assert ws.read_message() == f"{number}"
        assert ws.pongs == [b"%d" % number for number in range(50)]


MISUSE: dict[str, Any] = {
    "neither": {"type": "websocket.send"},
    "both None": {"type": "websocket.send", "text": None, "bytes": None},
    "both": {"type": "websocket.send", "text": "a", "bytes": b"b"},
    "both empty": {"type": "websocket.send", "text": "", "bytes": b""},
    "text of bytes": {"type": "websocket.send", "text": b"a"},
    "bytes of str": {"type": "websocket.send", "bytes": "a"},
    "text of a number": {"type": "websocket.send", "text": 5},
    "bytes of a number": {"type": "websocket.send", "bytes": 5},
    "a surrogate": {"type": "websocket.send", "text": "\ud800"},
    "accept": ACCEPT,
    "connect": CONNECT,
    "receive": received("a"),
    "an unknown type": {"type": "websocket.ping"},
    "the type of HTTP": {"type": "http.response.body", "body": b"x"},
    "no type": {"text": "a"},
    "no dict": None,
    "a list": ["websocket.send"],
    **{f"the code {code}": {**CLOSE, "code": code} for code in (*INVALID_CODES, -1, 10**9)},
    "both, and large": {"type": "websocket.send", "bytes": BLOCK, "text": "x" * 65536},
    "a code of str": {**CLOSE, "code": "1000"},
    "a reason of bytes": {**CLOSE, "reason": b"a"},
    "a reason of 124 bytes": {**CLOSE, "reason": "x" * 124},
    "a reason of 124 bytes and fewer characters": {**CLOSE, "reason": "é" * 62},
    "a reason with a surrogate": {**CLOSE, "reason": "\ud800"},
}


@pytest.mark.parametrize("message", MISUSE.values(), ids=MISUSE.keys())
def test_a_message_that_is_not_allowed_raises_and_sends_nothing(parser: str, message: Any) -> None:
    """docs/asgi.md, 9 to 11 and 90; RFC 6455, 5.5.1 and 7.4, on what a Close may have. What is right can follow."""
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            await send(message)
        except ApplicationError as error:
            raised.append(error)
        await send(sent("behind"))
        await read(receive)

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.read_message() == "behind"
        assert ws.close() == (1000, "")
        assert raised
        assert str(raised[0]).isprintable()
        assert len(str(raised[0])) < 300


def test_further_keys_are_ignored(parser: str) -> None:
    """docs/asgi.md, 12."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, more=1)
        await send({**sent("a"), "more": 2})
        await send({**CLOSE, "more": 3})

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.read_message() == "a"
        assert ws.answer_close() == (1000, "")


# receive().


def test_receives_at_the_same_time_get_a_message_each(parser: str) -> None:
    """None waits for ever, none gets what another got."""
    waiting = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        tasks = [start_task(receive()) for _ in range(4)]
        await asyncio.sleep(0)
        waiting.set()
        told.extend(await asyncio.gather(*tasks))

    with serves(app, parser) as server:
        ws = connect(server)
        waiting.wait()
        ws.send(text("a"))
        ws.send(text("b") + text("c"))
        ws.send(close(4000))
        server.wait_until(lambda: told)
        assert sorted(map(str, told)) == sorted(
            map(str, [received("a"), received("b"), received("c"), disconnect(4000)])
        )


def test_all_receives_at_the_same_time_hear_of_the_end(parser: str) -> None:
    waiting = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        tasks = [start_task(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.set()
        told.extend(await asyncio.gather(*tasks))
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)
        waiting.wait()
        ws.close(4000, "x")
        server.wait_until(lambda: len(told) == 4)
        assert told == [disconnect(4000, "x")] * 4


def test_a_cancelled_receive_loses_no_message(parser: str) -> None:
    """docs/asgi.md, 49, which holds here too: neither one that waited, nor one that was woken and has not run."""
    waiting, go = Flag(), Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for _ in range(3):
            task = start_task(receive())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = start_task(receive())
        await asyncio.sleep(0)
        waiting.set()
        await go.reached()
        task.cancel()
        with suppress(asyncio.CancelledError):
            told.append(await task)
        told.extend(await rest(receive))

    with serves(app, parser) as server:
        ws = connect(server)
        waiting.wait()
        server.call(go.set)
        ws.send(text("a") + text("b"))
        ws.close()
        server.wait_until(lambda: told and told[-1] == disconnect(1000))
        assert told == [received("a"), received("b"), disconnect(1000)]


@pytest.mark.parametrize("order", ["message first", "cancelled first"])
def test_a_receive_that_is_cancelled_in_the_turn_of_its_message(parser: str, order: str) -> None:
    """`asyncio.wait_for` does that. Whoever asks next gets the message, also if it has waited all the time."""
    waiting = Flag()
    tasks: list[asyncio.Future[Any]] = []
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            told.append(await receive())

        await accept(receive, send)
        tasks.extend(start_task(listen()) for _ in range(2))
        await asyncio.sleep(0)
        waiting.set()
        await asyncio.wait(tasks)
        told.extend(await rest(receive))

    def deliver() -> None:
        """As if it came from the socket in this turn, so that the first task is cancelled between its wake-up and its run."""
        if order == "cancelled first":
            tasks[0].cancel()
        protocol(server).data_received(packet)
        if order == "message first":
            tasks[0].cancel()

    with serves(app, parser) as server:
        ws = connect(server)
        waiting.wait()
        packet = ws.client.packet(text("a")) if isinstance(ws.client, Tunnel) else text("a")
        server.call(deliver)
        ws.send(text("b"))
        ws.close()
        server.wait_until(lambda: told and told[-1] == disconnect(1000))
        assert told == [received("a"), received("b"), disconnect(1000)]


def protocol(server: InProcess) -> Any:
    """What the transport of the only connection gives its data to."""
    (connection,) = server.server.connections
    return connection.raw.get_protocol()


# Closing by the application.


@pytest.mark.parametrize("code", VALID_CODES)
def test_the_application_closes_with_a_code_and_a_reason(parser: str, code: int) -> None:
    """docs/asgi.md, 94, 97 and 98."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "code": code, "reason": "weil ☃"})
        told.extend([await receive(), await receive()])

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.answer_close() == (code, "weil ☃")
        server.wait_until(lambda: len(told) == 2)
        assert told == [disconnect(code, "weil ☃")] * 2


@pytest.mark.parametrize("message", [{}, {"reason": None}, {"reason": ""}, {"code": 1000}])
def test_a_close_has_defaults(parser: str, message: dict[str, Any]) -> None:
    """docs/asgi.md, 94."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, **message})
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.answer_close() == (1000, "")
        server.wait_until(lambda: told)
        assert told == [disconnect(1000)]


def test_a_reason_of_123_bytes_is_sent(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "reason": "é" * 61 + "x"})

    with serves(app, parser) as server:
        assert connect(server).answer_close() == (1000, "é" * 61 + "x")


def test_messages_that_were_sent_before_the_close_arrive(parser: str) -> None:
    """Large ones too: the Close stands behind them, and the end of the connection behind that."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for _ in range(40):
            await send(sent(BLOCK))
        await send({**CLOSE, "code": 4000})

    with serves(app, parser) as server:
        ws = connect(server, receive_buffer=8192)
        for _ in range(40):
            assert ws.read_message() == BLOCK
        assert ws.answer_close() == (4000, "")


def test_receive_says_so_at_once_and_send_raises_behind_the_own_close(parser: str) -> None:
    """docs/asgi.md, 98 and 99: though the client has not answered yet."""
    done = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        waiting = start_task(receive())
        await asyncio.sleep(0)
        await send({**CLOSE, "code": 4001, "reason": "x"})
        told.extend([await waiting, await receive()])
        for message in (sent("a"), sent(b"b"), CLOSE):
            with pytest.raises(ClientDisconnected):
                await send(message)
        done.set()

    with serves(app, parser) as server:
        ws = connect(server)
        done.wait()
        assert told == [disconnect(4001, "x")] * 2
        assert ws.answer_close() == (4001, "x")


@pytest.mark.parametrize(
    "late",
    [
        text("a"),
        binary(b"b" * 70_000),
        ping(b"p"),
        pong(),
        text("a", fin=False) + cont("b"),
        text("a", fin=False),
    ],
)
def test_what_comes_while_closing_is_ignored(parser: str, late: bytes) -> None:
    """RFC 6455, 5.5.1 and 1.4: no pong, no message, and the client's Close is still waited for."""
    closed = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "code": 4001})
        closed.set()
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)
        closed.wait()
        ws.send(late)
        server.settle()
        ws.send(late)
        assert ws.answer_close() == (4001, "")
        server.wait_until(lambda: told)
        assert told == [disconnect(4001)]


def test_a_flood_while_closing_is_read_so_that_the_close_behind_it_is_found(parser: str) -> None:
    """Reading may have been paused by what the application has not taken."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await full.reached()
        await send({**CLOSE, "code": 4001})

    full = Flag()
    with serves(app, parser, ws_max_queue=4) as server:
        ws = connect(server)
        ws.send(text("a") * 100)
        server.wait_paused()
        full.set()
        assert ws.read_close() == (4001, "")
        ws.send(binary(BLOCK) * 4 + close(4001))
        ws.read_end()


@pytest.mark.parametrize(
    "answer",
    [
        close(4000, "x"),
        close(),
        close(1000),
        close(1005),
        close(4001, b"\xff"),
        text("a", mask=None),
        b"",
    ],
)
def test_any_end_will_do_while_closing(parser: str, answer: bytes) -> None:
    """RFC 6455, 7.1.1 and 7.1.7: one Close has been sent, no other follows; the application's own code stands."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "code": 4001, "reason": "mine"})
        told.extend([await receive(), await receive()])

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.read_close() == (4001, "mine")
        if answer:
            ws.send(answer)
        else:
            ws.client.send_eof()
        ws.read_end()
        server.wait_until(lambda: len(told) == 2)
        assert told == [disconnect(4001, "mine")] * 2


def test_two_closes_may_cross(parser: str) -> None:
    """RFC 6455, 7.1.2: both have sent one, and so it is done."""
    sent_, go = Flag(), Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        await send({**CLOSE, "code": 4001})
        sent_.set()
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)

        def cross() -> None:
            go.set()

        server.call(cross)
        sent_.wait()
        ws.send(close(4002))
        assert ws.read_close() == (4001, "")
        ws.read_end()
        server.wait_until(lambda: told)
        assert told == [disconnect(4001)]


def test_the_wait_for_the_clients_close_is_bounded(parser: str) -> None:
    """``ws_close_timeout``; the application need not wait for it."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "code": 4001})
        told.append(await receive())

    with serves(app, parser, ws_close_timeout=5) as server:
        ws = connect(server)
        assert ws.read_close() == (4001, "")
        server.wait_until(lambda: told)
        server.advance(3)
        assert not ws.client.has_more()
        server.wait_until(lambda: server.server.connections)
        ws.send(ping())  # no sign of life counts for it
        server.advance(4)
        with suppress(ConnectionResetError):
            ws.read_end()
        assert told == [disconnect(4001)]


# The end of the application.


def test_an_application_that_returns_has_closed_with_1000(parser: str) -> None:
    """docs/asgi.md, 92."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send(sent("a"))

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.read_message() == "a"
        assert ws.answer_close() == (1000, "")


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), BaseException("y")])
def test_an_application_that_raises_has_closed_with_1011(parser: str, error: BaseException) -> None:
    """docs/asgi.md, 93: one line in the log, with the traceback; the client learns nothing of what it was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        raise error

    with serves(app, parser) as server:
        ws = connect(server, target="/here")
        code, reason = ws.answer_close()
        assert code == 1011
        assert not {"x", "y"} & set(reason.split())
        server.wait_until(lambda: server.log.lines)
        (line,) = server.log.take("error")
        assert "/here" in line.text
        assert isinstance(error, asyncio.CancelledError) or line.error is error


def test_an_application_that_exits_has_closed_with_1011(parser: str) -> None:
    """The worker stops, and its client need not wait for that."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        raise SystemExit(7)

    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.answer_close() == (1011, "")
        assert server.host.left == [7]


def test_a_framework_s_word_for_the_end_is_no_error_once_the_application_has_been_told(
    parser: str,
) -> None:
    """Starlette raises WebSocketDisconnect where it receives ``websocket.disconnect``. Anything else is a fault, and so is that name before."""

    class WebSocketDisconnect(Exception):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if scope["path"] != "/untold":
            await rest(receive)
        raise KeyError if scope["path"] == "/fault" else WebSocketDisconnect

    for path, is_error in (("/told", False), ("/fault", True), ("/untold", True)):
        with serves(app, parser) as server:
            ws = connect(server, target=path)
            if path == "/untold":
                assert ws.answer_close() == (1011, "")
            else:
                ws.close(1000)
            ws.client.close()
            server.wait_until(server.is_idle)
            assert bool(server.log.take("error")) is is_error


def test_an_application_that_raises_behind_its_close_is_logged_and_no_more(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({**CLOSE, "code": 4001})
        raise ValueError

    with serves(app, parser) as server:
        assert connect(server).answer_close() == (4001, "")
        server.wait_until(lambda: server.log.lines)
        (line,) = server.log.take("error")
        assert type(line.error) is ValueError


def test_an_application_may_return_before_it_has_read_all(parser: str) -> None:
    """With a queue that is full, and reading paused: the Close of the client is found nevertheless."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()

    with serves(app, parser, ws_max_queue=4) as server:
        ws = connect(server)
        ws.send(text("a") * 1000)
        server.wait_paused()
        go.set()
        assert ws.answer_close() == (1000, "")


@pytest.mark.parametrize("how", ["raises it", "raises another from it", "lets a group raise it"])
def test_that_the_client_is_gone_is_no_error_when_it_leaves_the_application(
    parser: str, how: str
) -> None:
    """docs/asgi.md, 99."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while await read(receive) is not None:
            pass
        if how == "raises another from it":
            try:
                await send(sent("a"))
            except OSError as error:
                raise WebSocketDisconnectError from error
        await send(sent("a"))

    with serves(app, parser) as server:
        connect(server).close()
        server.wait_until(lambda: not server.server.tasks)


class WebSocketDisconnectError(Exception):
    """A framework's."""


# The client closes, or is gone.


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize(
    "behind",
    [b"", text("a", fin=False), text("abc")[:-1]],
    ids=["a message", "a fragment", "a part of a frame"],
)
def test_a_client_that_is_gone_without_a_close_is_1006(
    parser: str, how: str, behind: bytes
) -> None:
    """docs/asgi.md, 95 and 96; RFC 6455, 7.1.5."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        assert await read(receive) == "first"
        await send(sent("seen"))
        told.extend(await rest(receive))
        told.append(await receive())
        for message in (sent("a"), CLOSE):
            with pytest.raises(ClientDisconnected):
                await send(message)

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("first") + behind)
        assert ws.read_message() == "seen"
        if how == "half-close":
            ws.client.send_eof()
            with suppress(EndedError, ConnectionResetError):
                ws.read_frame()
        else:
            getattr(ws.client, how)()
        server.wait_until(lambda: len(told) == 2)
        assert told == [disconnect(1006)] * 2
        server.wait_until(lambda: not server.server.tasks)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
def test_messages_before_the_clients_close_can_be_read_behind_it(parser: str, code: int) -> None:
    """And only then comes the disconnect, with the client's code and reason; `send()` raises all the while."""
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        with pytest.raises(ClientDisconnected):
            await send(sent("too late"))
        told.extend(await rest(receive))
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("a") + binary(b"b") + text("c"))
        assert ws.close(code, "bye")[0] == code
        ws.client.close()
        server.wait_lost()
        go.set()
        server.wait_until(lambda: len(told) == 5)
        assert told == [
            received("a"),
            received(b"b"),
            received("c"),
            disconnect(code, "bye"),
            disconnect(code, "bye"),
        ]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_messages_before_the_loss_can_be_read_behind_it(parser: str, how: str) -> None:
    """A reset may overtake what the kernel still holds, but not what was read."""
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        told.extend(await rest(receive))

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("a") + binary(b"b") + ping())
        ws.read_pong()
        getattr(ws.client, how)()
        server.wait_lost()
        go.set()
        server.wait_until(lambda: told)
        assert told == [received("a"), received(b"b"), disconnect(1006)]


BROKEN = frame(3)
"""RFC 6455, 5.2: a reserved opcode."""


@pytest.mark.parametrize("delivery", ["whole", "bytes"])
def test_messages_before_a_violation_are_answered_and_nothing_behind_it_is_read(
    parser: str, delivery: str
) -> None:
    """RFC 6455, 7.1.7: what is behind it is not looked at, though a connection may hand on what was on its way when it was told to stop."""
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        while (message := await receive())["type"] == "websocket.receive":
            told.append(message)
            await send(sent(message["text"]))
        told.append(message)

    with serves(app, parser, delivery=delivery) as server:
        ws = connect(server, early=text("a") + text("b") + BROKEN + text("c") + close(1000))
        server.wait_paused()
        go.set()
        assert ws.read_message() == "a"
        assert ws.read_message() == "b"
        assert ws.read_close()[0] == 1002
        ws.read_end()
        server.wait_until(lambda: len(told) == 3)
        assert told[:2] == [received("a"), received("b")]
        assert told[2]["code"] == 1002
        assert len(server.log.take("warning")) == 1


def test_a_violation_is_answered_in_time_though_the_application_does_not_read(parser: str) -> None:
    told: list[Any] = []
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        told.extend(await rest(receive))

    with serves(app, parser, ws_close_timeout=5) as server:
        ws = connect(server)
        ws.send(text("a") + BROKEN)
        server.wait_paused()
        server.advance(6)
        assert ws.read_close()[0] == 1002
        ws.read_end()
        go.set()
        server.wait_until(lambda: told)
        assert told[0] == received("a")
        assert told[1]["code"] == 1002
        assert len(server.log.take("warning")) == 1


def test_an_application_may_close_before_it_has_read_up_to_a_violation(parser: str) -> None:
    """The client hears of the application's reason, and its answer is not waited for: what it sends cannot be read any more."""
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        await send({**CLOSE, "code": 4000})
        told.append(await receive())

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("a") + BROKEN)
        server.wait_paused()
        go.set()
        assert ws.read_close()[0] == 4000
        ws.read_end()
        server.wait_until(lambda: told)
        assert told == [disconnect(4000)]
        assert len(server.log.take("warning")) == 1


def test_a_client_that_closes_its_side_behind_its_close_still_gets_the_answer(parser: str) -> None:
    """RFC 6455, 7.1.1: it should wait for the server's end, but need not."""
    app = Recorder()
    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("a") + close(4000, "bye"))
        ws.client.send_eof()
        assert ws.read_close()[0] == 4000
        ws.read_end()
        server.wait_until(lambda: app.ended)
        assert (app.messages, app.ended) == ({"/": ["a"]}, {"/": (4000, "bye")})


def test_a_close_without_a_code_is_1005(parser: str) -> None:
    """docs/asgi.md, 96, and the answer has none either, or 1000."""
    app = Recorder()
    with serves(app, parser) as server:
        ws = connect(server)
        assert ws.close(None) in ((None, ""), (1000, ""))
        server.wait_until(lambda: app.ended)
        assert app.ended == {"/": (1005, "")}


def test_a_close_is_answered_though_the_application_does_not_read(parser: str) -> None:
    """RFC 6455, 5.5.1: "It SHOULD do so as soon as practical"."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()

    with serves(app, parser) as server:
        ws = connect(server)
        ws.send(text("a") * 3)
        assert ws.close(4000) == (4000, "")
        go.set()


def test_an_application_that_ignores_the_end_is_cancelled_after_the_grace_period(
    parser: str,
) -> None:
    """Gunicorn's ``asgi_disconnect_grace_period``, as for HTTP; the cancellation is no error."""
    waiting, cancelled = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serves(app, parser) as server:
        ws = connect(server)
        waiting.wait()
        ws.client.reset()
        server.wait_lost()
        server.advance(2)
        assert not cancelled.is_set()
        server.advance(2)
        cancelled.wait()
        server.advance(8)  # an idle connection of HTTP/2
        server.wait_until(server.is_idle)


# Keepalive.


def test_a_ping_is_sent_each_interval_and_a_pong_keeps_the_connection(parser: str) -> None:
    """docs/asgi.md, 89: ``ws_ping_interval`` and ``ws_ping_timeout``."""
    with serves(echo, parser, ws_ping_interval=10, ws_ping_timeout=5) as server:
        ws = connect(server)
        server.advance(7)
        assert not ws.client.has_more()
        server.advance(5)
        for _ in range(4):
            ws.send(pong(ws.read_ping()) + text("alive"))
            assert ws.read_message() == "alive"
            server.advance(11)


def test_pings_come_each_interval_also_where_their_timeout_is_longer(parser: str) -> None:
    """A proxy that closes what is idle goes by the interval, and by nothing else. Where an answer is missing, no other ping follows."""
    with serves(echo, parser, ws_ping_interval=10, ws_ping_timeout=60) as server:
        ws = connect(server)
        for _ in range(4):
            server.advance(12)
            ws.send(pong(ws.read_ping()))
            server.settle()
        server.advance(12)
        ws.read_ping()
        for _ in range(4):
            server.advance(12)
            assert not ws.client.has_more()
        server.advance(15)
        assert ws.read_close() == (1011, "keepalive ping timeout")


@pytest.mark.parametrize("answer", [b"", None], ids=["nothing", "a part of a frame before"])
def test_a_client_that_does_not_answer_is_closed_with_1011(
    parser: str, answer: bytes | None
) -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        told.extend(await rest(receive))
        with pytest.raises(ClientDisconnected):
            await send(sent("a"))

    with serves(app, parser, ws_ping_interval=10, ws_ping_timeout=5) as server:
        ws = connect(server)
        if answer is None:
            ws.send(text("abc")[:4])
            server.settle()
        server.advance(12)
        ws.read_ping()
        server.advance(3)
        assert not ws.client.has_more()
        server.advance(4)
        assert ws.read_close() == (1011, "keepalive ping timeout")
        server.advance(20)
        ws.read_end()
        ws.client.close()
        server.wait_until(lambda: told)
        assert told == [disconnect(1011, "keepalive ping timeout")]


@pytest.mark.parametrize(
    "early",
    [b"", text("a"), pong(), text("a", fin=False)],
    ids=["nothing", "a message", "a pong", "a fragment"],
)
def test_nothing_that_came_before_the_first_ping_answers_it(parser: str, early: bytes) -> None:
    with serves(Recorder(), parser, ws_ping_interval=10, ws_ping_timeout=5) as server:
        ws = connect(server, early=early)
        server.settle()
        server.advance(11)
        ws.read_ping()
        server.advance(6)
        assert ws.read_close() == (1011, "keepalive ping timeout")
        ws.send(close(1011))
        ws.read_end()


@pytest.mark.parametrize(
    "sign",
    [text("a"), pong(b"another"), ping(b"p"), text("abc")[:3], b"\x82"],
    ids=["a message", "a pong", "a ping", "a part", "a byte"],
)
def test_whatever_comes_from_the_client_is_a_sign_of_life(parser: str, sign: bytes) -> None:
    """RFC 6455, 5.5.3, asks for a pong; but a client that sends a large message over a slow line cannot."""
    with serves(Recorder(), parser, ws_ping_interval=10, ws_ping_timeout=5) as server:
        ws = connect(server)
        server.advance(12)
        ws.read_ping()
        ws.send(sign)
        server.settle()
        server.advance(6)
        if sign.startswith(ping()[:1]):
            assert ws.read_pong() == b"p"
        assert not ws.client.has_more() or ws.read_ping() is not None
        assert server.call(lambda: len(server.server.connections)) == 1
        ws.client.close()


@pytest.mark.parametrize(("interval", "timeout"), [(0, 20), (0, 0)])
def test_pings_can_be_switched_off(parser: str, interval: float, timeout: float) -> None:
    with serves(echo, parser, ws_ping_interval=interval, ws_ping_timeout=timeout) as server:
        ws = connect(server)
        server.advance(200)
        assert not ws.client.has_more()
        assert ws.is_alive()


def test_pings_without_a_timeout_only_keep_the_line_open(parser: str) -> None:
    with serves(echo, parser, ws_ping_interval=10, ws_ping_timeout=0) as server:
        ws = connect(server)
        for _ in range(6):
            server.advance(12)
            ws.read_ping()
        ws.send(text("a"))
        ws.read_message()


def test_a_slow_application_is_no_dead_client(parser: str) -> None:
    """With a queue that is full nothing is read, not even the pong; the client has done nothing wrong."""
    go = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        while (data := await read(receive)) is not None:
            told.append(data)

    with serves(app, parser, ws_ping_interval=10, ws_ping_timeout=5, ws_max_queue=4) as server:
        ws = connect(server)
        ws.send(text("a") * 200)
        server.wait_paused()
        server.advance(60)
        go.set()
        ws.send(text("b") + close(4000))
        while (got := ws.read_frame()).opcode == 9:
            pass
        assert got.payload[:2] == (4000).to_bytes(2, "big")
        server.wait_until(lambda: len(told) == 201)


def test_nothing_lives_longer_than_allowed(parser: str) -> None:
    """``ws_max_lifetime``: 1001, whatever the client does."""
    app = Recorder()
    with serves(app, parser, ws_max_lifetime=60, ws_ping_interval=0) as server:
        ws = connect(server)
        for _ in range(5):
            server.advance(11)
            assert ws.is_alive()
        server.advance(7)
        assert ws.answer_close()[0] == 1001
        server.wait_until(lambda: app.ended)
        assert app.ended["/"][0] == 1001


# Back-pressure.


def push(ws: WebSocket, block: bytes, limit: int) -> int:
    """Send `block` over and over until the server takes no more, at most `limit` bytes; returns how many went."""
    if isinstance(ws.client, Tunnel):
        return ws.client.push(block, limit)
    sock = ws.client.sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    total = 0
    sock.settimeout(0.3)
    with suppress(TimeoutError):
        while total < limit:
            total += sock.send(block[total % len(block) :])
    sock.settimeout(10)
    return total


@pytest.mark.parametrize("message", [b"", b"x", b"x" * 1000, BLOCK, b"x" * 1_000_000], ids=len)
def test_what_waits_for_the_application_is_bounded(parser: str, message: bytes) -> None:
    """``ws_max_queue`` messages, and bytes: reading stops, goes on when they are taken, and nothing is lost or changes its place."""
    go = Flag()
    got = 0
    frame = binary(message, mask=bytes(4))
    limit = 64 << 20 if len(message) > 1000 else 16 << 20

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        await accept(receive, send)
        await go.reached()
        while (data := await read(receive)) is not None:
            if data == b"last":
                continue
            assert data == message
            got += 1

    with serves(app, parser, ws_max_queue=8) as server:
        ws = connect(server)
        total = push(ws, frame * max(1, 65536 // len(frame)), limit)
        assert total < limit, "all of it was read"
        server.wait_paused()
        go.set()
        if total % len(frame):
            ws.send(frame[total % len(frame) :])
        ws.send(binary(b"last"))
        assert ws.close() == (1000, "")
        server.wait_until(lambda: got == -(-total // len(frame)))


def test_reading_goes_on_and_off_as_often_as_it_must(parser: str) -> None:
    """A slow application gets all of a fast client's messages, in their order, through a queue of one."""
    count = 2000
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while (data := await read(receive)) is not None:
            got.append(data)
            if len(got) % 7 == 0:
                await asyncio.sleep(0)

    with serves(app, parser, ws_max_queue=1) as server:
        ws = connect(server)
        ws.send(b"".join(text(f"{number}") for number in range(count)))
        assert ws.close() == (1000, "")
        server.wait_until(lambda: len(got) == count)
        assert got == [f"{number}" for number in range(count)]


def test_a_flood_of_pings_does_not_fill_the_memory(parser: str) -> None:
    """RFC 6455, 5.5.3: of pings that could not be answered yet, the most recent is enough. All else goes on for a client that reads late."""
    count = 80_000
    with serves(echo, parser) as server:
        ws = connect(server, receive_buffer=4096)
        for start in range(0, count, 500):
            ws.send(b"".join(ping(b"%0125d" % number) for number in range(start, start + 500)))
        ws.send(text("still here"))
        server.wait_clogged()
        assert server.unsent() < 1 << 19
        assert ws.read_message() == "still here"
        ws.send(close(1000))
        ws.read_close()
        ws.read_end()
        numbers = [int(payload) for payload in ws.pongs]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0
        assert len(numbers) < count
        assert numbers[-1] == count - 1


def test_send_waits_for_a_client_that_does_not_read(parser: str) -> None:
    """docs/asgi.md, 71, for WebSockets."""
    done: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for number in range(200):
            await send(sent(BLOCK))
            done.append(number)
        await read(receive)

    with serves(app, parser) as server:
        ws = connect(server, receive_buffer=8192)
        server.wait_clogged()
        count = len(done)
        assert count < 150
        server.settle()
        assert len(done) == count
        assert server.unsent() < 4 * len(BLOCK)
        for _ in range(200):
            assert ws.read_message() == BLOCK
        assert ws.close() == (1000, "")


@pytest.mark.parametrize("how", ["reset", "timeout", "protocol error"])
def test_a_send_that_waits_is_released_when_the_client_goes_away(parser: str, how: str) -> None:
    """docs/asgi.md, 70 and 99: ``write_timeout`` resets a client that takes nothing; reading goes on meanwhile."""
    raised: list[BaseException] = []
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            while True:
                await send(sent(BLOCK))
        except OSError as error:
            raised.append(error)
        told.append(await receive())
        with pytest.raises(ClientDisconnected):
            await send(sent("a"))

    with serves(app, parser, write_timeout=5, ws_close_timeout=5) as server:
        ws = connect(server, receive_buffer=8192)
        server.wait_clogged()
        if how == "reset":
            ws.client.reset()
        elif how == "timeout":
            for _ in range(5):
                server.advance(6)
        else:
            ws.send(text("a", mask=None))
            server.settle()
            for _ in range(5):
                server.advance(6)
        server.wait_until(lambda: told)
        assert type(raised[0]) is ClientDisconnected
        assert told[0]["code"] == (1002 if how == "protocol error" else 1006)


def test_sends_at_the_same_time_keep_their_messages_whole(parser: str) -> None:
    count = 8

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)

        async def many(number: int) -> None:
            for _ in range(10):
                await send(sent(b"%d" % number * 30_000))

        await asyncio.gather(*(start_task(many(number)) for number in range(count)))

    with serves(app, parser) as server:
        ws = connect(server, receive_buffer=8192)
        got = [ws.read_message() for _ in range(10 * count)]
        assert sorted(got, key=str) == sorted(
            (b"%d" % number * 30_000 for number in range(count) for _ in range(10)), key=str
        )
        assert ws.answer_close() == (1000, "")


def test_a_cancelled_send_has_sent_its_message_once_or_not_at_all(parser: str) -> None:
    """Never a part of it: the frame after it can be read."""
    numbers: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        number = 0
        while True:
            task = start_task(send(sent(b"%07d" % number + BLOCK)))
            await asyncio.sleep(0)
            number += 1
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                break
        numbers.append(number)
        await send(sent(b"end"))

    with serves(app, parser) as server:
        ws = connect(server, receive_buffer=8192)
        server.wait_until(lambda: numbers)
        got = []
        while (message := ws.read_message()) != b"end":
            got.append(int(message[:7]))
        assert got == list(range(numbers[0]))
        assert ws.answer_close() == (1000, "")


def test_an_application_that_only_sends_lets_others_run(parser: str) -> None:
    """A client that reads fast enough never makes it wait; the rest of the worker would."""
    sent_: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if scope["path"] == "/other":
            await send(sent("hello"))
            return
        while True:
            await send(sent("x"))
            sent_.append(1)

    with serves(app, parser) as server:
        greedy = connect(server, target="/greedy")
        server.wait_until(lambda: sent_)
        other = connect(server, target="/other")
        assert other.read_message() == "hello"
        assert other.answer_close() == (1000, "")
        greedy.client.reset()


def test_an_application_that_only_receives_lets_others_run(parser: str) -> None:
    """What is here already is handed out without waiting, but not without end."""
    got: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if scope["path"] == "/other":
            await send(sent("hello"))
            return
        while await read(receive) is not None:
            got.append(1)

    with serves(app, parser) as server:
        greedy = connect(server, target="/greedy")
        stop = Flag()
        block = text("x") * 1000

        def flood() -> None:
            with suppress(OSError):
                while not stop.is_set():
                    greedy.send(block)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            server.wait_until(lambda: got)
            other = connect(server, target="/other")
            assert other.read_message() == "hello"
            assert other.answer_close() == (1000, "")
        finally:
            stop.set()
            thread.join()
            greedy.client.reset()  # nobody has to read what is still on its way


# Draining.


@pytest.mark.parametrize("delay", [0, 3])
def test_a_worker_that_leaves_closes_with_1012(parser: str, delay: float) -> None:
    """``ws_drain_delay`` seconds after the drain has begun; the application hears it, too."""
    if delay and not parser.startswith("h11"):
        pytest.skip("the timers of uvloop know nothing of the tests' clock")
    app = Recorder()
    with serves(app, parser, ws_drain_delay=delay, lame_duck=0, ws_ping_interval=0) as server:
        ws = connect(server)
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(60, 0.5), server.loop)
        if delay:
            server.settle()
            server.advance(1)
            assert ws.is_alive()
        server.advance(delay + 1)
        assert ws.answer_close()[0] == 1012
        ws.client.close()
        server.wait_until(lambda: app.ended)
        assert app.ended["/"][0] == 1012
        drained.result(10)


def test_a_handshake_that_nobody_has_answered_is_a_500_in_a_drain(parser: str) -> None:
    """And the application hears that it is over, in the last second."""
    if not parser.startswith("h11"):
        pytest.skip("the timers of uvloop know nothing of the tests' clock")
    asked = Flag()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        asked.set()
        told.append(await receive())

    with serves(app, parser, lame_duck=0) as server:
        client = server.connect()
        client.send(handshake())
        asked.wait()
        drained = asyncio.run_coroutine_threadsafe(server.server.shut_down(8, 0.5), server.loop)
        server.settle()
        server.advance(7.1)
        assert client.read_response().status == 500
        assert client.read_rest() == b""
        client.close()
        drained.result(10)
        assert told == [disconnect(1006)]


# One WebSocket knows nothing of another.

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_each_websocket_is_one_call_in_a_task_and_a_context_of_its_own(parser: str) -> None:
    """docs/asgi.md, 1, 8 and 19."""
    tasks: list[Any] = []
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(current_task())
        seen.append(variable.get())
        variable.set(scope["path"])
        await accept(receive, send)
        while await read(receive) is not None:
            assert variable.get() == scope["path"]
            assert current_task() in tasks

    with serves(app, parser) as server:
        sockets = [connect(server, target=f"/{number}", early=text("a")) for number in range(3)]
        for ws in sockets:
            ws.send(text("b"))
            ws.close()
        assert len(set(tasks)) == 3
        assert seen == ["unset"] * 3


@pytest.mark.skipif(
    "websocket_max_message_size" not in Config().settings,
    reason="this Gunicorn has no such setting",
)
def test_the_application_hears_the_code_that_the_client_gets(parser: str) -> None:
    """docs/asgi.md, 100: messages before the fault can be read first."""
    app = Recorder()
    with serves(app, parser, websocket_max_message_size=100) as server:
        for number, (data, code) in enumerate(
            ((text("x" * 101), 1009), (text(b"\xff"), 1007), (text("a", mask=None), 1002))
        ):
            ws = connect(server, target=f"/{number}")
            ws.send(text("before") + data)
            assert ws.read_failure() == code
            ws.client.close()
        server.wait_until(lambda: len(app.ended) == 3)
        assert [code for code, _ in app.ended.values()] == [1009, 1007, 1002]
        assert list(app.messages.values()) == [["before"]] * 3


@pytest.mark.parametrize(
    "end",
    [
        close(1000),
        text(b"\xff"),
        ping() + text(b"\xff"),
        ping() + close(1),
        text("a") + cont(b"b"),
        binary(length=1 << 30),
    ],
    ids=[
        "close",
        "bad text",
        "bad text behind a ping",
        "bad close",
        "a message and a bad frame",
        "too big",
    ],
)
def test_memory_is_given_back_without_the_garbage_collector(parser: str, end: bytes) -> None:
    """A stream may hold many MiB, and an exception the stream."""

    def streams() -> int:
        return sum(type(thing) is WebSocketStream for thing in gc.get_objects())

    with serves(echo, parser) as server:
        gc.freeze()  # all that is there by now is not looked through
        gc.disable()
        try:
            ws = connect(server)
            ws.send(binary(b"x" * 100000))
            ws.read_message()
            assert streams() == 1
            ws.send(end)
            ws.client.read_rest()
            ws.client.close()
            server.wait_until(server.is_idle)
            server.settle()
            assert streams() == 0
        finally:
            gc.enable()
            gc.unfreeze()


async def sip(receive: Any, send: Any, until: Flag) -> None:
    """Accept, and send from a task of its own until that raises; the rest goes on at `until`."""

    async def spam() -> None:
        with suppress(ClientDisconnected):
            while True:
                await send(sent(BLOCK))

    await accept(receive, send)
    sending = start_task(spam())
    await until.reached()
    await send(CLOSE)
    await sending


def test_a_client_that_reads_a_little_cannot_put_off_the_end_of_the_close(parser: str) -> None:
    """``ws_close_timeout`` holds also for one whose connection is full, and which is not stuck."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sip(receive, send, go)

    with serves(app, parser, ws_close_timeout=5, write_timeout=1000) as server:
        ws = connect(server, receive_buffer=4096)
        server.wait_clogged()
        go.set()
        server.wait_until(lambda: not server.server.tasks)
        server.advance(3)
        assert server.call(lambda: len(server.server.connections)) == 1
        server.advance(4)
        server.settle()
        server.advance(8)  # an idle connection of HTTP/2
        server.wait_until(server.is_idle)
        with pytest.raises((ConnectionResetError, AssertionError)):
            while True:
                ws.read_message()


def test_a_life_ends_in_time_though_the_client_does_not_read(parser: str) -> None:
    """``ws_max_lifetime``."""
    never, told = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await sip(receive, send, never)
        finally:
            told.set()

    with serves(app, parser, ws_max_lifetime=20, ws_close_timeout=5, write_timeout=1000) as server:
        connect(server, receive_buffer=4096)
        server.wait_clogged()
        server.advance(15)
        assert server.call(lambda: len(server.server.connections)) == 1
        server.advance(15)
        server.settle()
        server.advance(10)
        told.wait()
        server.settle()
        server.advance(8)  # an idle connection of HTTP/2
        server.wait_until(server.is_idle)


def test_a_client_that_sends_on_and_on_does_not_put_off_write_timeout(parser: str) -> None:
    """Each message lets the reading pause and go on; nothing leaves all the while."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def spam() -> None:
            while True:
                await send(sent(BLOCK))

        await accept(receive, send)
        sending = start_task(spam())
        while await read(receive) is not None:
            pass
        with pytest.raises(ClientDisconnected):
            await sending

    with serves(app, parser, ws_max_queue=1, write_timeout=10, ws_ping_interval=0) as server:
        ws = connect(server, receive_buffer=4096)
        server.wait_clogged()
        with pytest.raises(OSError):  # a reset, or what follows on one
            for _ in range(
                10 * ROUNDS
            ):  # what its kernel takes of its own accord starts the time anew
                ws.send(text("x") * 10)
                server.settle()
                server.advance(1)
            assert isinstance(ws.client, Tunnel)
            while True:
                ws.read_message()  # over HTTP/2, only who reads hears of it
        ws.client.close()
        server.wait_until(server.is_idle)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_end_of_what_the_client_sends_ends_the_sending(
    parser: str, certificate: ssl.SSLContext, tls: bool
) -> None:
    """RFC 6455, 7.1.5: without a Close, that is 1006. Nothing that is sent behind it would leave, or wait for room."""
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        count = 0
        with suppress(ClientDisconnected):
            while True:
                await send(sent(BLOCK))
                count += 1
        assert await receive() == disconnect(1006)
        ended.append(count)

    if tls and parser == "h11" and sys.version_info < (3, 11):
        pytest.skip("asyncio's TLS tells nobody before all is written; write_timeout ends it")
    with serves(app, parser, tls=certificate if tls else None, write_timeout=1000) as server:
        ws = connect(server, receive_buffer=4096, tls=tls)
        server.wait_clogged()
        if tls:
            ws.client.sock.settimeout(0)
            with suppress(ssl.SSLError, OSError):
                ws.client.sock.unwrap()  # close_notify, and nothing is read
        else:
            ws.client.send_eof()
        server.wait_until(lambda: ended)
        assert ended[0] < 1000
        ws.client.close()
