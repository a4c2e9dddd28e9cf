"""Pure: what a client may cost without asking for anything (RFC 9113, 10.5).

Each frame that makes work, and brings nobody forward, costs a point or some. Points come back with time, and with what the connection is there
for: complete responses. So a busy proxy is never short of them, and a client that does nothing else is after a moment.

A client that is sent data has to answer it: by WINDOW_UPDATE, and by PING where it measures its line. So data that is sent pays for answers, and
for nothing else: whoever could turn a download into resets would have applications started for nothing at the price of a fast line.
"""

from __future__ import annotations

CAPACITY = 1000
PER_SECOND = 100

IDLE_FRAME = 1
"""PING, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA without data, a frame of an unknown type, a stream above the limit, HEADERS behind a reset."""
SETTINGS_FRAME = 5
"""Has an acknowledgement, and may change every window. One more for each value in it."""
RESET = 5
"""A stream that ends early, by the client or by its fault: its application was started for nothing."""
REFUSED = 10
"""A request that is answered in the application's place, or a WebSocket that fails by its client, each with a line in the log: more than its response
gives back. One more for each KiB of its fields."""
SMALL_FRAME = 1
"""A frame that had to be small because the client's window was."""
LEAST_FRAME = 256
"""Bytes of data from which on a frame is not."""

# What is given back.
RESPONSE = 5
"""As much as a reset costs: a client may cancel every other request."""
ANSWERS = 2
"""For a frame of data, however small: both windows are opened behind it..."""
ANSWER_SIZE = 512
"""...and one more for every so many bytes: some open both for each KiB that their application reads."""
MAX_ANSWERS = 10000
"""As many as 5 MB on their way can bring at once."""


class Budget:
    """The points of one connection."""

    __slots__ = ("_since", "answers", "points")

    def __init__(self) -> None:
        self.points: float = CAPACITY
        self.answers = 0
        """What data has paid for."""
        self._since = 0.0

    def spend(self, points: int, now: float) -> bool:
        """Take so many at the time `now`, in seconds on a clock that does not go back. Returns whether there were enough."""
        if now > self._since:
            self.points = min(CAPACITY, self.points + (now - self._since) * PER_SECOND)
            self._since = now
        self.points -= points
        return self.points >= 0

    def answer(self, points: int, now: float) -> bool:
        """The same for what may be an answer to data."""
        paid = min(points, self.answers)
        self.answers -= paid
        return paid == points or self.spend(points - paid, now)

    def earn(self, points: int) -> None:
        """Give so many back."""
        self.points = min(CAPACITY, self.points + points)

    def pay_answers(self, points: int) -> None:
        """Data was sent that so many may answer."""
        self.answers = min(MAX_ANSWERS, self.answers + points)
