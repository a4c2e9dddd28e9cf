"""Every place that an application can set, times every character that may not be there.

The faulty ``send()`` raises, nothing of it is on the wire, and the right message is still accepted:
the bytes are those of an application that has made no mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fuzz.single import connected
from h2protocol import encode
from h2raw import PREFACE, SETTINGS_ACK, headers, settings
from inprocess import HTTP2, make_settings
from tables import INVALID_FIELDS
from ws import extended_connect, handshake

from gunicorn_asgi.errors import ApplicationError
from gunicorn_asgi.http.grammar import TOKEN

Message = dict[str, Any]

BYTES = [bytes([byte]) for byte in range(256)]
NO_TOKENS = [byte for byte in BYTES if not TOKEN.fullmatch(byte)]
CONTROLS = [bytes([byte]) for byte in (*range(9), *range(10, 32), 127)]
NO_DIGITS = [byte for byte in BYTES if not byte.isdigit()]
PARTS: list[Callable[[bytes], bytes]] = [
    lambda bad: bad,
    lambda bad: bad + b"evil",
    lambda bad: b"evil" + bad,
    lambda bad: b"ev" + bad + b"il",
]
"""The places of a character within a text."""


def around(characters: list[bytes]) -> list[bytes]:
    return [part(bad) for bad in characters for part in PARTS]


def in_fields(names: list[bytes], values: list[bytes]) -> list[Any]:
    """Lists of headers, each with a fault. A valid header stands before it."""
    good = (b"x-good", b"evil")
    fields: list[Any] = [[good, (name, b"evil")] for name in names]
    for kind in (bytes, bytearray, memoryview):
        fields += [[good, (b"x-bad", kind(value))] for value in values]
    # Names that the encoders of responses know, and remember values for.
    for name in (b"content-type", b"set-cookie", b"location", b"server", b"date", b"connection"):
        fields += [[(name, value)] for value in values[:: len(PARTS)]]
    return fields


FIELDS = [
    *in_fields([b"", *around(NO_TOKENS)], around(CONTROLS)),
    *INVALID_FIELDS.values(),
    *[[(b"content-length", value)] for value in [b"", b"1 2", *around(NO_DIGITS)]],
]
TRAILERS = [
    *in_fields([b"", *around(NO_TOKENS)], around(CONTROLS)),
    *[[(name, b"evil")] for name in (b"content-length", b"Transfer-Encoding", b"host", b"trailer")],
]
STATUSES = [
    *range(-1, 200),
    *range(1000, 1100),
    2**64,
    -200,
    200.0,
    "200",
    b"200",
    None,
    True,
    "2\r\n",
    [200],
]
NO_TEXTS = [b"a", 1, 1.5, ["a"], bytearray(b"a"), object()]

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-good", b"good")]}
BODY: Message = {"type": "http.response.body", "body": b"good"}
ACCEPT: Message = {"type": "websocket.accept", "headers": [(b"x-good", b"good")]}
CLOSE: Message = {"type": "websocket.close", "code": 4000, "reason": "good"}
DENIAL: Message = {"type": "websocket.http.response.start", "status": 403, "headers": []}
DENIED: Message = {"type": "websocket.http.response.body", "body": b"good"}


@dataclass
class Place:
    """A place for a text of the application."""

    message: Message
    key: str
    values: list[Any]
    before: list[Message]
    after: list[Message]

    def faults(self) -> list[Message]:
        return [{**self.message, self.key: value} for value in self.values]


HTTP = {
    "status": Place(START, "status", STATUSES, [], [START, BODY]),
    "headers": Place(START, "headers", FIELDS, [], [START, BODY]),
    "body": Place(BODY, "body", ["evil", 5, None, [b"evil"], object()], [START], [BODY]),
    "links": Place(
        {"type": "http.response.early_hint"},
        "links",
        [*[[link] for link in around(CONTROLS)], b"evil", "evil", 5, ["evil"], [None], [(b"a", b"b")]],
        [],
        [START, BODY],
    ),
    "trailers": Place(
        {"type": "http.response.trailers"},
        "headers",
        TRAILERS,
        [{**START, "trailers": True}, BODY],
        [{"type": "http.response.trailers", "headers": [(b"x-good", b"good")]}],
    ),
    "path": Place(
        {"type": "http.response.pathsend"},
        "path",
        [*[f"/no/{chr(code)}/evil" for code in range(256)], "/\ud800evil", "", "\0", "/", *NO_TEXTS, None],
        [START],
        [BODY],
    ),
    "type": Place(START, "type", [*(f"http.response.start{chr(code)}" for code in range(256)), *NO_TEXTS, None], [], [START, BODY]),
}  # fmt: skip
HANDSHAKE_FIELDS = (b"Sec-WebSocket-Accept", b"sec-websocket-protocol", b"sec-websocket-extensions")
WEBSOCKET = {
    "headers of accept": Place(
        ACCEPT,
        "headers",
        [
            *in_fields([b"", *around(NO_TOKENS)], around(CONTROLS)),
            *[[(name, b"evil")] for name in HANDSHAKE_FIELDS],
            *[value for value in INVALID_FIELDS.values() if value is not None],
        ],
        [],
        [ACCEPT, CLOSE],
    ),
    "subprotocol": Place(
        ACCEPT,
        "subprotocol",
        [*(f"a{chr(code)}" for code in range(256)), *map(chr, range(97)), "\ud800", "b", *NO_TEXTS],
        [],
        [{**ACCEPT, "subprotocol": "a"}, CLOSE],
    ),
    "code": Place(
        CLOSE,
        "code",
        [*range(-1, 1000), 1004, 1005, 1006, *range(1015, 3000), 5000, 65536, "1000", 1000.0, None],
        [ACCEPT],
        [CLOSE],
    ),
    "reason": Place(CLOSE, "reason", ["\ud800", "é" * 62, "x" * 124, *NO_TEXTS], [ACCEPT], [CLOSE]),
    "text": Place(
        {"type": "websocket.send"}, "text", ["\ud800", "evil\udfff", *NO_TEXTS], [ACCEPT], [CLOSE]
    ),
    "bytes": Place(
        {"type": "websocket.send"}, "bytes", ["evil", 5, [1], object()], [ACCEPT], [CLOSE]
    ),
    "status of a denial": Place(DENIAL, "status", STATUSES, [], [DENIAL, DENIED]),
    "headers of a denial": Place(DENIAL, "headers", FIELDS, [], [DENIAL, DENIED]),
    "body of a denial": Place(DENIED, "body", ["evil", 5, None], [DENIAL], [DENIED]),
}

H2_GET = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"a"),
    (b"te", b"trailers"),
]
OFFER = (b"sec-websocket-protocol", b"a")
H2_BEGIN = PREFACE + settings() + SETTINGS_ACK
REQUESTS = {
    ("http", "1.1"): b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    ("http", "2"): H2_BEGIN + headers(1, encode(H2_GET)),
    ("websocket", "1.1"): handshake(b"Sec-WebSocket-Protocol: a"),
    ("websocket", "2"): H2_BEGIN + headers(1, encode(extended_connect(fields=[OFFER])), False),
}


def respond(
    kind: str, version: str, place: Place, faults: list[Message]
) -> tuple[bytes, list[Message]]:
    """What is written if the `faults` are tried, and those that were not refused."""
    passed: list[Message] = []
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == kind
        await receive()
        for message in place.before:
            await send(message)
        for message in faults:
            try:
                await send(message)
            except ApplicationError:
                continue
            passed.append(message)
        for message in place.after:
            await send(message)
        ended.append(version)

    with connected(app, make_settings(date_header=False, **HTTP2)) as single:
        single.send([REQUESTS[kind, version]])
        for _ in range(len(faults) // 8):  # files are looked for in other turns
            single.loop.settle()
        written = single.answer
        assert passed or ended
        assert passed or not single.log.lines
    return written, passed


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *(pytest.param("http", place, id=name) for name, place in HTTP.items()),
        *(pytest.param("websocket", place, id=name) for name, place in WEBSOCKET.items()),
    ],
)
def test_the_faulty_send_raises_and_nothing_of_it_is_written(
    kind: str, place: Place, version: str
) -> None:
    written, passed = respond(kind, version, place, place.faults())
    assert not passed, passed[:5]
    assert written == respond(kind, version, place, [])[0]
    assert b"good" in written
