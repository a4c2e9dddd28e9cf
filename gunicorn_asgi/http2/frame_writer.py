"""Frames to the transport: gathered, and written once in a turn of the loop."""

from __future__ import annotations

from collections.abc import Callable

from ..net.transport import CLOSING, LOST, OPEN, Transport
from .events import Failed
from .protocol import Protocol
from .stream import StreamOwner

FLUSH_SIZE = 65536
"""Bytes of data that are gathered before they are written, within a turn of the loop as well."""
MAX_FLUSHES = 16
"""Writes of FLUSH_SIZE in a turn, however much the client takes at once."""
MAX_BACKLOG = 65536
"""Bytes of heads and replies that may be added while written data does not leave. With more,
nothing is read from the client, which reads nothing either."""


class FrameWriter:
    """Writes the outbox of a `Protocol` to a transport."""

    __slots__ = (
        "_backlog",
        "_fail",
        "_outbox",
        "_protocol",
        "_transport",
        "_waiting",
        "is_scheduled",
    )

    def __init__(
        self, transport: Transport, protocol: Protocol, fail: Callable[[Failed], None]
    ) -> None:
        """`fail` is called where the client's windows cost more than it may cause."""
        self._transport = transport
        self._protocol = protocol
        self._outbox = protocol.outbox
        self._fail = fail
        self.is_scheduled = False
        """A flush follows in this turn of the loop or the next. A caller that flushes sets it."""
        self._backlog = 0
        """Bytes written while the transport's buffer was full."""
        self._waiting: list[StreamOwner] = []
        """Exchanges that wait for the transport, not for a window."""

    def flush_soon(self) -> None:
        """Have frames written: all of this turn of the loop in one write."""
        if not self.is_scheduled:
            self.is_scheduled = True
            self._transport.host.loop.call_soon(self.flush)
        elif self._outbox.size >= FLUSH_SIZE and not self._outbox.is_paused:
            self._write_out()

    def flush(self) -> None:
        """Write the frames, and the data that the windows allow, the rest in later turns."""
        self.is_scheduled = False
        transport, outbox = self._transport, self._outbox
        if transport.state is not OPEN:
            return
        self._write_out()
        left = MAX_FLUSHES
        while outbox.has_sendable and not outbox.is_paused and transport.state is OPEN:
            left -= 1
            if not left:
                self.flush_soon()
                break
            self._write_out()

    def write_last_frames(self) -> None:
        """Write the frames that are whole, and no data of streams."""
        data = b"".join(self._outbox.frames)
        self._outbox.frames.clear()
        self._transport.write(data)

    def _write_out(self) -> None:
        outbox = self._outbox
        if not outbox.is_paused and outbox.has_sendable:
            self._send_data()
        parts = outbox.frames
        if parts:
            data = b"".join(parts)
            parts.clear()
            outbox.size = 0
            if outbox.is_paused:
                self._backlog += len(data)
                if self.is_backlogged:
                    self._transport.pause_reading()
            self._transport.write(data)
        if outbox.frame_cost:
            failed = self._protocol.settle()
            if failed is not None:
                self._fail(failed)

    def _send_data(self) -> None:
        ended, writable = self._protocol.streams.pump(FLUSH_SIZE)
        # An exchange may be over by the calls for those before it.
        for stream in writable:
            if stream.exchange is not None:
                stream.exchange.resume_writing()
        for stream in ended:
            if stream.exchange is not None:
                stream.exchange.end_sent()

    # From the transport.

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._outbox.is_paused = True

    def resume(self) -> None:
        """The transport's buffer has room again."""
        self._outbox.is_paused = False
        self._backlog = 0
        transport = self._transport
        is_over = transport.state is CLOSING or transport.state is LOST
        if not is_over and not self._protocol.received.has_more:
            transport.resume_reading()
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            exchange.resume_writing()
        self.flush()

    @property
    def is_backlogged(self) -> bool:
        """Whether nothing is read from the client, because it reads nothing."""
        return self._backlog > MAX_BACKLOG

    # For exchanges.

    @property
    def is_paused(self) -> bool:
        """Whether written data does not leave."""
        return self._outbox.is_paused

    def await_room(self, exchange: StreamOwner) -> None:
        """Call ``exchange.resume_writing()`` when the transport's buffer has room."""
        self._waiting.append(exchange)

    def wake_client(self) -> None:
        """Send any frame after the end of a stream.

        curl 7.88 ends its side, and looks at its stream only when something arrives.
        """
        self._protocol.control.wake_client()
        self.flush_soon()
