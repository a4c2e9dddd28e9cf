"""The `WebSocketTransport` of a WebSocket on one stream of an HTTP/2 connection (RFC 8441, 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..http.contract import NEVER
from ..net.connection import LINGER_SECONDS
from .budget import REFUSED, RESET
from .frames import Code
from .streams import CLOSED

if TYPE_CHECKING:
    from ..asgi.websocket import WebSocketStream
    from .exchange import Exchange


class Tunnel:
    """Passes bytes both ways, and sees to the end. The stream's window is what holds the client back."""

    __slots__ = (
        "_early",
        "_end_until",
        "_exchange",
        "_is_held",
        "_is_open",
        "_stream",
        "_stuck_at",
        "is_accepted",
    )

    def __init__(self, exchange: Exchange, stream: WebSocketStream) -> None:
        self._exchange = exchange
        self._stream = stream
        self._early = bytearray()
        """What has come before the WebSocket was accepted: within the stream's window."""
        self.is_accepted = False
        self._is_open = False
        """Since it was accepted, until one of the two sides ends it."""
        self._is_held = False
        """The application has enough to read."""
        self._stuck_at = NEVER
        """When something of what is queued has to have left."""
        self._end_until = NEVER
        """The client has ended its side, behind what the application has not read; when it is told of that all the same."""

    # From the exchange.

    def received(self, data: bytes, end: bool) -> None:
        """Some of what the client sends, all of it if `end`."""
        exchange = self._exchange
        if not self.is_accepted and not exchange.has_ended:
            self._early += data
            if (
                end and not exchange.lane.is_answered
            ):  # the client has gone in the midst of its handshake; with a denial, that would be its request's end
                exchange.connection.protocol.charge(RESET)
                exchange.reset(Code.CANCEL)
            return
        if self._is_open:
            if data:
                self._stream.feed_data(data)
            if end and self._is_open and self._is_held:
                # There may be a Close among what waits.
                limits = exchange.connection.server.websocket
                assert limits is not None
                self._end_until = exchange.connection.now + limits.close_timeout_s
                exchange.set_deadline(min(exchange.deadline, self._end_until))
            elif end and self._is_open:
                self._stream.feed_eof()
        if not self._is_held or not self._is_open:
            self._consume()
        if exchange.lane.state is CLOSED:
            exchange.lost()

    def lost(self) -> None:
        """The stream or the connection is gone."""
        self._is_open = False
        self._early.clear()  # its window is given back

    def accept(self) -> bytes:
        """The handshake is complete. Returns what has come already."""
        self.is_accepted = self._is_open = True
        self._is_held = True  # until `credit`
        data = bytes(self._early)
        self._early.clear()
        if self._exchange.connection.server.is_closing_websockets:
            self._exchange.connection.call_soon(self.close_websocket)
        return data

    def close_websocket(self) -> None:
        """The worker is to stop."""
        if self._is_open:
            self._stream.ask_to_end()

    def expired(self) -> None:
        """The exchange's deadline has passed."""
        now = self._exchange.connection.now
        if self._stuck_at <= now:
            if self._exchange.lane.is_waiting and self._exchange.is_stuck():
                self._exchange.reset(Code.CANCEL)
                return
            self._stuck_at = NEVER
            self._await_room()
        if not self._is_open:
            if self._stuck_at == NEVER:
                self._exchange.reset(Code.CANCEL)  # RFC 8441, 5: that is its TCP reset
            else:
                self._exchange.set_deadline(self._stuck_at)
            return
        if self._end_until <= now:
            self._end_until = NEVER
            self._stream.feed_eof()
            return
        if self._stream.deadline <= now:
            self._stream.deadline_passed()
        self.deadline_changed()

    def ended(self) -> None:
        """Our side is: the client has a moment to end its own."""
        self._stuck_at = NEVER
        self._exchange.set_deadline(self._exchange.connection.now + LINGER_SECONDS)

    def let_go(self) -> None:
        """It is over. The stream, which holds much memory, and this hold each other: that is not left to the garbage collector."""
        del self._stream

    def _await_room(self) -> None:
        """Something of what is queued, if anything is, has to leave in time from now on."""
        exchange = self._exchange
        if self._stuck_at == NEVER and exchange.lane.is_waiting:
            exchange.is_stuck()  # to compare with
            self._stuck_at = exchange.connection.now + exchange.connection.settings.write_timeout_s
            exchange.set_deadline(min(exchange.deadline, self._stuck_at))

    def _consume(self) -> None:
        lane = self._exchange.lane
        if lane.unread:
            self._exchange.connection.protocol.consume(lane, lane.unread)
            self._exchange.connection.flush_soon()

    # For the stream.

    def write(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange.lane.state is CLOSED:
            return  # by a reset that stands behind what is just being read
        exchange.put(data, False)
        exchange.connection.flush_soon()
        if exchange.lane.is_waiting:
            self._await_room()

    def pause_reading(self) -> None:
        self._is_held = True

    def resume_reading(self) -> None:
        self._is_held = False
        self._consume()
        if self._end_until != NEVER:
            self._end_until = NEVER
            self._stream.feed_eof()

    def deadline_changed(self) -> None:
        if self._is_open:
            self._exchange.set_deadline(min(self._stream.deadline, self._stuck_at, self._end_until))

    def close(self, is_clean: bool) -> None:
        if self._is_open:
            self._is_open = False
            exchange = self._exchange
            if exchange.lane.state is not CLOSED:
                exchange.put(b"", True)
            self._consume()
            exchange.connection.flush_soon()
            exchange.record_end()
            if exchange.lane.state is CLOSED:
                exchange.connection.call_soon(exchange.lost)
            elif exchange.lane.is_waiting:
                self._await_room()
                exchange.set_deadline(self._stuck_at)
            else:
                self.ended()

    def abort(self) -> None:
        if self._is_open:
            self._is_open = False
            self._exchange.record_end()
            self._exchange.connection.protocol.reset(self._exchange.lane, Code.CANCEL)
            self._exchange.connection.flush_soon()
            self._exchange.connection.call_soon(self._exchange.lost)

    def fail(self, reason: str) -> None:
        self._exchange.connection.protocol.charge(REFUSED)
        self._exchange.connection.complain("WebSocket frame", reason)
        self.close(is_clean=False)

    def finish(self) -> None:
        self._exchange.has_ended = True
        if self._exchange.lane.state is CLOSED:
            self._exchange.connection.forget(self._exchange)
