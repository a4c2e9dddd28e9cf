"""Clients of HTTP/2 that cost more than they ask for (RFC 9113, 10.5), and those that only look like it.

What is counted here are frames, points, bytes and running applications; nothing is timed.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h2raw
import pytest
from certificates import make_authority
from conftest import PARSERS
from costs import buffered, living, queued
from h2protocol import make
from h2raw import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    Frame,
    Peer,
    frame,
    literal,
    rst_stream,
    settings,
    split,
    window_update,
)
from inprocess import Flag, InProcess, answer, make_settings, read_body, serve
from rules import make_rules

from gunicorn_asgi.asgi import http
from gunicorn_asgi.asgi.http import HTTPStream
from gunicorn_asgi.errors import ClientDisconnected
from gunicorn_asgi.http.request import MAX_LINE
from gunicorn_asgi.http.trust import peer_rules
from gunicorn_asgi.http2 import budget, frame_writer, outbox
from gunicorn_asgi.http2.blocks import MAX_MEMO, MAX_MEMO_LIST, MAX_SIMILAR, Block
from gunicorn_asgi.http2.control import FAILED
from gunicorn_asgi.http2.events import Event, Failed, Malformed, Opened
from gunicorn_asgi.http2.limits import HTTP2Limits
from gunicorn_asgi.http2.stream import Stream
from gunicorn_asgi.http2.tunnel import Tunnel

STREAMS = 100
WINDOW = 65535
ALL = 2**31 - 1


def block(path: str = "/", method: str = "GET") -> bytes:
    return (
        literal(b":method", method.encode())
        + b"\x86"
        + literal(b":path", path.encode())
        + literal(b":authority", b"a")
    )


GET = block()
CONNECT = (
    block("/", "CONNECT")
    + literal(b":protocol", b"websocket")
    + literal(b"sec-websocket-version", b"13")
)


def headers(stream: int, fields: bytes = GET, end: bool = True) -> bytes:
    return h2raw.headers(stream, fields, end)


# The pure side: frames in, points and answers counted.


class Room:
    """A Protocol, and what a connection does with it. Its applications are told apart by whoever writes the test."""

    def __init__(self, **limits: Any) -> None:
        values = {
            "max_streams": STREAMS,
            "window": WINDOW,
            "max_frame": 16384,
            "max_header_list": 65536,
            "has_websocket": True,
            **limits,
        }
        self.limits = HTTP2Limits(**values)
        rules = peer_rules(make_rules(limit_line=MAX_LINE), make_settings())
        self.protocol = make(self.limits, rules(("192.0.2.1", 1), None))
        self.protocol.control.start()
        self.now = 1.0
        self.sent: list[Frame] = []
        self.opened: dict[int, Stream] = {}
        """Streams whose application could have been started."""
        self.abandoned = 0
        """Applications that run on behind their stream."""
        self.failed: Failed | None = None
        self.next = 1
        self.take(PREFACE + settings() + frame(SETTINGS, ACK, 0))
        self.sent.clear()

    def take(self, data: bytes) -> list[Event]:
        """What comes in one packet."""
        self.protocol.streams.abandoned = self.abandoned
        events = self._take(data)
        while self.protocol.received.has_more and self.failed is None:
            events += self._take(b"")
        return events

    def _take(self, data: bytes) -> list[Event]:
        events = self.protocol.receive(data, self.now)
        for event in events:
            if isinstance(event, Opened):
                self.opened[event.stream.id] = event.stream
                event.stream.exchange = event
            elif isinstance(event, Failed):
                self.failed = event
        self.flush()
        return events

    def flush(self) -> None:
        """All that can go goes."""
        box = self.protocol.outbox
        while True:
            self.protocol.streams.pump(65536)
            data = b"".join(box.frames)
            self.sent += split(data)
            box.frames.clear()
            box.size = 0
            self.failed = self.protocol.settle() or self.failed
            if not box.has_sendable or self.failed:
                break

    def open(self, fields: bytes = GET, end: bool = True) -> Stream:
        """A new stream."""
        id_, self.next = self.next, self.next + 2
        self.take(headers(id_, fields, end))
        return self.opened[id_]

    def respond(self, stream: Stream, size: int, end: bool = True) -> None:
        """As an application would."""
        self.protocol.streams.send_head(stream, b"\x88", False)
        self.protocol.streams.send_data(stream, bytes(size), end)
        self.flush()


Flood = Callable[[Room], Iterator[bytes]]
FLOODS: dict[str, tuple[Flood, float]] = {}
"""What to send for ever, and how many points each of it costs at least."""


def flood(points: float) -> Callable[[Flood], Flood]:
    def add(function: Flood) -> Flood:
        FLOODS[function.__name__] = function, points
        return function

    return add


def endless(data: bytes) -> Iterator[bytes]:
    while True:
        yield data


def ids(room: Room) -> Iterator[int]:
    """Numbers of new streams."""
    while True:
        yield room.next
        room.next += 2


def open_all(room: Room) -> None:
    for _ in range(STREAMS):
        room.open(block("/", "POST"), end=False)


@flood(1)
def pings(room: Room) -> Iterator[bytes]:
    return endless(frame(PING, 0, 0, bytes(8)))


@flood(1)
def answers_to_pings_that_were_not_sent(room: Room) -> Iterator[bytes]:
    return endless(frame(PING, ACK, 0, bytes(8)))


@flood(5)
def empty_settings(room: Room) -> Iterator[bytes]:
    return endless(settings())


@flood(1)
def acknowledgements_of_settings(room: Room) -> Iterator[bytes]:
    return endless(frame(SETTINGS, ACK, 0))


@flood(2735)
def windows_that_go_back_and_forth_in_one_frame(room: Room) -> Iterator[bytes]:
    open_all(room)
    return endless(settings(*[(4, value & 1) for value in range(2730)]))


@flood(6)
def windows_that_go_back_and_forth(room: Room) -> Iterator[bytes]:
    open_all(room)
    while True:
        yield settings((4, 0))
        yield settings((4, ALL))


@flood(1)
def priorities(room: Room) -> Iterator[bytes]:
    return endless(frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"))


@flood(1)
def faulty_priorities_on_a_closed_stream(room: Room) -> Iterator[bytes]:
    room.respond(room.open(), 1)
    return endless(frame(PRIORITY, 0, 1, b"\0"))


@flood(1)
def unknown_frames(room: Room) -> Iterator[bytes]:
    return endless(frame(0xBE, 0xFF, 1, b"x"))


@flood(1)
def windows_opened_by_one(room: Room) -> Iterator[bytes]:
    return endless(window_update(0, 1))


@flood(1)
def windows_of_a_closed_stream(room: Room) -> Iterator[bytes]:
    room.respond(room.open(), 1)
    return endless(window_update(1, 1))


@flood(1)
def resets_of_a_closed_stream(room: Room) -> Iterator[bytes]:
    room.respond(room.open(), 1)
    return endless(rst_stream(1))


@flood(5)
def farewells(room: Room) -> Iterator[bytes]:
    return endless(frame(GOAWAY, 0, 0, bytes(8)))


@flood(1)
def empty_data(room: Room) -> Iterator[bytes]:
    room.open(end=False)
    return endless(frame(DATA, 0, 1))


@flood(1)
def data_of_padding(room: Room) -> Iterator[bytes]:
    room.open(end=False)
    return endless(frame(DATA, PADDED, 1, b"\x04" + bytes(4)))


@flood(5)
def data_behind_the_clients_reset(room: Room) -> Iterator[bytes]:
    room.open(end=False)
    room.take(rst_stream(1))
    return endless(frame(DATA, 0, 1, b"x"))


def reset_by_us(room: Room) -> None:
    """Stream 1, early on."""
    room.protocol.streams.reset(room.open(end=False), 8)  # type: ignore[arg-type]  # CANCEL


@flood(1)
def empty_data_behind_our_reset(room: Room) -> Iterator[bytes]:
    reset_by_us(room)
    return endless(frame(DATA, 0, 1))


@flood(5)
def data_behind_our_reset_above_the_window(room: Room) -> Iterator[bytes]:
    reset_by_us(room)
    left = WINDOW
    while left:
        size = min(left, 16384)
        assert not room.take(
            frame(DATA, 0, 1, bytes(size))
        )  # may have been on its way: costs nothing
        left -= size
    yield from endless(frame(DATA, 0, 1, b"x"))


@flood(1)
def headers_behind_our_reset(room: Room) -> Iterator[bytes]:
    reset_by_us(room)
    return endless(headers(1))


@flood(1)
def requests_above_the_limit(room: Room) -> Iterator[bytes]:
    open_all(room)
    return map(headers, ids(room))


@flood(5)
def rapid_resets(room: Room) -> Iterator[bytes]:
    """CVE-2023-44487."""
    return (headers(id_) + rst_stream(id_) for id_ in ids(room))


@flood(5)
def rapid_resets_spread(room: Room) -> Iterator[bytes]:
    for id_ in ids(room):
        room.take(headers(id_))
        yield rst_stream(id_)


@flood(5)
def streams_without_a_request(room: Room) -> Iterator[bytes]:
    return (headers(id_, b"") for id_ in ids(room))


@flood(5)
def streams_that_depend_on_themselves(room: Room) -> Iterator[bytes]:
    return (
        frame(
            HEADERS,
            END_HEADERS | END_STREAM | HAS_PRIORITY,
            id_,
            id_.to_bytes(4, "big") + b"\x10" + GET,
        )
        for id_ in ids(room)
    )


@flood(10)
def requests_that_are_refused(room: Room) -> Iterator[bytes]:
    return (headers(id_, block("/", "?")) for id_ in ids(room))


@flood(100)
def requests_of_many_tiny_fields(room: Room) -> Iterator[bytes]:
    return (headers(id_, GET + literal(b"a", b"", 0x40) + b"\xbe" * 3500) for id_ in ids(room))


@flood(70)
def requests_that_unfold(room: Room) -> Iterator[bytes]:
    """A bomb: each byte stands for a field of 4,000."""
    return (
        headers(id_, GET + literal(b"a", bytes([ord("b")]) * 4000, 0x40) + b"\xbe" * 20)
        for id_ in ids(room)
    )


@flood(1)
def continuations_without_content(room: Room) -> Iterator[bytes]:
    room.take(frame(HEADERS, 0, 1, GET))
    return endless(frame(CONTINUATION, 0, 1))


def made(data: Callable[[int], bytes]) -> Flood:
    """MadeYouReset, CVE-2025-8671: it is the server that resets, for a fault that costs the client nothing."""
    return lambda room: (
        headers(id_, block("/", "POST"), end=False) + data(id_) for id_ in ids(room)
    )


for name_, fault in {
    "a_window_opened_by_0": lambda id_: window_update(id_, 0),
    "a_window_above_the_highest": lambda id_: window_update(id_, ALL),
    "data_behind_the_end": lambda id_: frame(DATA, END_STREAM, id_) + frame(DATA, 0, id_, b"x"),
    "headers_behind_the_end": lambda id_: frame(DATA, END_STREAM, id_) + headers(id_),
    "headers_in_the_midst": lambda id_: headers(id_, GET, end=False),
    "pseudo_headers_at_the_end": lambda id_: headers(id_, GET),
    "a_priority_of_another_size": lambda id_: frame(PRIORITY, 0, id_, b"\0"),
    "a_dependency_on_itself": lambda id_: frame(PRIORITY, 0, id_, id_.to_bytes(4, "big") + b"\x10"),
}.items():
    FLOODS[f"resets_made_by_{name_}"] = made(fault), 5


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_with_enhance_your_calm(name: str) -> None:
    """RFC 9113, 10.5, and whatever is sent meanwhile is not much more than what came."""
    room = Room()
    function, points = FLOODS[name]
    source = function(room)
    count = received = 0
    first = next(source)
    room.sent.clear()
    data = first
    while room.failed is None:
        assert count * points <= budget.CAPACITY + 20, f"{count} of them are too many"
        room.take(data)
        count += 1
        received += len(data)
        data = next(source)
    assert room.failed.code == ENHANCE_YOUR_CALM
    kind, _, _, payload = room.sent[-1]
    assert (kind, int.from_bytes(payload[4:8], "big")) == (GOAWAY, ENHANCE_YOUR_CALM)
    assert sum(9 + len(payload) for _, _, _, payload in room.sent) <= 3 * received + 100
    assert room.take(data) == []  # nothing is looked at any more


@pytest.mark.parametrize("name", [name for name in FLOODS if name != "rapid_resets_spread"])
def test_a_flood_in_one_packet_ends_with_enhance_your_calm(name: str) -> None:
    room = Room()
    function, points = FLOODS[name]
    source = function(room)
    data = b"".join(next(source) for _ in range(2 + int((budget.CAPACITY + 20) / points)))
    room.take(data)
    assert room.failed is not None
    assert room.failed.code == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(("size", "pieces"), [(16384, 17), (1, 1010)])
def test_a_block_without_an_end_is_not_kept_for_ever(size: int, pieces: int) -> None:
    """CVE-2024-27316 and its family: RFC 9113, 10.5.1."""
    room = Room()
    room.take(frame(HEADERS, 0, 1, b"x" * size))
    for count in range(pieces + 1):
        if room.failed is not None:
            break
        room.take(frame(CONTINUATION, 0, 1, b"x" * size))
        assert count < pieces
    assert room.failed is not None
    assert room.failed.code == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (b"\x00" + b"\xff" * 10000, 9),
        (b"\x7f" + b"\x80" * 10000 + b"\x01", 9),
        (b"\x3f" + b"\xff" * 9 + b"\x01", 9),
        (GET + literal(b"a", b"b" * 4000, 0x40) + b"\xbe" * 70, ENHANCE_YOUR_CALM),
        (b"\x00\x81\x00\x00", 9),
        (b"\x00\x84\xff\xff\xff\xff\x00", 9),
        (b"\xfe", 9),
        (GET + b"\x20", 9),
    ],
    ids=["integer", "zeros", "table", "bomb", "padding", "EOS", "index", "update"],
)
def test_a_block_that_nobody_can_read_ends_the_connection(fields: bytes, code: int) -> None:
    """RFC 9113, 4.3; RFC 7541, 5.2, 6.1 and 6.3. What is said of it is short, for it goes to the log."""
    room = Room()
    room.take(headers(1, fields))
    assert room.failed is not None
    assert room.failed.code == code
    assert len(room.failed.reason) < 200
    assert len(room.sent[-1][3]) < 300


def test_what_is_said_of_a_malformed_request_is_short() -> None:
    room = Room()
    (event,) = room.take(headers(1, literal(b":" + b"x" * 10000, b"")))
    assert isinstance(event, Malformed)
    assert len(event.reason) < 200


def test_small_blocks_that_unfold_are_not_remembered() -> None:
    before = living(Block)
    room = Room()
    room.take(headers(1, GET + literal(b"a", b"b" * 4000, 0x40)))
    for count in range(3 * MAX_MEMO):
        room.now += budget.CAPACITY / budget.REFILL_PER_SECOND
        room.take(headers(3 + 2 * count, GET + b"\xbe" * 10 + literal(b"c", b"%d" % count)))
    kept = living(Block, before)
    assert len(kept) <= MAX_MEMO + MAX_SIMILAR**2
    assert all(block.size <= MAX_MEMO_LIST for block in kept)


def test_streams_that_were_reset_count_for_their_applications_at_once() -> None:
    """Two times the limit, for those that were cancelled need a moment to end; and not more, however it is cut into packets."""
    room = Room()
    for _ in range(6):
        room.now += budget.CAPACITY / budget.REFILL_PER_SECOND
        room.abandoned = len(room.opened) - len(room.protocol.streams.active)
        resets = b"".join(rst_stream(id_) for id_ in room.protocol.streams.active)
        room.take(
            resets
            + b"".join(headers(id_) for id_, _ in zip(ids(room), range(STREAMS), strict=False))
        )
        assert room.failed is None
    assert len(room.opened) == 2 * STREAMS


def test_a_window_of_one_byte_is_paid_for() -> None:
    """CVE-2019-9511 and 9517: RFC 9113, 10.5."""
    room = Room()
    room.take(settings((4, 1)))
    streams = [room.open() for _ in range(STREAMS)]
    for stream in streams:
        room.respond(stream, 60000)
    rounds = 0
    while room.failed is None:
        rounds += 1
        assert rounds < 10
        room.take(b"".join(window_update(stream.id, 1) for stream in streams))
    assert room.failed.code == ENHANCE_YOUR_CALM
    assert sum(kind == DATA for kind, *_ in room.sent) < budget.CAPACITY


def test_data_does_not_pay_for_resets() -> None:
    """Or a fast line would buy as many applications as it likes."""
    room = Room()
    room.take(settings((4, ALL)) + window_update(0, ALL - WINDOW))
    download = room.open()
    room.protocol.streams.send_head(download, b"\x88", False)
    for count in range(budget.CAPACITY):
        room.protocol.streams.send_data(download, bytes(16384), False)
        room.take(
            b"".join(
                headers(room.next + 2 * more) + rst_stream(room.next + 2 * more)
                for more in range(2)
            )
        )
        room.next += 4
        if room.failed is not None:
            assert count * 2 * budget.RESET <= budget.CAPACITY + 20
            return
    pytest.fail("they are never too many")


# Who is not to be cut off.


def test_a_client_of_2000_requests_a_second_may_cancel_a_third_of_them() -> None:
    """A proxy with many users, or one that asks twice and takes what comes first."""
    room = Room()
    room.take(window_update(0, ALL - WINDOW))
    for count in range(6000):
        room.now = 1.0 + count // 2000  # the clock of a server
        stream = room.open()
        if count % 3 == 2:
            room.take(rst_stream(stream.id))
        else:
            room.respond(stream, 500)
    assert room.failed is None


def test_a_browser_may_cancel_all_that_it_has_asked_for() -> None:
    room = Room()
    for _ in range(2):
        for _ in range(60):
            room.open()
        room.take(b"".join(rst_stream(id_) for id_ in list(room.protocol.streams.active)))
        room.now += 2
    assert room.failed is None


@pytest.mark.parametrize("read", [16384, 4096, 1024])
@pytest.mark.parametrize("window", [WINDOW, 32770, 6 << 20])
def test_a_client_may_open_both_windows_for_all_that_it_reads(read: int, window: int) -> None:
    """Go's does for each 4 KiB. With 32,770 bytes, half of the window is two frames and two bytes."""
    room = Room()
    room.take(settings((4, window)))
    if window > WINDOW:
        room.take(window_update(0, window - WINDOW))
    stream = room.open()
    room.protocol.streams.send_head(stream, b"\x88", False)
    for _ in range(20 << 20 >> 16):
        for _ in range(4):
            room.protocol.streams.send_data(stream, bytes(16384), False)
        room.flush()
        while True:
            size = sum(len(payload) for kind, _, _, payload in room.sent if kind == DATA)
            room.sent.clear()
            if not size:
                break
            parts = [read] * (size // read) + ([size % read] if size % read else [])
            room.take(b"".join(window_update(0, part) + window_update(1, part) for part in parts))
            assert room.failed is None


def test_a_client_may_ping_with_each_message() -> None:
    """gRPC's do, to measure the line, and open both windows for a few bytes."""
    room = Room()
    stream = room.open(block("/", "POST"), end=False)
    room.protocol.streams.send_head(stream, b"\x88", False)
    for _ in range(5000):
        room.take(frame(DATA, 0, 1, b"\0\0\0\0\5hello"))
        room.protocol.flow.consume(stream, stream.unread)
        room.protocol.streams.send_data(stream, b"\0\0\0\0\5hello", False)
        room.flush()
        room.take(frame(PING, 0, 0, bytes(8)) + window_update(0, 10))
    assert room.failed is None


def test_an_upload_may_be_padded() -> None:
    room = Room()
    stream = room.open(block("/", "POST"), end=False)
    for _ in range(5000):
        room.take(frame(DATA, PADDED, 1, b"\xff" + b"x" * 500 + bytes(255)))
        room.protocol.flow.consume(stream, stream.unread)
    assert room.failed is None
    assert not stream.unread


def test_a_websocket_may_live_for_days() -> None:
    """One message of a few bytes and a ping every second, both ways."""
    room = Room()
    stream = room.open(CONNECT, end=False)
    room.protocol.streams.send_head(stream, b"\x88", False)
    for second in range(20000):
        room.now = 1.0 + second
        room.take(frame(DATA, 0, 1, b"x" * 8) + frame(PING, 0, 0, bytes(8)))
        room.protocol.flow.consume(stream, stream.unread)
        room.protocol.streams.send_data(stream, b"x" * 8, False)
        room.take(window_update(0, 8) + window_update(1, 8))
    assert room.failed is None


def test_a_client_may_ask_for_more_than_the_limit_before_it_knows_it() -> None:
    room = Room()
    room.take(b"".join(headers(id_) for id_, _ in zip(ids(room), range(1000), strict=False)))
    assert room.failed is None
    assert len(room.opened) == STREAMS
    assert sum(one.kind == RST_STREAM and one.number == REFUSED_STREAM for one in room.sent) == 900


def test_an_upload_that_is_cut_short_may_have_been_on_its_way() -> None:
    """RFC 9113, 5.1: as much as its window, and in frames as small as the client likes; and its trailers."""
    room = Room()
    for _ in range(3):
        stream = room.open(block("/", "POST"), end=False)
        room.respond(stream, 10)
        room.protocol.streams.reset(stream, 0)  # type: ignore[arg-type]  # NO_ERROR
        room.take(
            frame(DATA, 0, stream.id, bytes(10)) * (WINDOW // 10)
            + headers(stream.id, literal(b"a", b"b"))
        )
    assert room.failed is None


# Memory.


class Nobody:
    """The `ResponseWriter` of an exchange that is only fed."""


def make_stream() -> HTTPStream:
    scope = {"method": "POST", "raw_path": b"/"}
    return HTTPStream(Nobody(), scope, True, False, Nobody())  # type: ignore[arg-type]  # neither is asked


@pytest.mark.parametrize("size", [1, 10, 300, 20000, 70000])
def test_a_body_in_pieces_takes_little_more_than_its_bytes(size: int) -> None:
    stream, fed = make_stream(), random.Random(size).randbytes(400000)
    for start in range(0, len(fed), size):
        stream.feed_data(fed[start : start + size])
    kept = queued(stream)
    assert len(kept) <= http.MAX_CHUNKS
    assert sum(map(sys.getsizeof, kept)) <= len(fed) + 64 * http.MAX_CHUNKS
    assert b"".join(kept) == fed
    assert stream.unread == len(fed)


def test_large_pieces_are_not_copied_for_the_small_ones_between_them() -> None:
    stream = make_stream()
    parts = [bytes(http.CHUNK_SIZE) for _ in range(2 * http.MAX_CHUNKS)]
    for part in parts:
        stream.feed_data(part)
    assert all(one is other for one, other in zip(queued(stream), parts, strict=True))
    for _ in range(1000):
        stream.feed_data(b"x")
    assert len(queued(stream)) <= len(parts) + http.MAX_CHUNKS
    assert all(one is other for one, other in zip(queued(stream), parts, strict=False))


# The whole server: both loops, real sockets.

LOOPS = pytest.mark.parametrize("parser", PARSERS)
serve_h2 = partial(serve, http_protocols="h2,h1", http2_cleartext="prior-knowledge")


class Attacker(Peer):
    """A raw client that has sent its SETTINGS and never acknowledges the server's."""

    def __init__(
        self,
        server: InProcess,
        *values: tuple[int, int],
        connection_window: int = 0,
        receive_buffer: int = 0,
        tls: bool = False,
    ) -> None:
        super().__init__(server.connect(receive_buffer), tls)
        self.acknowledges = False
        self.next = 1
        self.client.send(PREFACE)
        self.send(settings(*values))
        if connection_window:
            self.send(window_update(0, connection_window - WINDOW))

    def ask(self, path: str = "/", method: str = "GET", end: bool = True) -> int:
        """Send a request on a new stream. Returns the stream."""
        id_, self.next = self.next, self.next + 2
        self.send(headers(id_, block(path, method), end))
        return id_

    def push(self, data: bytes) -> None:
        """Send, though the server may have closed."""
        with suppress(ConnectionError):
            self.send(data)

    def read_goaway(self) -> int:
        """The code of the next GOAWAY."""
        return self.read_until(GOAWAY).code


class Counted:
    """An application that counts how many of it run, until it is told that the client is gone."""

    def __init__(self) -> None:
        self.started = self.running = self.most = self.told = self.cancelled = 0
        self.release = Flag()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await getattr(self, scope["path"].strip("/") or "wait")(receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def wait(self, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.told += 1

    async def deaf(self, receive: Any, send: Any) -> None:
        """Does not hear that."""
        await self.release.reached()

    async def endless(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(16384), "more_body": True})
        except ClientDisconnected:
            self.told += 1

    async def large(self, receive: Any, send: Any) -> None:
        await answer(send, bytes(60000))

    async def nothing(self, receive: Any, send: Any) -> None:
        await answer(send, b"", 204, [(b"x-filler", b"x" * 1000)])

    async def swallow(self, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send)


def one_warning(server: InProcess) -> str:
    (line,) = server.log.take("warning")
    return line.text


@LOOPS
@pytest.mark.parametrize(
    "name", ["pings", "empty_settings", "unknown_frames", "requests_above_the_limit"]
)
def test_the_log_has_one_line_of_a_flood_and_the_client_an_answer(parser: str, name: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        if name == "requests_above_the_limit":
            for _ in range(STREAMS):
                attacker.ask()
            data = b"".join(headers(id_) for id_ in range(attacker.next, attacker.next + 2400, 2))
        else:
            source = FLOODS[name][0](Room())
            data = b"".join(next(source) for _ in range(1200))
        attacker.push(data)
        assert attacker.read_goaway() == ENHANCE_YOUR_CALM
        attacker.push(
            data + headers(99999) + frame(DATA, 0, 1, b"x") + b"\xff" * 100
        )  # behind our GOAWAY
        assert attacker.client.read_rest() == b""
        attacker.client.close()
        server.wait_until(server.is_idle)
        assert "too many frames that ask for nothing" in one_warning(server)
    assert not app.running


@LOOPS
def test_rapid_resets_in_one_packet_start_nothing(parser: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        attacker.push(b"".join(headers(id_) + rst_stream(id_) for id_ in range(1, 1001, 2)))
        assert attacker.read_goaway() == ENHANCE_YOUR_CALM
        assert app.started <= 2 * STREAMS  # TCP may cut it anywhere
        assert app.most <= 10
        one_warning(server)


@LOOPS
def test_applications_of_resets_that_are_spread_count_until_they_end(parser: str) -> None:
    """CVE-2023-44487: the reset makes no room for another."""
    app = Counted()
    with serve_h2(app, parser, asgi_disconnect_grace_period=300) as server:
        attacker = Attacker(server)
        refused = 0
        for _ in range(4):
            opened = [attacker.ask("/deaf") for _ in range(STREAMS)]
            attacker.synchronize()
            server.advance(budget.CAPACITY / budget.REFILL_PER_SECOND)  # all tokens have come back
            for id_ in opened:
                attacker.send(rst_stream(id_))
        attacker.synchronize()
        server.wait_until(lambda: app.running == 2 * STREAMS)
        assert app.most == 2 * STREAMS
        refused = attacker.ask()
        assert attacker.read_until(RST_STREAM, stream=refused).number == REFUSED_STREAM
        app.release.set()
        server.wait_until(lambda: not app.running)
        attacker.ask("/large")
        server.wait_until(lambda: app.started == 2 * STREAMS + 1)


@LOOPS
@pytest.mark.parametrize("path", ["/wait", "/deaf", "/endless", "/swallow"])
def test_a_client_that_vanishes_leaves_nothing_behind(parser: str, path: str) -> None:
    """All applications hear it, or are cancelled; `serve` sees to the rest."""
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        for _ in range(STREAMS):
            attacker.ask(path, "POST", end=path != "/swallow")
        server.wait_until(lambda: app.running == STREAMS)
        if path == "/swallow":
            for id_ in range(1, 2 * STREAMS, 2):
                attacker.send(frame(DATA, 0, id_, b"x" * 100))
        attacker.client.reset()
        if path in ("/deaf", "/swallow"):
            server.wait_gone()
            server.advance(10)
        server.wait_until(server.is_idle)
        assert not app.running
        if path == "/deaf":
            assert app.cancelled == STREAMS
        elif path != "/swallow":
            assert app.told == STREAMS
        server.log.take("error")  # EOFError of `swallow`


@LOOPS
def test_an_application_that_was_told_before_the_connection_was_lost_is_cancelled(
    parser: str,
) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        stream = attacker.ask("/deaf")
        attacker.synchronize()
        attacker.send(rst_stream(stream))
        attacker.synchronize()
        attacker.client.reset()
        server.wait_lost()
        server.advance(10)
        server.wait_until(server.is_idle)
        assert app.cancelled == 1


@contextmanager
def deaf_client(
    app: Any, parser: str, *values: tuple[int, int], **settings_: Any
) -> Iterator[tuple[InProcess, Attacker]]:
    """One that takes nothing from its socket, and whose windows are wide open."""
    with serve_h2(app, parser, **settings_) as server:
        attacker = Attacker(
            server, *(values or ((4, ALL),)), connection_window=ALL, receive_buffer=4096
        )
        yield server, attacker
        attacker.client.reset()


MAX_UNSENT = 65536 + frame_writer.FLUSH_SIZE + frame_writer.MAX_BACKLOG
"""The mark of a transport, what may be written at it, and what may join it."""


@LOOPS
def test_a_client_that_does_not_read_stops_the_application_whatever_its_windows_allow(
    parser: str,
) -> None:
    app = Counted()
    with deaf_client(app, parser) as (server, attacker):
        attacker.ask("/endless")
        server.wait_clogged()
        server.wait_until(
            lambda: any(
                lane.send_queue.is_paused
                for one in server.server.connections
                for lane in one.handler.protocol.streams.active.values()
            )
        )
        server.settle()
        assert server.unsent() <= MAX_UNSENT
        (lane,) = server.call(
            lambda: [
                lane
                for one in server.server.connections
                for lane in one.handler.protocol.streams.active.values()
            ]
        )
        assert lane.send_queue.size <= outbox.STREAM_HIGH_WATER + 16384
    assert app.told == 1


@LOOPS
@pytest.mark.parametrize("path", ["/nothing", "/large"])
def test_nothing_is_read_from_a_client_that_does_not_read(parser: str, path: str) -> None:
    """Or the answers to what it goes on asking for would pile up: heads without a body need no window."""
    app = Counted()
    with deaf_client(app, parser) as (server, attacker):
        attacker.client.sock.settimeout(0.5)
        with suppress(TimeoutError):
            for _ in range(200):
                attacker.send(
                    b"".join(headers(attacker.next + 2 * more, block(path)) for more in range(50))
                )
                attacker.next += 100
                server.settle()
        server.wait_paused() if path == "/nothing" else server.wait_clogged()
        assert server.unsent() <= MAX_UNSENT + 2 * STREAMS * 1200
    assert not app.running


@LOOPS
def test_a_client_that_does_not_read_is_reset_in_time(parser: str) -> None:
    app = Counted()
    with deaf_client(app, parser) as (server, attacker):
        attacker.ask("/endless")
        server.wait_clogged()
        server.advance(130)
        server.wait_until(server.is_idle)
    assert app.told == 1


@LOOPS
def test_a_window_that_is_never_opened_ends_the_stream_in_time_and_no_other(parser: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server, (4, 0))
        stuck = attacker.ask("/endless")
        server.wait_until(lambda: app.running)
        server.settle()
        server.advance(62)
        assert attacker.read_until(RST_STREAM, stream=stuck).number == CANCEL
        waiting = attacker.ask("/wait")
        server.wait_until(lambda: app.running == 1)
        attacker.send(rst_stream(waiting))
        server.wait_until(lambda: app.told == 2)


@LOOPS
def test_a_request_that_never_ends_is_answered_in_time(parser: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        for _ in range(STREAMS):
            attacker.ask("/swallow", "POST", end=False)
        server.wait_until(lambda: app.running == STREAMS)
        server.settle()
        server.advance(65)
        server.wait_until(lambda: not app.running)
        for id_ in range(1, 2 * STREAMS, 2):
            assert attacker.read_until(HEADERS, stream=id_).payload.find(b"408") > 0
        assert len(server.log.take("warning")) == STREAMS
        server.log.take("error")  # the application's EOFError


@LOOPS
def test_a_block_that_never_ends_ends_the_connection_in_time(parser: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        attacker.ask()
        attacker.send(frame(HEADERS, 0, 3, GET))
        server.wait_until(lambda: app.running == 1)
        server.settle()
        server.advance(65)
        server.wait_until(server.is_idle)
        assert app.told == 1


@LOOPS
def test_what_comes_before_a_websocket_is_accepted_is_within_its_window(parser: str) -> None:
    started, accept = Flag(), Flag()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await accept.reached()
        await send({"type": "websocket.close"})

    with serve_h2(app, parser) as server:
        before = living(Tunnel)
        attacker = Attacker(server)
        attacker.send(headers(1, CONNECT, end=False))
        started.wait()
        attacker.send(frame(DATA, 0, 1, b"x") * 60000)
        attacker.synchronize()
        (tunnel,) = living(Tunnel, before)
        assert sum(map(len, buffered(tunnel))) == 60000
        attacker.send(frame(DATA, 0, 1, bytes(WINDOW - 60000 + 1)))
        assert attacker.read_until(RST_STREAM, stream=1).number == FLOW_CONTROL_ERROR
        accept.set()
        server.wait_until(lambda: not server.server.tasks)
        assert not buffered(tunnel)
        server.log.take("warning")


@LOOPS
def test_handshakes_of_websockets_that_end_at_once_are_resets(parser: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        for first in range(1, 1001, 100):
            attacker.push(
                b"".join(
                    headers(id_, CONNECT, end=False) + frame(DATA, END_STREAM, id_)
                    for id_ in range(first, first + 100, 2)
                )
            )
            server.settle()
        assert attacker.read_goaway() == ENHANCE_YOUR_CALM
        one_warning(server)


@LOOPS
@pytest.mark.parametrize("fault", ["handshake", "frame"])
def test_websockets_with_a_fault_are_not_for_ever(parser: str, fault: str) -> None:
    """Each of them is a line in the log."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        fields, data = CONNECT, b"\xff\x80abcd"
        if fault == "handshake":
            fields += literal(b"sec-websocket-protocol", b"a,,\xe9")
        attacker.synchronize()
        server.stop_clock()  # tokens come back with time
        count = 0
        while not server.call(
            lambda: any(
                one.handler.protocol.control.state is FAILED for one in server.server.connections
            )
        ):
            count += 1
            assert count * budget.RESET < budget.CAPACITY + 20
            attacker.push(headers(2 * count - 1, fields, end=False))
            server.settle()
            attacker.push(frame(DATA, END_STREAM, 2 * count - 1, data))
            server.settle()
        assert attacker.read_goaway() == ENHANCE_YOUR_CALM
        assert len(server.log.take("warning")) <= 2 + budget.CAPACITY / budget.RESET


@LOOPS
def test_a_body_of_single_bytes_takes_memory_of_its_size(parser: str) -> None:
    """And frames that come a byte at a time do not, either."""
    app = Counted()
    before = living(HTTPStream)
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        attacker.ask("/deaf", "POST", end=False)
        attacker.send(frame(DATA, 0, 1, b"x") * WINDOW)
        attacker.synchronize()
        (stream,) = living(HTTPStream, before)
        found = queued(stream)
        assert sum(map(len, found)) == WINDOW
        assert len(found) <= http.MAX_CHUNKS
        app.release.set()
        server.wait_until(lambda: not app.running)
        server.log.take("error")  # it has not answered


@LOOPS
def test_frames_may_come_a_byte_at_a_time(parser: str) -> None:
    with serve_h2(Counted(), parser) as server:
        attacker = Attacker(server)
        request = headers(1, block("/large"))
        attacker.expect(request)
        for byte in request:
            attacker.client.send(bytes([byte]))
        assert attacker.read_until(HEADERS, stream=1)


@LOOPS
def test_the_last_stream_id_may_come_first(parser: str) -> None:
    """RFC 9113, 5.1.1: then there are no more of them, and the connection serves what it has."""
    with serve_h2(Counted(), parser) as server:
        attacker = Attacker(server)
        attacker.send(headers(ALL, block("/large")))
        assert attacker.read_until(HEADERS, stream=ALL)
        attacker.synchronize()
        attacker.send(headers(1))
        assert attacker.read_goaway() == PROTOCOL_ERROR
        one_warning(server)


@LOOPS
def test_a_client_that_says_goodbye_and_goes_on_is_served_until_it_has_nothing(parser: str) -> None:
    """RFC 9113, 6.8: it keeps the connection open only as long as something runs."""
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        first = attacker.ask()
        attacker.send(frame(GOAWAY, 0, 0, bytes(8)))
        second = attacker.ask("/large")
        assert attacker.read_until(HEADERS, stream=second)
        attacker.send(rst_stream(first) + window_update(0, 60000))
        assert attacker.read_goaway() == 0
        assert attacker.client.read_rest() == b""


@LOOPS
def test_a_client_that_closes_its_half_is_gone(parser: str) -> None:
    app = Counted()
    with serve_h2(app, parser) as server:
        attacker = Attacker(server)
        for _ in range(10):
            attacker.ask()
        server.wait_until(lambda: app.running == 10)
        attacker.client.send_eof()
        attacker.client.read_rest()
        server.wait_until(server.is_idle)
        assert app.told == 10


@LOOPS
def test_over_tls_a_flood_ends_the_same(parser: str, tmp_path: Path) -> None:
    import ssl  # only here

    pair = make_authority(tmp_path, "server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*pair)
    tls.set_alpn_protocols(["h2"])
    app = Counted()
    with serve(
        app, parser, tls=tls, http_protocols="h2,h1", certfile=pair.certfile, keyfile=pair.keyfile
    ) as server:
        attacker = Attacker(server, tls=True)
        attacker.ask()
        attacker.synchronize()
        attacker.push(frame(PING, 0, 0, bytes(8)) * 1200)
        assert attacker.read_goaway() == ENHANCE_YOUR_CALM
        server.advance(
            3
        )  # so that it closes first: asyncio of Python 3.10 warns of a transport that nobody has
        attacker.client.close()
        server.wait_until(server.is_idle)
        assert app.told == 1
        one_warning(server)


# Anything.


class Monkey:
    """Sends frames of all kinds, most of them in order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.last = -1

    def start(self) -> bytes:
        data = (
            PREFACE
            + settings((4, self.random.choice([0, 1, 10, 65535, ALL])))
            + window_update(0, 2**30)
        )
        for path in ("/endless", "/swallow", "/wait", "/mirror"):
            data += self.request(block(path, "POST"), END_HEADERS)
        return data

    def request(self, fields: bytes, flags: int) -> bytes:
        self.last += 2
        return frame(HEADERS, flags, self.last, fields)

    def old(self) -> int:
        choice = self.random
        if choice.random() < 0.01:
            return choice.choice([0, 2, ALL, self.last + 2])
        return max(1, self.last - 2 * choice.randrange(8))

    def next(self) -> bytes:
        choice, stream = self.random, self.old()
        kind = choice.randrange(14)
        if kind < 4:
            path = choice.choice(
                ["/", "/endless", "/swallow", "/wait", "/mirror", "/large", "/nothing", "/fail"]
            )
            fields = block(path, choice.choice(["GET", "POST", "HEAD"]))
            fields = choice.choice(
                [
                    fields,
                    fields,
                    fields,
                    CONNECT,
                    fields + literal(b"content-length", b"10"),
                    b"",
                    GET + choice.randbytes(2),
                ]
            )
            fields += choice.choice(
                [b"", b"", literal(b"expect", b"100-continue"), literal(b"x", b"y", 0x40)]
            )
            return self.request(fields, choice.choice([END_HEADERS, END_HEADERS | END_STREAM]))
        if kind < 7:
            return frame(
                DATA,
                choice.choice([0, 0, END_STREAM]),
                stream,
                choice.choice([b"", b"x", b"\x82\x80abcd", b"y" * 300, b"z" * 16000]),
            )
        if kind == 7:
            return rst_stream(stream)
        if kind == 8:
            return settings((4, choice.choice([0, 1, 65535, 10**6]))) + frame(SETTINGS, ACK, 0)
        if kind < 11:
            return window_update(choice.choice([0, stream]), choice.choice([1, 100, 65535, 10**6]))
        if kind == 11:
            return headers(
                stream, choice.choice([b"", literal(b"trailer", b"x")]), choice.random() < 0.9
            )
        if kind == 12 and choice.random() < 0.03:
            return frame(
                choice.randrange(12),
                choice.randrange(256),
                stream,
                choice.randbytes(choice.randrange(12)),
            )
        return frame(PING, 0, 0, b"drained?" if choice.random() < 0.5 else bytes(8))


async def zoo(scope: Any, receive: Any, send: Any) -> None:
    """Applications of all kinds."""
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "bytes": message.get("bytes") or b"x"})
    elif path == "/mirror":
        await send({"type": "http.response.start", "status": 200})
        while (message := await receive())["type"] != "http.disconnect":
            await send(
                {
                    "type": "http.response.body",
                    "body": message["body"],
                    "more_body": message["more_body"],
                }
            )
    elif path == "/fail":
        raise KeyError(path)
    else:
        with suppress(EOFError):
            await Counted()(scope, receive, send)


@LOOPS
@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_nothing_is_raised_and_nothing_is_left(parser: str, seed: int) -> None:
    """What leaves `data_received` would come to the loop's handler of exceptions: `serve` looks there, and for what is left in the end."""
    monkey = Monkey(seed)
    with serve_h2(zoo, parser) as server:
        for _ in range(15):
            client = server.connect()
            monkey.last = -1
            with suppress(ConnectionError):
                client.send(monkey.start())
                for _ in range(30):
                    client.send(
                        b"".join(monkey.next() for _ in range(monkey.random.randrange(1, 20)))
                    )
                    if monkey.random.random() < 0.2:
                        client.has_more()
                        server.settle()
                    if monkey.random.random() < 0.05:
                        server.advance(monkey.random.choice([1, 5, 70]))
            client.reset() if monkey.random.random() < 0.5 else client.close()
        server.settle()
        server.advance(100)
        server.wait_until(server.is_idle)
        errors = [
            line
            for line in server.log.take("error")
            if not line.text.startswith(("Error handling request", "ASGI application"))
        ]
        assert not errors
