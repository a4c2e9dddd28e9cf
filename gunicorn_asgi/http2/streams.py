"""Pure: the streams of a connection, their states and windows, and what is sent on them (RFC 9113, 5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from . import budget, frames
from .blocks import TABLE_SIZE_0
from .budget import Budget
from .frames import DEFAULT_WINDOW, MAX_WINDOW, Code
from .outbox import Lane, Outbox

MAX_RESETS = 1024
"""Streams that were reset of which it is remembered by whom."""
BY_CLIENT = -1
MAX_SKIPPED = 64
"""Gaps in the client's numbers that are remembered."""


class State(Enum):
    """The states of RFC 9113, 5.1, that a stream of a client can be in. Idle are those above the last one, closed those that are gone."""

    OPEN = "both sides may send"
    HALF_CLOSED_REMOTE = "the client has ended its side"
    HALF_CLOSED_LOCAL = "the response is complete, the request is not"
    CLOSED = "nobody may"


OPEN, HALF_CLOSED_REMOTE, HALF_CLOSED_LOCAL, CLOSED = State


class Owner(Protocol):
    """Who is told what becomes of a stream."""

    def received(self, data: bytes, end: bool) -> None:
        """A part of the request's body has come."""

    def freed(self) -> None:
        """There is room to send again."""

    def completed(self) -> None:
        """The end of the response was queued, and is out."""

    def seen(self) -> None:
        """The client says that it has seen all that was sent on the stream."""

    def lost(self) -> None:
        """The stream is gone."""


class Stream(Lane):
    """One request and its response."""

    __slots__ = (
        "credit",
        "exchange",
        "expected",
        "is_answered",
        "is_connected",
        "receive_window",
        "state",
        "unread",
    )

    def __init__(
        self, id_: int, window: int, receive_window: int, state: State, expected: int
    ) -> None:
        super().__init__(id_, window)
        self.state = state
        self.expected = expected
        """Bytes that the declared ``content-length`` still asks for, or UNKNOWN."""
        self.is_answered = False
        """The head of the final response is sent: the client may end its side short of `expected`."""
        self.is_connected = False
        """It is the two directions of a CONNECT."""
        self.receive_window = receive_window
        """Bytes that the client may send before it is given more."""
        self.unread = 0
        """Bytes that have come, and that nobody has taken."""
        self.credit = 0
        """Bytes that were taken, and that the client was not told of."""
        self.exchange: Owner | None = None
        """What the connection has made of it: there by the time that it hears of anything but its opening."""

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.state.name}>"


@dataclass(frozen=True)
class Limits:
    """What a client may do: Gunicorn's ``http2_*`` settings."""

    max_streams: int
    window: int
    """Bytes of a request's body that are taken before the application asks for them."""
    max_frame: int
    max_header_list: int
    """In the bytes of SETTINGS_MAX_HEADER_LIST_SIZE."""
    has_websocket: bool
    """Extended CONNECT is offered (RFC 8441)."""

    @property
    def connection_window(self) -> int:
        """So wide that streams which nobody reads cannot take it from the others, as far as the protocol allows.

        Before a client knows of a smaller `window` than DEFAULT_WINDOW, it may send that much: on one stream, for it does not know of this one either.
        """
        early = DEFAULT_WINDOW if self.window < DEFAULT_WINDOW else 0
        return min(MAX_WINDOW, early + self.max_streams * self.window)


class Streams:
    """All that there are, and what both sides may send on them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.streams: dict[int, Stream] = {}
        self.last_id = 0
        """The highest that the client has used."""
        self.abandoned = 0
        """Streams that are gone while their application runs on, kept by the connection."""
        self._resets: dict[int, int] = {}
        """Those that ended by RST_STREAM: bytes that may still be on their way behind ours, or BY_CLIENT."""
        self._skipped: list[range] = []
        """Numbers that the client has left out."""
        self._window = limits.connection_window
        """Bytes that the client may send on the connection."""
        self._credit = 0
        """Bytes that it has sent of which it was not told that they were taken."""
        self._budget = Budget()
        # What goes.
        self.outbox: Outbox[Stream] = Outbox()
        self._start_of_block = TABLE_SIZE_0

    # How they end.

    def reset(self, stream: Stream, code: Code) -> None:
        """End `stream` at once, whatever is queued for it."""
        if stream.state is not CLOSED:
            self.outbox.forget(stream)
            self._reset(stream.id, code, stream.receive_window)
            self._close(stream)

    def _reset(self, id_: int, code: Code, window: int) -> None:
        self._remember(id_, max(0, window))
        self.outbox.add([frames.rst_stream(id_, code)])

    def _remember(self, id_: int, left: int) -> None:
        self._resets[id_] = left
        if len(self._resets) > MAX_RESETS:
            del self._resets[next(iter(self._resets))]

    def _close(self, stream: Stream) -> None:
        stream.state = CLOSED
        del self.streams[stream.id]
        if stream.unread:
            self._give_back(stream.unread)
            stream.unread = 0

    def _end_local(self, stream: Stream) -> None:
        """Our END_STREAM is out."""
        self._budget.earn(budget.RESPONSE)
        if stream.state is OPEN:
            stream.state = HALF_CLOSED_LOCAL
        elif stream.state is HALF_CLOSED_REMOTE:
            self._close(stream)

    def lose(self) -> None:
        """No stream goes on: the connection is over."""
        for stream in self.streams.values():
            self.outbox.forget(stream)
            stream.state = CLOSED
        self.streams.clear()

    # What was taken of what came.

    def consume(self, stream: Stream, size: int) -> None:
        """So many bytes of the body are taken: the client may send as many more (6.9)."""
        if stream.state is CLOSED:
            return
        stream.unread -= size
        stream.credit += size
        if stream.state is OPEN and stream.credit * 2 >= self._limits.window:
            self.outbox.add([frames.window_update(stream.id, stream.credit)])
            stream.receive_window += stream.credit
            stream.credit = 0
        self._give_back(size)

    def make_room(self, stream: Stream, size: int) -> None:
        """Let the client send `size` bytes of the body, if it has less room on `stream` or on the connection."""
        if stream.receive_window < size:
            self.outbox.add([frames.window_update(stream.id, size - stream.receive_window)])
            stream.receive_window = size
        if self._window < size:
            self.outbox.add([frames.window_update(0, size - self._window)])
            self._window = size

    def _give_back(self, size: int) -> None:
        self._credit += size
        # At half of what streams that nobody reads leave of it: half of the whole might never be reached beside them.
        if self._credit >= self._window:
            self.settle_credit()

    def settle_credit(self) -> bool:
        """Tell the client of all that was taken on the connection, however little that is; returns whether there was anything."""
        if not self._credit:
            return False
        self.outbox.add([frames.window_update(0, self._credit)])
        self._window += self._credit
        self._credit = 0
        return True

    # What goes.

    def send_head(self, stream: Stream, block: bytes, end: bool) -> None:
        """Send a field block, the last of the stream if `end`. Nothing may be queued on it."""
        start, self._start_of_block = self._start_of_block, b""
        self.outbox.add(
            frames.headers(stream.id, start + block if start else block, end, self.outbox.max_frame)
        )
        if end:
            stream.has_ended = True
            self._end_local(stream)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """Send a part of the body as soon as the windows allow it, the last one if `end`."""
        if self.outbox.put(stream, data, end):
            self._end_local(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End `stream` with a field block, behind what is queued."""
        if self.outbox.end(stream, block):
            self._end_local(stream)

    def pump(self, limit: int) -> tuple[list[Stream], list[Stream]]:
        """Have the outbox move up to `limit` bytes of what is queued to its frames.

        Returns the streams whose end is out, and those that have room again.
        """
        outbox = self.outbox
        ended: list[Stream] = []
        freed: list[Stream] = []
        outbox.pump(limit, ended, freed)
        for stream in ended:
            self._end_local(stream)
        return ended, freed
