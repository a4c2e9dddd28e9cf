"""WebSockets over HTTP/2 for the tests: the client side is the h2 package's, and each stream looks like a connection of `inprocess.Client`.

So `ws.WebSocket` reads and writes on it what it does on HTTP/1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from certificates import client_context
from conftest import PARSERS
from h2.connection import ConnectionState
from inprocess import HTTP2, InProcess, Response, Truncated, serve

Header = tuple[bytes, bytes]
CANCEL = 8
OVER_2 = " over HTTP/2"
WAYS = [*PARSERS, *(name + OVER_2 for name in PARSERS)]
"""HTTP/1.1 with either parser, and HTTP/2 on either loop: for suites in which nothing is particular to a version."""


def serve_way(app: Any, way: str, **settings: Any) -> Any:
    """`inprocess.serve` for one of WAYS."""
    parser = way.removesuffix(OVER_2)
    return serve(app, parser, **settings) if parser == way else serve2(app, parser, **settings)


@contextmanager
def serve2(app: Any, parser: str, **settings: Any) -> Iterator[InProcess]:
    """`inprocess.serve`, with HTTP/2 by prior knowledge."""
    with serve(app, parser, **HTTP2, **settings) as server:
        yield server


def extended_connect(
    target: bytes = b"/",
    fields: Iterable[Header] = (),
    *,
    version: bytes | None = b"13",
    protocol: bytes = b"websocket",
) -> list[Header]:
    """RFC 8441, 4 and 5."""
    own = [
        (b":method", b"CONNECT"),
        (b":protocol", protocol),
        (b":scheme", b"http"),
        (b":path", target),
        (b":authority", b"a"),
    ]
    return [*own, *([] if version is None else [(b"sec-websocket-version", version)]), *fields]


class Client2:
    """A connection. What comes on a stream stays uncredited until the stream is read."""

    def __init__(
        self,
        server: InProcess,
        receive_buffer: int = 0,
        *,
        tls: bool = False,
        window: int = 65535,
        is_strict: bool = True,
    ) -> None:
        """`window`: of each stream of the client's. Not `is_strict`: whatever header fields are sent, legal or not."""
        self.tcp: Any = (
            server.connect(receive_buffer) if isinstance(server, InProcess) else server.connect()
        )
        if tls:
            context = client_context()
            context.set_alpn_protocols(["h2"])
            self.tcp.sock = context.wrap_socket(self.tcp.sock)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=False,
                validate_outbound_headers=is_strict,
                normalize_outbound_headers=is_strict,
                validate_inbound_headers=True,
            )
        )
        self.h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
            },
        )
        self.streams: dict[int, Stream2] = {}
        self.settings: list[dict[int, int]] = []
        """Each SETTINGS of the server."""
        self.goaways: list[int] = []
        """Their error codes."""
        self.last_stream_ids: list[int] = []
        self.has_ended = False
        self.pongs = 0
        self._rest = b""
        self.h2.initiate_connection()
        self.flush()

    def packet(self, id_: int, data: bytes) -> bytes:
        """`data` on a stream, as bytes of the connection that are not sent yet."""
        self.flush()
        self.h2.send_data(id_, data)
        return bytes(self.h2.data_to_send())

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.has_ended:
            self.tcp.send(data)

    def pump(self) -> bool:
        """Wait for something from the server, and take it. Returns whether there was anything but the end."""
        data = self.tcp.sock.recv(65536)
        if not data:
            self.has_ended = True
            return False
        self._rest += data
        while len(self._rest) >= 9 and len(self._rest) >= (
            size := 9 + int.from_bytes(self._rest[:3], "big")
        ):
            frame, self._rest = self._rest[:size], self._rest[size:]
            for event in self.h2.receive_data(frame):
                self._take(event)
        self.flush()
        return True

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings.append(
                {code: change.new_value for code, change in event.changed_settings.items()}
            )
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(int(event.error_code))
            self.last_stream_ids.append(event.last_stream_id)
            if event.error_code == 0:
                # The package takes any GOAWAY for the end; what is under way goes on behind this one (RFC 9113, 6.8).
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        else:
            stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
            if stream is not None:
                stream.take(event)

    def open(self, headers: list[Header], early: bytes = b"", end: bool = False) -> Stream2:
        """Begin a stream; the request and what is `early` leave in one packet."""
        id_ = self.h2.get_next_available_stream_id()
        stream = self.streams[id_] = Stream2(self, id_)
        self.h2.send_headers(id_, headers, end_stream=end)
        if early:
            self.h2.send_data(id_, early)
        self.flush()
        return stream

    def get(self, target: bytes = b"/") -> Stream2:
        return self.open(
            [
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b":path", target),
                (b":authority", b"a"),
            ],
            end=True,
        )

    def round_trip(self) -> None:
        """Until the server has seen all that was sent, and the client all that this has brought up at once."""
        before = self.pongs
        self.h2.ping(b"12345678")
        self.flush()
        while self.pongs == before:
            assert self.pump(), "the connection ended"

    def close(self) -> None:
        self.tcp.sock.close()

    def read_end(self) -> None:
        """The end of the connection."""
        while self.pump():
            pass


class Stream2:
    """One stream, as the tests of WebSockets use a connection."""

    def __init__(self, connection: Client2, id_: int) -> None:
        self.connection = connection
        self.id = id_
        self.buffer = bytearray()
        self.arrived: list[tuple[bytes, int]] = []
        """What has come, and is neither read nor credited."""
        self.headers: list[Header] | None = None
        self.has_ended = False
        """The server has ended its side."""
        self.has_closed = False
        """The client has."""
        self.error: int | None = None
        """The code of the server's RST_STREAM."""
        self.sock = connection.tcp.sock

    def take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            assert self.headers is None
            self.headers = event.headers
        elif isinstance(event, h2.events.DataReceived):
            assert not self.has_ended
            self.arrived.append((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded):
            self.has_ended = True
        elif isinstance(event, h2.events.StreamReset) and event.remote_reset:
            self.error = int(event.error_code)

    # As of `inprocess.Client`.

    def send(self, data: bytes) -> None:
        """Send all of it, within the windows, which may take until the server opens them."""
        state, view = self.connection.h2, memoryview(data)
        while view:
            room = min(
                state.local_flow_control_window(self.id), state.max_outbound_frame_size, len(view)
            )
            if room:
                state.send_data(self.id, bytes(view[:room]))
                view = view[room:]
                if room < 16384:
                    self.connection.flush()
            else:
                self.connection.flush()
                assert self.connection.pump(), "the connection ended"
                if self.error is not None:
                    raise ConnectionResetError(self.error)
        self.connection.flush()

    def room(self) -> int:
        """How much may be sent without waiting."""
        return int(self.connection.h2.local_flow_control_window(self.id))

    def push(self, block: bytes, limit: int) -> int:
        """Send `block` over and over until the server opens no window any more, at most `limit` bytes; returns how many went."""
        sent = 0
        while sent < limit:
            part = block[sent % len(block) :][: self.room()]
            self.send(part)
            sent += len(part)
            if not self.room():
                self.connection.round_trip()
                self.connection.round_trip()  # what the first has woken up may have taken something
                if not self.room():
                    break
        return sent

    def send_eof(self) -> None:
        if not self.has_closed:
            self.has_closed = True
            self.connection.h2.end_stream(self.id)
            with suppress(OSError):  # the server may have closed the connection
                self.connection.flush()

    def reset(self, code: int = CANCEL) -> None:
        self.connection.h2.reset_stream(self.id, code)
        self.connection.flush()

    def close(self) -> None:
        self.connection.close()

    def _more(self) -> bool:
        while not self.arrived:
            if self.has_ended:
                return False
            if self.error is not None:
                raise ConnectionResetError(self.error)
            if not self.connection.pump():
                raise ConnectionResetError("the connection ended within a stream")
        self._take_arrived()
        return True

    def _take_arrived(self) -> None:
        for data, size in self.arrived:
            self.buffer += data
            if size:
                self.connection.h2.acknowledge_received_data(size, self.id)
        self.arrived.clear()
        try:
            self.connection.flush()
        except OSError:  # the server has closed, and what has come is here
            self.connection.has_ended = True

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_rest(self) -> bytes:
        """Everything up to END_STREAM, behind which the client ends its side, too."""
        while self._more():
            pass
        if self.error is None:
            self.send_eof()
        return self._take(len(self.buffer))

    def read_reset(self) -> int:
        """Up to the server's RST_STREAM; returns its code."""
        while self.error is None:
            assert self.connection.pump(), "the connection ended"
        return self.error

    def has_more(self) -> bool:
        """Whether something has already arrived; for what must not have."""
        self.connection.round_trip()
        return bool(self.buffer or self.arrived)

    def read_head(self) -> Response:
        while self.headers is None:
            if self.error is not None:
                raise ConnectionResetError(self.error)
            assert self.connection.pump(), "the connection ended"
        (name, status), *headers = self.headers
        assert name == b":status"
        assert not any(name.startswith(b":") for name, _ in headers)
        return Response(int(status), b"", list(headers))

    def read_response(self) -> Response:
        """The response, whole. Raises Truncated where it is not."""
        response = self.read_head()
        try:
            while self._more():
                pass
        except ConnectionResetError:
            response.body = self._take(len(self.buffer))
            raise Truncated(response) from None
        response.body = self._take(len(self.buffer))
        for length in response.values(b"content-length"):
            assert response.status == 304 or int(length) == len(response.body)
        return response


def assert_accepted2(response: Response) -> None:
    """RFC 8441, 5, and RFC 9110, 9.3.6: what a 200 to the handshake must and must not have."""
    assert response.status == 200, response
    for name in (
        b"sec-websocket-accept",
        b"upgrade",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"sec-websocket-version",
    ):
        assert not response.values(name), response
    assert len(response.values(b"date")) == 1
    assert len(response.values(b"server")) == 1


def split_fields(lines: Iterable[bytes]) -> list[Header]:
    """Lines of HTTP/1.1 as fields of HTTP/2."""
    pairs = [line.split(b":", 1) for line in lines]
    return [(name.lower(), value.strip()) for name, value in pairs]
