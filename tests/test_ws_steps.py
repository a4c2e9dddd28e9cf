"""A WebSocket that reads and writes in steps does the same as one that does all at once, in the same order.

And the limits on messages that are not complete, or not read: `ws_message_timeout` and `ws_memory_limit`.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from contextlib import suppress
from typing import Any

import pytest
from inprocess import Flag, InProcess
from libraries import start_task
from test_budget import NullTransport, make_connection
from ws import (
    BINARY,
    RSV1,
    TEXT,
    WAYS,
    Recorder,
    WebSocket,
    accept,
    binary,
    close,
    connect,
    cont,
    disconnect,
    echo,
    fragments,
    frame,
    handshake,
    ping,
    read,
    received,
    sent,
    serve_way,
    text,
)

from gunicorn_asgi.asgi import websocket_session
from gunicorn_asgi.asgi.websocket_session import MESSAGE_BY, SessionDeadline
from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.websocket.frames import MAX_DEFLATE
from gunicorn_asgi.websocket.share import MessageMemory

pytestmark = pytest.mark.both_libraries

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate"


parser_names = WAYS
"""For the fixture `parser`: HTTP/2 beside HTTP/1.1."""


def compressed(opcode: int, payload: bytes, parts: int = 1, between: bytes = b"") -> bytes:
    """A message in so many frames, compressed by itself."""
    compressor = zlib.compressobj(9, wbits=-15)
    data = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    size = -(-len(data) // parts)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return fragments(opcode, pieces, between, rsv=RSV1)


ZEROS = bytes(1_000_000)
LONG_TEXT = "é☃𐍈" * 100_000
FRAMES = b"".join(
    [
        text("first") + ping(b"1"),
        compressed(BINARY, ZEROS),
        ping(b"2") + text("a"),
        compressed(TEXT, LONG_TEXT.encode(), parts=3, between=ping(b"3")),
        *[ping(b"%d" % number) + cont(b"", fin=False) * 0 for number in range(4, 200)],
        fragments(TEXT, ["é".encode()] + [b""] * 500 + ["☃".encode()]),
        binary(b"last"),
    ]
)
MESSAGES: list[str | bytes] = ["first", ZEROS, "a", LONG_TEXT, "é☃", b"last"]
PINGS = [b"1", b"2", b"3", b"3", *(b"%d" % number for number in range(4, 200))]


def summary(messages: list[Any]) -> list[Any]:
    """For a failure that can be read."""
    return [
        message if len(message) < 100 else (type(message), len(message), hash(message))
        for message in messages
    ]


def offered(server: InProcess, target: str = "/") -> WebSocket:
    return connect(server, OFFER + b"; client_no_context_takeover", target=target)


def test_messages_and_pongs_keep_their_order(parser: str) -> None:
    app = Recorder()
    with serve_way(app, parser) as server:
        ws = offered(server)
        ws.send(FRAMES + close(4000))
        assert ws.read_close() == (4000, "")
        server.wait_until(lambda: app.ended)
        assert summary(app.messages["/"]) == summary(MESSAGES)
        assert app.ended["/"] == (4000, "")


def test_every_ping_is_answered_in_order(parser: str) -> None:
    with serve_way(echo, parser) as server:
        ws = offered(server)
        ws.send(FRAMES)
        got = [ws.read_message() for _ in MESSAGES]
        assert summary(got) == summary(MESSAGES)
        ws.send(ping(b"end"))
        while not ws.pongs or ws.pongs[-1] != b"end":
            ws.pongs.append(ws.read_pong())
        assert ws.pongs[:-1] == PINGS
        assert ws.close() == (1000, "")


def test_messages_before_a_violation_are_read_first(parser: str) -> None:
    app = Recorder()
    with serve_way(app, parser) as server:
        ws = offered(server)
        ws.send(FRAMES + text("a", mask=None) + text("after"))
        assert ws.read_failure() == 1002
        ws.client.close()
        server.wait_until(lambda: app.ended)
        assert summary(app.messages["/"]) == summary(MESSAGES)
        assert app.ended["/"][0] == 1002


def test_an_application_that_closes_gets_the_answer_that_is_not_read_yet(parser: str) -> None:
    """The frames in between are skipped, in steps."""
    first = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        assert await read(receive) == "first"
        await send({"type": "websocket.close", "code": 4001})
        assert await receive() == disconnect(4001)
        first.set()

    with serve_way(app, parser, ws_close_timeout=1000) as server:
        ws = offered(server)
        ws.send(FRAMES + ping() * 1000 + close(4001))
        assert ws.read_close() == (4001, "")
        first.wait()
        if parser.endswith("2"):
            server.wait_settled()
        else:
            assert ws.client.read_rest() == b""


# What only a transport that goes nowhere can show: what happens within a turn of the loop.


class Direct:
    """A WebSocket whose loop turns only when the test says so."""

    def __init__(self, app: Any) -> None:
        self.raw = NullTransport()
        self.connection = make_connection(app, "h11", self.raw, asyncio.get_running_loop())

    async def shake_hands(self) -> None:
        self.connection.data_received(handshake(OFFER + b"; client_no_context_takeover"))
        await turns(3)
        self.raw.written.clear()

    def receive(self, data: bytes) -> None:
        protocol: Any = self.raw.get_protocol()
        protocol.data_received(data)

    def lose(self) -> None:
        self.connection.connection_lost(None)

    def pass_deadline(self, kind: SessionDeadline) -> None:
        (stream,) = self.connection.handler.streams()
        stream._session.deadlines[kind] = 0
        stream.deadline_passed()

    @property
    def is_working(self) -> bool:
        host: Any = self.connection.host
        return len(host.work_queue) > 0

    @property
    def counted(self) -> int:
        host: Any = self.connection.host
        return int(host.websocket_share.memory.total)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("end", [b"", close(4000, "bye")], ids=["no Close", "a Close"])
def test_messages_of_a_lost_client_that_are_not_read_yet_are_the_applications(end: bytes) -> None:
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while not got or got[-1]["type"] == "websocket.receive":
            got.append(await receive())

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.receive(FRAMES + end)
        assert direct.is_working
        direct.lose()
        while len(got) <= len(MESSAGES):
            await asyncio.sleep(0)
        assert not direct.is_working

    asyncio.run(asyncio.wait_for(main(), 20))
    code = disconnect(4000, "bye") if end else disconnect(1006)
    assert got[:-1] == [received(message) for message in MESSAGES]
    assert got[-1] == code


def test_nothing_is_read_on_for_an_application_that_has_ended() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await receive()

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.receive(compressed(BINARY, bytes(10_000_000)))
        (stream,) = direct.connection.handler.streams()
        direct.lose()
        stream.cancel()
        await turns(4)
        assert not direct.is_working

    asyncio.run(asyncio.wait_for(main(), 20))


def test_reading_is_paused_while_frames_wait_for_their_turn() -> None:
    """And data that comes all the same is read after them."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        while (message := await read(receive)) is not None:
            got.append(message)

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.receive(compressed(BINARY, ZEROS))
        assert direct.connection.is_reading_paused
        for number in range(10):
            direct.receive(text(f"{number}"))
        assert not got
        while direct.is_working:
            await asyncio.sleep(0)
        await turns(3)
        assert not direct.connection.is_reading_paused
        direct.lose()
        await turns(3)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert got == [ZEROS, *(f"{number}" for number in range(10))]


# Long messages to the client.

NOISE = random.Random(7692).randbytes(650_000)
"""Not compressible."""


def test_a_long_message_is_compressed_while_others_are_served(parser: str) -> None:
    """And messages keep the order in which they were sent, from several tasks, short ones included."""
    turned: list[int] = []
    long = NOISE[:300_000]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        tasks = []
        for data in (long, "x" * 70_000, "short"):
            tasks.append(start_task(send(sent(data))))
            await asyncio.sleep(0)
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turned.append(1)
        await send(sent("end"))
        await read(receive)

    with serve_way(app, parser) as server:
        ws = connect(server, OFFER)
        for data in (long, "x" * 70_000, "short", "end"):
            assert ws.read_message() == data
        assert ws.close() == (1000, "")
        assert len(turned) > len(long) // MAX_DEFLATE


def test_a_ping_is_answered_while_a_long_message_is_compressed() -> None:
    """RFC 6455, 5.5.3, "as soon as practical": no part of the message's frame is written before its end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send(sent(NOISE))

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        assert direct.is_working
        direct.receive(ping(b"now"))
        assert direct.raw.written == [b"\x8a\x03now"]
        while direct.is_working:
            await asyncio.sleep(0)
        assert direct.raw.written[1][0] == 0x80 | 0x40 | BINARY
        direct.lose()
        await turns(3)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_cancelled_send_of_a_long_message_has_sent_all_of_it(parser: str) -> None:
    """The client's context has changed with the part that was compressed. The message after it can be read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        task = start_task(send(sent(NOISE)))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await send(sent("x" * 100))
        await send({"type": "websocket.close"})

    with serve_way(app, parser) as server:
        ws = connect(server, OFFER)
        assert ws.read_message() == NOISE
        assert ws.read_message() == "x" * 100
        assert ws.answer_close() == (1000, "")


def test_a_close_comes_after_the_long_messages_before_it(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        long = start_task(send(sent(NOISE)))
        await asyncio.sleep(0)
        await send({"type": "websocket.close"})
        await long

    with serve_way(app, parser) as server:
        ws = connect(server, OFFER)
        assert ws.read_message() == NOISE
        assert ws.answer_close() == (1000, "")


def test_the_send_of_a_long_message_raises_when_the_client_goes() -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            await send(sent(NOISE))
        except OSError as error:
            raised.append(error)

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.lose()
        await turns(5)
        assert not direct.is_working
        assert not direct.raw.written

    asyncio.run(asyncio.wait_for(main(), 20))
    assert [type(error) for error in raised] == [ClientDisconnected]


def test_a_large_payload_is_written_without_a_copy() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send(sent(NOISE))

    async def main() -> None:
        direct = Direct(app)
        direct.connection.data_received(handshake())
        await turns(3)
        assert any(part is NOISE for part in direct.raw.written)
        direct.lose()
        await turns(3)

    asyncio.run(asyncio.wait_for(main(), 20))


# ws_message_timeout.

BEGUN = text("begun", fin=False)


def test_a_message_that_is_never_complete_ends_with_1008(parser: str) -> None:
    """However much of it comes meanwhile, and with one line in the log."""
    app = Recorder()
    with serve_way(app, parser, ws_message_timeout=60, ws_ping_interval=0) as server:
        ws = connect(server)
        ws.send(text("whole") + BEGUN)
        server.wait_until(lambda: app.messages["/"])
        server.settle()
        server.advance(50)
        ws.send(cont(b"more", fin=False))
        assert ws.is_alive()
        server.advance(12)
        assert ws.read_failure() == 1008
        ws.client.close()
        server.wait_until(lambda: app.ended)
        assert app.messages["/"] == ["whole"]
        assert app.ended["/"] == (1008, "a message was not complete in time")
        [line] = server.log.take("warning")
        assert line.text.startswith("Invalid WebSocket frame from ip=")
        assert line.text.endswith(": a message was not complete in time")


def test_each_message_has_a_time_of_its_own(parser: str) -> None:
    with serve_way(echo, parser, ws_message_timeout=60, ws_ping_interval=0) as server:
        ws = connect(server)
        for _ in range(3):
            ws.send(BEGUN)
            assert ws.is_alive()
            server.advance(40)
            ws.send(cont(b"!"))
            assert ws.read_message() == "begun!"
        server.advance(100)
        assert ws.close() == (1000, "")


@pytest.mark.parametrize("seconds", [0, 1000])
def test_the_time_of_a_message_can_be_switched_off(parser: str, seconds: float) -> None:
    with serve_way(echo, parser, ws_message_timeout=seconds, ws_ping_interval=0) as server:
        ws = connect(server)
        ws.send(BEGUN)
        assert ws.is_alive()
        server.advance(900)
        ws.send(cont(b"!"))
        assert ws.read_message() == "begun!"
        assert ws.close() == (1000, "")


def test_a_client_is_not_blamed_while_its_frames_wait_for_their_turn() -> None:
    """The worker may be busy with others for as long as it is."""
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        got.append(await read(receive))

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.receive(compressed(BINARY, ZEROS))
        assert direct.is_working
        direct.pass_deadline(MESSAGE_BY)
        while direct.is_working:
            await asyncio.sleep(0)
        await turns(3)
        direct.lose()
        await turns(3)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert got == [ZEROS]


# ws_memory_limit.


def total(server: InProcess) -> int:
    """Bytes that are counted."""

    def count() -> int:
        share = server.server.websocket_share
        assert share is not None
        return share.memory.total

    return server.call(count)


def begin_message(ws: WebSocket, size: int) -> None:
    """Send a message of that size but for its end."""
    ws.send(frame(BINARY, bytes(size), fin=False))
    assert ws.is_alive()


def test_the_largest_holder_of_memory_is_closed_with_1009(parser: str) -> None:
    """With one line in the log. The others go on."""
    app = Recorder()
    with serve_way(app, parser, ws_memory_limit=1_000_000) as server:
        small, large, last = (connect(server, target=f"/{number}") for number in range(3))
        begin_message(small, 200_000)
        begin_message(large, 500_000)
        assert total(server) >= 700_000
        begin_message(last, 400_000)
        assert large.read_failure() == 1009
        server.wait_until(lambda: "/1" in app.ended)
        assert app.ended["/1"] == (1009, "too much memory for messages")
        assert total(server) < 700_000
        [line] = server.log.take("warning")
        assert line.text.startswith("Closed the WebSocket /1 of ip=127.0.0.1 with 1009: ")
        assert line.text.endswith("more than ws_memory_limit, 1000000")
        for ws in (small, last):
            ws.send(cont(b"end"))
            assert ws.close() == (1000, "")
        server.wait_until(lambda: len(app.ended) == 3)
        assert [len(app.messages[f"/{number}"][0]) for number in (0, 2)] == [200_003, 400_003]
        assert total(server) == 0


def test_deflate_bombs_without_an_end_hold_no_more_than_the_limit(parser: str) -> None:
    app = Recorder()
    limit = 3_000_000
    with serve_way(app, parser, ws_memory_limit=limit) as server:
        clients = [connect(server, OFFER, target=f"/{number}") for number in range(6)]
        compressor = zlib.compressobj(9, wbits=-15)
        data = compressor.compress(bytes(1_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for ws in clients:
            ws.send(frame(BINARY, data, fin=False, rsv=RSV1))
        server.wait_until(lambda: len(app.ended) >= 3)
        server.wait_until(lambda: not server.server.work_queue)
        assert total(server) <= limit
        assert {code for code, _ in app.ended.values()} == {1009}
        assert len(server.log.take("warning")) == len(app.ended)
        for ws in clients:
            ws.client.close()


def test_messages_that_are_not_read_are_counted_until_they_are(parser: str) -> None:
    go, done = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        assert await read(receive) == bytes(300_000)
        done.set()
        await read(receive)

    with serve_way(app, parser) as server:
        ws = connect(server)
        ws.send(binary(bytes(300_000)))
        server.wait_until(lambda: server.server.websocket_share.memory.total >= 300_000)
        go.set()
        done.wait()
        assert total(server) == 0
        assert ws.close() == (1000, "")


def test_what_an_application_leaves_unread_is_not_counted_after_its_end() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.wait()

    async def main() -> None:
        direct = Direct(app)
        await direct.shake_hands()
        direct.receive(binary(bytes(300_000)) + frame(BINARY, bytes(100_000), fin=False))
        direct.lose()
        await turns(3)
        assert direct.counted >= 400_000
        go.set()
        await turns(3)
        assert direct.counted == 0

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_message_that_is_taken_at_once_is_never_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    hold = MessageMemory.hold

    def count(memory: MessageMemory, holder: Any, size: int) -> bool:
        counted.append(size)
        return hold(memory, holder, size)

    monkeypatch.setattr(MessageMemory, "hold", count)
    with serve_way(echo, "h11") as server:
        ws = connect(server)
        for data in ("a", "b" * 1000, bytes(30_000)):
            ws.send(text(data) if isinstance(data, str) else binary(data))
            assert ws.read_message() == data
        assert not counted
        assert ws.close() == (1000, "")


def test_the_memory_of_messages_can_be_without_a_limit(parser: str) -> None:
    with serve_way(echo, parser, ws_memory_limit=0) as server:
        ws = connect(server)
        ws.send(binary(bytes(3_000_000)))
        assert ws.read_message() == bytes(3_000_000)
        assert ws.close() == (1000, "")
        assert total(server) == 0


def test_a_step_of_no_time_still_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_session, "STEP_SECONDS", 0)
    with serve_way(echo, "h11") as server:
        ws = offered(server)
        ws.send(FRAMES)
        assert summary([ws.read_message() for _ in MESSAGES]) == summary(MESSAGES)
        assert ws.close() == (1000, "")
