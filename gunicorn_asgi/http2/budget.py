"""Pure: what a client may cost without asking for anything (RFC 9113, 10.5).

Each frame that makes work, and brings nobody forward, costs a point or some. Points come back with time, and with what the connection is there
for: complete responses, and data that is sent. So a busy proxy is never short of them, and a client that does nothing else is after a moment.
"""

from __future__ import annotations

CAPACITY = 1000
PER_SECOND = 100

IDLE_FRAME = 1
"""PING, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA without data, a frame of an unknown type, a stream above the limit."""
SETTINGS_FRAME = 5
"""Has an acknowledgement, and may change every window."""
RESET = 5
"""A stream that ends early, by the client or by its fault: its application was started for nothing."""
SMALL_FRAME = 1
"""A frame that had to be small because the client's window was."""
LEAST_FRAME = 256
"""Bytes of data from which on a frame is not."""

# What is given back.
RESPONSE = 3
DATA_FRAME = 2


class Budget:
    """The points of one connection."""

    __slots__ = ("_since", "points")

    def __init__(self) -> None:
        self.points: float = CAPACITY
        self._since = 0.0

    def spend(self, points: int, now: float) -> bool:
        """Take so many at the time `now`, in seconds on a clock that does not go back. Returns whether there were enough."""
        if now > self._since:
            self.points = min(CAPACITY, self.points + (now - self._since) * PER_SECOND)
            self._since = now
        self.points -= points
        return self.points >= 0

    def earn(self, points: int) -> None:
        """Give so many back."""
        if self.points < CAPACITY:
            self.points += points
