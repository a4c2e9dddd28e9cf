"""Pure: what comes of the frames of a client, in their order."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import RequestError
from ..http.request import Request
from .blocks import Block
from .frames import Code
from .streams import Stream


class Opened(NamedTuple):
    """A request, whose body is still to come unless it `has_ended`."""

    stream: Stream
    request: Request
    has_ended: bool


class Refused(NamedTuple):
    """A request that is in order for HTTP/2, and refused with an answer."""

    stream: Stream
    error: RequestError
    block: Block


class Malformed(NamedTuple):
    """A request that is none (RFC 9113, 8.1.1); its stream is reset already."""

    block: Block
    reason: str


class Received(NamedTuple):
    """A part of a request's body, the last one if it `has_ended`."""

    stream: Stream
    data: bytes
    has_ended: bool


class Reset(NamedTuple):
    """A stream is gone: by the client, or for `reason`, which is its fault."""

    stream: Stream
    code: Code | int
    reason: str | None


class Acknowledged(NamedTuple):
    """The client has seen what was sent before `Protocol.announce` asked it."""


class Seen(NamedTuple):
    """The client has seen all that was sent on `stream` before `Protocol.ask` asked it."""

    stream: Stream


class Leaving(NamedTuple):
    """The client opens no more streams; and takes nothing more of those that there are, where `code` is not NO_ERROR."""

    code: int


class Failed(NamedTuple):
    """The connection is over, by the client's fault. It is told already."""

    code: Code
    reason: str


Event = Opened | Refused | Malformed | Received | Reset | Acknowledged | Seen | Leaving | Failed
