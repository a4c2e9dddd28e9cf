"""Frames over the wire, by the sections of RFC 6455: 5.2 to 5.8, 7.1 to 7.4, 8.1, and 10.4.

docs/asgi.md, 87, 88, 96, 97, 100 and 101.

Each row of the tables is replayed in several ways: in a packet of its own, in the packet of the
handshake, and in pieces of one byte and of three, which is never a mask's length. A row that the
server refuses is replayed with further data, which must not matter.
"""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from gunicorn.config import Config
from inprocess import InProcess
from ws import (
    BINARY,
    CLOSE,
    INVALID_CODES,
    MASK,
    PING,
    PONG,
    TEXT,
    VALID_CODES,
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
    text,
)
from ws2 import OVER_2, WAYS, serve_way

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

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


@pytest.fixture(params=WAYS, scope="session")
def parser(request: pytest.FixtureRequest) -> str:
    """As the fixture of all suites, and HTTP/2 beside HTTP/1.1."""
    return str(request.param)


@pytest.fixture(scope="module")
def servers(parser: str) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, parser)


@dataclass(frozen=True)
class Case:
    """A client's bytes, and their result."""

    data: bytes
    messages: tuple[str | bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    close: int | None = 1000
    """The code in the server's Close. A valid Case has the code of the Close that `run` adds."""
    told: tuple[int, str] | None = None
    """The application's (code, reason), if it is not (`close`, "")."""


def good(data: bytes, *messages: str | bytes, pongs: tuple[bytes, ...] = ()) -> Case:
    return Case(data + close(1000), messages, pongs, 1000, (1000, ""))


def bad(
    data: bytes, *messages: str | bytes, code: int = PROTOCOL_ERROR, pongs: tuple[bytes, ...] = ()
) -> Case:
    return Case(data, messages, pongs, code)


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


def headers_only(first: int) -> dict[str, bytes]:
    """Invalid heads, up to the byte that shows the error."""
    return {
        "no mask": struct.pack("!BB", 0x80 | first, 5),
        "no mask, length 126": struct.pack("!BB", 0x80 | first, 126),
        "RSV1": struct.pack("!BB", 0x80 | 0x40 | first, 0x80),
        "RSV2": struct.pack("!BB", 0x80 | 0x20 | first, 0x80),
        "RSV3": struct.pack("!BB", 0x80 | 0x10 | first, 0x80),
    }


NON_MINIMAL = {
    **{f"{length} in 16 bits": (16, length) for length in (0, 1, 125)},
    **{f"{length} in 64 bits": (64, length) for length in (0, 1, 125, 126, 65535)},
}
TOP_BIT = {"2**63": 1 << 63, "2**63 + 1": (1 << 63) + 1, "2**64 - 1": (1 << 64) - 1}
"""5.2: the most significant bit must be 0."""

HEADER: dict[str, Case] = {
    "an empty text": good(text(), ""),
    "an empty binary": good(binary(), b""),
    "text": good(text("Hello"), "Hello"),
    "binary": good(binary(bytes(range(256))), bytes(range(256))),
    "text that looks like binary": good(text("\0\x7f\n"), "\0\x7f\n"),
    # 5.7, the examples
    "5.7: a masked text": good(bytes.fromhex("81 85 37fa213d 7f9f4d5158"), "Hello"),
    "5.7: a masked ping": good(bytes.fromhex("89 85 37fa213d 7f9f4d5158"), pongs=(b"Hello",)),
    "5.7: an unmasked text": bad(bytes.fromhex("81 05 48656c6c6f")),
    "5.7: an unmasked ping": bad(bytes.fromhex("89 05 48656c6c6f")),
    # 5.3
    "the mask 0": good(text("Hello", mask=bytes(4)), "Hello"),
    "the mask ff": good(text("Hello", mask=b"\xff" * 4), "Hello"),
    "a mask for each": good(
        text("a", mask=b"\1\2\3\4") + text("b", mask=b"\5\6\7\x08") + text("c", mask=bytes(4)),
        "a",
        "b",
        "c",
    ),
    "no mask behind a message": bad(text("a") + text("b", mask=None), "a"),
    "no mask on a continuation": bad(text("a", fin=False) + cont("b", mask=None)),
    "no mask on a Close": bad(close(1000, mask=None)),
    "no mask on a pong": bad(pong(mask=None)),
    # RSV
    **{f"RSV {rsv}": bad(text("a") + text("b", rsv=rsv) + ping(), "a") for rsv in range(1, 8)},
    **{f"RSV {rsv} on a ping": bad(ping(b"a", rsv=rsv)) for rsv in range(1, 8)},
    **{f"RSV {rsv} on a Close": bad(close(1000, rsv=rsv)) for rsv in (1, 2, 4)},
    **{
        f"RSV {rsv} on a continuation": bad(text("a", fin=False) + cont("b", rsv=rsv))
        for rsv in (1, 2, 4)
    },
    # opcodes
    **{
        f"opcode {opcode}": bad(frame(opcode, b"x"))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    **{
        f"opcode {opcode}, empty": bad(text("a") + frame(opcode) + ping(), "a")
        for opcode in (3, 7, 11, 15)
    },
    **{
        f"opcode {opcode} within a message": bad(text("a", fin=False) + frame(opcode, b"x"))
        for opcode in (3, 7, 11, 15)
    },
    # lengths
    **{
        f"a text of {name}": bad(
            struct.pack(
                "!BBH" if width == 16 else "!BBQ", 0x81, 0xFE if width == 16 else 0xFF, length
            )
        )
        for name, (width, length) in NON_MINIMAL.items()
    },
    **{
        f"a ping of {name}": bad(frame(PING, b"x" * min(length, 9), width=width, length=length))
        for name, (width, length) in NON_MINIMAL.items()
    },
    "a whole text whose length is too long": bad(text("Hello", width=16)),
    "a whole binary whose length is too long": bad(binary(b"x" * 126, width=64)),
    "a continuation whose length is too long": bad(text("a", fin=False) + cont("b", width=16)),
    **{
        f"a text of {name}": bad(struct.pack("!BBQ", 0x81, 0xFF, length))
        for name, length in TOP_BIT.items()
    },
    **{
        f"a binary of {name}, no limit": bad(struct.pack("!BBQ", 0x82, 0xFF, length))
        for name, length in TOP_BIT.items()
    },
    # at once: two bytes show it
    **{
        f"{what} {kind}": bad(data)
        for what, first in (("text,", 1), ("ping,", 9))
        for kind, data in headers_only(first).items()
    },
    **{
        f"opcode {opcode}, two bytes": bad(struct.pack("!BB", 0x80 | opcode, 0x85))
        for opcode in (3, 7, 11, 15)
    },
}


@pytest.mark.parametrize("case", HEADER.values(), ids=HEADER.keys())
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

FIVE = [b"fragment1", b"fragment2", b"fragment3", b"fragment4", b"fragment5"]
WHOLE = b"".join(FIVE).decode()

FRAGMENTS: dict[str, Case] = {
    "two": good(fragments(TEXT, [b"Hel", b"lo"]), "Hello"),
    "two of binary": good(fragments(BINARY, [b"\0\xff", b"\xfe"]), b"\0\xff\xfe"),
    "5.7: a fragmented text": good(text("Hel", fin=False) + cont("lo"), "Hello"),
    "five": good(fragments(TEXT, FIVE), WHOLE),
    "five and a ping between each": good(
        fragments(TEXT, FIVE, ping(b"p")), WHOLE, pongs=(b"p",) * 4
    ),
    "five and pongs between": good(fragments(TEXT, FIVE, pong(b"p") + pong()), WHOLE),
    "each byte": good(fragments(TEXT, [b"%c" % byte for byte in b"Hello, world"]), "Hello, world"),
    "empty ones": good(fragments(TEXT, [b"", b"", b""]), ""),
    "empty ones of binary": good(fragments(BINARY, [b"", b"", b""]), b""),
    "the first empty": good(fragments(TEXT, [b"", b"a"]), "a"),
    "the last empty": good(fragments(BINARY, [b"a", b""]), b"a"),
    "one after the other": good(
        fragments(TEXT, [b"a", b"b"]) + binary(b"c") + fragments(BINARY, [b"d", b"e"]),
        "ab",
        b"c",
        b"de",
    ),
    "a mask for each": good(
        text("a", fin=False, mask=b"\1\2\3\4") + cont("b", mask=b"\5\6\7\x08"), "ab"
    ),
    # nothing to continue
    "a continuation first": bad(cont("a")),
    "a continuation first, not the last": bad(cont("a", fin=False) + text("b")),
    "a continuation, two bytes": bad(struct.pack("!BB", 0x80, 0x85)),
    "a continuation behind a message": bad(text("a") + cont("b"), "a"),
    "a continuation behind fragments": bad(
        fragments(TEXT, [b"a", b"b"]) + cont("c", fin=False), "ab"
    ),
    "a continuation behind fragments, and a ping": bad(
        fragments(TEXT, [b"a", b"b"], ping()) + ping(b"x") + cont("c"), "ab", pongs=(b"", b"x")
    ),
    # another message within one
    "a text within a text": bad(text("a", fin=False) + text("b")),
    "a text within a text, not the last": bad(
        text("a", fin=False) + text("b", fin=False) + cont("c")
    ),
    "a text within a binary": bad(binary(b"a", fin=False) + text("b")),
    "a binary within a text": bad(text("a", fin=False) + cont("b", fin=False) + binary(b"c")),
    "a text within a text, two bytes": bad(text("a", fin=False) + struct.pack("!BB", 0x81, 0x85)),
    # 5.4: "Control frames themselves MUST NOT be fragmented". 5.5.1: a Close may be injected
    "a Close within a message": Case(
        text("a", fin=False) + close(1000), close=1000, told=(1000, "")
    ),
    "a Close with a reason within a message": Case(
        binary(b"a", fin=False) + close(4321, "so"), close=4321, told=(4321, "so")
    ),
    "a Close within a character": Case(
        text(b"\xe2\x82", fin=False) + close(1001), close=1001, told=(1001, "")
    ),
}


@pytest.mark.parametrize("case", FRAGMENTS.values(), ids=FRAGMENTS.keys())
def test_fragments_make_one_message(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.4."""
    run_in_every_way(servers, case)


# 5.5: control frames.

CONTROL: dict[str, Case] = {
    "an empty ping": good(ping(), pongs=(b"",)),
    "a ping": good(ping(b"Hello"), pongs=(b"Hello",)),
    "a ping of bytes": good(ping(b"\0\xff\xfe\xfd"), pongs=(b"\0\xff\xfe\xfd",)),
    "a ping of 125": good(ping(b"\xfe" * 125), pongs=(b"\xfe" * 125,)),
    "ten pings": good(
        b"".join(ping(b"%d" % number) for number in range(10)),
        pongs=tuple(b"%d" % number for number in range(10)),
    ),
    "a ping between messages": good(text("a") + ping(b"b") + text("c"), "a", "c", pongs=(b"b",)),
    "an unsolicited pong": good(pong(b"unasked") + text("a"), "a"),
    "an empty pong": good(pong() + pong() + text("a"), "a"),
    "a pong, then a ping": good(pong(b"unasked") + ping(b"b"), pongs=(b"b",)),
    "a pong of 125": good(pong(b"\xfe" * 125) + text("a"), "a"),
    # too long, seen in the header
    **{
        f"{name} of {length}": bad(frame(opcode, b"x" * length))
        for name, opcode in (("a ping", PING), ("a pong", PONG), ("a Close", CLOSE))
        for length in (126, 127, 200)
    },
    **{
        f"{name}, {bits} bits of length, two bytes": bad(struct.pack("!BB", 0x80 | opcode, second))
        for name, opcode in (("a ping", PING), ("a pong", PONG), ("a Close", CLOSE))
        for bits, second in ((16, 0xFE), (64, 0xFF))
    },
    "a ping too long within a message": bad(text("a", fin=False) + ping(b"x" * 126)),
    # fragmented
    "a ping in two": bad(ping(b"a", fin=False) + cont(b"b")),
    "a pong in two": bad(pong(b"a", fin=False) + cont(b"b")),
    "a Close in two": bad(close(1000, fin=False)),
    "a ping not the last, two bytes": bad(struct.pack("!BB", PING, 0x85)),
    "a ping not the last within a message": bad(text("a", fin=False) + ping(fin=False)),
}


@pytest.mark.parametrize("case", CONTROL.values(), ids=CONTROL.keys())
def test_control_frames_are_short_and_whole(servers: Servers, case: Case) -> None:
    """RFC 6455, 5.5."""
    run_in_every_way(servers, case)


# 5.5.1 and 7: Close.

REASON_123 = "x" * 123
CLOSES: dict[str, Case] = {
    "without a code": Case(close(), close=None, told=(1005, "")),
    **{f"{code}": Case(close(code), close=code, told=(code, "")) for code in VALID_CODES},
    **{
        f"{code} and a reason": Case(close(code, "bye ☃"), close=code, told=(code, "bye ☃"))
        for code in (1000, 1011, 3000, 4999)
    },
    "a reason of 123": Case(close(1000, REASON_123), close=1000, told=(1000, REASON_123)),
    "a reason of 122 and more than one byte a character": Case(
        close(1000, "é" * 61), close=1000, told=(1000, "é" * 61)
    ),
    "a reason with a NUL": Case(close(1000, "a\0b"), close=1000, told=(1000, "a\0b")),
    "a reason with a line end": Case(close(1000, "a\r\nb"), close=1000, told=(1000, "a\r\nb")),
    "behind messages": Case(
        text("a") + binary(b"b") + close(4000, "c"), ("a", b"b"), close=4000, told=(4000, "c")
    ),
    # 5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"
    "one byte": bad(frame(CLOSE, b"\x03")),
    # 7.4: codes that must not be sent, and undefined ranges
    **{f"{code}": bad(close(code)) for code in INVALID_CODES},
    **{f"{code} and a reason": bad(close(code, "x")) for code in (0, 1005, 1006, 5000)},
    # 5.5.1: the reason is UTF-8; 8.1: otherwise the connection fails
    "a reason that is no UTF-8": bad(close(1000, b"\xff"), code=INVALID_DATA),
    "a reason that is no UTF-8 in its midst": bad(
        close(1000, b"caf\xe9 au lait"), code=INVALID_DATA
    ),
    "a reason with a surrogate": bad(close(1000, b"\xed\xa0\x80"), code=INVALID_DATA),
    "a reason that ends within a character": bad(close(1000, b"\xe2\x82"), code=INVALID_DATA),
}


@pytest.mark.parametrize("case", CLOSES.values(), ids=CLOSES.keys())
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

VALID_UTF8 = {
    "ASCII": "Hello-µ@ßöäüàá-UTF-8!!",
    "Greek": "κόσμε",
    "each length": "$¢€𐍈",
    "first of each length": "\0\x80ࠀ\U00010000",
    "last of each length": "\x7f\u07ff\uffff\U0010ffff",
    "around the surrogates": "\ud7ff\ue000",
    "replacement": "\ufffd",
    "noncharacters": "\ufffe\uffff\ufdd0\U0001fffe\U0010fffe",
    "a byte order mark": "\ufeffa\ufeff",
    "controls": "\0\1\x1b\x7f\x80\x9f",
    "combining": "ȧ́‍👩‍🚀",
}


@pytest.mark.parametrize("message", VALID_UTF8.values(), ids=VALID_UTF8.keys())
def test_valid_text_is_cut_anywhere(servers: Servers, message: str) -> None:
    """RFC 6455, 5.6: "a particular text frame might include a partial UTF-8 sequence"."""
    data = message.encode()
    cuts = [fragments(TEXT, [data[:cut], data[cut:]], ping()) for cut in range(len(data) + 1)]
    each = fragments(TEXT, [data[position : position + 1] for position in range(len(data))])
    case = good(
        text(data) + each + b"".join(cuts), *[message] * (len(cuts) + 2), pongs=(b"",) * len(cuts)
    )
    run_in_every_way(servers, case)


INVALID_UTF8 = {
    # the bytes, and the number of them that shows the error
    "a continuation first": (b"\x80", 1),
    "a continuation first, bf": (b"\xbf", 1),
    "a continuation in the midst": (b"abc\x80def", 4),
    "two bytes for ASCII": (b"\xc0\x80", 1),
    "two bytes for ASCII, c1": (b"\xc1\xbf", 1),
    "two bytes, the second ASCII": (b"\xc3A", 2),
    "two bytes, the second c3": (b"\xc3\xc3", 2),
    "three bytes for two": (b"\xe0\x80\x80", 2),
    "three bytes for two, 9f": (b"\xe0\x9f\xbf", 2),
    "three bytes, the second ASCII": (b"\xe2A", 2),
    "three bytes, the third ASCII": (b"\xe2\x82A", 3),
    # Python's decoder sees a surrogate in its last byte only
    "a high surrogate": (b"\xed\xa0\x80", 3),
    "a low surrogate": (b"\xed\xbf\xbf", 3),
    "a pair of surrogates": (b"\xed\xa1\x8c\xed\xbe\xb4", 3),
    "four bytes for three": (b"\xf0\x80\x80\x80", 2),
    "four bytes for three, 8f": (b"\xf0\x8f\xbf\xbf", 2),
    "four bytes, the third ASCII": (b"\xf0\x9f\x98A", 4),
    "above U+10FFFF": (b"\xf4\x90\x80\x80", 2),
    "f5": (b"\xf5\x80\x80\x80", 1),
    "five bytes": (b"\xf8\x88\x80\x80\x80", 1),
    "six bytes": (b"\xfc\x84\x80\x80\x80\x80", 1),
    "fe": (b"\xfe", 1),
    "ff": (b"\xff", 1),
    "Latin-1": ("café au lait".encode("latin-1"), 5),
    "UTF-16": ("a☃".encode("utf-16"), 1),
    "Autobahn's": (bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564"), 14),
}
TRUNCATED_UTF8 = {
    "two": b"a\xc3",
    "three": b"a\xe2",
    "three of which two": b"a\xe2\x82",
    "four": b"\xf0",
    "four of which three": b"\xf0\x9f\x98",
}


@pytest.mark.parametrize(("data", "seen"), INVALID_UTF8.values(), ids=INVALID_UTF8.keys())
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


@pytest.mark.parametrize("data", TRUNCATED_UTF8.values(), ids=TRUNCATED_UTF8.keys())
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

LIMIT = 1000
LIMITS: dict[str, Case] = {
    "as large as allowed": good(
        text("x" * LIMIT) + binary(b"\xff" * LIMIT), "x" * LIMIT, b"\xff" * LIMIT
    ),
    "as large as allowed, in two": good(fragments(TEXT, [b"x" * 600, b"x" * 400]), "x" * LIMIT),
    "as large as allowed, then nothing": good(
        fragments(BINARY, [b"x" * LIMIT, b"", b""]), b"x" * LIMIT
    ),
    "as large as allowed, byte by byte": good(fragments(TEXT, [b"x"] * LIMIT), "x" * LIMIT),
    "each message for itself": good(text("x" * 600) * 3, *["x" * 600] * 3),
    "control frames do not count": good(
        text("x" * LIMIT, fin=False)
        + ping(b"p" * 125)
        + pong(b"p" * 125)
        + cont()
        + text("x" * LIMIT),
        "x" * LIMIT,
        "x" * LIMIT,
        pongs=(b"p" * 125,),
    ),
    # bytes are counted, not characters
    "characters of two bytes": good(text("é" * (LIMIT // 2)), "é" * (LIMIT // 2)),
    "too many characters of two bytes": bad(text("é" * (LIMIT // 2 + 1)), code=TOO_BIG),
    "one more": bad(text("x" * (LIMIT + 1)), code=TOO_BIG),
    "one more, binary": bad(binary(b"x" * (LIMIT + 1)), code=TOO_BIG),
    "one more, in two": bad(fragments(TEXT, [b"x" * 600, b"x" * 401]), code=TOO_BIG),
    "one more, the last": bad(fragments(BINARY, [b"x" * LIMIT, b"x"]), code=TOO_BIG),
    "one more, byte by byte": bad(fragments(TEXT, [b"x"] * (LIMIT + 1)), code=TOO_BIG),
    "one more behind a message": bad(text("a") + binary(b"x" * (LIMIT + 1)), "a", code=TOO_BIG),
    # before the payload
    **{
        f"a header that announces {length}": bad(binary(length=length), code=TOO_BIG)
        for length in (LIMIT + 1, 65535, 65536, 1 << 31, 1 << 32, (1 << 63) - 1)
    },
    "a header that announces too much for the rest": bad(
        text("x" * 600, fin=False) + cont(length=401), code=TOO_BIG
    ),
    "a header that announces one more": bad(
        text("x" * LIMIT, fin=False) + cont(length=1, fin=False), code=TOO_BIG
    ),
}


@has_limit
@pytest.mark.parametrize("case", LIMITS.values(), ids=LIMITS.keys())
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
