"""Pure: the events caused by a client's frames, in the order of the frames."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import RequestError
from ..http.request import Request
from .blocks import Block
from .frames import ErrorCode
from .stream import Stream


class Opened:
    """A request; its body follows unless it `has_ended`."""

    # No named tuple, as the events below: each request makes one, and this is made faster.
    __slots__ = __match_args__ = ("stream", "request", "has_ended")

    def __init__(self, stream: Stream, request: Request, has_ended: bool) -> None:
        self.stream = stream
        self.request = request
        self.has_ended = has_ended


class Refused(NamedTuple):
    """A request of valid HTTP/2, refused with a response."""

    stream: Stream
    error: RequestError
    block: Block


class Malformed(NamedTuple):
    """A malformed request (RFC 9113, 8.1.1). Its stream is already reset."""

    block: Block
    reason: str


class Received(NamedTuple):
    """A part of a request's body, the last part if it `has_ended`."""

    stream: Stream
    data: bytes
    has_ended: bool


class Reset(NamedTuple):
    """A stream was reset: by the client, or by us for the `reason`, a fault of the client."""

    stream: Stream
    code: ErrorCode | int
    reason: str | None


class GoawayAcknowledged(NamedTuple):
    """The client has received the GOAWAY of `ConnectionControl.announce`."""


class ResponseAcknowledged(NamedTuple):
    """The client has received everything sent before `ConnectionControl.ask_for_response`."""

    stream: Stream


class GoawayReceived(NamedTuple):
    """The client opens no more streams. With a `code` other than NO_ERROR it also accepts nothing
    more on open streams."""

    code: int


class Failed(NamedTuple):
    """A connection error, by a fault of the client. GOAWAY with the `code` is already sent."""

    code: ErrorCode
    reason: str


Event = (
    Opened
    | Refused
    | Malformed
    | Received
    | Reset
    | GoawayAcknowledged
    | ResponseAcknowledged
    | GoawayReceived
    | Failed
)
