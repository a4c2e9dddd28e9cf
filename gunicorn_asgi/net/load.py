"""Pure: the load of a worker's open connections, added up in one pass over them."""

from __future__ import annotations


class Load:
    """Sums over connections. Each handler adds itself: see `transport.Handler.add_load`."""

    __slots__ = ("busy", "http2_streams", "idle", "unsent", "websockets")

    def __init__(self) -> None:
        self.idle = 0
        """Connections without an exchange."""
        self.busy = 0
        """Connections with an exchange in progress, WebSockets included."""
        self.websockets = 0
        self.http2_streams = 0
        self.unsent = 0
        """Bytes that were written and have not left this process."""
