"""A connection that speaks WebSocket since its handshake over HTTP/1.1: it passes bytes both ways, and sees to the end."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ..net.connection import CLOSED, LINGER, TCP_CLOSE, TCP_CLOSE_WAIT, Connection, Ending

if TYPE_CHECKING:
    from ..asgi.websocket import WebSocketStream
    from ..errors import RequestError
    from ..observe.access_log import Record

LOOK_SECONDS = 10.0
"""Between two looks at whether the client of a connection that is not read has gone."""
MAX_LINGER = 33554432
"""Bytes that are read and dropped behind the end: in the midst of a message that is too big, many a client reads nothing before it has sent all of
it, and a reset would take the Close frame from it."""
SWITCHING_PROTOCOLS = 101


class Reading(Enum):
    """What the next bytes from the client are, until it is one of `Ending`."""

    FRAMES = "of the WebSocket"


FRAMES = Reading.FRAMES


class UpgradedConnection(Connection):
    """The `WebSocketTransport` of one WebSocketStream, in the place of the connection that its handshake came on."""

    __slots__ = ("_has_ended", "_is_plain", "_record", "_sent", "_stream", "_stuck_at")

    _reading: Reading | Ending

    def __init__(self, origin: Connection, stream: WebSocketStream, record: Record | None) -> None:
        """Take the transport of `origin` over, behind the answer that completes the handshake; `record` is what the log has of it."""
        super().__init__(origin._server, origin._listener, origin._client)
        self._stream = stream
        self._record = record
        self._sent = 0
        """Bytes behind the head of the handshake's answer."""
        self._has_ended = False
        """The application has."""
        self._linger_left = MAX_LINGER
        self._is_plain = self._listener.scheme == "http"
        self._reading = FRAMES
        self._stuck_at = self._server.now + self._server.settings.write_timeout_s
        """When something of what was written has to have left, where that is `_clogged`."""
        self._take_over(origin)
        if self._server.is_closing_websockets:
            self._server.loop.call_soon(self.close_websocket)

    def __repr__(self) -> str:
        return f"<UpgradedConnection {self._client} {self._reading.name} {self._stream!r}>"

    # From the transport.

    def data_received(self, data: bytes) -> None:
        if self._reading is FRAMES:
            self._stream.feed_data(data)
        elif self._reading is LINGER:
            self._drop(len(data))
            if not self._is_plain:
                self._end_with_close(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_at = self.deadline
        self.deadline_changed()

    def eof_received(self) -> bool:
        if self._reading is FRAMES:
            self._stream.feed_eof()  # now: until all is written, the application could send on and on, and none of it would leave
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._record_end()
        if self._has_ended:
            self._let_stream_go()

    # For the stream.

    def write(self, data: bytes) -> None:
        self._sent += len(data)
        if self._is_plain and not self._transport.is_closing():
            self._transport.write(data)
        else:
            self._write(data)

    def pause_reading(self) -> None:
        self._pause_reading()
        self._set_deadline()

    def resume_reading(self) -> None:
        if self._reading is FRAMES:
            self._resume_reading()
            self._set_deadline()

    def deadline_changed(self) -> None:
        if self._reading is FRAMES:
            self._set_deadline()

    def close(self, is_clean: bool) -> None:
        if self._reading is FRAMES:
            is_sending = not is_clean and (self._is_plain or not self._stream.has_closed())
            self._linger(is_sending, is_owing=False)
            self._record_end()

    def _end_with_close(self, data: bytes) -> None:
        """End both directions once the client's Close frame is here: `data` has just been received.

        The client waits for that (RFC 6455, 7.1.1). Without TLS it has seen the end of this side.
        """
        if not self._transport.is_closing() and self._stream.has_closed(data):
            self._linger(is_sending=False, is_owing=False)

    def abort(self) -> None:
        if self._reading is FRAMES:
            if self._clogged:
                self._reset()
            else:
                self._shut_soon()  # the Close frame that was not answered may not have arrived either
            self._record_end()

    def fail(self, reason: str) -> None:
        self.complain("WebSocket frame", reason)
        self.close(is_clean=False)

    def finish(self) -> None:
        self._has_ended = True
        if self._lost:
            self._server.forget(self)
            self._let_stream_go()

    def _let_stream_go(self) -> None:
        """They hold each other, and the stream much memory: it is not left to the garbage collector."""
        del self._stream

    # Deadlines.

    def _set_deadline(self) -> None:
        if self._clogged and self._reading is FRAMES:
            self.deadline = min(self._stuck_at, self._stream.deadline)
        else:
            super()._set_deadline()

    def expired(self) -> None:
        # A client that reads a little now and then has what `write_timeout` asks for, but the stream's deadlines hold for it too.
        if not self._clogged or self._reading is not FRAMES:
            super().expired()
            return
        if self._stuck_at <= self._server.now:
            if self._is_stuck():
                self._reset()
                return
            self._stuck_at = self._server.now + self._server.settings.write_timeout_s
        if self._stream.deadline <= self._server.now:
            self._stream.deadline_passed()
        if self._reading is FRAMES:
            self._set_deadline()

    # For the base, and through it for the server.

    def _streams(self) -> tuple[WebSocketStream, ...]:
        return () if self._has_ended else (self._stream,)

    def _patience(self) -> float:
        seconds = max(0.0, self._stream.deadline - self._server.now)
        return min(seconds, LOOK_SECONDS) if self._reading_paused else seconds

    def _overdue(self) -> None:
        if self._reading_paused:
            state = self._tcp_state()
            if state == TCP_CLOSE:
                self._reset()
                return
            if state == TCP_CLOSE_WAIT and not self._is_plain:
                # asyncio's TLS keeps the end to itself until it is to read on, and drops what is written. What comes before that is in the kernel.
                self._resume_reading()
        if self._stream.deadline <= self._server.now:
            self._stream.deadline_passed()
        if self._reading is FRAMES:
            self._set_deadline()

    def refuse(self, error: RequestError) -> None:
        self._reset()  # in HTTP there is nothing more to say

    def drain(self) -> None:
        pass  # `close_websocket` comes for it, at its own time

    def close_websocket(self) -> None:
        if self._reading is FRAMES:
            self._stream.ask_to_end()

    def hang_up(self) -> None:
        self.close_websocket()

    def kill(self) -> None:
        self._stream.ask_to_end()  # so that the client knows why
        if self._lost:
            self._server.forget(self)
        elif self._clogged or self._reading is CLOSED:
            self._reset()
        else:
            self._shut()
        for stream in self._streams():
            stream.cancel()
        self._record_end()

    # The log.

    def _record_end(self) -> None:
        record, self._record = self._record, None
        access = self._server.access
        if record is not None and access is not None:
            access.end(record, SWITCHING_PROTOCOLS, self._sent)
