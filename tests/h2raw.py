"""A raw HTTP/2 client: it sends any bytes, and checks each frame of the server by RFC 9113.

It knows nothing of the package. `Peer.send` takes frames, legal or not, and derives from them the
frames that the server may send. `Peer.read` returns the next frame, and fails where the server
has broken a rule.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack
from certificates import client_context
from inprocess import Client

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
) = range(12)
(
    HEADER_TABLE_SIZE,
    ENABLE_PUSH,
    MAX_CONCURRENT_STREAMS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8

DEFAULT_WINDOW = 65535
MAX_WINDOW = 2**31 - 1

Fields = list[tuple[bytes, bytes]]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The code of an RST_STREAM, the increment of a WINDOW_UPDATE, the stream of a GOAWAY."""
        return int.from_bytes(self.payload[:4], "big")

    @property
    def code(self) -> int:
        """The code of a GOAWAY."""
        return int.from_bytes(self.payload[4:8], "big")

    @property
    def ends(self) -> bool:
        return bool(self.flags & END_STREAM)


# Frames to send.


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, reserved: int = 0) -> bytes:
    return (
        struct.pack(
            ">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, reserved << 31 | stream
        )
        + payload
    )


def padded(payload: bytes, size: int) -> bytes:
    return bytes((size,)) + payload + bytes(size)


def data(stream: int, payload: bytes = b"", end: bool = False, pad: int = -1) -> bytes:
    flags = END_STREAM if end else 0
    return (
        frame(DATA, flags, stream, payload)
        if pad < 0
        else frame(DATA, flags | PADDED, stream, padded(payload, pad))
    )


def priority(stream: int, depends_on: int = 0, exclusive: bool = False, weight: int = 255) -> bytes:
    return frame(PRIORITY, 0, stream, struct.pack(">LB", exclusive << 31 | depends_on, weight))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def settings(*values: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *value) for value in values))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def ping(payload: bytes = bytes(8), flags: int = 0) -> bytes:
    return frame(PING, flags, 0, payload)


def goaway(last: int = 0, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last, code) + debug)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


def continuation(stream: int, block: bytes, end: bool = True) -> bytes:
    return frame(CONTINUATION, END_HEADERS if end else 0, stream, block)


def headers(
    stream: int,
    block: bytes,
    end: bool = True,
    *,
    whole: bool = True,
    pad: int = -1,
    depends_on: int = -1,
) -> bytes:
    """`whole`: no CONTINUATION follows. `depends_on`: the stream of a priority."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if whole else 0)
    if depends_on >= 0:
        flags |= HAS_PRIORITY
        block = struct.pack(">LB", depends_on, 255) + block
    if pad >= 0:
        flags |= PADDED
        block = padded(block, pad)
    return frame(HEADERS, flags, stream, block)


def split(data: bytes) -> Iterable[Frame]:
    """The complete frames in `data`."""
    position = 0
    while len(data) - position >= 9:
        high, low, kind, flags, stream = struct.unpack_from(">HBBBL", data, position)
        end = position + 9 + (high << 8 | low)
        if end > len(data):
            return
        yield Frame(kind, flags, stream & MAX_WINDOW, data[position + 9 : end])
        position = end


# Field blocks.


def integer(number: int, bits: int, pattern: int = 0) -> bytes:
    """`number` in a prefix of so many `bits` after `pattern` (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([pattern | number])
    encoded, number = [pattern | most], number - most
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def literal(name: bytes, value: bytes, pattern: int = 0) -> bytes:
    """A field without Huffman code (RFC 7541, 6.2). `pattern`: 0x40 puts it into the table."""
    return bytes([pattern]) + integer(len(name), 7) + name + integer(len(value), 7) + value


# The frames of the server.


@dataclass
class Exchange:
    """A stream of this client."""

    window: int
    status: int = 0
    """The status of the final response, 0 before it."""
    informed: list[int] = field(default_factory=list)
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields | None = None
    has_ended: bool = False
    """The server has ended its side."""
    is_over: bool = False
    """Both sides have sent END_STREAM, or one side RST_STREAM."""
    sent_end: bool = False
    code: int | None = None
    """The code of the server's RST_STREAM."""


KNOWN_FLAGS = {
    DATA: END_STREAM,
    HEADERS: END_STREAM | END_HEADERS,
    SETTINGS: ACK,
    PING: ACK,
    CONTINUATION: END_HEADERS,
}
SIZES = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
CONNECTION_FIELDS = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
}


class Peer:
    """A connection to the server."""

    def __init__(self, client: Client, tls: bool = False) -> None:
        self.client = client
        if tls:
            context = client_context()
            context.set_alpn_protocols(["h2"])
            # Many clients report an error where TLS ends without close_notify. So does this one.
            client.sock = context.wrap_socket(client.sock, suppress_ragged_eofs=False)
            assert client.sock.selected_alpn_protocol() == "h2"
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self.streams: dict[int, Exchange] = {}
        self.settings: dict[int, int] = {}
        """The settings of the server."""
        self.window = DEFAULT_WINDOW
        """Bytes that the server may send."""
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = 16384
        self._pending: list[list[tuple[int, int]]] = []
        """Settings of this client that the server has not acknowledged."""
        self._pings: list[bytes] = []
        self._last = MAX_WINDOW
        self._is_begun = False
        self.acknowledges = True
        """SETTINGS of the server are acknowledged as they are read."""
        self._block: tuple[Frame, bytearray] | None = None

    # Sending.

    def answer_ping(self) -> None:
        """Read until the server sends a PING, and answer it."""
        payload = self.read_until(PING).payload
        self.send(ping(payload, ACK))

    def send(self, *frames: bytes) -> None:
        """Send whole frames at once."""
        self.expect(*frames)
        self.client.send(b"".join(frames))

    def expect(self, *frames: bytes) -> None:
        """Take note of `frames`, which the caller sends in another way."""
        for sent in split(b"".join(frames)):
            self._note(sent)

    def _note(self, sent: Frame) -> None:
        stream = self.streams.get(sent.stream)
        if sent.kind == HEADERS and stream is None and sent.stream:
            stream = self.streams[sent.stream] = Exchange(self._initial_window)
        elif sent.kind == SETTINGS and not sent.flags & ACK and len(sent.payload) % 6 == 0:
            self._pending.append(list(struct.iter_unpack(">HL", sent.payload)))
        elif sent.kind == PING and not sent.flags & ACK:
            self._pings.append(sent.payload)
        elif sent.kind == WINDOW_UPDATE and not sent.stream:
            self.window += sent.number
        elif sent.kind == WINDOW_UPDATE and stream is not None:
            stream.window += sent.number
        elif sent.kind == RST_STREAM and stream is not None:
            stream.is_over = True  # frames of the server may still arrive
        if stream is not None and sent.kind in (HEADERS, DATA) and sent.ends:
            stream.sent_end = True
            stream.is_over = stream.is_over or stream.has_ended

    def encode(self, fields: Iterable[tuple[bytes | str, bytes | str]]) -> bytes:
        return self.encoder.encode([(name, value) for name, value in fields])

    def request(
        self,
        stream: int,
        end: bool = True,
        method: str = "GET",
        path: str = "/",
        extra: Fields = (),
        **how: object,
    ) -> bytes:
        """The HEADERS frame of a request. `how`: as `headers` takes it."""
        return headers(stream, self.encode(common(method, path) + list(extra)), end, **how)

    # Reading.

    def begin(self, *values: tuple[int, int]) -> None:
        """Send the preface, and read until the settings of both sides are acknowledged."""
        self.client.send(PREFACE)
        self.send(settings(*values))
        while not self.settings or self._pending:
            assert self.read() is not None, "the connection ended in its beginning"

    def read(self) -> Frame | None:
        """The next frame, or None at the end of the connection."""
        head = self._take(9, may_end=True)
        if not head:
            return None
        high, low, kind, flags, stream = struct.unpack(">HBBBL", head)
        size = high << 8 | low
        assert size <= self._max_frame, "4.2: a frame larger than SETTINGS_MAX_FRAME_SIZE"
        assert stream <= MAX_WINDOW, "4.1: the reserved bit is set"
        received = Frame(kind, flags, stream, self._take(size))
        self._check(received)
        if kind == SETTINGS and not flags & ACK and self.acknowledges:
            self.client.send(SETTINGS_ACK)
        return received

    def _take(self, size: int, may_end: bool = False) -> bytes:
        buffer = self.client.buffer
        while len(buffer) < size:
            chunk = self.client.sock.recv(65536)
            if not chunk:
                assert may_end, "the connection ended within a frame"
                assert not buffer, "the connection ended within a frame"
                return b""
            buffer += chunk
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def _check(self, received: Frame) -> None:
        kind, flags, id_, payload = received
        if not self._is_begun:
            assert kind == SETTINGS, "3.4: the first frame is the server's SETTINGS"
            assert not flags & ACK, "3.4: the first frame is the server's SETTINGS"
            self._is_begun = True
        if self._block is not None:
            assert kind == CONTINUATION, "6.10: a frame within a field block"
            assert id_ == self._block[0].stream, "6.10: a frame within a field block"
        assert kind in KNOWN_FLAGS or kind in (RST_STREAM, GOAWAY, WINDOW_UPDATE), (
            "a type of frame that this server never sends"
        )
        assert not flags & ~KNOWN_FLAGS.get(kind, 0), "4.1: a flag that is not defined"
        assert len(payload) == SIZES.get(kind, len(payload)), "a wrong size for this type"
        if kind in (DATA, HEADERS, RST_STREAM, CONTINUATION):
            assert id_ in self.streams, f"5.1: a frame on stream {id_}, which was not opened"
        elif kind in (SETTINGS, PING, GOAWAY):
            assert id_ == 0, "a frame of the connection on a stream"
        self._CHECKS[kind](self, received)

    def _on_data(self, received: Frame) -> None:
        stream = self.streams[received.stream]
        assert stream.status, "8.1: DATA before the response's head"
        assert not stream.has_ended, "5.1: DATA after the stream's end"
        assert stream.code is None, "5.1: DATA after the stream's end"
        size = len(received.payload)
        stream.window -= size
        self.window -= size
        assert not size or (stream.window >= 0 and self.window >= 0), (
            "6.9.1: DATA beyond the window"
        )
        stream.body += received.payload
        self._end(stream, received)

    def _end(self, stream: Exchange, received: Frame) -> None:
        if received.ends:
            stream.has_ended = True
            stream.is_over = stream.is_over or stream.sent_end

    def _on_headers(self, received: Frame) -> None:
        stream = self.streams[received.stream]
        assert not stream.has_ended, "5.1: HEADERS after the stream's end"
        assert stream.code is None, "5.1: HEADERS after the stream's end"
        self._block = received, bytearray()
        self._on_continuation(received)

    def _on_continuation(self, received: Frame) -> None:
        assert self._block is not None, "6.10: CONTINUATION without HEADERS"
        first, block = self._block
        block += received.payload
        if received.flags & END_HEADERS:
            self._block = None
            self._take_block(
                self.streams[first.stream], first, self._decoder.decode(bytes(block), raw=True)
            )

    def _take_block(
        self, stream: Exchange, first: Frame, decoded: Iterable[tuple[bytes, bytes]]
    ) -> None:
        fields = [(bytes(name), bytes(value)) for name, value in decoded]
        if stream.status:
            assert first.ends, "8.1: HEADERS within the content"
            stream.trailers = fields
        else:
            assert fields[0][0] == b":status", "8.3.2: :status is there, and first"
            status = int(fields.pop(0)[1])
            if status < 200:
                assert not first.ends, "8.1: an interim response does not end the stream"
                stream.informed.append(status)
            else:
                stream.status, stream.fields = status, fields
        for name, value in fields:
            assert name == name.lower(), f"8.2: {name!r}"
            assert name[:1] != b":", f"8.2: {name!r}"
            assert name not in CONNECTION_FIELDS, f"8.2.2: {name!r}"
            assert value == value.strip(b" \t"), f"8.2.1: {value!r}"
            assert not set(value) & set(b"\0\r\n"), f"8.2.1: {value!r}"
        self._end(stream, first)

    def _on_rst_stream(self, received: Frame) -> None:
        stream = self.streams[received.stream]
        stream.code, stream.is_over = received.number, True

    def _on_settings(self, received: Frame) -> None:
        if received.flags & ACK:
            assert not received.payload, "6.5: an acknowledgement has no payload"
            assert self._pending, "6.5: an acknowledgement of nothing"
            for setting, value in self._pending.pop(0):
                self._apply(setting, value)
        else:
            assert len(received.payload) % 6 == 0, "6.5: a multiple of six"
            self.settings |= dict(struct.iter_unpack(">HL", received.payload))
            assert ENABLE_PUSH not in self.settings or self.settings[ENABLE_PUSH] == 0, (
                "6.5.2: a server does not set it to 1"
            )

    def _apply(self, setting: int, value: int) -> None:
        if setting == INITIAL_WINDOW_SIZE:
            for stream in self.streams.values():
                stream.window += value - self._initial_window
            self._initial_window = value
        elif setting == MAX_FRAME_SIZE:
            self._max_frame = value
        elif setting == HEADER_TABLE_SIZE:
            self._decoder.max_allowed_table_size = value

    def _on_ping(self, received: Frame) -> None:
        if received.flags & ACK:
            assert received.payload in self._pings, "6.7: an answer to a PING that was not sent"
            self._pings.remove(received.payload)

    def _on_goaway(self, received: Frame) -> None:
        assert len(received.payload) >= 8
        assert received.number <= self._last, "6.8: the last stream does not grow"
        self._last = received.number

    def _on_window_update(self, received: Frame) -> None:
        assert 0 < received.number <= MAX_WINDOW, "6.9: by 1 to 2^31-1"
        stream = self.streams.get(received.stream)
        assert received.stream == 0 or (stream is not None and stream.code is None), (
            "5.1: WINDOW_UPDATE after the stream's end"
        )

    _CHECKS: Mapping[int, Callable[[Peer, Frame], None]] = {
        DATA: _on_data,
        HEADERS: _on_headers,
        RST_STREAM: _on_rst_stream,
        SETTINGS: _on_settings,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
        CONTINUATION: _on_continuation,
    }

    # Waiting.

    def read_until(self, kind: int, flags: int = 0, stream: int = -1) -> Frame:
        """The next frame of this kind with these flags, on any stream or only on `stream`."""
        while True:
            received = self.read()
            assert received is not None, "the connection ended"
            if (
                received.kind == kind
                and received.flags & flags == flags
                and stream in (-1, received.stream)
            ):
                return received

    def synchronize(self, mark: bytes = b"a round.") -> list[Frame]:
        """Send a PING. Returns the frames that arrive before its answer."""
        self.send(ping(mark))
        frames: list[Frame] = []
        while True:
            received = self.read()
            assert received is not None, "the connection ended"
            if received == (PING, ACK, 0, mark):
                return frames
            frames.append(received)

    def wait_response(self, stream: int) -> Exchange:
        """Read until the response is complete."""
        exchange = self.streams[stream]
        while not exchange.has_ended:
            assert exchange.code is None, f"the stream ended with {exchange.code}"
            received = self.read()
            assert received is not None, "the connection ended"
            assert received.kind != GOAWAY or not received.code, received
        return exchange

    def read_rest(self) -> list[Frame]:
        """All frames until the end of the connection."""
        return list(iter(self.read, None))


def common(method: str = "GET", path: str = "/") -> Fields:
    """The pseudo-header fields of a request."""
    return [
        (b":method", method.encode()),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"127.0.0.1:8000"),
    ]
