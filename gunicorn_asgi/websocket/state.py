"""Pure: the states of a WebSocket, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class WebSocketLimits:
    """The limits of a WebSocket. Seconds are infinite if there is no limit."""

    max_message_size: float
    """``websocket_max_message_size``: bytes of a message, decompressed."""
    max_queue: int
    """Unread messages above which nothing more is read from the client."""
    ping_interval_s: float
    ping_timeout_s: float
    accept_timeout_s: float
    close_timeout_s: float
    max_lifetime_s: float
    deflate: bool


class WebSocketState(IntEnum):
    """The state of a WebSocket. It only grows."""

    CONNECTING = 0
    """The application has not accepted the handshake: this is an exchange of HTTP."""
    OPEN = 1
    CLOSING = 2
    """This side has sent a Close frame, and waits for the client's."""
    CLOSED = 3
