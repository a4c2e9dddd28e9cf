"""Pure: the phases of a WebSocket, and the code and reason of its end (RFC 6455, 7).

::

    CONNECTING -- accepted --> OPEN -- Close sent ----------------> CLOSING
                               |  |                                    |
                               |  +-- violation after unread messages  |  Close received,
                               |      |                                |  timeout, or
                               |      v                                |  connection lost
                               |   FAILING -- all messages read -->----+
                               |      |                                |
       Close received, failed, |      +-- Close sent, connection lost -+
       or connection lost      |                                       v
                               +-----------------------------------> CLOSED
                               |                                       ^
                               +-- lost with unread data --> LOST -----+
"""

from __future__ import annotations

from enum import IntEnum

from ..websocket.close import ABNORMAL_CLOSURE, Close


class WebSocketPhase(IntEnum):
    """The progress of a WebSocket. It only ever grows."""

    CONNECTING = 0
    """The application has not accepted it: an exchange of HTTP."""
    OPEN = 1
    FAILING = 2
    """The client has broken the protocol, after messages that the application has not read.

    It can still read and answer them. No message after the violation is read (RFC 6455, 7.1.7).
    """
    CLOSING = 3
    """This side has sent a Close frame, and waits for the client's."""
    LOST = 4
    """The connection is gone. The client's Close frame may be among the data that is not read."""
    CLOSED = 5


WS_CONNECTING, WS_OPEN, WS_FAILING, WS_CLOSING, WS_LOST, WS_CLOSED = WebSocketPhase


class ClosingHandshake:
    """The phase of a WebSocket, and the content of ``websocket.disconnect``."""

    __slots__ = ("code", "phase", "reason", "violation")

    def __init__(self) -> None:
        self.phase: WebSocketPhase = WS_CONNECTING
        self.code = ABNORMAL_CLOSURE
        self.reason = ""
        self.violation: Close | None = None
        """The content of the Close frame for a violation by the client."""

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self.phase is WS_OPEN or self.phase is WS_FAILING

    @property
    def has_ended(self) -> bool:
        """Whether the code and the reason are known."""
        return self.phase >= WS_CLOSING

    def accept(self) -> None:
        self.phase = WS_OPEN

    def violate(self, violation: Close, has_unread_messages: bool) -> None:
        """The client has broken the protocol. Only unread messages put off the end."""
        self.violation = violation
        if self.phase is WS_OPEN and has_unread_messages:
            self.phase = WS_FAILING

    def end(self, phase: WebSocketPhase, code: int, reason: str) -> bool:
        """Go to `phase`. Returns whether `code` and `reason` are kept for the application.

        The first code is kept. Only 1006 of LOST is replaced by the code of the client's Close.
        """
        is_news = not self.has_ended or self.phase is WS_LOST
        if is_news:
            self.code, self.reason = code, reason
        self.phase = phase
        return is_news

    def connection_lost(self, has_unread_data: bool) -> bool:
        """The connection is gone. Returns whether 1006 is kept for the application."""
        if self.phase >= WS_LOST:
            return False
        may_find_close = self.phase is WS_OPEN and has_unread_data
        return self.end(WS_LOST if may_find_close else WS_CLOSED, ABNORMAL_CLOSURE, "")
