"""Tables of the frames of a WebSocket client, and their outcomes (RFC 6455, 5 to 8)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from ws import (
    BINARY,
    CLOSE,
    INVALID_CODES,
    PING,
    PONG,
    TEXT,
    VALID_CODES,
    binary,
    close,
    cont,
    fragments,
    frame,
    ping,
    pong,
    text,
)

from gunicorn_asgi.errors import Violation
from gunicorn_asgi.websocket.close import Close
from gunicorn_asgi.websocket.deflate import Deflate
from gunicorn_asgi.websocket.reader import FrameReader
from gunicorn_asgi.websocket.share import WORK_PER_STEP, WebSocketShare

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009


@dataclass(frozen=True)
class Case:
    """The frames of a client, and the outcome."""

    data: bytes
    messages: tuple[str | bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    close: int | None = 1000
    """The code in the server's Close. In valid cases it answers the Close at the end of `data`."""
    told: tuple[int, str] | None = None
    """Code and reason of the disconnect, if they are not `close` and an empty reason."""


def good(data: bytes, *messages: str | bytes, pongs: tuple[bytes, ...] = ()) -> Case:
    return Case(data + close(1000), messages, pongs, 1000, (1000, ""))


def bad(
    data: bytes, *messages: str | bytes, code: int = PROTOCOL_ERROR, pongs: tuple[bytes, ...] = ()
) -> Case:
    return Case(data, messages, pongs, code)


def headers_only(first: int) -> dict[str, bytes]:
    """Faulty headers of frames, up to the byte that shows the fault."""
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
    # 5.4: "Control frames themselves MUST NOT be fragmented"; 5.5.1: Close may be injected, too
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


NO_CODE = 1005


@dataclass
class Outcome:
    """The messages, pings and close code read from a client's frames."""

    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    code: int | None = None
    """The code of the answering Close, or of the failure; None without either."""


def read(
    pieces: Iterable[bytes],
    limit: float = math.inf,
    deflate: Deflate | None = None,
    work: int = WORK_PER_STEP,
    share: WebSocketShare | None = None,
) -> Outcome:
    """The outcome of the package's FrameReader, with so much `work` in a step.

    With a `share`, reading stops at checkpoints, too.
    """
    reader = FrameReader(limit, 1 << 30, deflate, share)
    outcome = Outcome()
    try:
        for piece in pieces:
            control = reader.read(piece)
            while control is not None or reader.is_stopped:
                if isinstance(control, Close):
                    outcome.code = control.code
                    return outcome
                if control is not None:
                    outcome.pings.append(control.payload)
                outcome.messages += reader.messages
                reader.messages.clear()
                reader.unread = 0
                if reader.is_at_checkpoint:
                    reader.pass_checkpoint()
                else:
                    reader.resume(work)
                control = reader.read()
    except Violation as violation:
        outcome.code = violation.code
    finally:
        outcome.messages += reader.messages
    return outcome
