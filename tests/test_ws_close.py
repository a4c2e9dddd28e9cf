"""The end of the connection after the Close frames (RFC 6455, 5.5.1, 7.1.1 and 7.1.7; RFC 8441, 5).

The clock of the server stands still here, so no deadline can end a connection.
"""

from __future__ import annotations

import ssl
import struct
import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from costs import buffered
from hypothesis import given
from hypothesis import strategies as st
from inprocess import Flag, InProcess
from ways import server_context
from ws import (
    CLOSE,
    OVER_2,
    PING,
    RSV1,
    RSV2,
    TEXT,
    WAYS,
    WebSocket,
    accept,
    binary,
    close,
    connect,
    cont,
    echo,
    frame,
    ping,
    read,
    serve_way,
    text,
)

from gunicorn_asgi.errors import Violation
from gunicorn_asgi.websocket.close import MAX_SKIPPED_FRAMES, Close, CloseFinder
from gunicorn_asgi.websocket.frames import BETWEEN_FRAMES
from gunicorn_asgi.websocket.reader import FrameReader

pytestmark = pytest.mark.both_libraries

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"
MAX_SIZE = 16 << 20
"""The default of ``websocket_max_message_size``."""


parser_names = WAYS
"""For the fixture `parser`: HTTP/2 beside HTTP/1.1."""


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def serves(app: Any, parser: str, tls: bool, **settings: Any) -> Any:
    return serve_way(app, parser, tls=server_context() if tls else None, **settings)


def open_at_rest(server: InProcess, tls: bool, *fields: bytes) -> WebSocket:
    """Connect a client, and stop the clock."""
    ws = connect(server, *fields, tls=tls)
    server.stop_clock()
    return ws


async def close_4000(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.close", "code": 4000})


# The connection.

BROKEN = frame(3)
"""A reserved opcode (RFC 6455, 5.2)."""
VIOLATIONS = {
    "a reserved opcode": BROKEN,
    "a reserved opcode with a payload": frame(11, b"x" * 300),
    "a reserved bit": text("Hello", rsv=RSV2),
    "no mask": text("Hello", mask=None),
    "a length that is not minimal": text("Hello", width=16),
    "a ping that is too long": ping(b"x" * 126),
    "a ping in fragments": ping(b"a", fin=False) + cont(b"b"),
    "a continuation of nothing": cont("a"),
    "a text within a text": text("a", fin=False) + text("b"),
    "a text that is no UTF-8": text(b"\xff"),
    "a fragment that is no UTF-8": text("a", fin=False) + cont(b"\xff" * 50, fin=False) + cont(),
    "a text that ends within a character": text(b"\xe2", fin=False) + cont(b""),
    "a large text that is no UTF-8": text(b"\xff" * 300_000),
    "no deflate": frame(TEXT, b"\xff" * 100, rsv=RSV1),
    "a message that is too long": binary(b"a", fin=False) + cont(bytes(MAX_SIZE), mask=bytes(4)),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_the_connection_ends_with_the_answer_to_the_close_after_a_violation(
    parser: str,
    tls: bool,
    violation: bytes,
) -> None:
    skip_above_the_window(parser, violation)
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls, DEFLATE)
        ws.send(violation)
        code, _ = ws.read_close()
        assert code is not None
        ws.send(close(code))
        ws.read_end()
        assert len(server.log.take("warning")) == 1


def skip_above_the_window(parser: str, data: bytes) -> None:
    if OVER_2 in parser and len(data) > 65535:
        pytest.skip("a stream whose end is sent has no window for more: test_h2_websocket")


OTHERS = text("a") + binary(b"b" * 70_000) + text("c", fin=False) + ping(b"p") + cont("d")
WRONG = frame(11, b"x") + cont(b"\xff") + text("a", mask=None) + ping(b"x" * 200)
ANSWERS = {
    "the same code": close(1002),
    "another code": close(1000),
    "no code": close(),
    "with a reason": close(1002, "sorry ☃"),
    "not masked": close(1002, mask=None),
    "with a code that may not be sent": close(1005),
    "with half a code": frame(CLOSE, b"\x03"),
    "after other frames": OTHERS + close(1002),
    "after very many frames": ping() * 1500 + close(1002),
    "after frames that are wrong, too": WRONG + close(1002),
    "and more after it": close(1002) + text("a"),
}


@pytest.mark.parametrize("is_split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_any_close_is_an_answer(parser: str, tls: bool, answer: bytes, is_split: bool) -> None:
    skip_above_the_window(parser, answer)
    if is_split and len(answer) > 1000:
        pytest.skip("the pure tests cut large frames")
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(BROKEN)
        assert ws.read_close()[0] == 1002
        if is_split:
            for position in range(len(answer.removesuffix(text("a")))):
                ws.send(answer[position : position + 1])
        else:
            ws.send(answer)
        ws.read_end()
        server.log.take("warning")


@pytest.mark.parametrize(
    "violation",
    [BROKEN, text(b"\xff" * 300), ping(b"x" * 126)],
    ids=["opcode", "text", "ping"],
)
def test_a_close_in_the_packet_of_the_violation_is_an_answer(
    parser: str,
    tls: bool,
    violation: bytes,
) -> None:
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(violation + text("a") + close(1000))
        assert ws.read_failure() in (1002, 1007)
        server.log.take("warning")


CLOSES = {
    "a code that may not be sent": close(0),
    "another": close(1005),
    "half a code": frame(CLOSE, b"\x03"),
    "a reason that is no UTF-8": close(1000, b"\xff"),
    "not masked": close(1000, mask=None),
    "a reserved bit": close(1000, rsv=RSV2),
    "too long": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    "in fragments": close(1000, fin=False),
    "a length that is not minimal": close(1000, width=16),
}


@pytest.mark.parametrize("broken", CLOSES.values(), ids=CLOSES.keys())
@pytest.mark.parametrize(
    "before",
    [b"", text("a", fin=False)],
    ids=["between messages", "within a message"],
)
def test_a_close_that_is_a_violation_is_a_close(
    parser: str,
    tls: bool,
    before: bytes,
    broken: bytes,
) -> None:
    """RFC 6455, 5.5.1: no frame follows it, so no second Close."""
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(before + broken)
        assert ws.read_failure() in (1002, 1007)
        server.log.take("warning")


@pytest.mark.parametrize(
    "answer",
    [close(4000), close(), *CLOSES.values()],
    ids=["its code", "no code", *CLOSES],
)
def test_a_close_that_is_a_violation_answers_the_application(
    parser: str, tls: bool, answer: bytes
) -> None:
    with serves(close_4000, parser, tls) as server:
        ws = open_at_rest(server, tls)
        assert ws.read_close() == (4000, "")
        ws.send(answer)
        ws.read_end()
        server.log.take("warning")


def test_after_a_violation_while_closing_the_close_may_still_come(parser: str, tls: bool) -> None:
    with serves(close_4000, parser, tls) as server:
        ws = open_at_rest(server, tls)
        assert ws.read_close() == (4000, "")
        ws.send(BROKEN)
        server.settle()
        ws.send(close(4000))
        ws.read_end()
        server.log.take("warning")


def test_the_connection_ends_with_the_answer_to_the_client(parser: str, tls: bool) -> None:
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(binary(b"x" * 100_000) + text("a", fin=False))
        ws.read_message()
        assert ws.close(4000) == (4000, "")


@pytest.mark.parametrize("how", ["ping", "life", "worker"])
@pytest.mark.parametrize(
    "before",
    [b"", text("Hello")[:8], text("a", fin=False)],
    ids=["between frames", "in a frame", "in a message"],
)
def test_the_connection_ends_with_the_answer_to_the_server(
    parser: str,
    tls: bool,
    how: str,
    before: bytes,
) -> None:
    """Also if the pong was missing, and the answer comes."""
    limits = {
        "ping": {"ws_ping_interval": 10, "ws_ping_timeout": 5},
        "life": {"ws_max_lifetime": 10, "ws_ping_interval": 0},
        "worker": {},
    }
    with serves(echo, parser, tls, **limits[how]) as server:
        ws = open_at_rest(server, tls)
        ws.send(before)
        server.settle()
        if how == "worker":
            connections = server.server.connections
            server.call(lambda: [each.handler.close_websockets() for each in list(connections)])
        else:
            server.advance(12)
        if how == "ping":
            ws.read_ping()
            server.advance(4)  # with 5, the two seconds for the answer might pass, too
        assert ws.read_close()[0] == {"ping": 1011, "life": 1001, "worker": 1012}[how]
        ws.send((text("Hello")[8:] if before == text("Hello")[:8] else b"") + close(1000))
        ws.read_end()


@pytest.mark.parametrize("answer", ["with the violation", "before the Close", "after the Close"])
@pytest.mark.parametrize("closes", [False, True], ids=["reads on", "closes"])
def test_a_violation_that_waited_for_the_application(
    parser: str,
    tls: bool,
    closes: bool,
    answer: str,
) -> None:
    """The application still has earlier messages to read."""
    go = Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await go.reached()
        if closes:
            await send({"type": "websocket.close", "code": 4000})
            return
        while await read(receive) is not None:
            pass

    with serves(app, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(text("a") + BROKEN + text("b") + close(1000) * (answer == "with the violation"))
        server.wait_paused()
        if answer == "before the Close":
            ws.send(close(1000))
            server.settle()
        go.set()
        assert ws.read_close()[0] == (4000 if closes else 1002)
        if answer == "after the Close":
            ws.send(close(1002))
        ws.read_end()
        server.log.take("warning")


def test_a_client_that_is_still_sending_finds_the_close(parser: str, tls: bool) -> None:
    """No reset destroys it. This client sends all of a message above the limit before it reads."""
    skip_above_the_window(parser, bytes(MAX_SIZE))
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(binary(length=MAX_SIZE + 1000))
        for _ in range(MAX_SIZE // 65536):
            ws.send(bytes(65536))
        server.settle()
        ws.send(bytes(1000) + text("a"))
        assert ws.read_close()[0] == 1009
        ws.send(close(1009))
        ws.read_end()
        server.log.take("warning")


@pytest.mark.parametrize(
    "late",
    [b"", text("a"), close(1000)[:-1]],
    ids=["nothing", "a message", "a part of a Close"],
)
def test_a_client_that_does_not_answer_has_a_moment(parser: str, tls: bool, late: bytes) -> None:
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(BROKEN)
        assert ws.read_close()[0] == 1002
        ws.send(late)
        server.settle()
        server.advance(1)
        assert server.call(lambda: len(server.server.connections)) == 1
        server.advance(5)
        ws.read_end()
        server.log.take("warning")


@pytest.mark.parametrize(
    ("data", "answer"),
    [(close(1000), b""), (close(0), b""), (BROKEN, b""), (BROKEN, close(1002))],
    ids=["a Close", "a Close that is a violation", "a violation", "a violation, and a Close"],
)
def test_a_client_that_does_not_end_its_side_has_a_moment(
    parser: str,
    tls: bool,
    data: bytes,
    answer: bytes,
) -> None:
    """``write_timeout`` applies to a client with something to read."""
    if OVER_2 in parser:
        pytest.skip("the connection is for other streams, too")
    with serves(echo, parser, tls, write_timeout=1000) as server:
        ws = open_at_rest(server, tls)
        ws.send(data)
        ws.read_close()
        ws.send(answer)
        server.settle()
        server.advance(12)
        server.wait_until(lambda: not server.server.connections)
        server.log.take("warning")


def test_a_client_that_only_ends_its_side_is_answered(parser: str, tls: bool) -> None:
    with serves(echo, parser, tls) as server:
        ws = open_at_rest(server, tls)
        ws.send(BROKEN)
        assert ws.read_close()[0] == 1002
        if tls and OVER_2 not in parser:
            assert isinstance(ws.client.sock, ssl.SSLSocket)
            try:
                assert ws.client.sock.unwrap().recv(1) == b""
            except ssl.SSLEOFError:
                assert sys.version_info < (3, 11), "only the older TLS of asyncio just goes"
        else:
            ws.client.send_eof()
            ws.read_end()
        server.log.take("warning")
        if OVER_2 not in parser:
            server.wait_until(lambda: not server.server.connections)


# The search for a Close, as functions.

FRAMES = {
    "an empty one": text(),
    "one that is not masked": text("Hello", mask=None),
    "the longest length of 7 bits": ping(b"\x88" * 125),
    "a length of 16 bits": binary(b"\x88\x80" * 100),
    "a length of 64 bits": binary(b"\x88\x80" * 40_000, mask=bytes(4)),
    "a length that is not minimal": binary(b"Hello", width=64),
    "a reserved opcode": frame(15, b"\x88"),
    "reserved bits": ping(b"\x88\x80", rsv=7),
}


def parts(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut % len(data) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    st.lists(st.sampled_from(list(FRAMES.values())), max_size=4),
    st.sampled_from([*ANSWERS.values()][:7]),
    st.lists(st.integers(0, 1000)),
)
def test_a_close_is_found_with_its_last_byte(
    frames: list[bytes],
    answer: bytes,
    cuts: list[int],
) -> None:
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    data = b"".join(frames) + answer
    for part in parts(data[:-1], cuts):
        assert not finder.find(part)
    assert finder.find(data[-1:])
    assert finder.find(b"\x82")


def test_a_found_close_stays_found_after_any_data() -> None:
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    assert finder.find(close(1000) + text("a") + ping())
    assert finder.find(text("b"))


@pytest.mark.parametrize("name", FRAMES)
def test_each_frame_is_skipped_byte_by_byte(name: str) -> None:
    finder = CloseFinder(CLOSE, BETWEEN_FRAMES)
    data = FRAMES[name] + close(1000)
    found = [finder.find(data[position : position + 1]) for position in range(len(data))]
    assert found == [False] * (len(data) - 1) + [True]


@given(
    st.sampled_from(sorted(VIOLATIONS.keys() - {"a message that is too long"})),
    st.lists(st.integers(0, 400_000), max_size=20),
)
def test_the_search_begins_after_the_frames_that_were_read(name: str, cuts: list[int]) -> None:
    """The violation may be in the head of its frame, within its payload, or at its end."""
    reader = FrameReader(MAX_SIZE, 100, None)
    has_failed = False
    data = text("before") + VIOLATIONS[name] + text("after", mask=None) + close(1000)
    for part in parts(data[:-1], cuts):
        if has_failed:
            assert not reader.find_close(part)
            continue
        try:
            assert reader.read(part) is None
        except Violation:
            has_failed = True
            assert not reader.find_close()
    assert has_failed
    assert reader.find_close(data[-1:])


@pytest.mark.parametrize("size", range(len(text("Hello") + close(1000))))
def test_the_search_begins_anywhere_without_a_violation(size: int) -> None:
    data = text("Hello") + close(1000)
    reader = FrameReader(MAX_SIZE, 100, None)
    assert reader.read(data[:size]) is None
    assert not reader.find_close()
    assert reader.find_close(data[size:])


def test_unread_frames_can_be_read_after_the_search() -> None:
    """The end of the client's side may come before the application has read its messages."""
    reader = FrameReader(MAX_SIZE, 1, None)
    data = text("a") + text("b") + close(1000)
    assert reader.read(data[:7]) is None
    assert reader.read(data[7:]) is None
    assert reader.find_close()
    reader.resume()
    assert reader.read() is None
    reader.resume()
    assert reader.read() == Close(1000, "")
    assert list(reader.messages) == ["a", "b"]


def test_nothing_is_found_in_a_frame_without_an_end() -> None:
    """The first bit of its length is set (RFC 6455, 5.2): the client has not answered."""
    reader = FrameReader(MAX_SIZE, 1, None)
    with pytest.raises(Violation):
        reader.read(struct.pack("!BBQ", 0x82, 0xFF, 1 << 63) + bytes(4))
    assert not reader.find_close(close(1000))


def test_the_search_has_an_end() -> None:
    """Each frame takes time. After too many, the client counts as silent."""
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    assert not finder.find(ping() * (MAX_SKIPPED_FRAMES - 1))
    while finder.has_more:
        assert not finder.find()
    assert finder.find(close())
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    assert not finder.find(ping() * MAX_SKIPPED_FRAMES)
    while finder.has_more:
        assert not finder.find()
    assert not finder.find(close())


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_only_an_incomplete_head_is_kept(opcode: int) -> None:
    finder = CloseFinder(TEXT, BETWEEN_FRAMES)
    data = frame(opcode, b"x" * 70_000) * 2
    for position in range(0, len(data) - 100, 37):
        finder.find(data[position : position + 37])
        assert sum(map(len, buffered(finder))) < 14
