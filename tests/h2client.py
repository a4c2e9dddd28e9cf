"""A polite HTTP/2 client on the h2 package, over a blocking socket.

The package raises an error where the server breaks the protocol. For bytes that it would
neither send nor show, use `h2raw`.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from certificates import client_context
from inprocess import Client, InProcess, Response, Truncated

from gunicorn_asgi.http.contract import Header

if TYPE_CHECKING:
    from process import Gunicorn
    from typing_extensions import Self

MAX_WINDOW = 2**31 - 1
ALL_STREAMS = 2**31 - 1
"""The last stream of a GOAWAY that announces another one (RFC 9113, 6.8)."""
PING, GOAWAY = 6, 7
ACK = 1
REFUSED_STREAM = 7
CANCEL = 8


class Stream:
    """One request, and what has arrived of its response."""

    def __init__(self, client: H2Client, id_: int) -> None:
        self.client = client
        self.id = id_
        self.headers: list[Header] = []
        """Without the pseudo-header field."""
        self.status = 0
        """0 before the final response."""
        self.chunks: list[bytes] = []
        self.trailers: list[Header] | None = None
        self.informed: list[tuple[int, list[Header]]] = []
        """Status and fields of each 1xx response."""
        self.has_ended = False
        """The whole response has arrived."""
        self.reset_code: int | None = None
        """The code of the server's RST_STREAM."""
        self.window_given = 0
        """Bytes of the server's WINDOW_UPDATEs for this stream."""
        self.opens_window = True
        """A WINDOW_UPDATE for this stream answers each DATA frame."""

    def __repr__(self) -> str:
        return (
            f"<stream {self.id}: status {self.status}, {len(self.body)} bytes, "
            f"ended {self.has_ended}, reset {self.reset_code}>"
        )

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_over(self) -> bool:
        return self.has_ended or self.reset_code is not None

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: bytes) -> bytes:
        (value,) = self.values(name)
        return value

    def cancel(self, code: int = CANCEL) -> None:
        """Send RST_STREAM."""
        self.client.h2.reset_stream(self.id, code)
        self.client.flush()

    def read_reset(self) -> int:
        """Read until the server's RST_STREAM. Returns its code."""
        self.client.wait_for(lambda: self.reset_code is not None, f"the reset of {self}")
        assert self.reset_code is not None
        return self.reset_code

    def receive_data(self, data: bytes, size: int) -> None:
        """Keep `data`, which took `size` bytes of the windows, and open the windows again."""
        self.chunks.append(data)
        if size and self.client.opens_window:
            self.client.h2.increment_flow_control_window(size)
        if size and self.opens_window:
            with suppress(h2.exceptions.StreamClosedError):  # END_STREAM came with the data
                self.client.h2.increment_flow_control_window(size, self.id)


class Tunnel(Stream):
    """A stream with the methods of `inprocess.Client`, so that `ws.WebSocket` can run on it.

    Windows open as data is read, not as it arrives.
    """

    def __init__(self, client: H2Client, id_: int) -> None:
        super().__init__(client, id_)
        self.sock = client.sock
        self.buffer = bytearray()
        """Data that was read from the stream and not taken."""
        self._arrived: list[tuple[bytes, int]] = []
        """Data that was not read, and the bytes it took of the windows."""
        self._has_sent_eof = False

    def receive_data(self, data: bytes, size: int) -> None:
        self._arrived.append((data, size))

    def room(self) -> int:
        """Bytes that the windows allow to send."""
        return self.client.h2.local_flow_control_window(self.id)

    def send(self, data: bytes) -> None:
        """Send all of `data`, waiting for the windows. Raises ConnectionResetError."""
        if not self.client.upload(self, data, end=False):
            raise ConnectionResetError(self.reset_code)

    def packet(self, data: bytes) -> bytes:
        """The frame with `data`, which is not sent."""
        self.client.flush()
        self.client.h2.send_data(self.id, data)
        return self.client.h2.data_to_send()

    def push(self, block: bytes, limit: int) -> int:
        """Repeat `block` until the windows stay closed, or for `limit` bytes. Returns the count."""
        sent = 0
        while sent < limit:
            part = block[sent % len(block) :][: self.room()]
            self.send(part)
            sent += len(part)
            if not self.room():
                self.client.synchronize()
                self.client.synchronize()  # the application may have read after the first
                if not self.room():
                    break
        return sent

    def send_eof(self) -> None:
        if not self._has_sent_eof:
            self._has_sent_eof = True
            self.client.h2.end_stream(self.id)
            self.client.flush_if_open()

    def reset(self) -> None:
        """Send RST_STREAM, in place of the reset of a TCP connection."""
        self.cancel()

    def close(self) -> None:
        self.client.close()

    def receive(self) -> bool:
        """Wait for data. Returns False after END_STREAM. Raises ConnectionResetError."""
        while not self._arrived:
            if self.has_ended:
                return False
            if self.reset_code is not None:
                raise ConnectionResetError(self.reset_code)
            if not self.client.read_some():
                raise ConnectionResetError("the connection ended within a stream")
        for data, size in self._arrived:
            self.buffer += data
            if size:
                self.client.h2.acknowledge_received_data(size, self.id)
        self._arrived.clear()
        self.client.flush_if_open()
        return True

    def take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_rest(self) -> bytes:
        """Read until END_STREAM, and then end the client's side too."""
        while self.receive():
            pass
        if self.reset_code is None:
            self.send_eof()
        return self.take(len(self.buffer))

    def has_more(self) -> bool:
        """Whether data has arrived that was not taken."""
        self.client.synchronize()
        return bool(self.buffer or self._arrived)

    def read_head(self) -> Response:
        """Raises ConnectionResetError where the stream ends before the response."""
        self.client.wait_for(lambda: self.status or self.reset_code is not None, "a response")
        if not self.status:
            raise ConnectionResetError(self.reset_code)
        return Response(self.status, b"", list(self.headers))

    def read_response(self) -> Response:
        """The whole response. Raises Truncated where the stream ends before it does."""
        response = self.read_head()
        try:
            while self.receive():
                pass
        except ConnectionResetError:
            response.body = self.take(len(self.buffer))
            raise Truncated(response) from None
        response.body = self.take(len(self.buffer))
        for length in response.values(b"content-length"):
            assert response.status == 304 or int(length) == len(response.body)
        return response


class H2Client:
    """One connection. It continues after a GOAWAY, which the package takes for the end."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        settings: Mapping[int, int] | None = None,
        connection_window: int = 0,
        upgraded: bool = False,
        received: bytes = b"",
        starts: bool = True,
        answers_pings: bool = True,
    ) -> None:
        """Send the preface and SETTINGS, unless `starts` is false.

        `settings` are those of the first SETTINGS frame. `connection_window` is added to the
        window of the connection. `upgraded`: a request for ``Upgrade: h2c`` became stream 1, and
        `received` was read after the 101 response.
        """
        self.sock = sock
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream] = {}
        self.opens_window = True
        """A WINDOW_UPDATE for the connection answers each DATA frame."""
        self.window_given = 0
        """Bytes of the server's WINDOW_UPDATEs for the connection."""
        self.server_settings: list[dict[int, int]] = []
        """The values of each SETTINGS frame of the server."""
        self.goaways: list[tuple[int, int]] = []
        """(last stream, code) of each GOAWAY."""
        self.pings = 0
        """PINGs of the server."""
        self.is_closed = False
        """The server has closed the connection."""
        self._answers_pings = answers_pings
        self._pongs: list[bytes] = []
        self._buffer = bytearray()
        if settings is not None:
            self.h2.local_settings = h2.settings.Settings(
                client=True, initial_values=dict(settings)
            )
        if upgraded:
            self.h2.initiate_upgrade_connection()
            self.streams[1] = Stream(self, 1)
        elif starts:
            self.h2.initiate_connection()
        if connection_window:
            self.h2.increment_flow_control_window(connection_window)
        if starts:
            self.flush()
        self._receive(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> tuple[str, int]:
        """The client's address, as the server sees it."""
        address: tuple[str, int] = self.sock.getsockname()
        return address

    # Sending.

    def send(self, data: bytes) -> None:
        """Send bytes without the package."""
        self.sock.sendall(data)

    def flush(self) -> None:
        """Send the frames of the package."""
        data = self.h2.data_to_send()
        if data:
            self.send(data)

    def flush_if_open(self) -> None:
        """The same where the server may have closed the connection."""
        with suppress(OSError):
            self.flush()

    def begin(
        self,
        method: str = "GET",
        target: str = "/",
        *fields: Header,
        end: bool = True,
        flush: bool = True,
    ) -> Stream:
        """Open a stream with the usual pseudo-header fields. `end`: the request has no body."""
        pseudo = [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":authority", b"a"),
            (b":path", target.encode("latin-1")),
        ]
        return self.begin_raw([*pseudo, *fields], end, flush)

    def begin_raw(self, fields: Iterable[Header], end: bool = True, flush: bool = True) -> Stream:
        """Open a stream with exactly these fields."""
        return self._open(Stream, fields, end, flush)

    def tunnel(self, fields: Iterable[Header], early: bytes = b"", end: bool = False) -> Tunnel:
        """Open a stream to be read like a connection. `early` data goes in the same packet."""
        tunnel = self._open(Tunnel, fields, end, flush=False)
        if early:
            self.h2.send_data(tunnel.id, early)
        self.flush()
        return tunnel

    def _open(self, kind: type[Any], fields: Iterable[Header], end: bool, flush: bool) -> Any:
        stream = kind(self, self.h2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.h2.send_headers(stream.id, list(fields), end_stream=end)
        if flush:
            self.flush()
        return stream

    def upload(self, stream: Stream, data: bytes, end: bool = True) -> bool:
        """Send a part of a request's body, reading while a window is closed.

        Returns False where the server resets the stream before all of it was sent.
        """
        rest = memoryview(data)
        while rest:
            self.wait_for(
                lambda: (
                    stream.reset_code is not None
                    or self.h2.local_flow_control_window(stream.id) > 0
                ),
                f"a window for {stream}",
            )
            if stream.reset_code is not None:
                return False
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
        return True

    def open_window(self, size: int, stream: Stream | None = None) -> None:
        """Open the window of `stream`, or of the connection, by `size` bytes."""
        self.h2.increment_flow_control_window(size, stream.id if stream else None)
        self.flush()

    def send_goaway(self) -> None:
        """Send GOAWAY without the package, which would send nothing after it."""
        self.send(bytes([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0]) + bytes(8))

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Reset the TCP connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # Receiving.

    def wait_for(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Read until `condition` is true. Fails where the server closes before that."""
        while not condition():
            assert self.read_some(), (
                f"the connection ended before {what}: {self.goaways}, {list(self.streams.values())}"
            )

    def read_some(self, size: int = 65536) -> bool:
        """Read once. Returns False where the server has closed the connection."""
        try:
            data = self.sock.recv(size)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        self._receive(data)
        return True

    def read_response(self, stream: Stream) -> Stream:
        """Read until the response has ended, or the server has reset `stream`."""
        self.wait_for(lambda: stream.is_over, f"the end of {stream}")
        return stream

    def get(
        self, method: str = "GET", target: str = "/", *fields: Header, body: bytes | None = None
    ) -> Stream:
        """One whole exchange."""
        stream = self.begin(method, target, *fields, end=body is None)
        if body is not None:
            self.upload(stream, body)
        return self.read_response(stream)

    def synchronize(self) -> None:
        """Send a PING and read until its answer: the server has processed everything sent."""
        mark = b"%08d" % len(self._pongs)
        self.h2.ping(mark)
        self.flush()
        self.wait_for(lambda: mark in self._pongs, "the answer to a PING")

    def read_to_the_end(self) -> None:
        """Read until the server closes the connection."""
        while self.read_some():
            pass

    def is_open(self) -> bool:
        """Whether the server answers one more request."""
        try:
            return self.get().status > 0
        except (OSError, AssertionError, h2.exceptions.ProtocolError):
            return False

    @property
    def last_stream(self) -> int:
        """The last stream to be processed, by the server's word."""
        return min([last for last, _ in self.goaways], default=ALL_STREAMS)

    def _receive(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 9 and len(buffer) >= (size := 9 + int.from_bytes(buffer[:3], "big")):
            frame = bytes(buffer[:size])
            del buffer[:size]
            if self._is_for_package(frame):
                # One at a time: the package answers a frame before it sees the next.
                for event in self.h2.receive_data(frame):
                    handler = self._HANDLERS.get(type(event))
                    if handler is not None:
                        handler(self, event)
        self.flush_if_open()

    def _is_for_package(self, frame: bytes) -> bool:
        """Note GOAWAY and PING frames. Returns whether the package is to see this frame."""
        kind, flags = frame[3], frame[4]
        if kind == GOAWAY:
            last, code = frame[9:13], frame[13:17]
            self.goaways.append((int.from_bytes(last, "big"), int.from_bytes(code, "big")))
            return False
        if kind == PING and not flags & ACK:
            self.pings += 1
            return self._answers_pings
        return True

    def _on_head(self, event: Any) -> None:
        stream = self.streams[event.stream_id]
        assert not stream.status, "a second final response"
        stream.status, stream.headers = _split_status(event.headers)

    def _on_inform(self, event: Any) -> None:
        self.streams[event.stream_id].informed.append(_split_status(event.headers))

    def _on_data(self, event: Any) -> None:
        stream = self.streams[event.stream_id]
        stream.receive_data(bytes(event.data), event.flow_controlled_length)

    def _on_trailers(self, event: Any) -> None:
        self.streams[event.stream_id].trailers = [
            (bytes(name), bytes(value)) for name, value in event.headers
        ]

    def _on_end(self, event: Any) -> None:
        self.streams[event.stream_id].has_ended = True

    def _on_reset(self, event: Any) -> None:
        assert event.remote_reset, "the server has broken the protocol on a stream"
        self.streams[event.stream_id].reset_code = int(event.error_code)

    def _on_window(self, event: Any) -> None:
        if event.stream_id:
            self.streams[event.stream_id].window_given += event.delta
        else:
            self.window_given += event.delta

    def _on_settings(self, event: Any) -> None:
        self.server_settings.append(
            {code: change.new_value for code, change in event.changed_settings.items()}
        )

    def _on_pong(self, event: Any) -> None:
        self._pongs.append(bytes(event.ping_data))

    _HANDLERS: Mapping[type, Callable[[H2Client, Any], None]] = {
        h2.events.ResponseReceived: _on_head,
        h2.events.InformationalResponseReceived: _on_inform,
        h2.events.DataReceived: _on_data,
        h2.events.TrailersReceived: _on_trailers,
        h2.events.StreamEnded: _on_end,
        h2.events.StreamReset: _on_reset,
        h2.events.WindowUpdated: _on_window,
        h2.events.RemoteSettingsChanged: _on_settings,
        h2.events.PingAckReceived: _on_pong,
    }


def _split_status(fields: Iterable[Header]) -> tuple[int, list[Header]]:
    """The status, and the fields of a response."""
    (name, status), *rest = ((bytes(name), bytes(value)) for name, value in fields)
    assert name == b":status"
    return int(status), rest


def connect(
    server: InProcess,
    *,
    tls: bool | ssl.SSLContext = False,
    receive_buffer: int = 0,
    upgrade: bytes = b"",
    **how: Any,
) -> H2Client:
    """A client of `server`, closed with it.

    `upgrade`: the first lines of a request for ``Upgrade: h2c``. `how`: as H2Client takes it.
    """
    client = server.connect(receive_buffer)
    if tls:
        client.sock = wrap(client.sock, None if tls is True else tls)
    if upgrade:
        _upgrade(client, upgrade)
        how.update(upgraded=True, received=client.take(len(client.buffer)))
    return H2Client(client.sock, **how)


def connect_gunicorn(server: Gunicorn, **how: Any) -> H2Client:
    """A client of a running Gunicorn, by ALPN or by prior knowledge; to be closed."""
    sock = server.connect().sock
    return H2Client(wrap(sock) if server.scheme == "https" else sock, **how)


def wrap(sock: socket.socket, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """Negotiate HTTP/2 over TLS."""
    context = context or client_context()
    context.set_alpn_protocols(["h2"])
    wrapped = context.wrap_socket(sock)
    assert wrapped.selected_alpn_protocol() == "h2"
    return wrapped


def _upgrade(client: Client, lines: bytes) -> None:
    fields = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAQAAP__\r\n\r\n"
    )
    client.send(lines + fields)
    head = client.read_head()
    assert head.status == 101, head
