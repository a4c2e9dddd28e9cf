"""Pure: flow control of received data (RFC 9113, 5.2 and 6.9): how much more a client may send.

The windows of the other direction are in `outbox`.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import frames
from .frames import DEFAULT_WINDOW_SIZE, ConnectionFailure, ErrorCode
from .limits import HTTP2Limits
from .outbox import Outbox
from .stream import STREAM_CLOSED, STREAM_OPEN, Stream


class FlowControl:
    """The window of a connection, and the rules for the windows of its streams."""

    def __init__(self, limits: HTTP2Limits, outbox: Outbox) -> None:
        self._outbox = outbox
        self._stream_window = limits.window
        self.window = limits.connection_window
        """Bytes the client may send on the connection."""
        self.consumed = 0
        """Bytes consumed, and not yet returned to the connection's window by WINDOW_UPDATE."""
        self.initial_window = max(limits.window, DEFAULT_WINDOW_SIZE)
        """The window of a new stream. Until a client has our SETTINGS, it may send as much as
        without them (6.9.2)."""

    def data_received(self, size: int) -> None:
        """Count DATA of `size` bytes, padding included. Raises ConnectionFailure."""
        self.window -= size
        if self.window < 0:
            # 6.9.1
            raise ConnectionFailure(
                ErrorCode.FLOW_CONTROL_ERROR, "more than the window of the connection"
            )

    def settings_acknowledged(self, streams: Iterable[Stream]) -> None:
        """The client knows the window of our SETTINGS from here on (6.9.2)."""
        surplus = self.initial_window - self._stream_window
        self.initial_window = self._stream_window
        if surplus:
            for stream in streams:
                stream.receive_window -= surplus

    def consume(self, stream: Stream, size: int) -> None:
        """`size` bytes of the body are consumed: the client may send as many more (6.9)."""
        if stream.state is STREAM_CLOSED:
            return
        stream.unread -= size
        stream.consumed += size
        if stream.state is STREAM_OPEN and stream.consumed * 2 >= self._stream_window:
            self._outbox.add([frames.window_update(stream.id, stream.consumed)])
            stream.receive_window += stream.consumed
            stream.consumed = 0
        self.release(size)

    def release(self, size: int) -> None:
        """Return `size` bytes to the connection's window, in time for the client."""
        self.consumed += size
        # At half of the window left by unread streams: half of the whole window might never be
        # reached beside them.
        if self.consumed >= self.window:
            self.update_connection()

    def update_connection(self) -> bool:
        """Return all consumed bytes to the connection's window; False where there are none."""
        if not self.consumed:
            return False
        self._outbox.add([frames.window_update(0, self.consumed)])
        self.window += self.consumed
        self.consumed = 0
        return True

    def make_room(self, stream: Stream, size: int) -> None:
        """Let the client send `size` bytes of the body, where a window is smaller."""
        if stream.receive_window < size:
            self._outbox.add([frames.window_update(stream.id, size - stream.receive_window)])
            stream.receive_window = size
        if self.window < size:
            self._outbox.add([frames.window_update(0, size - self.window)])
            self.window = size
