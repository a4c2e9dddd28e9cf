"""A client that speaks HTTP/2 over a blocking socket, on the h2 package: what the server sends has to be in order for it, or it raises.

It does what a test tells it to: many streams at once, bodies in pieces, windows that stay shut, requests that no client would send. The one to use,
unless a test wants what only another has: `h2raw`, frames that the package would not send or not pass on; `ws2`, a stream that looks like a connection;
`talk`, a socket that somebody else has made, each GOAWAY as it comes, and PINGs that stay without an answer.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from certificates import client_context
from inprocess import Client, InProcess

from gunicorn_asgi.http.contract import Header

MAX_WINDOW = 2**31 - 1


@dataclass
class Stream:
    """One request, and what has come of its response."""

    id: int
    headers: list[Header] = field(default_factory=list)
    """Without the pseudo-header field."""
    status: int = 0
    """0 as long as there is none."""
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[Header] | None = None
    informed: list[tuple[int, list[Header]]] = field(default_factory=list)
    """Status and fields of the 1xx responses."""
    has_ended: bool = False
    """The whole response is here."""
    reset: int | None = None
    """The code of the RST_STREAM that came."""
    window_given: int = 0
    """Bytes of the WINDOW_UPDATEs that came for it."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.reset is not None

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: bytes) -> bytes:
        (value,) = self.values(name)
        return value


class H2Client(Client):
    """One connection. Windows are opened again by what is read, but for the streams in `withheld` and with `gives_connection` for all of them."""

    def __init__(
        self,
        address: Any,
        *,
        tls: bool | ssl.SSLContext = False,
        settings: Mapping[int, int] | None = None,
        connection_window: int = 0,
        receive_buffer: int = 0,
        upgrade: bytes = b"",
        starts: bool = True,
    ) -> None:
        """`settings` are those of the first SETTINGS frame, `connection_window` is added to the connection's, `upgrade` the first lines of a request
        for ``Upgrade: h2c``, which becomes stream 1. Without `starts` nothing is sent yet."""
        super().__init__(address, receive_buffer)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream] = {}
        self.withheld: set[int] = set()
        """Streams whose window stays as it is."""
        self.gives_connection = True
        """The connection's window is opened again."""
        self.window_given = 0
        """Bytes of the WINDOW_UPDATEs that came for the connection."""
        self.goaway: list[tuple[int, int]] = []
        """(code, last stream) of each GOAWAY that came."""
        self.pongs: list[bytes] = []
        self.is_closed = False
        """The server has closed."""
        if settings is not None:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values=dict(settings)
            )
        if tls:
            self._start_tls(client_context() if tls is True else tls)
        if upgrade:
            self._upgrade(upgrade)
        elif starts:
            self.h2.initiate_connection()
        if connection_window:
            self.h2.increment_flow_control_window(connection_window)
        if starts:
            self.flush()
        if upgrade:
            self._take_frames(self.buffer_rest())

    def _start_tls(self, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["h2"])
        self.sock = context.wrap_socket(self.sock)
        assert isinstance(self.sock, ssl.SSLSocket)
        assert self.sock.selected_alpn_protocol() == "h2"

    def _upgrade(self, lines: bytes) -> None:
        settings = self.h2.initiate_upgrade_connection()
        assert settings is not None
        fields = (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %b\r\n\r\n"
            % settings
        )
        self.sock.sendall(lines + fields)
        head = self.read_head()
        assert head.status == 101, head
        self.streams[1] = Stream(1)

    def buffer_rest(self) -> bytes:
        """What was read and not looked at."""
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    # Sending.

    def flush(self) -> None:
        """Write what the h2 package has to send."""
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def begin(
        self,
        method: str = "GET",
        target: str = "/",
        *fields: Header,
        end: bool = True,
        flush: bool = True,
    ) -> Stream:
        """Open a stream with a request as browsers send it; its body follows unless `end`."""
        pseudo = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", b"a"),
            (b":path", target.encode("latin-1")),
        ]
        return self.begin_raw([*pseudo, *fields], end, flush)

    def begin_raw(self, fields: Iterable[Header], end: bool = True, flush: bool = True) -> Stream:
        """The same with whatever `fields`."""
        stream = Stream(self.h2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.h2.send_headers(stream.id, list(fields), end_stream=end)
        if flush:
            self.flush()
        return stream

    def upload(self, stream: Stream, data: bytes, end: bool = True) -> None:
        """Send a part of a request's body, reading meanwhile when a window is shut."""
        rest = memoryview(data)
        while rest:
            self.wait_for(
                lambda: stream.reset is not None or self.h2.local_flow_control_window(stream.id) > 0
            )
            if stream.reset is not None:
                return
            size = min(
                len(rest),
                self.h2.local_flow_control_window(stream.id),
                self.h2.max_outbound_frame_size,
            )
            part, rest = bytes(rest[:size]), rest[size:]
            self.h2.send_data(stream.id, part, end_stream=end and not rest)
            self.flush()
        if end and not data:
            self.h2.end_stream(stream.id)
            self.flush()

    def cancel(self, stream: Stream, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        """Give the stream up: RST_STREAM."""
        self.h2.reset_stream(stream.id, code)
        self.flush()

    def open_window(self, size: int, stream: Stream | None = None) -> None:
        """Let the server send so much more on `stream`, or on the connection."""
        self.h2.increment_flow_control_window(size, stream.id if stream else None)
        self.flush()

    def leave(self) -> None:
        """Send GOAWAY: past the h2 package, which would take nothing more then."""
        self.send(bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + bytes(8))

    # Receiving.

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Read until `condition` holds. Fails where the server closes before it does."""
        while not condition():
            assert self.read_some(), "the connection ended before it came true"

    def read_some(self) -> bool:
        """Read once. Returns False where the server has closed."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        self._take_frames(data)
        return True

    def read_response(self, stream: Stream) -> Stream:
        """Read until `stream` is over, well or not."""
        self.wait_for(lambda: stream.is_over)
        return stream

    def get(
        self, method: str = "GET", target: str = "/", *fields: Header, body: bytes | None = None
    ) -> Stream:
        """A whole exchange."""
        stream = self.begin(method, target, *fields, end=body is None)
        if body is not None:
            self.upload(stream, body)
        return self.read_response(stream)

    def synchronize(self) -> None:
        """Until the server has taken all that was sent to it, and what it had to say by then is here."""
        mark = b"%08d" % len(self.pongs)
        self.h2.ping(mark)
        self.flush()
        self.wait_for(lambda: mark in self.pongs)

    def read_to_the_end(self) -> None:
        """Read until the server closes."""
        while self.read_some():
            pass

    def is_open(self) -> bool:
        """Whether the server answers one more request."""
        try:
            return self.get().status > 0
        except (OSError, AssertionError, h2.exceptions.ProtocolError):
            return False

    def _take_frames(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 9:
            size = 9 + int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < size:
                break
            # One at a time: the package answers to a frame before it has seen the next.
            for event in self.h2.receive_data(self._take(size)):
                handler = self._HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event)
        self.flush_answers()

    def flush_answers(self) -> None:
        """What the h2 package answers by itself; the server may be gone by now."""
        data = self.h2.data_to_send()
        if data:
            try:
                self.sock.sendall(data)
            except OSError:
                return

    def _on_head(self, event: Any) -> None:
        stream = self.streams[event.stream_id]
        assert not stream.status, "a second final response"
        stream.headers = [
            (bytes(name), bytes(value)) for name, value in event.headers if name[:1] != b":"
        ]
        stream.status = _status(event.headers)

    def _on_inform(self, event: Any) -> None:
        fields = [(bytes(name), bytes(value)) for name, value in event.headers if name[:1] != b":"]
        self.streams[event.stream_id].informed.append((_status(event.headers), fields))

    def _on_data(self, event: Any) -> None:
        self.streams[event.stream_id].chunks.append(bytes(event.data))
        size = event.flow_controlled_length
        if size and self.gives_connection:
            self.h2.increment_flow_control_window(size)
        if size and event.stream_id not in self.withheld:
            with suppress(h2.exceptions.StreamClosedError):  # its end came with this
                self.h2.increment_flow_control_window(size, event.stream_id)

    def _on_trailers(self, event: Any) -> None:
        self.streams[event.stream_id].trailers = [
            (bytes(name), bytes(value)) for name, value in event.headers
        ]

    def _on_end(self, event: Any) -> None:
        self.streams[event.stream_id].has_ended = True

    def _on_reset(self, event: Any) -> None:
        assert event.remote_reset, "the h2 package has found a fault"
        self.streams[event.stream_id].reset = int(event.error_code)

    def _on_window(self, event: Any) -> None:
        if event.stream_id:
            self.streams[event.stream_id].window_given += event.delta
        else:
            self.window_given += event.delta

    def _on_goaway(self, event: Any) -> None:
        self.goaway.append((int(event.error_code), event.last_stream_id))
        # The package takes nothing more behind a GOAWAY; the streams that there are go on (RFC 9113, 6.8).
        if self.h2.state_machine.state is h2.connection.ConnectionState.CLOSED:
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def _on_pong(self, event: Any) -> None:
        self.pongs.append(bytes(event.ping_data))

    _HANDLERS: Mapping[type, Callable[[H2Client, Any], None]] = {
        h2.events.ResponseReceived: _on_head,
        h2.events.InformationalResponseReceived: _on_inform,
        h2.events.DataReceived: _on_data,
        h2.events.TrailersReceived: _on_trailers,
        h2.events.StreamEnded: _on_end,
        h2.events.StreamReset: _on_reset,
        h2.events.WindowUpdated: _on_window,
        h2.events.ConnectionTerminated: _on_goaway,
        h2.events.PingAckReceived: _on_pong,
    }


def _status(headers: Iterable[Header]) -> int:
    return int(next(value for name, value in headers if name == b":status"))


def connect(server: InProcess, **how: Any) -> H2Client:
    """A client of `server`, which is closed with it."""
    client = H2Client(server.address, **how)
    server.clients.append(client)
    return client


def encode_settings(values: Mapping[int, int]) -> bytes:
    """As the header field HTTP2-Settings has them."""
    data = b"".join(
        setting.to_bytes(2, "big") + value.to_bytes(4, "big") for setting, value in values.items()
    )
    return base64.urlsafe_b64encode(data).rstrip(b"=")
