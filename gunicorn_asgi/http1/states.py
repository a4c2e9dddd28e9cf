"""The states of a connection's reading side, and the bounds on what it waits for."""

from __future__ import annotations

from enum import Enum

HIGH_WATER = 65536
"""Bytes of the body, or of requests behind the current one, that wait in memory before reading is paused."""
MAX_DRAIN = 65536
"""Bytes of a body that nobody read which are read and dropped to keep the connection; of a longer one, it is closed."""
HANG_UP_SECONDS = 1.0
"""How long a client that has closed its side may wait for the response before an application that listens is told."""
MAX_EMPTY_LINES = 8
"""Empty lines before a request that are ignored."""
TURN = 32
"""Pipelined requests that are answered before the loop gets to serve others."""


class Reading(Enum):
    """What the next bytes from the client are, until it is one of `Ending`."""

    HEAD = "the head of a request, and no exchange is going on"
    BODY = "the body of the current request"
    DONE = "a later request, which waits for the current one"


HEAD, BODY, DONE = Reading
