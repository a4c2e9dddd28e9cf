"""Pure: a stream of a client, and its states (RFC 9113, 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Protocol

from .outbox import SendQueue


class StreamState(IntEnum):
    """The states of RFC 9113, 5.1, without the two for pushed streams.

    ::

                                 +----------+
                                 |   idle   |    above `Streams.last_id`
                                 +----------+
                    HEADERS received  |   HEADERS with END_STREAM received
                   .------------------+-------------------.
                   v                                      v
            +--------------+    END_STREAM       +--------------------+
            |     open     |--- received ------->| half-closed remote |
            +--------------+                     +--------------------+
                   |                                      |
            END_STREAM sent                        END_STREAM sent
                   v                                      v
        +-------------------+   END_STREAM          +----------+
        | half-closed local |-- received ---------->|  closed  |
        +-------------------+                       +----------+
                                  RST_STREAM, sent or received, leads there from everywhere

    A frame not allowed in a state is an error: on an idle stream a connection error, on a
    half-closed remote stream a stream error. `ClosedStreams` decides for closed streams.
    """

    OPEN = 0
    HALF_CLOSED_REMOTE = 1
    """The client has ended its side."""
    HALF_CLOSED_LOCAL = 2
    """The response is complete, the request is not."""
    CLOSED = 3


# Global names, for each request is compared with them.
STREAM_OPEN, HALF_CLOSED_REMOTE, HALF_CLOSED_LOCAL, STREAM_CLOSED = StreamState

AFTER_END_STREAM_SENT: Mapping[StreamState, StreamState] = {
    STREAM_OPEN: HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE: STREAM_CLOSED,
    HALF_CLOSED_LOCAL: HALF_CLOSED_LOCAL,
    STREAM_CLOSED: STREAM_CLOSED,
}
AFTER_END_STREAM_RECEIVED: Mapping[StreamState, StreamState] = {
    STREAM_OPEN: HALF_CLOSED_REMOTE,
    HALF_CLOSED_LOCAL: STREAM_CLOSED,
}
"""In the other two states END_STREAM is an error."""


class StreamOwner(Protocol):
    """The exchange on a stream. The connection tells it about the stream."""

    def data_received(self, data: bytes, end: bool) -> None:
        """A part of the request's body has arrived."""

    def resume_writing(self) -> None:
        """There is room to send again."""

    def end_sent(self) -> None:
        """The end of the response was queued, and is sent now."""

    def response_acknowledged(self) -> None:
        """The client has received everything sent on the stream."""

    def connection_lost(self) -> None:
        """The stream, or its connection, is closed before its end."""


class Stream:
    """A request and its response."""

    __slots__ = (
        "consumed",
        "exchange",
        "expected",
        "id",
        "is_answered",
        "is_tunnel",
        "receive_window",
        "send_queue",
        "state",
        "unread",
    )

    def __init__(
        self, id_: int, state: StreamState, send_window: int, receive_window: int, expected: int
    ) -> None:
        self.id = id_
        self.state = state
        self.send_queue = SendQueue(id_, send_window)
        self.expected = expected
        """Bytes missing from the declared ``content-length``, or UNKNOWN_LENGTH."""
        self.is_answered = False
        """The head of the final response is sent: the client may end its side early."""
        self.is_tunnel = False
        """An extended CONNECT: both directions carry bytes of a WebSocket (RFC 8441)."""
        self.receive_window = receive_window
        """Bytes the client may send before it gets a WINDOW_UPDATE."""
        self.unread = 0
        """Bytes received, and not consumed by the application."""
        self.consumed = 0
        """Bytes consumed, and not yet returned to the client by WINDOW_UPDATE."""
        self.exchange: StreamOwner | None = None
        """Set by the connection before anything but the opening of the stream is told."""

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.state.name}>"
