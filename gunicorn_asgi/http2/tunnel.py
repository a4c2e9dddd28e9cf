"""The `WebSocketTransport` of a WebSocket on one stream of an HTTP/2 connection (RFC 8441, 5)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from ..http.contract import NEVER
from ..net.deadlines import Deadline
from ..net.transport import LINGER_SECONDS, ConnectionHost, Transport
from .budget import REFUSED, RESET
from .frame_writer import FrameWriter
from .frames import ErrorCode
from .outbox import SendQueue
from .protocol import Protocol
from .stream import STREAM_CLOSED, Stream

if TYPE_CHECKING:
    from ..asgi.websocket import WebSocketStream


class TunnelConnection(TypingProtocol):
    """The connection, as far as a tunnel needs it."""

    host: ConnectionHost
    transport: Transport
    protocol: Protocol
    writer: FrameWriter


class TunnelOwner(TypingProtocol):
    """The exchange, as far as its tunnel needs it."""

    h2_stream: Stream
    queue: SendQueue
    deadline: float

    @property
    def connection(self) -> TunnelConnection: ...

    @property
    def has_finished(self) -> bool: ...

    @property
    def delivery_deadline(self) -> float: ...

    def is_stuck(self) -> bool: ...

    def set_deadline(self, deadline: float) -> None: ...

    def put(self, data: bytes, end: bool) -> None: ...

    def reset(self, code: ErrorCode) -> None: ...

    def connection_lost(self) -> None: ...

    def end_log(self) -> None: ...

    def finish_tunnel(self) -> None: ...


class TunnelState(Enum):
    """The life of a tunnel. It only advances."""

    HANDSHAKE = "the application has not accepted the WebSocket"
    OPEN = "bytes pass both ways"
    ENDED = "one of the two sides has ended it"


TUNNEL_HANDSHAKE, TUNNEL_OPEN, TUNNEL_ENDED = TunnelState


class Tunnel:
    """Passes bytes both ways, and sees to the end. The stream's window stops a fast client."""

    __slots__ = (
        "_early",
        "_end_deadline",
        "_exchange",
        "_is_reading_paused",
        "_state",
        "_stream",
        "is_accepted",
    )

    def __init__(self, exchange: TunnelOwner, stream: WebSocketStream) -> None:
        self._exchange = exchange
        self._stream = stream
        self._early = bytearray()
        """Data that has arrived before the WebSocket was accepted: within the stream's window."""
        self.is_accepted = False
        self._state: TunnelState = TUNNEL_HANDSHAKE
        self._is_reading_paused = False
        """The application has enough to read."""
        self._end_deadline = NEVER
        """The client has ended its side, and the application has not read everything. When the
        stream is told of the end all the same."""

    @property
    def is_open(self) -> bool:
        """Whether the WebSocket is accepted, and neither side has ended it."""
        return self._state is TUNNEL_OPEN

    @property
    def is_reading_paused(self) -> bool:
        """Whether the application has enough to read."""
        return self._is_reading_paused

    # From the exchange.

    def data_received(self, data: bytes, end: bool) -> None:
        """A part of the client's data, the last one if `end`."""
        exchange = self._exchange
        if not self.is_accepted and not exchange.has_finished:
            self._early += data
            if end and not exchange.h2_stream.is_answered:
                # The client has gone within its handshake. After a denial, this is an ordinary end.
                exchange.connection.protocol.budget.take(RESET)
                exchange.reset(ErrorCode.CANCEL)
            return
        if self._state is TUNNEL_OPEN:
            if data:
                self._stream.feed_data(data)
            if end:
                self._feed_eof()
        if not self._is_reading_paused or self._state is not TUNNEL_OPEN:
            self._consume()
        if exchange.h2_stream.state is STREAM_CLOSED:
            exchange.connection_lost()

    def _feed_eof(self) -> None:
        if self._state is not TUNNEL_OPEN:
            return
        if not self._is_reading_paused:
            self._stream.feed_eof()
            return
        # There may be a Close frame in the data that is not read.
        exchange, host = self._exchange, self._exchange.connection.host
        limits = host.settings.websocket
        assert limits is not None
        self._end_deadline = host.tick_end + limits.close_timeout_s
        exchange.set_deadline(min(exchange.deadline, self._end_deadline))

    def connection_lost(self) -> None:
        """The stream or the connection is gone."""
        self._state = TUNNEL_ENDED
        self._early.clear()  # its window is given back

    def accept(self) -> bytes:
        """The handshake is complete. Returns the data that has arrived already."""
        self.is_accepted = True
        self._state = TUNNEL_OPEN
        self._is_reading_paused = True  # until `resume_reading`
        data = bytes(self._early)
        self._early.clear()
        host = self._exchange.connection.host
        if host.is_closing_websockets:
            host.loop.call_soon(self.close_websocket)
        return data

    def close_websocket(self) -> None:
        """The worker stops."""
        if self._state is TUNNEL_OPEN:
            self._stream.ask_to_end()

    def end_sent(self) -> None:
        """This side has ended: the client has a moment to end its own."""
        limit = self._exchange.connection.host.tick_end + LINGER_SECONDS
        self._exchange.set_deadline(limit)

    def release(self) -> None:
        """Everything is over."""
        # They refer to each other, and the stream holds much memory: it is not left to the garbage
        # collector.
        del self._stream

    # Deadlines.

    def deadline_passed(self) -> None:
        """The exchange's deadline has passed. Acts by the table `TUNNEL_DEADLINES`."""
        TUNNEL_DEADLINES[self._waits_for()].action(self)

    def _waits_for(self) -> TunnelWait:
        now = self._exchange.connection.host.tick_end
        if self._exchange.is_stuck():
            return TunnelWait.DELIVERY
        if self._state is not TUNNEL_OPEN:
            return TunnelWait.CLIENT_END
        return TunnelWait.UNREAD_END if self._end_deadline <= now else TunnelWait.STREAM

    def _reset(self) -> None:
        self._exchange.reset(ErrorCode.CANCEL)  # RFC 8441, 5: the counterpart of a TCP reset

    def _end(self) -> None:
        deadline = self._exchange.delivery_deadline
        if deadline == NEVER:
            self._reset()
        else:
            self._exchange.set_deadline(deadline)

    def _end_unread(self) -> None:
        self._end_deadline = NEVER
        self._stream.feed_eof()

    def _pass_deadline(self) -> None:
        if self._stream.deadline <= self._exchange.connection.host.tick_end:
            self._stream.deadline_passed()
        self.deadline_changed()

    # For the stream: see `http.contract.WebSocketTransport`.

    def write(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange.h2_stream.state is STREAM_CLOSED:
            return  # by a reset in the data that is just being read
        exchange.put(data, False)
        exchange.connection.writer.flush_soon()
        if exchange.queue.size:
            exchange.set_deadline(min(exchange.deadline, exchange.delivery_deadline))

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        self._is_reading_paused = False
        if self._state is not TUNNEL_OPEN:
            return  # everything is given back, and the connection may be gone
        self._consume()
        if self._end_deadline != NEVER:
            self._end_unread()

    def deadline_changed(self) -> None:
        if self._state is TUNNEL_OPEN:
            exchange = self._exchange
            deadlines = (self._stream.deadline, exchange.delivery_deadline, self._end_deadline)
            exchange.set_deadline(min(deadlines))

    def close(self, is_clean: bool) -> None:
        if self._state is not TUNNEL_OPEN:
            return
        self._state = TUNNEL_ENDED
        exchange = self._exchange
        if exchange.h2_stream.state is not STREAM_CLOSED:
            exchange.put(b"", True)
        self._consume()
        exchange.connection.writer.flush_soon()
        exchange.end_log()
        if exchange.h2_stream.state is STREAM_CLOSED:
            exchange.connection.host.loop.call_soon(exchange.connection_lost)
        elif exchange.queue.size:
            exchange.set_deadline(exchange.delivery_deadline)
        else:
            self.end_sent()

    def abort(self) -> None:
        if self._state is TUNNEL_OPEN:
            self._state = TUNNEL_ENDED
            exchange = self._exchange
            exchange.end_log()
            exchange.connection.protocol.streams.reset(exchange.h2_stream, ErrorCode.CANCEL)
            exchange.connection.writer.flush_soon()
            exchange.connection.host.loop.call_soon(exchange.connection_lost)

    def fail(self, reason: str) -> None:
        connection = self._exchange.connection
        connection.protocol.budget.take(REFUSED)
        connection.transport.log_invalid("WebSocket frame", reason)
        self.close(is_clean=False)

    def finish(self) -> None:
        self._exchange.finish_tunnel()

    def _consume(self) -> None:
        stream, connection = self._exchange.h2_stream, self._exchange.connection
        if stream.unread:
            connection.protocol.flow.consume(stream, stream.unread)
            connection.writer.flush_soon()


class TunnelWait(IntEnum):
    """The things that a tunnel waits for."""

    DELIVERY = 0
    """The client takes queued data."""
    CLIENT_END = 1
    """The client ends its side, after this one."""
    UNREAD_END = 2
    """The application reads the data before the client's end."""
    STREAM = 3
    """A deadline of the WebSocket: see `asgi.websocket_session`."""


TUNNEL_DEADLINES: Mapping[TunnelWait, Deadline[Tunnel]] = {
    TunnelWait.DELIVERY: Deadline("write_timeout", Tunnel._reset),
    TunnelWait.CLIENT_END: Deadline("LINGER_SECONDS; RFC 8441, 5", Tunnel._end),
    TunnelWait.UNREAD_END: Deadline("ws_close_timeout", Tunnel._end_unread),
    TunnelWait.STREAM: Deadline("ASGIStream.deadline", Tunnel._pass_deadline),
}
"""The limit of each wait, and the action after it."""
