"""Pure: the states of an HTTP/1.x connection's reading side, and the limits on waiting data.

Requests on a connection follow each other, and so do their responses (RFC 9112, 9.3.2)::

                            request with a body
            +--------+ -------------------------> +------+
      ----> |  HEAD  |                            | BODY |
            +--------+                            +------+
             |      ^                                 |
             |      | exchange over                   | end of the body
     request |      |                                 |
             v      |                                 |
           +------------+                             |
           | RESPONDING | <---------------------------+
           +------------+

From each state, an end of the connection leads to ENDED.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

HIGH_WATER = 65536
"""Bytes of the body, or of pipelined requests, that wait in memory before reading is paused."""
MAX_DISCARD = 65536
"""Bytes of a body that nobody reads, which are dropped to keep the connection. With more, it is
closed."""
LOOK_SECONDS = 1.0
"""Time between two looks at a client that may have gone, while nothing is read from it. Also the
time that a client which has closed its side is given before an application that listens is told."""
MAX_EMPTY_LINES = 8
"""Empty lines before a request that are ignored."""
MAX_PIPELINED = 32
"""Pipelined requests that are answered in one turn of the loop..."""
MAX_PIPELINED_SIZE = 8192
"""...and bytes of them after which the next one waits for another turn."""


class ReadState(IntEnum):
    """The meaning of the next bytes from the client."""

    HEAD = 0
    """The head of a request. No exchange is in progress."""
    BODY = 1
    """The body of the current request, or the rest of the body of the last one."""
    RESPONDING = 2
    """A later, pipelined request: it waits for the current exchange, or for its turn."""
    ENDED = 3
    """None: the connection is closing or closed."""


HEAD, BODY, RESPONDING, ENDED = ReadState


class ReadEvent(IntEnum):
    """The events that change a `ReadState`."""

    REQUEST = 0
    """The head of a request without a body."""
    REQUEST_WITH_BODY = 1
    """The head of a request with a body."""
    BODY_END = 2
    """The last byte of the body."""
    EXCHANGE_OVER = 3
    """The response is complete, and the application has ended."""
    NEXT_TURN = 4
    """Further pipelined requests wait for the next turn of the loop."""
    END = 5
    """The connection ends."""


REQUEST, REQUEST_WITH_BODY, BODY_END, EXCHANGE_OVER, NEXT_TURN, END = ReadEvent

NEXT_STATE: Mapping[tuple[ReadState, ReadEvent], ReadState] = {
    (HEAD, REQUEST): RESPONDING,
    (HEAD, REQUEST_WITH_BODY): BODY,
    (HEAD, NEXT_TURN): RESPONDING,
    (BODY, BODY_END): RESPONDING,
    (RESPONDING, EXCHANGE_OVER): HEAD,
    (HEAD, END): ENDED,
    (BODY, END): ENDED,
    (RESPONDING, END): ENDED,
    (ENDED, END): ENDED,
}
"""All changes of state. Any other is a fault of this package, and raises KeyError."""
