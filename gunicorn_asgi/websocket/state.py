"""Pure: how far a WebSocket is, and the limits on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class WebSocketLimits:
    """What a WebSocket may take. Seconds are infinite where there is no limit."""

    max_message_size: float
    """``websocket_max_message_size`` in bytes of the message itself, decompressed."""
    max_queue: int
    """Messages in front of the application from which on nothing more is read."""
    ping_interval_s: float
    ping_timeout_s: float
    accept_timeout_s: float
    close_timeout_s: float
    max_lifetime_s: float
    deflate: bool


class WebSocketState(IntEnum):
    """How far the WebSocket is. Only ever grows."""

    CONNECTING = 0
    """The application has not accepted it: this is an exchange of HTTP."""
    OPEN = 1
    CLOSING = 2
    """This side has sent a Close frame, and waits for the client's."""
    CLOSED = 3
