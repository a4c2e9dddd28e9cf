"""No packet holds the loop, whatever it asks for, and no response does.

One `data_received` takes at most 10 ms of CPU time, and so does each turn of the loop that goes on with its data. A test that measures time
would fail on a busy machine, so these count the calls of functions. `benchmarks/turn_cost.py` measures the time.
"""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import Any

import floods
import pytest
from conftest import PARSERS
from costs import count_calls
from floods import HTTP1, HTTP2, PACKET, Connection
from h2protocol import encode
from h2raw import (
    INITIAL_WINDOW_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    WINDOW_UPDATE,
    data,
    frame,
    headers,
    settings,
)
from h2tables import WEBSOCKET
from inprocess import Flag, answer, read_body, request, serve
from ways import serving
from ws import ping

from gunicorn_asgi.asgi.http import MAX_PIECE

MAX_CALLS = 40_000
"""Calls of a turn. The dearest ones here take a quarter of a microsecond with what lies between them, so this is 10 ms."""
MOST_FOR_TWICE = 2.6


# What arrives.


@pytest.mark.parametrize(
    ("parser", "name"), [(parser, name) for parser in PARSERS for name in HTTP1]
)
def test_a_packet_of_http1_takes_few_calls_in_each_turn(parser: str, name: str) -> None:
    _check(HTTP1[name], parser)


@pytest.mark.parametrize("name", HTTP2)
def test_a_packet_of_http2_takes_few_calls_in_each_turn(name: str) -> None:
    _check(HTTP2[name], "h11")


def _check(flood: floods.Flood, parser: str) -> None:
    half = floods.cost(flood, parser, PACKET // 2, count_calls)
    whole = floods.cost(flood, parser, PACKET, count_calls)
    assert 0 < whole.most < MAX_CALLS
    assert whole.total < MOST_FOR_TWICE * half.total


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("size", [1, 100, 16384, PACKET])
def test_a_head_of_200_000_lines_is_refused_by_its_number_of_lines(parser: str, size: int) -> None:
    """It is never given to a parser, whose work it would be."""
    connection = Connection(floods.answers, parser, is_h2=False)
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 200_000 + b"\r\n"

    def no_parser(lines: bytes) -> Any:
        raise AssertionError("parsed")

    connection.transport.rules.field_lines._parse = no_parser
    for start in range(0, len(head), size):
        connection.receive(head[start : start + size])
        if connection.raw.written:
            break
    assert start < 600 + size
    connection.close()
    (line,) = connection.log.take("warning")
    assert line.text == "Invalid request from ip=127.0.0.1: More than 100 header fields"


@pytest.mark.parametrize("name", [b"Connection", b"Transfer-Encoding", b"Upgrade"])
@pytest.mark.parametrize("parser", PARSERS)
def test_lists_of_very_many_members_are_refused_before_they_are_read(
    parser: str, name: bytes
) -> None:
    connection = Connection(floods.answers, parser, is_h2=False)
    lines = (name + b": " + b"a," * 4000 + b"\r\n") * 90
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    connection.receive(head[:PACKET])
    assert count_calls(lambda: connection.raw.protocol.data_received(head[PACKET:])) < MAX_CALLS
    connection.close()
    (line,) = connection.log.take("warning")
    assert line.text.startswith("Invalid request from ip=127.0.0.1: More than 4096 members in ")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("line", [b"a:\r\n", b"a: " + b"b" * 8000 + b"\r\n"])
def test_a_head_in_many_packets_is_not_looked_at_again_with_each(parser: str, line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + line * 90

    def calls(length: int) -> int:
        connection = Connection(floods.answers, parser, is_h2=False)
        data = head[:length]
        cost = 0
        for start in range(0, len(data), 370):
            cost += count_calls(
                lambda piece=data[start : start + 370]: connection.raw.protocol.data_received(piece)
            )
        connection.close()
        return cost

    assert calls(len(head)) < 2.1 * calls(len(head) // 2)


CHUNKS = 30_000
CHUNKED = request("POST", "/", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * CHUNKS
END = b"0\r\n\r\n"


async def lengths(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; `/early` before it has read any."""
    if scope["path"] == "/early":
        await answer(send, b"early")
    else:
        try:
            body = await read_body(receive)
        except EOFError:
            return
        await answer(send, b"%d" % len(body))


def test_a_body_that_is_read_in_many_turns_is_whole_and_requests_follow_it(parser: str) -> None:
    with serve(lengths, parser) as server:
        client = server.connect()
        client.send((CHUNKED + END + request()) * 2)
        for body in (b"%d" % CHUNKS, b"0") * 2:
            assert client.read_response().body == body
        client.send(request())
        assert client.read_response().body == b"0"


def test_a_body_that_nobody_reads_is_dropped_in_many_turns_and_requests_follow_it(
    parser: str,
) -> None:
    with serve(lengths, parser) as server:
        client = server.connect()
        early = CHUNKED.replace(b"POST / ", b"POST /early ") + END
        client.send((early + request()) * 2)
        for body in (b"early", b"0") * 2:
            assert client.read_response().body == body


def test_the_beginning_of_a_head_after_a_body_of_many_turns_has_its_own_time(parser: str) -> None:
    with serve(lengths, parser, keepalive=2, head_timeout=10) as server:
        client = server.connect()
        client.send(CHUNKED.replace(b"POST / ", b"POST /early ") + END + request()[:-2])
        assert client.read_response().body == b"early"
        server.wait_buffered()
        server.wait_until(lambda: not len(server.server.work_queue))
        server.stop_clock()
        server.advance(6)
        assert not client.has_more()
        client.send(b"\r\n")
        assert client.read_response().body == b"0"


def test_a_client_that_has_ended_its_side_gets_the_response_to_a_body_of_many_turns(
    parser: str,
) -> None:
    with serve(lengths, parser) as server:
        client = server.connect()
        client.send(CHUNKED + END)
        client.send_eof()
        assert client.read_response().body == b"%d" % CHUNKS
        assert client.read_rest() == b""


def test_requests_after_a_dropped_body_are_answered_though_the_client_has_ended_its_side(
    parser: str,
) -> None:
    may_answer = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            await may_answer.reached()
        await answer(send, scope["raw_path"])

    with serve(app, parser) as server:
        client = server.connect()
        post = request("POST", "/", b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 2000 + END
        client.send(request("GET", "/first") + post + request("GET", "/last"))
        client.send_eof()
        server.wait_half_closed()
        may_answer.set()
        assert [client.read_response().body for _ in range(3)] == [b"/first", b"/", b"/last"]
        assert client.read_rest() == b""


def test_a_client_that_ends_its_side_within_a_body_of_many_turns_is_gone(parser: str) -> None:
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(EOFError):
            await read_body(receive)
        ends.append("gone")

    with serve(app, parser) as server:
        client = server.connect()
        client.send(CHUNKED)
        client.send_eof()
        assert client.read_rest() == b""
        server.wait_until(lambda: ends == ["gone"])


def test_a_fault_that_comes_after_many_turns_is_answered_with_400(parser: str) -> None:
    with serve(lengths, parser) as server:
        client = server.connect()
        client.send(CHUNKED + b"x\r\n")
        assert client.read_response().status == 400
        assert len(server.log.take("warning")) == 1


def test_back_pressure_holds_while_a_body_is_read_in_many_turns(parser: str) -> None:
    """Nothing more is read before the application has taken what is here, and then everything."""
    going_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await going_on.wait()
        await answer(send, b"%d" % len(await read_body(receive)))

    count = 300_000
    with serve(app, parser) as server:
        client = server.connect()
        client.send(request("POST", "/", b"Transfer-Encoding: chunked"))
        sender = threading.Thread(target=client.send, args=(b"1\r\nx\r\n" * count + END,))
        sender.start()
        server.wait_unread(65536)
        server.wait_until(lambda: not len(server.server.work_queue))
        (transport,) = server.server.connections
        assert transport.is_reading_paused
        assert server.call(lambda: transport.handler.stream.unread) < 65536 + PACKET // 6
        server.call(going_on.set)
        assert client.read_response().body == b"%d" % count
        sender.join()


def test_a_shutdown_ends_a_body_that_is_read_in_many_turns(parser: str) -> None:
    with serve(floods.waits, parser) as server:
        client = server.connect()
        client.send(CHUNKED)
        server.wait_unread(1)
        server.run(server.server.shut_down(0.2, 0.2))
        client.close()
        server.wait_until(lambda: not len(server.server.work_queue))
    server.log.take("error")
    server.log.take("warning")


@pytest.mark.parametrize("way", ["h2", "h2-tls"])
def test_frames_that_are_handled_in_many_turns_keep_their_order(parser: str, way: str) -> None:
    with serving(lengths, parser, way) as asked:
        client = asked.connect()
        streams = []
        for _ in range(3):
            stream = client.begin("POST", "/", end=False)
            client.send(b"".join([frame(0, 0, stream.id, b"x")] * 5000 + [frame(0, 1, stream.id)]))
            streams += [stream, client.begin("GET", "/")]
        bodies = [client.read_response(stream).body for stream in streams]
        assert bodies == [b"5000", b"0"] * 3


def test_the_end_of_a_connection_comes_after_all_frames_before_it(parser: str) -> None:
    """Reading is paused meanwhile, so its end is not seen."""
    with serving(lengths, parser, "h2") as asked:
        client = asked.connect()
        for _ in range(90):
            client.begin("GET", "/")
        client.sock.shutdown(1)
        asked.server.wait_until(lambda: asked.server.host.nr == 90)


def test_frames_of_a_connection_that_is_lost_are_dropped_without_an_error() -> None:
    """As where writing the replies to the first of them has found the client to be gone."""
    connection = Connection(floods.answers, "h11", is_h2=True)
    errors: list[Any] = []
    connection.loop.set_exception_handler(lambda _, context: errors.append(context))

    def receive_and_lose() -> None:
        pings = frame(PING, 0, 0, bytes(8)) * 1100
        connection.raw.protocol.data_received(PREFACE + settings() + pings)
        connection.raw.protocol.connection_lost(None)

    connection.loop.call_soon(receive_and_lose)
    connection.turn()
    assert len(connection.server.work_queue)
    connection.settle()
    connection.close()
    assert not errors


async def closes(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})


def test_a_websocket_goes_on_reading_after_its_connection_is_lost_without_an_error() -> None:
    """The application has ended, so nobody else remembers the WebSocket."""
    connection = Connection(closes, "h11", is_h2=True)
    errors: list[Any] = []
    connection.loop.set_exception_handler(lambda _, context: errors.append(context))
    connection.receive(PREFACE + settings() + headers(1, encode(WEBSOCKET), end=False))
    connection.settle()
    assert not connection.server.tasks

    def receive_and_lose() -> None:
        connection.raw.protocol.data_received(data(1, ping() * 2000))
        connection.raw.protocol.connection_lost(None)

    connection.loop.call_soon(receive_and_lose)
    connection.turn()
    assert len(connection.server.work_queue)
    connection.settle()
    connection.close()
    assert not errors


@pytest.mark.parametrize(
    "flood",
    [HTTP1["one-byte chunks"], HTTP1["one-byte chunks after the response"], HTTP2["one-byte DATA"]],
    ids=["chunks", "chunks after the response", "DATA"],
)
def test_nothing_is_read_from_a_client_before_its_data_is_worked_off(flood: floods.Flood) -> None:
    """So no more than a packet is kept, and the end of the connection is not seen before it."""
    connection = Connection(floods.APPS[flood.app], "h11", flood.is_h2)
    connection.receive(flood.before)
    connection.settle()
    connection.receive(flood.packet(PACKET // 2))
    turns = 0
    while len(connection.server.work_queue):
        assert connection.raw.is_paused
        connection.turn()
        turns += 1
    assert turns > 5
    assert not connection.raw.is_paused
    connection.close()


# What is sent.

SIZE = 20 * MAX_PIECE + 5
MOST_SENT = 1_048_576 + 2 * 65536 + 4096
OPEN_WIDE = (
    PREFACE
    + settings((INITIAL_WINDOW_SIZE, MAX_WINDOW))
    + frame(WINDOW_UPDATE, 0, 0, (MAX_WINDOW - 65535).to_bytes(4, "big"))
)
START: dict[str, Any] = {"type": "http.response.start", "status": 200}


def part(body: Any, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def sends_one(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(part(bytes(SIZE)))


async def sends_two(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(part(bytes(SIZE // 2), more=True))
    await send(part(bytearray(SIZE // 2)))


async def sends_many(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    for _ in range(SIZE // 65536):
        await send(part(bytes(65536), more=True))
    await send(part(b""))


@pytest.mark.parametrize("app", [sends_one, sends_two, sends_many])
@pytest.mark.parametrize("is_h2", [False, True], ids=["1.1", "h2"])
def test_a_turn_sends_little_more_than_a_mebibyte(app: Any, is_h2: bool) -> None:
    """However much the client takes at once."""
    connection = Connection(app, "h11", is_h2)
    if is_h2:
        connection.receive(OPEN_WIDE)
    before, most, turns = connection.raw.written, 0, 0
    connection.receive(floods.headers(1, floods.GET_BLOCK) if is_h2 else floods.GET)
    while connection.server.tasks or turns < 30:
        most = max(most, connection.raw.written - before)
        before = connection.raw.written
        connection.turn()
        turns += 1
        assert turns < 1000
    connection.settle()
    assert connection.raw.written >= SIZE - 65536
    assert most <= MOST_SENT
    connection.close()


def test_a_turn_sends_little_more_than_a_mebibyte_for_all_streams_whose_windows_open() -> None:
    connection, streams = Connection(sends_one, "h11", is_h2=True), 30
    wide = frame(WINDOW_UPDATE, 0, 0, (MAX_WINDOW - 65535).to_bytes(4, "big"))
    connection.receive(PREFACE + settings((INITIAL_WINDOW_SIZE, 0)) + wide)
    for number in range(streams):
        connection.receive(floods.headers(2 * number + 1, floods.GET_BLOCK))
    connection.settle()
    before, most = connection.raw.written, 0
    connection.receive(settings((INITIAL_WINDOW_SIZE, MAX_WINDOW)))
    while connection.server.tasks:
        most = max(most, connection.raw.written - before)
        before = connection.raw.written
        connection.turn()
    connection.settle()
    assert connection.raw.written >= streams * SIZE
    assert most <= MOST_SENT
    connection.close()


@pytest.mark.parametrize("is_h2", [False, True], ids=["1.1", "h2"])
def test_a_buffer_that_may_change_is_copied_before_send_returns(is_h2: bool) -> None:
    """Piece by piece, for all of them at once would take too long."""
    changed = b"\xff" * 64

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"%d" % (2 * SIZE))]})
        for more in (True, False):
            buffer = bytearray(SIZE)
            await send(part(memoryview(buffer) if more else buffer, more))
            buffer[:] = changed * (SIZE // len(changed) + 1)

    kept: list[Any] = []
    connection = Connection(app, "h11", is_h2)
    connection.raw.write = kept.append  # type: ignore[method-assign]  # what is written
    if is_h2:
        connection.receive(OPEN_WIDE)
    connection.receive(floods.headers(1, floods.GET_BLOCK) if is_h2 else floods.GET)
    while connection.server.tasks:
        connection.turn()
    connection.settle()
    assert sum(map(len, kept)) > 2 * SIZE
    assert not any(changed in bytes(data) for data in kept)
    connection.close()


@pytest.mark.parametrize("is_h2", [False, True], ids=["1.1", "h2"])
def test_a_large_body_is_not_copied_as_a_whole(is_h2: bool) -> None:
    body = bytes(SIZE)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(body, more=True))
        await send(part(body))

    connection = Connection(app, "h11", is_h2)
    if is_h2:
        connection.receive(OPEN_WIDE)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        connection.receive(floods.headers(1, floods.GET_BLOCK) if is_h2 else floods.GET)
        while connection.server.tasks:
            connection.turn()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert connection.raw.written > 2 * SIZE
    assert peak - before < 3 * MAX_PIECE
    connection.close()
