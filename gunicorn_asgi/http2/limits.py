"""Pure: the limits of an HTTP/2 connection."""

from __future__ import annotations

from ..frozen import Frozen
from .frames import DEFAULT_WINDOW_SIZE, MAX_WINDOW_SIZE


class HTTP2Limits(Frozen):
    """The limits for a client: Gunicorn's ``http2_*`` settings."""

    max_streams: int
    window: int
    """Bytes of a request's body, accepted before the application asks for them."""
    max_frame: int
    max_header_list: int
    """In the bytes of SETTINGS_MAX_HEADER_LIST_SIZE."""
    has_websocket: bool
    """Extended CONNECT is offered (RFC 8441)."""

    @property
    def connection_window(self) -> int:
        """The connection's window: as wide as the windows of all streams, as far as HTTP/2 allows.

        So unread streams cannot take it from the others. Before a client knows of a `window` below
        DEFAULT_WINDOW_SIZE, it may send DEFAULT_WINDOW_SIZE bytes: on a single stream, for it does
        not know of this wider window either.
        """
        early = DEFAULT_WINDOW_SIZE if self.window < DEFAULT_WINDOW_SIZE else 0
        return min(MAX_WINDOW_SIZE, early + self.max_streams * self.window)
