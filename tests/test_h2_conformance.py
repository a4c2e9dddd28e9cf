"""RFC 9113 and RFC 7541, case by case: what a client does, and what has to come of it.

The first table has the cases of the h2spec suite (groups generic, http2 and hpack), with the outcomes that it accepts; the second one rules
that it has no case for. Each case is run with its frames in one write and with each frame dealt with before the next is sent, against an
application that answers at once and against one that reads the body first: whatever the timing, the outcome is the same.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from certificates import make_authority
from conftest import PARSERS
from h2raw import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Fields,
    Peer,
    common,
    continuation,
    data,
    frame,
    goaway,
    headers,
    padded,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from inprocess import HTTP2 as SPEAKS_HTTP2
from inprocess import InProcess, answer, read_body, serve

from gunicorn_asgi.http2.exchange import MAX_DISCARDED
from gunicorn_asgi.net.transport import LINGER_SECONDS

BODY = b"Hello, HTTP/2!"


async def at_once(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await answer(send, BODY)


async def after_body(scope: dict[str, Any], receive: Any, send: Any) -> None:
    try:
        await read_body(receive)
    except EOFError:
        return
    await answer(send, BODY)


class Setting(NamedTuple):
    """Where a case is run."""

    parser: str
    """httptools: uvloop; h11: asyncio."""
    tls: bool
    app: Any
    apart: bool
    """Every frame is dealt with before the next is sent."""

    def __str__(self) -> str:
        words = [
            "uvloop" if self.parser == "httptools" else "asyncio",
            "tls" if self.tls else "h2c",
            self.app.__name__,
        ]
        return "-".join([*words, "apart" if self.apart else "together"])


SETTINGS_TO_RUN = [
    *(
        Setting("httptools", False, app, apart)
        for app in (at_once, after_body)
        for apart in (False, True)
    ),
    Setting("h11", False, at_once, True),
    Setting("h11", False, after_body, False),
    # TLS changes nothing above it but how a connection ends.
    Setting("httptools", True, at_once, True),
    Setting("h11", True, after_body, False),
]


class Ground(NamedTuple):
    setting: Setting
    inside: InProcess

    def connect(self) -> Peer:
        return Peer(self.inside.connect(), self.setting.tls)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """What is said of such transports is said here."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_authority(tmp_path_factory.mktemp("tls"), "localhost"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture(scope="module")
def grounds(context: Any) -> Iterator[list[Ground]]:
    with ExitStack() as stack:
        yield [
            Ground(
                setting,
                stack.enter_context(
                    serve(
                        setting.app,
                        setting.parser,
                        tls=context if setting.tls else None,
                        **SPEAKS_HTTP2,
                    )
                ),
            )
            for setting in SETTINGS_TO_RUN
            if setting.parser in PARSERS
        ]


# Outcomes.


def response(stream: int = 1, status: int = 200) -> Callable[[Peer], None]:
    def check(peer: Peer) -> None:
        found = peer.wait_response(stream)
        assert found.status == status
        assert status != 200 or found.body in (BODY, b"")

    return check


def pong(payload: bytes = bytes(8)) -> Callable[[Peer], None]:
    """The connection lives on. The first PING that comes is the answer."""

    def check(peer: Peer) -> None:
        received = peer.read_until(PING)
        assert (received.flags, received.payload) == (ACK, payload)

    return check


def pong_or_end(peer: Peer) -> None:
    for received in iter(peer.read, None):
        assert received.kind != GOAWAY or received.code == NO_ERROR
        if received.kind == PING:
            assert received.flags == ACK
            return


def stream_error(*codes: int, stream: int = 1) -> Callable[[Peer], None]:
    """Or one of the connection, which any stream error may be treated as (5.4.1)."""

    def check(peer: Peer) -> None:
        while True:
            received = peer.read()
            assert received is not None, "the connection ended without a word"
            if received.kind == GOAWAY:
                assert received.code in codes
                return
            if received.kind == RST_STREAM and received.number != NO_ERROR:
                assert (received.stream, received.number in codes) == (stream, True), received
                return

    return check


def only_stream_error(*codes: int, stream: int = 1) -> Callable[[Peer], None]:
    """The connection lives on."""

    def check(peer: Peer) -> None:
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number in codes) == (stream, True), received
        peer.send(ping(b"go on..."))
        pong(b"go on...")(peer)

    return check


def stream_error_unless_ended(code: int) -> Callable[[Peer], None]:
    """Or both sides have ended the stream: then 5.1 allows no more frames on it."""

    def check(peer: Peer) -> None:
        peer.send(ping(b"go on..."))
        while peer.read_until(PING, ACK).payload != b"go on...":
            pass
        stream = peer.streams[1]
        assert stream.code == code or (stream.code is None and stream.has_ended)

    return check


def resets(*codes: int) -> Callable[[Peer], None]:
    """So many RST_STREAM of stream 1, and no more."""

    def check(peer: Peer) -> None:
        for code in codes:
            received = peer.read_until(RST_STREAM)
            assert (received.stream, received.number) == (1, code)
        peer.send(ping(b"no more?"))
        received = peer.read()
        assert received is not None
        assert received.kind == PING

    return check


def connection_error(*codes: int) -> Callable[[Peer], None]:
    """GOAWAY arrives, and the end of the connection behind it. (TLS: see `test_tls_ends_soon_after_goaway`.)"""

    def check(peer: Peer) -> None:
        received = peer.read_until(GOAWAY)
        assert received.code in codes, received
        if not hasattr(peer.client.sock, "context"):
            assert peer.read() is None

    return check


def ended(peer: Peer) -> None:
    peer.read_rest()


def first_data(size: int) -> Callable[[Peer], None]:
    def check(peer: Peer) -> None:
        assert len(peer.read_until(DATA).payload) == size

    return check


def acknowledged(peer: Peer) -> None:
    peer.read_until(SETTINGS, ACK)


def settings_first(peer: Peer) -> None:
    received = peer.read()
    assert received is not None
    assert (received.kind, received.flags) == (SETTINGS, 0)


Step = bytes | Callable[[Peer], None]


@dataclass(frozen=True)
class Case:
    name: str
    """The section, and what the client does."""
    steps: Callable[[Peer], list[Step]]
    outcome: Callable[[Peer], None]
    has_begun: bool = True
    """Preface and settings are over with. Otherwise the steps begin with them."""


def _begin_again(peer: Peer) -> None:
    """A response has ended, and so has the stream: read it."""
    peer.wait_response(1)


def dummies(count: int) -> Fields:
    return [(b"x-dummy%d" % number, b"x" * 4000) for number in range(count)]


def literal(representation: str) -> Callable[[Peer], list[Step]]:
    """A request with these bytes at the end of its field block."""
    return lambda peer: [headers(1, peer.encode(common()) + bytes.fromhex(representation))]


def prefixed(representation: str) -> Callable[[Peer], list[Step]]:
    return lambda peer: [headers(1, bytes.fromhex(representation) + peer.encode(common()))]


def fields(*given: tuple[bytes, bytes]) -> Callable[[Peer], list[Step]]:
    """A request of these fields and no others."""
    return lambda peer: [headers(1, peer.encode(given))]


def extra(*given: tuple[bytes, bytes], end: bool = True) -> Callable[[Peer], list[Step]]:
    """A request with these fields behind those that it needs."""
    return lambda peer: [peer.request(1, end, extra=list(given))]


def without(*names: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(pair for pair in common() if pair[0] not in names)


def in_pieces(peer: Peer, *sizes: int) -> list[Step]:
    """A request as HEADERS and CONTINUATION frames of these sizes, and one for the rest."""
    block = peer.encode(common())
    frames: list[Step] = [headers(1, block[: sizes[0]], whole=False)]
    position = sizes[0]
    for size in sizes[1:]:
        frames.append(continuation(1, block[position : position + size], end=False))
        position += size
    return [*frames, continuation(1, block[position:])]


def post(peer: Peer, *frames: bytes, given: Fields = (), end: bool = False) -> list[Step]:
    return [peer.request(1, end, "POST", extra=given), *frames]


ZERO_WINDOW = settings((INITIAL_WINDOW_SIZE, 0))
X_TEST, X_TEST_CODED = "06782d74657374", "85f2b24a84ff"
NAMES = {
    "a known name": "0a757365722d6167656e74",
    "a new name": X_TEST,
    "a known name coded": "87b505b161cc5a93",
    "a new name coded": X_TEST_CODED,
}
VALUES = {"plain": "06683273706563", "coded": "849c48aca4"}
VALUE = VALUES["plain"]

GENERIC = [
    Case(
        "3.4 the server begins with its settings",
        lambda peer: [PREFACE, settings()],
        settings_first,
        has_begun=False,
    ),
    Case("5.1 idle: PRIORITY", lambda peer: [priority(1), ping()], pong()),
    Case(
        "5.1 half-closed (remote): WINDOW_UPDATE",
        lambda peer: [ZERO_WINDOW, peer.request(1), window_update(1, 1)],
        first_data(1),
    ),
    Case(
        "5.1 half-closed (remote): PRIORITY",
        lambda peer: [ZERO_WINDOW, peer.request(1), priority(1), window_update(1, 1)],
        first_data(1),
    ),
    Case(
        "5.1 half-closed (remote): RST_STREAM",
        lambda peer: [peer.request(1), rst_stream(1), ping()],
        pong(),
    ),
    Case(
        "5.1 closed: PRIORITY",
        lambda peer: [peer.request(1), _begin_again, priority(1), ping()],
        pong(),
    ),
    Case("6.1 DATA", lambda peer: post(peer, data(1, b"test", True)), response()),
    Case(
        "6.1 several DATA frames",
        lambda peer: post(peer, data(1, b"test"), data(1, b"test", True)),
        response(),
    ),
    Case(
        "6.1 DATA with padding", lambda peer: post(peer, data(1, b"test", True, pad=6)), response()
    ),
    Case("6.2 HEADERS", lambda peer: [peer.request(1)], response()),
    Case("6.2 HEADERS with padding", lambda peer: [peer.request(1, pad=8)], response()),
    Case("6.2 HEADERS with a priority", lambda peer: [peer.request(1, depends_on=0)], response()),
    Case(
        "6.3 PRIORITY of weight 1",
        lambda peer: [priority(1, weight=0), peer.request(1)],
        response(),
    ),
    Case(
        "6.3 PRIORITY of weight 256",
        lambda peer: [priority(1, weight=255), peer.request(1)],
        response(),
    ),
    Case(
        "6.3 PRIORITY with a dependency",
        lambda peer: [priority(3, depends_on=1), peer.request(1)],
        response(),
    ),
    Case(
        "6.3 PRIORITY that is exclusive",
        lambda peer: [priority(1, exclusive=True), peer.request(1)],
        response(),
    ),
    Case(
        "6.3 PRIORITY for a stream above the next one",
        lambda peer: [priority(3), peer.request(1)],
        response(),
    ),
    Case(
        "6.4 RST_STREAM", lambda peer: [peer.request(1, end=False), rst_stream(1), ping()], pong()
    ),
    Case(
        "6.5 SETTINGS",
        lambda peer: [
            settings(
                (HEADER_TABLE_SIZE, 4096),
                (ENABLE_PUSH, 1),
                (MAX_CONCURRENT_STREAMS, 100),
                (INITIAL_WINDOW_SIZE, 65535),
                (MAX_FRAME_SIZE, 16384),
                (MAX_HEADER_LIST_SIZE, 100),
            )
        ],
        acknowledged,
    ),
    Case("6.7 PING", lambda peer: [ping(b"h2spec\0\0")], pong(b"h2spec\0\0")),
    Case("6.8 GOAWAY", lambda peer: [goaway(0, NO_ERROR, b"bye"), ping()], pong_or_end),
    Case("6.9 WINDOW_UPDATE of the connection", lambda peer: [window_update(0, 1), ping()], pong()),
    Case(
        "6.9 WINDOW_UPDATE of a stream",
        lambda peer: [peer.request(1), window_update(1, 1)],
        response(),
    ),
    Case("6.10 CONTINUATION", lambda peer: in_pieces(peer, 5), response()),
    Case("6.10 several CONTINUATION frames", lambda peer: in_pieces(peer, 5, 5), response()),
    Case("8.1 GET", lambda peer: [peer.request(1)], response()),
    Case("8.1 HEAD", lambda peer: [peer.request(1, method="HEAD")], response()),
    Case("8.1 POST", lambda peer: post(peer, data(1, b"test", True)), response()),
    Case(
        "8.1 POST with trailers",
        lambda peer: post(
            peer,
            data(1, b"test"),
            headers(1, peer.encode([(b"x-test", b"ok")])),
            given=[(b"trailer", b"x-test")],
        ),
        response(),
    ),
    Case("HPACK 6.1 an indexed field", literal("ba"), response()),
    *(
        Case(
            f"HPACK 6.2 {kind}, {name}, {value}",
            literal(pattern + NAMES[name] + VALUES[value]),
            response(),
        )
        for pattern, kind in (
            ("40", "with indexing"),
            ("00", "without indexing"),
            ("10", "never indexed"),
        )
        for name in NAMES
        for value in VALUES
    ),
    *(
        Case(f"HPACK 6.2 {kind}, a name by its index", literal(start + VALUE), response())
        for start, kind in (
            ("7a", "with indexing"),
            ("0f2b", "without indexing"),
            ("1f2b", "never indexed"),
        )
    ),
    Case("HPACK 6.3 a table size update", prefixed("20"), response()),
    Case("HPACK 4.2 several table size updates", prefixed("203fe11f"), response()),
]

HTTP2 = [
    Case(
        "3.4 a preface that is none",
        lambda peer: [b"INVALID CONNECTION PREFACE\r\n\r\n"],
        connection_error(PROTOCOL_ERROR),
        has_begun=False,
    ),
    Case(
        "4.1 a frame of an unknown type", lambda peer: [frame(22, 0, 0, bytes(8)), ping()], pong()
    ),
    Case("4.1 a flag that is not defined", lambda peer: [ping(flags=0x16)], pong()),
    Case("4.1 the reserved bit", lambda peer: [frame(PING, 0x16, 0, bytes(8), reserved=1)], pong()),
    Case(
        "4.2 DATA of the largest size",
        lambda peer: post(peer, data(1, bytes(16384), True)),
        response(),
    ),
    Case(
        "4.2 DATA that is too large",
        lambda peer: post(peer, data(1, bytes(16385), True)),
        stream_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "4.2 HEADERS that are too large",
        lambda peer: [frame(HEADERS, 5, 1, bytes(17000))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "4.3 a field block that cannot be read",
        lambda peer: [headers(1, b"\x40")],
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "4.3 PRIORITY within a field block",
        lambda peer: [
            peer.request(1, False, whole=False),
            priority(1),
            continuation(1, peer.encode(dummies(1))),
        ],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "4.3 HEADERS of another stream within a field block",
        lambda peer: [
            peer.request(1, False, whole=False),
            peer.request(3),
            continuation(1, peer.encode(dummies(1))),
        ],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("5.1 idle: DATA", lambda peer: [data(1, b"test", True)], connection_error(PROTOCOL_ERROR)),
    Case("5.1 idle: RST_STREAM", lambda peer: [rst_stream(1)], connection_error(PROTOCOL_ERROR)),
    Case(
        "5.1 idle: WINDOW_UPDATE",
        lambda peer: [window_update(1, 100)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.1 idle: CONTINUATION",
        lambda peer: [continuation(1, peer.encode(common()))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.1 half-closed (remote): DATA",
        lambda peer: [peer.request(1), data(1, b"test", True)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 half-closed (remote): HEADERS",
        lambda peer: [peer.request(1), peer.request(1)],
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 half-closed (remote): CONTINUATION",
        lambda peer: [peer.request(1), continuation(1, peer.encode(common()))],
        stream_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    Case(
        "5.1 closed by RST_STREAM: DATA",
        lambda peer: [peer.request(1, False), rst_stream(1), data(1, b"test", True)],
        only_stream_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 closed by RST_STREAM: HEADERS",
        lambda peer: [peer.request(1, False), rst_stream(1), peer.request(1)],
        only_stream_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 closed by RST_STREAM: CONTINUATION",
        lambda peer: [
            peer.request(1, False),
            rst_stream(1),
            continuation(1, peer.encode(dummies(1))),
        ],
        stream_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    Case(
        "5.1 closed: DATA",
        lambda peer: [peer.request(1), _begin_again, data(1, b"test", True)],
        connection_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 closed: HEADERS",
        lambda peer: [peer.request(1), _begin_again, peer.request(1)],
        connection_error(STREAM_CLOSED),
    ),
    Case(
        "5.1 closed: CONTINUATION",
        lambda peer: [peer.request(1), _begin_again, continuation(1, peer.encode(dummies(1)))],
        connection_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    Case("5.1.1 an even number", lambda peer: [peer.request(2)], connection_error(PROTOCOL_ERROR)),
    Case(
        "5.1.1 a number below the last one",
        lambda peer: [peer.request(5), peer.request(3)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.1.1 HEADERS twice",
        lambda peer: [peer.request(5), peer.request(5)],
        stream_error(STREAM_CLOSED, stream=5),
    ),
    Case(
        "5.1.2 more streams at once than are allowed",
        lambda peer: [
            ZERO_WINDOW,
            b"".join(
                peer.request(number)
                for number in range(1, 2 * peer.settings[MAX_CONCURRENT_STREAMS], 2)
            ),
            peer.request(2 * peer.settings[MAX_CONCURRENT_STREAMS] + 1),
        ],
        lambda peer: only_stream_error(
            REFUSED_STREAM, stream=2 * peer.settings[MAX_CONCURRENT_STREAMS] + 1
        )(peer),
    ),
    Case(
        "5.3.1 HEADERS that depend on themselves",
        lambda peer: [peer.request(1, depends_on=1)],
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.3.1 PRIORITY that depends on itself",
        lambda peer: [priority(1, depends_on=1)],
        stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.4.1 an error of the connection",
        lambda peer: [frame(PING, 0, 3, bytes(8))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("5.5 an extension frame", lambda peer: [frame(22, 0, 0, bytes(8)), ping()], pong()),
    Case(
        "5.5 an extension frame within a field block",
        lambda peer: [peer.request(1, whole=False), frame(22, 0, 0, bytes(8))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.1 DATA on stream 0",
        lambda peer: [data(0, b"test", True)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.1 DATA on a stream that is not open",
        lambda peer: post(peer, data(1, b"test", True), end=True),
        stream_error(STREAM_CLOSED),
    ),
    Case(
        "6.1 DATA with padding that is too long",
        lambda peer: post(
            peer,
            frame(DATA, PADDED | END_STREAM, 1, b"\x06Test"),
            given=[(b"content-length", b"4")],
        ),
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.2 PRIORITY behind HEADERS without END_HEADERS",
        lambda peer: [peer.request(1, False, whole=False), priority(1)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.2 HEADERS of another stream behind HEADERS without END_HEADERS",
        lambda peer: [peer.request(1, False, whole=False), peer.request(3)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.2 HEADERS on stream 0", lambda peer: [peer.request(0)], connection_error(PROTOCOL_ERROR)
    ),
    Case(
        "6.2 HEADERS with padding that is too long",
        lambda peer: [
            frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, bytes((len(block) + 2,)) + block)
            for block in [peer.encode(common())]
        ],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("6.3 PRIORITY on stream 0", lambda peer: [priority(0)], connection_error(PROTOCOL_ERROR)),
    Case(
        "6.3 PRIORITY of another size than 5",
        lambda peer: [peer.request(1), frame(PRIORITY, 0, 1, b"\x80\0\0\1")],
        only_stream_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.4 RST_STREAM on stream 0", lambda peer: [rst_stream(0)], connection_error(PROTOCOL_ERROR)
    ),
    Case(
        "6.4 RST_STREAM on an idle stream",
        lambda peer: [rst_stream(1)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.4 RST_STREAM of another size than 4",
        lambda peer: [peer.request(1), frame(RST_STREAM, 0, 1, bytes(3))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.5 SETTINGS with ACK and a payload",
        lambda peer: [frame(SETTINGS, ACK, 0, b"\0")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.5 SETTINGS on a stream",
        lambda peer: [frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64")],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.5 SETTINGS of a size that is no multiple of 6",
        lambda peer: [frame(SETTINGS, 0, 0, b"\0\3\0")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.5.2 ENABLE_PUSH of 2",
        lambda peer: [settings((ENABLE_PUSH, 2))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.5.2 INITIAL_WINDOW_SIZE of 2^31",
        lambda peer: [settings((INITIAL_WINDOW_SIZE, 2**31))],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.5.2 MAX_FRAME_SIZE below 2^14",
        lambda peer: [settings((MAX_FRAME_SIZE, 16383))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.5.2 MAX_FRAME_SIZE of 2^24",
        lambda peer: [settings((MAX_FRAME_SIZE, 2**24))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("6.5.2 an unknown setting", lambda peer: [settings((0xFF, 1)), ping()], pong()),
    Case(
        "6.5.3 the last one of two values of a setting counts",
        lambda peer: [
            settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)),
            acknowledged,
            peer.request(1),
        ],
        first_data(1),
    ),
    Case(
        "6.5.3 SETTINGS are acknowledged", lambda peer: [settings((ENABLE_PUSH, 0))], acknowledged
    ),
    Case("6.7 PING is answered in kind", lambda peer: [ping(b"h2spec\0\0")], pong(b"h2spec\0\0")),
    Case(
        "6.7 PING with ACK is not answered",
        lambda peer: [ping(b"invalid\0", ACK), ping(b"h2spec\0\0")],
        pong(b"h2spec\0\0"),
    ),
    Case(
        "6.7 PING on a stream",
        lambda peer: [frame(PING, 0, 1, bytes(8))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.7 PING of another size than 8",
        lambda peer: [ping(bytes(6))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.8 GOAWAY on a stream",
        lambda peer: [frame(GOAWAY, 0, 1, bytes(8))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.9 WINDOW_UPDATE of the connection by 0",
        lambda peer: [window_update(0, 0)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.9 WINDOW_UPDATE of a stream by 0",
        lambda peer: [peer.request(1, False), window_update(1, 0)],
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.9 WINDOW_UPDATE of another size than 4",
        lambda peer: [frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.9.1 a window of 1",
        lambda peer: [settings((INITIAL_WINDOW_SIZE, 1)), acknowledged, peer.request(1)],
        first_data(1),
    ),
    Case(
        "6.9.1 a window of the connection above 2^31-1",
        lambda peer: [window_update(0, MAX_WINDOW), window_update(0, MAX_WINDOW)],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.1 a window of a stream above 2^31-1",
        lambda peer: [
            peer.request(1, False),
            window_update(1, MAX_WINDOW),
            window_update(1, MAX_WINDOW),
        ],
        only_stream_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.9.2 SETTINGS change the windows that there are",
        lambda peer: [
            ZERO_WINDOW,
            acknowledged,
            peer.request(1),
            settings((INITIAL_WINDOW_SIZE, 1)),
            acknowledged,
        ],
        first_data(1),
    ),
    Case(
        "6.9.2 a window that SETTINGS make negative",
        lambda peer: [
            settings((INITIAL_WINDOW_SIZE, 3)),
            acknowledged,
            peer.request(1),
            first_data(3),
            settings((INITIAL_WINDOW_SIZE, 2)),
            acknowledged,
            window_update(1, 2),
        ],
        first_data(1),
    ),
    Case(
        "6.9.2 an initial window above 2^31-1",
        lambda peer: [settings((INITIAL_WINDOW_SIZE, 2**31))],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION frames with long fields",
        lambda peer: [
            peer.request(1, whole=False),
            continuation(1, peer.encode(dummies(1)), end=False),
            continuation(1, peer.encode(dummies(1))),
        ],
        response(),
    ),
    Case(
        "6.10 another frame behind CONTINUATION",
        lambda peer: [
            peer.request(1, False, whole=False),
            continuation(1, peer.encode(dummies(1)), end=False),
            data(1, b"test", True),
        ],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION on stream 0",
        lambda peer: [peer.request(1, whole=False), continuation(0, peer.encode(dummies(1)))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind HEADERS with END_HEADERS",
        lambda peer: [peer.request(1), continuation(1, peer.encode(dummies(1)))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind CONTINUATION with END_HEADERS",
        lambda peer: [
            peer.request(1, whole=False),
            continuation(1, peer.encode(dummies(1))),
            continuation(1, peer.encode(dummies(1))),
        ],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION behind DATA",
        lambda peer: post(peer, data(1, b"test", True), continuation(1, peer.encode(dummies(1)))),
        connection_error(PROTOCOL_ERROR),
    ),
    Case("7 GOAWAY with an unknown code", lambda peer: [goaway(0, 0xFF), ping()], pong_or_end),
    Case(
        "7 RST_STREAM with an unknown code",
        lambda peer: post(peer, rst_stream(1, 0xFF), ping()),
        pong(),
    ),
    Case(
        "8.1 HEADERS within the content",
        lambda peer: post(
            peer, data(1, b"test"), headers(1, peer.encode([(b"x-test", b"ok")]), end=False)
        ),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.2.1 a name in upper case", extra((b"X-TEST", b"ok")), only_stream_error(PROTOCOL_ERROR)
    ),
    Case(
        "8.3 an unknown pseudo-header field",
        extra((b":test", b"ok")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3 the pseudo-header field of a response",
        extra((b":status", b"200")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.1 a pseudo-header field among the trailers",
        lambda peer: post(peer, data(1, b"test"), headers(1, peer.encode([(b":method", b"POST")]))),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3 a pseudo-header field behind another",
        fields((b"x-test", b"ok"), *common()),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.2.2 Connection", extra((b"connection", b"keep-alive")), only_stream_error(PROTOCOL_ERROR)
    ),
    Case(
        "8.2.2 TE",
        extra((b"trailers", b"test"), (b"te", b"trailers, deflate")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3.1 an empty :path",
        lambda peer: [peer.request(1, path="")],
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case("8.3.1 no :method", fields(*without(b":method")), only_stream_error(PROTOCOL_ERROR)),
    Case("8.3.1 no :scheme", fields(*without(b":scheme")), only_stream_error(PROTOCOL_ERROR)),
    Case("8.3.1 no :path", fields(*without(b":path")), only_stream_error(PROTOCOL_ERROR)),
    *(
        Case(
            f"8.3.1 {name.decode()} twice",
            fields(*common(), (name, value)),
            only_stream_error(PROTOCOL_ERROR),
        )
        for name, value in common()
    ),
    Case(
        "8.1.1 content of another length than its content-length",
        lambda peer: post(peer, data(1, b"test", True), given=[(b"content-length", b"1")]),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.1.1 content in several frames of another length than its content-length",
        lambda peer: post(
            peer, data(1, b"test"), data(1, b"test", True), given=[(b"content-length", b"1")]
        ),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.4 PUSH_PROMISE",
        lambda peer: [frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\3" + peer.encode(common()))],
        connection_error(PROTOCOL_ERROR),
    ),
]

HPACK = [
    Case(
        "HPACK 2.3.3 an index that does not exist",
        literal("fe"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 2.3.3 the index of a name that does not exist",
        literal("7f5f" + VALUE),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 4.2 a table size update behind a field",
        literal("21"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 4.2 a third table size update",
        prefixed("203fe11f20"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 padding of more than 7 bits",
        literal("00" + X_TEST_CODED + "8449509fff"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 padding with zeros",
        literal("00" + X_TEST_CODED + "83495090"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 the symbol for the end",
        literal("00" + X_TEST_CODED + "87fffffffd25427f"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 a string that is cut off",
        literal("0085f2b24a87fffffffd25427f"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case("HPACK 6.1 index 0", literal("80"), connection_error(COMPRESSION_ERROR)),
    Case(
        "HPACK 6.3 a table that is too large",
        prefixed("3fe21f"),
        connection_error(COMPRESSION_ERROR),
    ),
]

# Rules that h2spec has no case for.

CONNECTION_FIELDS = (
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"transfer-encoding",
    b"upgrade",
)
MORE = [
    Case(
        "3.4 another frame than SETTINGS first",
        lambda peer: [PREFACE, ping()],
        connection_error(PROTOCOL_ERROR),
        has_begun=False,
    ),
    Case(
        "3.4 a frame of an unknown type first",
        lambda peer: [PREFACE, frame(22, 0, 0)],
        connection_error(PROTOCOL_ERROR),
        has_begun=False,
    ),
    Case(
        "3.4 SETTINGS with ACK first",
        lambda peer: [PREFACE, SETTINGS_ACK],
        connection_error(PROTOCOL_ERROR),
        has_begun=False,
    ),
    Case(
        "3.4 a request in the client's first bytes",
        lambda peer: [PREFACE + settings(), peer.request(1)],
        response(),
        has_begun=False,
    ),
    Case(
        "4.2 a frame of an unknown type that is too large",
        lambda peer: [frame(22, 0, 0, bytes(16385))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "5.1 closed by RST_STREAM: what is ignored",
        lambda peer: [
            peer.request(1, False),
            rst_stream(1),
            rst_stream(1),
            window_update(1, 1),
            priority(1),
            ping(),
        ],
        pong(),
    ),
    Case(
        "5.1 closed by RST_STREAM of both sides: DATA",
        lambda peer: [
            peer.request(1, False, extra=[(b"Bad", b"x")]),
            data(1, b"late"),
            rst_stream(1),
            data(1, b"test"),
        ],
        resets(PROTOCOL_ERROR, STREAM_CLOSED),
    ),
    Case(
        "5.1 closed: WINDOW_UPDATE and RST_STREAM",
        lambda peer: [peer.request(1), _begin_again, window_update(1, 1), rst_stream(1), ping()],
        pong(),
    ),
    Case(
        "5.1.1 a stream that was left out: HEADERS",
        lambda peer: [peer.request(7), peer.request(3)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "5.1.1 a stream that was left out: DATA",
        lambda peer: [peer.request(7), data(3, b"test")],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("5.1.1 the highest number", lambda peer: [peer.request(MAX_WINDOW)], response(MAX_WINDOW)),
    Case(
        "5.3 PRIORITY of a closed stream on itself",
        lambda peer: [peer.request(1), _begin_again, priority(1, 1)],
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case("6.1 nothing but padding", lambda peer: post(peer, data(1, b"", True, pad=8)), response()),
    Case(
        "4.2 no room for the length of padding",
        lambda peer: post(peer, frame(DATA, PADDED, 1, b"")),
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.1 padding that is too long on a closed stream",
        lambda peer: [peer.request(1, False), rst_stream(1), frame(DATA, PADDED, 1, b"\x05test")],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.1 DATA on an even stream",
        lambda peer: [data(2, b"test")],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.2 HEADERS with padding and a priority",
        lambda peer: [peer.request(1, pad=8, depends_on=3)],
        response(),
    ),
    Case(
        "6.2 HEADERS that are nothing but padding",
        lambda peer: [frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, padded(b"", 3))],
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.2 HEADERS without room for their priority",
        lambda peer: [frame(HEADERS, HAS_PRIORITY | END_HEADERS | END_STREAM, 1, bytes(4))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.3 PRIORITY of another size on an idle stream",
        lambda peer: [frame(PRIORITY, 0, 1, bytes(6))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.3 PRIORITY of another size on a closed stream",
        lambda peer: [peer.request(1), _begin_again, frame(PRIORITY, 0, 1, bytes(6))],
        only_stream_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.4 RST_STREAM on an even stream",
        lambda peer: [rst_stream(2)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.5.2 the largest values",
        lambda peer: [
            settings((INITIAL_WINDOW_SIZE, MAX_WINDOW), (MAX_FRAME_SIZE, 2**24 - 1)),
            peer.request(1),
        ],
        response(),
    ),
    Case(
        "6.5.2 MAX_CONCURRENT_STREAMS of 0 is about pushes",
        lambda peer: [settings((MAX_CONCURRENT_STREAMS, 0)), peer.request(1)],
        response(),
    ),
    Case(
        "6.5.2 HEADER_TABLE_SIZE of 0",
        lambda peer: [settings((HEADER_TABLE_SIZE, 0)), peer.request(1)],
        response(),
    ),
    Case(
        "RFC 8441, 3: ENABLE_CONNECT_PROTOCOL of 2",
        lambda peer: [settings((ENABLE_CONNECT_PROTOCOL, 2))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("6.5.3 an acknowledgement too many", lambda peer: [SETTINGS_ACK, ping()], pong()),
    Case(
        "6.8 GOAWAY of less than 8 bytes",
        lambda peer: [frame(GOAWAY, 0, 0, bytes(7))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "6.8 a client that leaves gets its response first",
        lambda peer: [ZERO_WINDOW, peer.request(1), goaway(), window_update(1, 100)],
        response(),
    ),
    Case(
        "6.9 WINDOW_UPDATE on an even stream",
        lambda peer: [window_update(2, 1)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "6.9 the reserved bit of an increment",
        lambda peer: [frame(WINDOW_UPDATE, 0, 0, b"\x80\0\0\1"), ping()],
        pong(),
    ),
    Case(
        "6.9.2 SETTINGS that make a window too large",
        lambda peer: [
            peer.request(1, False),
            window_update(1, MAX_WINDOW - DEFAULT_WINDOW),
            settings((INITIAL_WINDOW_SIZE, 66000)),
        ],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "6.10 CONTINUATION frames without a byte",
        lambda peer: in_pieces(peer, 0, 0, 3, 0),
        response(),
    ),
    Case(
        "6.10 trailers in CONTINUATION frames",
        lambda peer: post(peer, headers(1, b"\0\3x-", whole=False), continuation(1, b"a\1b")),
        response(),
    ),
    Case(
        "6.10 CONTINUATION does not end the stream by itself",
        lambda peer: [
            peer.request(1, False, "POST", whole=False),
            frame(CONTINUATION, END_HEADERS | END_STREAM, 1),
            data(1, b"test", True),
        ],
        response(),
    ),
    Case(
        "8.1 trailers with a name in upper case",
        lambda peer: post(peer, headers(1, peer.encode([(b"X-A", b"b")]))),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.1 trailers with Connection",
        lambda peer: post(peer, headers(1, peer.encode([(b"connection", b"x")]))),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.1.1 trailers before all of the content",
        lambda peer: post(
            peer,
            data(1, b"tes"),
            headers(1, peer.encode([(b"x-a", b"b")])),
            given=[(b"content-length", b"4")],
        ),
        stream_error_unless_ended(PROTOCOL_ERROR),
    ),
    Case(
        "8.1.1 no content for a content-length",
        extra((b"content-length", b"4")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case("8.1.1 a content-length of 0", extra((b"content-length", b"0")), response()),
    *(
        Case(
            f"8.1.1 a content-length of {value!r}",
            extra((b"content-length", value), end=False),
            only_stream_error(PROTOCOL_ERROR),
        )
        for value in (b"+4", b"-1", b"4,4", b"", b"0x4", "\u0664".encode())
    ),
    Case(
        "8.1.1 two of content-length",
        extra((b"content-length", b"4"), (b"content-length", b"4"), end=False),
        only_stream_error(PROTOCOL_ERROR),
    ),
    *(
        Case(f"8.2.1 a name of {name!r}", extra((name, b"x")), only_stream_error(PROTOCOL_ERROR))
        for name in (b"a b", b"a:b", b"", b"a\0", b"a\x7f", b"\xc3\xa4", b"a\r\nb")
    ),
    *(
        Case(
            f"8.2.1 a value of {value!r}", extra((b"x-a", value)), only_stream_error(PROTOCOL_ERROR)
        )
        for value in (b" a", b"a ", b"\ta", b"a\t", b"a\0b", b"a\rb", b"a\nb", b"\n", b" ")
    ),
    *(
        Case(f"8.2.1 a value of {value!r}", extra((b"x-a", value)), response())
        for value in (b"", b"a b", b"a\tb", b"\xff")
    ),
    *(
        Case(f"8.2.2 {name.decode()}", extra((name, b"x")), only_stream_error(PROTOCOL_ERROR))
        for name in CONNECTION_FIELDS
    ),
    Case("8.2.2 TE: trailers", extra((b"te", b"trailers")), response()),
    *(
        Case(
            f"8.3.1 a :path of {path!r}",
            lambda peer, path=path: [peer.request(1, path=path)],
            only_stream_error(PROTOCOL_ERROR),
        )
        for path in ("*", "a", "http://a/", "?a")
    ),
    Case("8.3.1 OPTIONS *", lambda peer: [peer.request(1, method="OPTIONS", path="*")], response()),
    Case(
        "8.3.1 an empty :method",
        fields((b":method", b""), *without(b":method")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3.1 a :scheme that is none",
        fields((b":scheme", b"ht tp"), *without(b":scheme")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3.1 Host in place of :authority",
        fields(*without(b":authority"), (b"host", b"a")),
        response(),
    ),
    Case("8.3.1 Host beside an equal :authority", extra((b"host", b"127.0.0.1:8000")), response()),
    Case(
        "8.3.1 Host beside another :authority",
        extra((b"host", b"a")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.3.1 neither :authority nor Host", fields(*without(b":authority")), response(status=400)
    ),
    Case(
        "8.3.1 userinfo in :authority",
        fields(*without(b":authority"), (b":authority", b"a@b")),
        response(status=400),
    ),
    Case(
        "8.5 CONNECT with a :path",
        fields((b":method", b"CONNECT"), *without(b":method")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "8.5 CONNECT",
        fields((b":method", b"CONNECT"), (b":authority", b"a:1")),
        response(status=501),
    ),
    Case(
        "RFC 8441, 4: :protocol without CONNECT",
        fields(*common(), (b":protocol", b"websocket")),
        only_stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "HPACK 5.1 an integer that is cut off", literal("7f"), connection_error(COMPRESSION_ERROR)
    ),
    Case(
        "HPACK 5.1 an integer of many bytes",
        literal("7f" + "ff" * 40 + "00"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 a value that is cut off",
        literal("00" + X_TEST + "7f61"),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 5.2 a name that is not coded well",
        literal("0081f0" + VALUE),
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "HPACK 6.2.1 the table is shared by all blocks",
        lambda peer: [peer.request(1), peer.request(3), peer.request(5)],
        response(5),
    ),
    Case(
        "HPACK 4.3 a block that is refused changes the table, too",
        lambda peer: [
            peer.request(1, extra=[(b"x-a", b"a"), (b"Bad", b"x")]),
            peer.request(3, extra=[(b"x-a", b"a")]),
        ],
        response(3),
    ),
    Case(
        "HPACK 4.4 a table of size 0 forgets",
        lambda peer: [peer.request(1, extra=[(b"x-a", b"a")]), headers(3, b"\x20\xbe")],
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "10.5.1 a field block far above the limit",
        lambda peer: [
            peer.request(1, whole=False),
            *[continuation(1, bytes(16384), end=False) for _ in range(17)],
        ],
        connection_error(ENHANCE_YOUR_CALM),
    ),
]

CASES = [*GENERIC, *HTTP2, *HPACK, *MORE]


def test_no_case_is_there_twice() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_rfc_9113_and_7541(grounds: list[Ground], case: Case) -> None:
    for ground in grounds:
        run(case, ground)


def run(case: Case, ground: Ground) -> None:
    peer = ground.connect()
    if case.has_begun:
        peer.begin()
    gathered: list[bytes] = []
    for step in [*case.steps(peer), None]:
        if isinstance(step, bytes) and not ground.setting.apart:
            gathered.append(step)
            continue
        if gathered:
            deliver(peer, b"".join(gathered))
            gathered.clear()
        if isinstance(step, bytes):
            try:
                deliver(peer, step)
            except OSError:
                break  # the server has ended the connection, as it should: the outcome says how
            ground.inside.settle()
        elif step is not None:
            step(peer)
    case.outcome(peer)
    peer.client.close()


def deliver(peer: Peer, sent: bytes) -> None:
    if sent.startswith(PREFACE):
        peer.client.send(PREFACE)
        sent = sent[len(PREFACE) :]
    elif sent.startswith(b"INVALID"):
        peer.client.send(sent)
        return
    if sent:
        peer.send(sent)


# What takes more than one outcome.

PARAGRAPH = bytes(range(256)) * 1024


async def paragraph(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await answer(send, PARAGRAPH)


def gather(peer: Peer) -> list[int]:
    """Read what has come, and what the server sends of its own accord: the streams of the DATA frames."""
    peer.send(ping(b"no more?"))
    streams = []
    while (received := peer.read()) is not None and received.kind != PING:
        if received.kind == DATA:
            streams.append(received.stream)
    assert received is not None
    return streams


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_1_data_stops_at_either_window_and_goes_on_with_both(parser: str) -> None:
    with serve(paragraph, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1))
        stream = peer.streams[1]
        while len(stream.body) < DEFAULT_WINDOW:
            assert peer.read() is not None
        peer.send(window_update(1, 100_000))
        inside.settle()
        assert gather(peer) == []  # the connection's is used up
        peer.send(window_update(0, 200_000))
        while len(stream.body) < DEFAULT_WINDOW + 100_000:
            assert peer.read() is not None
        inside.settle()
        assert gather(peer) == []  # the stream's is
        peer.send(settings((INITIAL_WINDOW_SIZE, 1_000_000)))
        assert peer.wait_response(1).body == PARAGRAPH


@pytest.mark.parametrize("parser", PARSERS)
def test_5_1_2_streams_take_turns(parser: str) -> None:
    with serve(paragraph, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin((INITIAL_WINDOW_SIZE, 0))
        peer.send(window_update(0, 1_000_000), *(peer.request(number) for number in (1, 3, 5)))
        for _ in range(3):
            peer.read_until(HEADERS)
        peer.send(settings((INITIAL_WINDOW_SIZE, 49152)))
        order = [peer.read_until(DATA).stream for _ in range(9)]
        assert order == [1, 3, 5] * 3


@pytest.mark.parametrize("parser", PARSERS)
def test_4_2_frames_are_as_large_as_the_client_allows_and_no_larger(parser: str) -> None:
    with serve(paragraph, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin((INITIAL_WINDOW_SIZE, 1_000_000), (MAX_FRAME_SIZE, 20_000))
        peer.send(window_update(0, 1_000_000), peer.request(1))
        sizes = []
        while not peer.streams[1].has_ended:
            received = peer.read()
            assert received is not None
            if received.kind == DATA:
                sizes.append(len(received.payload))
        assert sizes[0] == 20_000
        assert peer.streams[1].body == PARAGRAPH


async def never(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads nothing, and does not answer."""
    await asyncio.sleep(3600)


def leave(peer: Peer, inside: InProcess) -> None:
    """Close, and have the applications that run on cancelled."""
    peer.client.close()
    inside.wait_lost()
    inside.advance(5)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_1_more_than_the_window_of_a_stream(parser: str) -> None:
    with serve(never, parser, http2_initial_window_size=1000, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(ping())
        pong()(peer)  # its acknowledgement is known
        peer.send(
            peer.request(1, False, "POST"),
            data(1, bytes(1000)),
            peer.request(3, False, "POST"),
            data(1, b"x"),
        )
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number) == (1, FLOW_CONTROL_ERROR)
        peer.send(data(3, bytes(1000)), ping())
        pong()(peer)
        leave(peer, inside)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_2_until_the_settings_are_acknowledged_the_default_window_holds(parser: str) -> None:
    with serve(never, parser, http2_initial_window_size=1000, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.acknowledges = False
        peer.begin()
        peer.send(
            peer.request(1, False, "POST"), data(1, bytes(16384)), data(1, bytes(16384)), ping()
        )
        pong()(peer)
        peer.send(SETTINGS_ACK, data(1, b"x"))
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number) == (1, FLOW_CONTROL_ERROR)
        leave(peer, inside)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_1_more_than_the_window_of_the_connection(parser: str) -> None:
    with serve(never, parser, http2_max_concurrent_streams=1, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST"))
        inside.wait_until(lambda: inside.server.tasks)
        peer.send(*(data(1, bytes(16384)) for _ in range(4)))
        connection_error(FLOW_CONTROL_ERROR)(peer)
        leave(peer, inside)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_dropped_and_padded_bytes_are_given_back(parser: str) -> None:
    """Ten windows of the connection in frames that nobody reads: padding, and DATA on streams that were reset."""
    with serve(after_body, parser, http2_max_concurrent_streams=1, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        budget = DEFAULT_WINDOW
        number = 1
        for _ in range(10):
            peer.send(peer.request(number, False, "POST", extra=[(b"Bad", b"x")]))
            for _ in range(8):
                while budget < 8192 + 256:
                    received = peer.read_until(WINDOW_UPDATE)
                    budget += received.number if not received.stream else 0
                peer.send(data(number, bytes(8192)))
                budget -= 8192
            number += 2
        peer.send(peer.request(number, False, "POST"), data(number, b"", True, pad=255))
        assert peer.wait_response(number).body == BODY


@pytest.mark.parametrize("parser", PARSERS)
def test_6_9_data_behind_the_end_of_a_stream_is_given_back_to_the_connection(parser: str) -> None:
    with serve(at_once, parser, http2_max_concurrent_streams=1, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin((INITIAL_WINDOW_SIZE, 0))
        budget = DEFAULT_WINDOW
        for number in range(1, 25, 2):
            peer.send(peer.request(number), data(number, bytes(8192)))
            budget -= 8192
            while peer.streams[number].code is None:
                received = peer.read()
                assert received is not None
                if received.kind == WINDOW_UPDATE:
                    budget += received.number
            assert peer.streams[number].code == STREAM_CLOSED
            assert budget >= 8192


# 8.1: a response before the end of the request.


@pytest.mark.parametrize("parser", PARSERS)
def test_8_1_a_request_that_ends_behind_its_response_is_not_reset(parser: str) -> None:
    with serve(at_once, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST"))
        peer.wait_response(1)
        peer.send(data(1, bytes(10_000)), data(1, b"", True), ping())
        pong()(peer)
        assert peer.streams[1].code is None


@pytest.mark.parametrize("parser", PARSERS)
def test_8_1_a_request_without_end_is_given_up_behind_its_response(parser: str) -> None:
    """By the time, or as soon as it has used up the room that it was given for a short rest."""
    with serve(at_once, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST"), peer.request(3, False, "POST"))
        peer.wait_response(1)
        peer.wait_response(3)
        inside.stop_clock()
        for _ in range(MAX_DISCARDED // 16384):
            peer.send(data(3, bytes(16384)))
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number) == (3, NO_ERROR)
        assert peer.streams[1].code is None
        inside.advance(5)
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number) == (1, NO_ERROR)


@pytest.mark.parametrize("parser", PARSERS)
def test_8_1_a_client_that_waits_for_100_continue_is_told_at_once_that_its_body_is_not_needed(
    parser: str,
) -> None:
    with serve(at_once, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False, "POST", extra=[(b"expect", b"100-continue")]))
        peer.wait_response(1)
        begun = time.monotonic()
        assert peer.read_until(RST_STREAM).number == NO_ERROR
        assert time.monotonic() - begun < LINGER_SECONDS


# How a connection ends.


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["h2c", "tls"])
def test_5_4_1_goaway_arrives_although_the_client_sends_on(
    parser: str, is_tls: bool, context: Any
) -> None:
    with serve(at_once, parser, tls=context if is_tls else None, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect(), is_tls)
        peer.begin()
        peer.send(ping(bytes(6)), *(frame(22, 0, 0, bytes(16384)) for _ in range(16)))
        received = peer.read_until(GOAWAY)
        assert received.code == FRAME_SIZE_ERROR
        assert peer.read_rest() == []


@pytest.mark.parametrize("parser", PARSERS)
def test_5_4_1_tls_ends_soon_after_goaway(parser: str, context: Any) -> None:
    """A client that waits for that, as h2spec does for two seconds."""
    with serve(at_once, parser, tls=context, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect(), True)
        peer.begin()
        peer.send(ping(bytes(6)))
        peer.read_until(GOAWAY)
        begun = time.monotonic()
        assert peer.read() is None
        assert time.monotonic() - begun < LINGER_SECONDS


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["h2c", "tls"])
def test_5_4_1_a_client_that_reports_an_error_and_does_not_close_is_gone_soon(
    parser: str,
    is_tls: bool,
    context: Any,
) -> None:
    """``write_timeout`` is for a client that has something to read."""
    tls = context if is_tls else None
    with serve(at_once, parser, tls=tls, write_timeout=1000, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect(), is_tls)
        peer.begin()
        inside.stop_clock()
        peer.send(goaway(0, PROTOCOL_ERROR))
        inside.settle()
        inside.advance(12)
        inside.wait_until(lambda: not inside.server.connections)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_8_goaway_names_the_last_stream(parser: str) -> None:
    with serve(after_body, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1), peer.request(7), ping(bytes(6)))
        received = peer.read_until(GOAWAY)
        assert (received.number, received.code) == (7, FRAME_SIZE_ERROR)


@pytest.mark.parametrize("parser", PARSERS)
def test_6_8_the_last_stream_does_not_grow_with_those_that_are_refused(parser: str) -> None:
    with serve(after_body, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False))
        inside.wait_until(lambda: inside.server.tasks)
        for connection in list(inside.server.connections):
            inside.call(connection.handler.shut_down)
        assert peer.read_until(GOAWAY).number == 1
        peer.send(peer.request(3))
        received = peer.read_until(RST_STREAM)
        assert (received.stream, received.number) == (3, REFUSED_STREAM)
        peer.send(ping(bytes(6)))
        received = peer.read_until(GOAWAY)
        assert (received.number, received.code) == (1, FRAME_SIZE_ERROR)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "sent", [rst_stream(1), window_update(1, 0)], ids=["by the client", "by the server"]
)
def test_an_application_whose_stream_was_reset_is_cancelled_also_where_the_connection_is_lost_since(
    parser: str, sent: bytes
) -> None:
    with serve(never, parser, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect())
        peer.begin()
        peer.send(peer.request(1, False))
        inside.wait_until(lambda: inside.server.tasks)
        peer.send(sent, ping())
        pong()(peer)
        leave(peer, inside)
        inside.wait_until(inside.is_idle)


# 3.4: how it begins.


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["h2c", "tls"])
def test_3_4_a_beginning_in_single_bytes(parser: str, is_tls: bool, context: Any) -> None:
    with serve(after_body, parser, tls=context if is_tls else None, **SPEAKS_HTTP2) as inside:
        peer = Peer(inside.connect(), is_tls)
        request = peer.request(1, False, "POST")
        for byte in PREFACE + settings((ENABLE_PUSH, 0)) + request + data(1, b"test", True, pad=2):
            peer.client.send(bytes((byte,)))
            inside.settle()
        peer.expect(settings((ENABLE_PUSH, 0)), request, data(1, b"test", True, pad=2))
        assert peer.wait_response(1).body == BODY


@pytest.mark.parametrize("cleartext", ["prior-knowledge", "both"])
@pytest.mark.parametrize(
    ("sent", "is_answered"),
    [
        (b"INVALID CONNECTION PREFACE\r\n\r\n", False),
        (b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", True),
        (b"GET / HTTP/1.x\r\n\r\n", True),
        (b"\r\nnonsense\r\n", False),
    ],
)
def test_3_4_what_is_neither_version_is_an_invalid_preface(
    cleartext: str, sent: bytes, is_answered: bool
) -> None:
    """`is_answered`: in the words of HTTP/1.1, which it tries to speak."""
    with serve(at_once, http_protocols="h2,h1", http2_cleartext=cleartext) as inside:
        peer = Peer(inside.connect())
        peer.client.send(sent)
        if is_answered:
            assert peer.client.read_response().status in (400, 505)
        else:
            assert peer.read_until(GOAWAY).code == PROTOCOL_ERROR
            assert peer.read_rest() == []
