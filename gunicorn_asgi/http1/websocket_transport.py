"""A WebSocket on a connection of HTTP/1.1, after its handshake."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from ..asgi.websocket import WebSocketStream
from ..errors import RequestError
from ..http.contract import NEVER
from ..http.exchange import ExchangeLog
from ..net import kernel
from ..net.deadlines import Deadline
from ..net.load import Load
from ..net.transport import CLOSING, LINGERING, LOST, OPEN, Handler, Transport

IDLE_LOOK_SECONDS = 10.0
"""Time between two looks at whether the client of a connection that is not read is gone."""
WEBSOCKET_LINGER = 33554432
"""Bytes that are read and dropped after the end. In the middle of a message that is too big, many
clients read nothing before they have sent all of it, and a reset would destroy the Close frame."""
SWITCHING_PROTOCOLS = 101


class H1WebSocketTransport(Handler):
    """The handler of a WebSocket's connection: passes bytes both ways, and sees to the end.

    It is the `http.contract.WebSocketTransport` of its stream.
    """

    __slots__ = ("_has_finished", "_is_plain", "_is_searching", "_log", "_sent", "_stream")

    def __init__(
        self, transport: Transport, stream: WebSocketStream, log: ExchangeLog | None
    ) -> None:
        """`log` ends the exchange of the handshake, whose response was just written."""
        super().__init__(transport)
        self._stream = stream
        self._log = log
        self._sent = 0
        """Bytes after the head of the handshake's response."""
        self._has_finished = False
        """The application has ended."""
        self._is_plain = transport.listener.scheme == "http"
        self._is_searching = False
        """The client's Close frame is searched for in later turns of the loop."""
        transport.allow_linger(WEBSOCKET_LINGER)

    def __repr__(self) -> str:
        return f"<H1WebSocketTransport {self.streams()!r}>"

    def begin(self, data: bytes = b"") -> None:
        self.transport.set_deadline()
        if self.host.is_closing_websockets:
            self.host.loop.call_soon(self.close_websockets)

    # From the transport.

    def data_received(self, data: bytes) -> None:
        if self.transport.state is OPEN:
            self._stream.feed_data(data)

    def data_dropped(self, data: bytes) -> None:
        # Without TLS, the client has seen the end of this side. With TLS, both directions end once
        # its Close frame is here (RFC 6455, 7.1.1: the client waits for that).
        if not self._is_plain and not self.transport.raw.is_closing():
            if self._stream.has_closed(data):
                self.transport.linger(is_sending=False, must_deliver=False)
            else:
                self._find_close_later()

    def _find_close_later(self) -> None:
        """Search the rest of very many frames in later turns of the loop."""
        if self._stream.is_finding_close and not self._is_searching:
            self._is_searching = True
            self.host.continue_later(self._find_close)

    def _find_close(self) -> bool:
        transport = self.transport
        if transport.state is LINGERING and not transport.raw.is_closing():
            if self._stream.has_closed():
                transport.linger(is_sending=False, must_deliver=False)
            elif self._stream.is_finding_close:
                return True
        self._is_searching = False
        return False

    def eof_received(self) -> bool:
        # Now: until everything is written, the application could send on and on in vain.
        self._stream.feed_eof()
        return False

    def connection_lost(self) -> bool:
        is_busy = super().connection_lost()
        self._end_log()
        return is_busy

    def release(self) -> None:
        # They refer to each other, and the stream holds much memory: it is not left to the garbage
        # collector.
        del self._stream

    # For the stream: see `http.contract.WebSocketTransport`.

    def write(self, data: bytes) -> None:
        self._sent += len(data)
        raw = self.transport.raw
        if self._is_plain and not raw.is_closing():
            raw.write(data)
        else:
            self.transport.write(data)

    def pause_reading(self) -> None:
        self.transport.pause_reading()
        self.transport.set_deadline()

    def resume_reading(self) -> None:
        if self.transport.state is OPEN:
            self.transport.resume_reading()
            self.transport.set_deadline()

    def deadline_changed(self) -> None:
        if self.transport.state is OPEN:
            self.transport.set_deadline()

    def close(self, is_clean: bool) -> None:
        if self.transport.state is OPEN:
            is_sending = not is_clean and (self._is_plain or not self._stream.has_closed())
            self.transport.linger(is_sending, must_deliver=False)
            if is_sending and not self._is_plain:
                self._find_close_later()
            self._end_log()

    def abort(self) -> None:
        if self.transport.state is OPEN:
            if self.transport.is_writing_paused:
                self.transport.abort()
            else:
                # The Close frame that was not answered may not have arrived either.
                self.transport.close_soon()
            self._end_log()

    def fail(self, reason: str) -> None:
        self.transport.log_invalid("WebSocket frame", reason)
        self.close(is_clean=False)

    def finish(self) -> None:
        self._has_finished = True
        if self.transport.state is LOST:
            self.transport.finished()

    # Deadlines.

    def next_deadline(self) -> float:
        host = self.host
        if self.transport.state is LOST:
            return host.tick_end + host.settings.disconnect_grace_s
        if self.transport.state is not OPEN:
            return NEVER
        if self.transport.is_reading_paused and not self.transport.is_writing_paused:
            return min(self._stream.deadline, host.tick_end + IDLE_LOOK_SECONDS)
        return self._stream.deadline

    def deadline_passed(self) -> None:
        WEBSOCKET_DEADLINES[self._waits_for()].action(self)

    def _waits_for(self) -> H1WebSocketWait:
        if self.transport.state is LOST:
            return H1WebSocketWait.APPLICATION_END
        if self._stream.deadline <= self.host.tick_end:
            return H1WebSocketWait.STREAM
        return H1WebSocketWait.CLIENT

    def _pass_deadline(self) -> None:
        self._stream.deadline_passed()
        self._look_for_client()

    def _look_for_client(self) -> None:
        transport = self.transport
        if transport.state is not OPEN:
            return
        if transport.is_reading_paused and not transport.is_writing_paused:
            state = kernel.tcp_state(transport.raw)
            if state == kernel.TCP_CLOSE:
                transport.abort()
            elif state == kernel.TCP_CLOSE_WAIT and not self._is_plain:
                # asyncio's TLS does not report the end until it reads on, and drops all writes.
                # Earlier data is still in the kernel.
                transport.resume_reading()
        if transport.state is OPEN:
            transport.set_deadline()

    # From the server.

    def streams(self) -> tuple[WebSocketStream, ...]:
        return () if self._has_finished else (self._stream,)

    def add_load(self, load: Load) -> None:
        super().add_load(load)
        load.websockets += self.transport.state is OPEN

    def refuse(self, error: RequestError) -> None:
        self.transport.abort()  # HTTP has nothing more to say

    def shut_down(self) -> None:
        pass  # `close_websockets` follows at its own time

    def close_websockets(self) -> None:
        if self.transport.state is OPEN:
            self._stream.ask_to_end()

    def ask_to_end(self) -> None:
        self.close_websockets()

    def abort_all(self) -> None:
        self._stream.ask_to_end()  # so that the client knows why
        transport = self.transport
        streams = self.streams()
        if transport.state is LOST:
            transport.finished()
        elif transport.is_writing_paused or transport.state is CLOSING:
            transport.abort()
        else:
            transport.close()
        for stream in streams:
            stream.cancel()
        self._end_log()

    def _end_log(self) -> None:
        if self._log is not None:
            self._log.end(SWITCHING_PROTOCOLS, self._sent)


class H1WebSocketWait(IntEnum):
    """The things that the handler of a WebSocket waits for, beside those of the transport."""

    STREAM = 0
    """A deadline of the WebSocket: see `asgi.websocket_session`."""
    CLIENT = 1
    """A client that is not read from is still there."""
    APPLICATION_END = 2
    """The application ends; the client is gone."""


WEBSOCKET_DEADLINES: Mapping[H1WebSocketWait, Deadline[H1WebSocketTransport]] = {
    H1WebSocketWait.STREAM: Deadline("ASGIStream.deadline", H1WebSocketTransport._pass_deadline),
    H1WebSocketWait.CLIENT: Deadline("IDLE_LOOK_SECONDS", H1WebSocketTransport._look_for_client),
    H1WebSocketWait.APPLICATION_END: Deadline(
        "asgi_disconnect_grace_period", H1WebSocketTransport.cancel
    ),
}
"""The limit of each wait, and the action after it."""
