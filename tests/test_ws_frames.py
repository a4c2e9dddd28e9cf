"""Frames over the wire, by the sections of RFC 6455: 5.2 to 5.8, 7.1 to 7.4, 8.1, and 10.4.

docs/asgi.md, 87, 88, 96, 97, 100 and 101.

Each row of the tables is replayed in several ways: in a packet of its own, in the packet of the
handshake, and in pieces of one byte and of three, which is never a mask's length. A row that the
server refuses is replayed with further data, which must not matter.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gunicorn.config import Config
from inprocess import InProcess
from tables import each
from ws import (
    BINARY,
    MASK,
    OVER_2,
    TEXT,
    WAYS,
    Recorder,
    WebSocket,
    binary,
    close,
    connect,
    cont,
    echo,
    fragments,
    frame,
    ping,
    pong,
    serve_way,
    text,
)
from ws_tables import (
    CLOSES,
    CONTROL,
    FRAGMENTS,
    HEADER,
    INVALID_DATA,
    INVALID_UTF8,
    LIMIT,
    LIMITS,
    TOO_BIG,
    TRUNCATED_UTF8,
    VALID_UTF8,
    Case,
    bad,
    good,
)

has_limit = pytest.mark.skipif(
    "websocket_max_message_size" not in Config().settings,
    reason="this Gunicorn has no such setting",
)


class Servers:
    """One server for each set of settings, for all cases, and the messages to its application."""

    def __init__(self, stack: ExitStack, parser: str) -> None:
        self._stack = stack
        self._parser = parser
        self._servers: dict[object, tuple[InProcess, Recorder]] = {}
        self.deliveries = ["whole", "early", "1", "3"] if parser == "h11" else ["whole", "early"]
        """In one packet, in the handshake's packet, or in pieces of so many bytes.

    Only asyncio's transports can read in such pieces.
    """

    def get(self, read_size: int = 0, **settings: Any) -> tuple[InProcess, Recorder]:
        key = (read_size, *sorted(settings.items()))
        if key not in self._servers:
            app = Recorder()
            server = serve_way(
                app, self._parser, read_size=read_size, ws_per_message_deflate=False, **settings
            )
            self._servers[key] = self._stack.enter_context(server), app
        return self._servers[key]


parser_names = WAYS
"""For the fixture `parser`: HTTP/2 beside HTTP/1.1."""


@pytest.fixture(scope="module")
def servers(parser: str) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, parser)


numbers = itertools.count()
LATE = ping(b"late") + text("late") + cont(b"late") + close(1000)


def run(servers: Servers, case: Case, delivery: str, tail: bytes = b"", **settings: Any) -> None:
    """Send `case`, and compare the client's frames and the application's messages with it."""
    server, app = servers.get(int(delivery) if delivery.isdigit() else 0, **settings)
    path = f"/{next(numbers)}"
    if delivery == "early":
        ws = connect(server, target=path, early=case.data + tail)
    else:
        ws = connect(server, target=path)
        ws.send(case.data + tail)
    code, _ = ws.read_close()
    assert code == case.close
    ws.read_end()
    ws.client.close()
    server.wait_until(lambda: path in app.ended)
    assert app.messages.pop(path) == list(case.messages)
    told, reason = app.ended.pop(path)
    if case.told is None:
        assert told == case.close
    else:
        assert (told, reason) == case.told
    assert tuple(ws.pongs) == case.pongs


def run_in_every_way(servers: Servers, case: Case, **settings: Any) -> None:
    for delivery in servers.deliveries:
        run(servers, case, delivery, **settings)
    if (
        case.told is None
    ):  # RFC 6455, 7.1.7: after an error there is no pong, no message and no second Close
        run(servers, case, "whole", LATE, **settings)


# 5.2: the header.


@each("case", HEADER)
def test_a_frame_is_checked_by_its_header(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.1 to 5.3 and 5.7."""
    run_in_every_way(servers, case)


LENGTHS = (0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 100_000)


@pytest.mark.parametrize("read_size", [0, 997])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_comes_and_goes_in_the_fewest_bytes(
    parser: str, length: int, read_size: int
) -> None:
    """RFC 6455, 5.2: both ways, text and binary, one frame and two."""
    data = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    if OVER_2 in parser and length > 65536:
        pytest.skip(
            "this client reads nothing before it has sent more than all windows: test_h2_websocket"
        )
    with serve_way(
        echo, parser, read_size=read_size if parser == "h11" else 0, ws_per_message_deflate=False
    ) as server:
        ws = connect(server)
        for message in (data, data.decode()):
            opcode = BINARY if isinstance(message, bytes) else TEXT
            ws.send(
                frame(opcode, data)
                + fragments(opcode, [data, b""])
                + fragments(opcode, [data[:77], data[77:]], ping(b"p" * 125))
            )
            for _ in range(3):
                got = ws.read_message()
                assert type(got) is type(message)
                assert got == message
        assert ws.pongs == [b"p" * 125] * 2
        assert ws.close() == (1000, "")


# 5.4: fragments.


@each("case", FRAGMENTS)
def test_fragments_make_one_message(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.4."""
    run_in_every_way(servers, case)


# 5.5: control frames.


@each("case", CONTROL)
def test_control_frames_are_short_and_whole(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.5."""
    run_in_every_way(servers, case)


# 5.5.1 and 7: Close.


@each("case", CLOSES)
def test_a_close_is_answered_with_its_code_or_refused(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.5.1, 7.1.5, 7.1.6 and 7.4. The answer has the code of the client's Close."""
    run_in_every_way(servers, case)


@pytest.mark.parametrize(
    "late",
    [
        close(1000),
        close(1001, "x"),
        close(1005),
        text("a"),
        binary(b"a"),
        cont("a"),
        ping(b"a"),
        pong(),
        b"\xff" * 50,
    ],
)
def test_data_after_a_close_is_ignored(servers: Servers, late: bytes) -> None:
    """RFC 6455, 1.4 and 5.5.1: "the endpoint discards any further data received", valid or not."""
    for delivery in servers.deliveries:
        run(
            servers,
            Case(text("a") + close(4000, "c"), ("a",), close=4000, told=(4000, "c")),
            delivery,
            late,
        )


def test_a_flood_after_an_error_is_not_read_for_ever(parser: str) -> None:
    """RFC 6455, 7.1.7: the connection ends, whether the client has noticed or not."""
    if OVER_2 in parser:
        pytest.skip("there, time is the bound: test_h2_websocket")
    with serve_way(echo, parser) as server:
        client = connect(server).client
        client.send(text("a", mask=None))
        count = 0
        with pytest.raises(OSError):
            while count < 64 << 20:
                count += client.sock.send(bytes(65536))
        assert count < 64 << 20


# 8.1: UTF-8.


@each("message", VALID_UTF8)
def test_valid_text_is_cut_anywhere(servers: Servers, message: str) -> None:
    """RFC 6455, 5.6: "a particular text frame might include a partial UTF-8 sequence"."""
    data = message.encode()
    cuts = [fragments(TEXT, [data[:cut], data[cut:]], ping()) for cut in range(len(data) + 1)]
    each = fragments(TEXT, [data[position : position + 1] for position in range(len(data))])
    case = good(
        text(data) + each + b"".join(cuts), *[message] * (len(cuts) + 2), pongs=(b"",) * len(cuts)
    )
    run_in_every_way(servers, case)


@each("data, seen", INVALID_UTF8)
def test_invalid_text_is_refused_at_its_first_invalid_byte(
    servers: Servers, data: bytes, seen: int
) -> None:
    """RFC 6455, 8.1 and 5.6: no further bytes can make it valid."""
    first, rest = data[: seen - 1], data[seen - 1 :]
    for case in (
        text(data),
        fragments(TEXT, [first, rest]),
        fragments(TEXT, [b"%c" % byte for byte in data] + [b""]),
        text(data[:seen], fin=False),
        text(data[:seen], length=200),
        text(first, fin=False) + cont(data[seen - 1 : seen], length=70_000),
    ):
        run_in_every_way(servers, bad(text("é") + case, "é", code=INVALID_DATA))


@each("data", TRUNCATED_UTF8)
def test_text_that_ends_within_a_character_is_refused(servers: Servers, data: bytes) -> None:
    """RFC 6455, 8.1: the character does not continue in the next message."""
    for case in (
        text(data),
        fragments(TEXT, [data, b""]),
        fragments(TEXT, [b"%c" % byte for byte in data]),
        text(data) + text(b"\x80"),
    ):
        run_in_every_way(servers, bad(case, code=INVALID_DATA))


def test_binary_may_be_anything(servers: Servers) -> None:
    """RFC 6455, 5.6. Binary data has no effect on the next text."""
    data = [invalid for invalid, _ in INVALID_UTF8.values()]
    case = good(
        b"".join(binary(one) + fragments(BINARY, [one, one]) + text("é") for one in data),
        *(x for one in data for x in (one, one + one, "é")),
    )
    run(servers, case, "whole")


# 10.4: the limit.


@has_limit
@each("case", LIMITS)
def test_a_message_above_the_limit_is_refused_at_its_header(servers: Servers, case: Case) -> None:
    """RFC 6455, 7.4.1 and 10.4; Gunicorn's ``websocket_max_message_size``."""
    run_in_every_way(servers, case, websocket_max_message_size=LIMIT)


def test_without_a_setting_the_limit_is_16_mib(servers: Servers) -> None:
    run(servers, bad(binary(length=(16 << 20) + 1), code=TOO_BIG), "whole")


def test_a_message_of_16_mib(parser: str) -> None:
    with serve_way(echo, parser, ws_per_message_deflate=False) as server:
        ws = connect(server)
        data = bytes(range(256)) * (1 << 16)
        ws.send(binary(data, mask=bytes(4)))
        assert ws.read_message() == data


@has_limit
def test_no_limit_allows_more_and_spends_nothing_on_a_promise(parser: str) -> None:
    """0 means no limit. Memory is for received bytes, not for announced ones."""
    with serve_way(
        echo, parser, websocket_max_message_size=0, ws_per_message_deflate=False
    ) as server:
        ws = connect(server)
        data = bytes(17 << 20)
        ws.send(binary(data, mask=bytes(4)))
        assert ws.read_message() == data
        ws.client.close()
        tracemalloc.start()
        try:
            for length in (1 << 34, 1 << 62, (1 << 63) - 1):
                ws = connect(server)
                ws.send(binary(b"x" * 1000, length=length) + b"x")
                server.settle()
                ws.client.close()
            server.wait_until(server.is_idle)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("part", [b"", b"ab"], ids=["empty", "two bytes"])
def test_the_memory_of_a_message_depends_on_its_bytes_and_not_on_its_frames(
    parser: str, part: bytes
) -> None:
    """RFC 6455, 10.4: fragments are allowed in any number."""
    count = 10_000
    with serve_way(echo, parser, ws_per_message_deflate=False) as server:
        ws = connect(server)
        data = binary(part, fin=False) + cont(part, fin=False) * count
        tracemalloc.start()
        try:
            ws.send(data)
            ws.send(ping(b"read"))
            assert ws.read_pong() == b"read"
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert held < 4 * len(part) * count + 100_000
        ws.send(cont(b"."))
        assert ws.read_message() == part * (count + 1) + b"."


# Unusual pieces.


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_frame_may_pause_anywhere(parser: str, cut: int) -> None:
    """In the header, the length, the mask, the payload, or a character."""
    whole = text("é" * 70)
    with serve_way(echo, parser, ws_per_message_deflate=False) as server:
        ws = connect(server)
        for data in (whole, ping(b"ping") + whole):
            ws.send(data[:cut])
            server.settle()
            ws.send(data[cut:])
            assert ws.read_message() == "é" * 70
        assert ws.is_alive() or not ws.pongs


def test_the_end_of_the_connection_within_a_frame_is_no_message(parser: str) -> None:
    """RFC 6455, 7.1.5: 1006, since no Close has come. An incomplete message is not delivered."""
    app = Recorder()
    with serve_way(app, parser, ws_per_message_deflate=False) as server:
        cuts = (
            text("a", fin=False),
            text("ab")[:1],
            text("ab")[:2],
            text("ab")[:6],
            text("ab")[:7],
            close(1000)[:-1],
            ping(b"x")[:3],
        )
        for number, data in enumerate(cuts):
            ws: WebSocket = connect(server, target=f"/{number}")
            ws.send(text("whole") + data)
            ws.client.close()
        server.wait_until(lambda: len(app.ended) == len(cuts))
        assert set(app.ended.values()) == {(1006, "")}
        assert list(app.messages.values()) == [["whole"]] * len(cuts)


def test_the_examples_have_the_mask_of_the_rfc() -> None:
    """The test client's masking: RFC 6455, 5.7."""
    assert MASK + text("Hello")[6:] == bytes.fromhex("37fa213d 7f9f4d5158")
    assert text("Hello")[:2] == b"\x81\x85"
    assert binary(bytes(256))[:4] == bytes.fromhex("82fe0100")
    assert binary(bytes(65536))[:10] == bytes.fromhex("82ff0000000000010000")
