"""What the server has written, read by strict oracles: h11, hpack, and the websockets package."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import h2raw
import h11
import hpack
from inprocess import FIELD_LINE, STATUS_LINE
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import State
from websockets.uri import parse_uri

from .scripts import ID


class WireError(Exception):
    """The server has written what no client could read."""


@dataclass
class Answer:
    """A final response."""

    status: int
    call: int | None
    """The number of the application's call that gave the head, if one did."""
    size: int
    is_whole: bool
    is_last: bool = False
    """It announces the end of its connection (HTTP/1.1)."""


def call_of(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    return next((int(value) for name, value in headers if name.lower() == ID), None)


# HTTP/1.1.


def read_http1(
    data: bytes, methods: Sequence[str], sent: bytes, may_end_anywhere: bool
) -> list[Answer]:
    """The responses to requests with `methods`, and to at most one that was refused.

    `sent`: all bytes of the client. `may_end_anywhere`: the client did not read, or was lost.
    """
    answers: list[Answer] = []
    for method in (*methods, None):
        while data.startswith(b"HTTP/1.1 1"):
            if may_end_anywhere and b"\r\n\r\n" not in data:
                break
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                raise WireError(f"an incomplete 1xx: {head[:100]!r}")
            fields = read_fields(head)
            if head.startswith(b"HTTP/1.1 101"):
                answers.append(Answer(101, call_of(fields), 0, True))
                if any(value == b"h2c" for _, value in fields):
                    answers += read_http2(data, sent, ())
                else:
                    read_websocket(data, dict(fields).get(b"sec-websocket-extensions"))
                return answers
        if not data or (may_end_anywhere and b"\r\n\r\n" not in data):
            return answers
        if answers and not answers[-1].is_whole:
            raise WireError(f"after a truncated response: {data[:100]!r}")
        # A refused request may have been a HEAD, for all that is known here.
        for guess in (method,) if method else ("GET", "HEAD"):
            answer, rest = read_response(data, guess)
            if answer.is_whole:
                break
        answers.append(answer)
        data = rest
    if data:
        raise WireError(f"nobody asked for this: {data[:200]!r}")
    return answers


def read_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    first, *lines = head.split(b"\r\n")
    if not STATUS_LINE.fullmatch(first):
        raise WireError(f"the status line {first!r}")
    matches = [FIELD_LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise WireError(f"the fields {lines!r}")
    return [(match[1].lower(), match[2]) for match in matches if match]


def read_response(data: bytes, method: str) -> tuple[Answer, bytes]:
    head = data.partition(b"\r\n\r\n")[0]
    if len(head) == len(data):
        raise WireError(f"an incomplete head: {head[:100]!r}")
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    known = method if re.fullmatch("[A-Za-z]+", method) else "GET"
    client.send(h11.Request(method=known, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    answer = Answer(0, None, 0, False)
    is_at_end = False
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA and not is_at_end:
                is_at_end = True
                client.receive_data(b"")
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                fields = read_fields(head)  # h11 tolerates more
                answer.call = call_of(fields)
                answer.is_last = (b"connection", b"close") in fields
            elif isinstance(event, h11.Data):
                answer.size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                answer.is_whole = True
                return answer, client.trailing_data[0]
            else:
                raise WireError(f"h11 reads {event!r}")
    except h11.RemoteProtocolError as error:
        if is_at_end and "without sending complete" in str(error):
            return answer, b""
        raise WireError(f"h11: {error}: {data[:300]!r}") from error


# WebSocket.


def read_websocket(data: bytes, extensions: bytes | None) -> None:
    """Check the frames of a server."""
    client = ClientProtocol(parse_uri("ws://a/"), state=State.OPEN, max_size=None)
    if extensions:
        client.extensions = [agreed(extensions.decode())]
    client.receive_data(data)
    client.events_received()
    if client.parser_exc is not None:
        raise WireError(f"websockets: {client.parser_exc!r}: {data[:100]!r}")
    check_end(data)


def agreed(header: str) -> PerMessageDeflate:
    """The client's side of permessage-deflate."""
    words = [word.strip().partition("=") for word in header.split(";")]
    values = {name: value for name, _, value in words}
    server_bits = int(values.get("server_max_window_bits") or 15)
    client_bits = int(values.get("client_max_window_bits") or 15)
    return PerMessageDeflate(
        "server_no_context_takeover" in values,
        "client_no_context_takeover" in values,
        server_bits,
        client_bits,
    )


def check_end(data: bytes) -> None:
    """Nothing may follow a Close frame (RFC 6455, 5.5.1)."""
    position = 0
    while len(data) - position >= 2:
        opcode, size = data[position] & 15, data[position + 1] & 127
        begin = position + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[begin : begin + width], "big")
            begin += width
        position = begin + size
        if opcode == 8 and position < len(data):
            raise WireError(f"after the Close frame: {data[position:][:60]!r}")


# HTTP/2.


@dataclass
class Stream:
    answer: Answer | None = None
    extensions: bytes | None = None
    data: bytes = b""
    is_over: bool = False


def read_http2(data: bytes, sent: bytes, websockets: Container[int]) -> list[Answer]:
    """The responses in the frames of a server, with the rules for frames that it must keep.

    `websockets`: the calls of the application that are WebSockets.
    """
    reader = H2Reader(sent)
    for frame in h2raw.split(data):  # the rest was lost with the connection
        reader.take(frame)
    streams = reader.streams.values()
    for stream in streams:
        if stream.answer is not None and stream.answer.call in websockets:
            read_websocket(stream.data if stream.answer.status == 200 else b"", stream.extensions)
    return [each.answer for each in streams if each.answer is not None]


class H2Reader:
    """Reads the frames of a server to a client that has `sent` these bytes."""

    def __init__(self, sent: bytes) -> None:
        self.streams: dict[int, Stream] = {}
        self._windows = read_windows(sent)
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 1 << 20
        self._block: bytes | None = None
        self._ends = False
        """The END_STREAM of the field block."""
        self._total = 0
        self._has_begun = False

    def take(self, frame: h2raw.Frame) -> None:
        told = repr(frame)[:200]
        if not self._has_begun and frame.kind != h2raw.SETTINGS:
            raise WireError(f"the first frame is {told}")
        self._has_begun = True
        if self._block is not None and frame.kind != h2raw.CONTINUATION:
            raise WireError(f"within a field block: {told}")
        if frame.kind == h2raw.RST_STREAM:
            self.streams.setdefault(frame.stream, Stream()).is_over = True
        if frame.kind not in (h2raw.HEADERS, h2raw.DATA, h2raw.CONTINUATION):
            return
        if not frame.stream % 2:
            raise WireError(f"on no stream of a client: {told}")
        stream = self.streams.setdefault(frame.stream, Stream())
        if stream.is_over:
            raise WireError(f"after the end of its stream: {told}")
        if frame.kind == h2raw.DATA:
            self._take_data(stream, frame)
        else:
            self._take_fields(stream, frame)

    def _take_data(self, stream: Stream, frame: h2raw.Frame) -> None:
        if stream.answer is None or stream.answer.status < 200:
            raise WireError("DATA before a response")
        size, windows = len(frame.payload), self._windows
        stream.data += frame.payload
        stream.answer.size += size
        self._total += size
        if self._total > windows.total(0) or stream.answer.size > windows.total(frame.stream):
            raise WireError(f"more DATA than the windows allow: {self._total}")
        stream.is_over = stream.answer.is_whole = frame.ends

    def _take_fields(self, stream: Stream, frame: h2raw.Frame) -> None:
        self._block = (self._block or b"") + frame.payload
        if frame.kind == h2raw.HEADERS:
            self._ends = frame.ends
        if frame.flags & h2raw.END_HEADERS:
            take_block(stream, self._decoder.decode(self._block, raw=True), self._ends)
            self._block = None
            assert stream.answer is not None
            stream.is_over = stream.answer.is_whole = self._ends


def take_block(stream: Stream, fields: list[tuple[bytes, bytes]], ends: bool) -> None:
    names = [name for name, _ in fields]
    if any(name != name.lower() for name in names):
        raise WireError(f"a name in upper case: {names}")
    if any(re.search(rb"[\0\r\n]", value) for _, value in fields):
        raise WireError(f"a control character in {fields}")
    if stream.answer is not None and stream.answer.status >= 200:  # trailers
        if not ends or any(name.startswith(b":") for name in names):
            raise WireError(f"trailers {fields}")
        return
    if names.count(b":status") != 1 or names[0] != b":status":
        raise WireError(f"a response with {fields}")
    status = int(fields[0][1])
    if status < 200 and ends:
        raise WireError("a 1xx that ends its stream")
    stream.answer = Answer(status, call_of(fields), 0, False)
    stream.extensions = dict(fields).get(b"sec-websocket-extensions")


class Windows:
    """An upper bound of what a client has allowed."""

    def __init__(self) -> None:
        self.initial = h2raw.DEFAULT_WINDOW
        self.updates: Counter[int] = Counter()

    def total(self, stream: int) -> int:
        return (self.initial if stream else h2raw.DEFAULT_WINDOW) + self.updates[stream]


def read_windows(sent: bytes) -> Windows:
    windows = Windows()
    start = sent.find(h2raw.PREFACE)
    for frame in h2raw.split(sent[start + len(h2raw.PREFACE) :] if start >= 0 else b""):
        if frame.kind == h2raw.WINDOW_UPDATE:
            windows.updates[frame.stream] += frame.number & h2raw.MAX_WINDOW
        elif frame.kind == h2raw.SETTINGS:
            for place in range(0, len(frame.payload) - 5, 6):
                key = int.from_bytes(frame.payload[place : place + 2], "big")
                value = int.from_bytes(frame.payload[place + 2 : place + 6], "big")
                if key == h2raw.INITIAL_WINDOW_SIZE:
                    windows.initial = max(windows.initial, value)
    return windows
