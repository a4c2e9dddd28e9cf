"""A client of HTTP/2 on a socket that somebody else has made, on the h2 package: for the beginning and the end of connections to a real Gunicorn.

It counts PINGs and may leave them without an answer, and keeps each GOAWAY from the package, which would take the first one for the end of everything.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from typing_extensions import Self

WAIT = 30.0
"""Seconds after which what was waited for counts as never coming."""
HEADER = struct.Struct(">HBBBL")
PING, GOAWAY = 6, 7
ALL = 2**31 - 1
"""The last stream of a GOAWAY that only announces another (RFC 9113, 6.8)."""
REFUSED_STREAM = 7


@dataclass
class Answer:
    """What has come of a response."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    reset: int | None = None
    """The code of the RST_STREAM that it ended with."""

    @property
    def has_ended(self) -> bool:
        return self.is_whole or self.reset is not None


class Talk:
    """A connection. It goes on behind a GOAWAY, which the h2 package by itself takes for the end of everything that is under way.

    `holds_pings`: it never acknowledges one. `upgrade`: behind a 101, where stream 1 is the request that asked for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        holds_pings: bool = False,
        upgrade: bool = False,
        window: int = 0,
    ) -> None:
        self.sock = sock
        self.answers: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int]] = []
        """The last stream and the code of each that has come."""
        self.pings = 0
        self.has_ended = False
        """The server has closed the connection."""
        self._holds_pings = holds_pings
        self._held = b""
        self.h2 = H2Connection(H2Configuration(header_encoding=None))
        if window:
            self.h2.local_settings = self.h2.local_settings.__class__(
                client=True,
                initial_values={
                    **dict(self.h2.local_settings),
                    SettingCodes.INITIAL_WINDOW_SIZE: window,
                },
            )
        if upgrade:
            self.h2.initiate_upgrade_connection()
            self.answers[1] = Answer()
        else:
            self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # What goes.

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.sock.sendall(data)

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        *,
        end: bool = True,
    ) -> int:
        """Send a request, or only its head unless `end`; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", path),
            *headers,
        ]
        self.h2.send_headers(stream, fields, end_stream=end)
        self.answers[stream] = Answer()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a part of a body, as the windows allow it."""
        while data:
            size = min(
                self.h2.local_flow_control_window(stream),
                self.h2.max_outbound_frame_size,
                len(data),
            )
            if size:
                part, data = data[:size], data[size:]
                self.h2.send_data(stream, part, end_stream=end and not data)
                self.flush()
                if end and not data:
                    return
            else:
                self.receive()
                assert not self.has_ended, "the connection has ended within a body"
        if end:
            self.h2.end_stream(stream)
            self.flush()

    # What comes.

    def receive(self) -> None:
        """Wait for something, and take it."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.has_ended = True
            return
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        data = self._held + data
        taken = b""
        while len(data) >= HEADER.size:
            high, low, kind, flags, _ = HEADER.unpack_from(data)
            end = HEADER.size + (high << 8 | low)
            if len(data) < end:
                break
            frame, data = data[:end], data[end:]
            if kind == GOAWAY:
                last, code = struct.unpack_from(">LL", frame, HEADER.size)
                self.goaways.append((last, code))
                continue
            if kind == PING and not flags & 1:
                self.pings += 1
                if self._holds_pings:
                    continue
            taken += frame
        self._held = data
        for event in self.h2.receive_data(taken):
            self._take(event)
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the server may have closed behind what it has sent
            self.flush()

    def _take(self, event: Any) -> None:
        answer = self.answers.get(getattr(event, "stream_id", 0))
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            fields = dict(event.headers)
            answer.status, answer.headers = int(fields[b":status"]), fields
        elif isinstance(event, DataReceived):
            answer.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            answer.headers.update(event.headers)
        elif isinstance(event, StreamEnded):
            answer.is_whole = True
        elif isinstance(event, StreamReset):
            answer.reset = event.error_code

    def wait(self, condition: Callable[[], object], what: str = "what was waited for") -> None:
        """Receive until `condition` holds."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert not self.has_ended, (
                f"the connection has ended before {what}: {self.goaways} {self.answers}"
            )
            assert time.monotonic() < deadline, (
                f"{what} did not come: {self.goaways} {self.answers}"
            )
            self.receive()

    def read(self, stream: int) -> Answer:
        """The whole response on `stream`, or as much as there was before its reset."""
        answer = self.answers[stream]
        self.wait(lambda: answer.has_ended, f"the end of stream {stream}")
        return answer

    def get(self, path: str = "/") -> Answer:
        return self.read(self.ask(path))

    def read_to_end(self) -> None:
        """Receive until the server has closed."""
        while not self.has_ended:
            self.receive()

    @property
    def is_announced(self) -> bool:
        """Whether the first of the two GOAWAYs has come."""
        return bool(self.goaways)

    @property
    def last_stream(self) -> int:
        """Up to which the server says that it takes them."""
        return min([last for last, _ in self.goaways], default=ALL)


def offering(*protocols: str) -> ssl.SSLContext:
    """The context of a client that offers `protocols` in its handshake, and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
