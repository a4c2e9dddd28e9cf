"""Pure: a limit on the work a client causes without asking for anything (RFC 9113, 10.5).

Each connection has a token bucket. A frame costs tokens if it causes work and completes no request.
Tokens come back with time, and with complete responses, which are the purpose of a connection. So
a busy proxy never runs out of tokens, and a client that only causes work soon does.

A client that receives data has to reply: with WINDOW_UPDATE, and with PING where it measures the
line. So the data pays for replies, and for nothing else. Otherwise a client with a fast line could
turn a download into resets, each of which starts an application for nothing.
"""

from __future__ import annotations

from .frames import ConnectionFailure, ErrorCode

CAPACITY = 1000
REFILL_PER_SECOND = 100

# Costs in tokens.
IDLE_FRAME = 1
"""PING, PRIORITY, WINDOW_UPDATE, CONTINUATION, DATA without data, a frame of an unknown type, a
stream above the limit, HEADERS after a reset."""
SETTINGS_FRAME = 5
"""Each is acknowledged, and may change every window. Each value in the frame costs 1 more."""
RESET = 5
"""A stream ended early by the client, or by its fault: the application was started for nothing."""
REFUSED = 10
"""A refused request, or a WebSocket that fails by a fault of its client. Each writes a line to the
log, so it costs more than its response refunds. Each KiB of its fields costs 1 more."""
SMALL_FRAME = 1
"""A data frame that had to be small because the client's window was small."""
LEAST_FRAME = 256
"""Data frames with fewer bytes are small."""

# Refunds in tokens.
RESPONSE = 5
"""As much as a reset costs: a client may cancel every other request."""
REPLIES = 2
"""For each data frame, however small: it is followed by an update of both windows..."""
REPLY_SIZE = 512
"""...and 1 more for so many bytes: some clients update both windows for each KiB that their
application reads."""
MAX_REPLIES = 10000
"""The replies to 5 MB in flight, which may arrive at once."""

TOO_MANY = "too many frames that ask for nothing"


class Budget:
    """The tokens of one connection."""

    __slots__ = ("now", "refilled_at", "replies", "tokens")

    def __init__(self) -> None:
        self.tokens: float = CAPACITY
        self.replies = 0
        """Tokens for replies, paid by data."""
        self.now = 0.0
        """When the current data arrived, in seconds on a monotonic clock."""
        self.refilled_at = 0.0
        """The time up to which tokens have come back."""

    def take(self, cost: int) -> bool:
        """Take `cost` tokens; returns whether there were enough."""
        now = self.now
        if now > self.refilled_at:
            refill = (now - self.refilled_at) * REFILL_PER_SECOND
            self.tokens = min(CAPACITY, self.tokens + refill)
            self.refilled_at = now
        self.tokens -= cost
        return self.tokens >= 0

    def take_reply(self, cost: int) -> bool:
        """Take the `cost` of a possible reply to data, first from the tokens paid by data."""
        paid = min(cost, self.replies)
        self.replies -= paid
        return paid == cost or self.take(cost - paid)

    def spend(self, cost: int) -> None:
        """Take `cost` tokens. Raises ConnectionFailure where there are not enough."""
        if not self.take(cost):
            # 10.5: "An endpoint MAY treat activity that is suspicious as a connection error of type
            # ENHANCE_YOUR_CALM."
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY)

    def spend_reply(self, cost: int) -> None:
        """The same as `take_reply`. Raises ConnectionFailure where there are not enough."""
        if not self.take_reply(cost):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY)

    def refund(self, tokens: int) -> None:
        """Give `tokens` back, up to the capacity."""
        self.tokens = min(CAPACITY, self.tokens + tokens)

    def allow_replies(self, tokens: int) -> None:
        """Data was sent to which the client may reply."""
        self.replies = min(MAX_REPLIES, self.replies + tokens)
