"""Pure: the limits of a WebSocket."""

from __future__ import annotations

from ..frozen import Frozen


class WebSocketLimits(Frozen):
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
    message_timeout_s: float
    deflate: bool
