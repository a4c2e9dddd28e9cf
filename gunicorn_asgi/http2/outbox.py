"""Pure: what waits to be sent, against the windows of the client (RFC 9113, 5.2 and 6.9). In a fair order, and with marks for those who fill it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from . import frames
from .budget import ANSWER_SIZE, ANSWERS, LEAST_FRAME, SMALL_FRAME
from .frames import DATA, END_STREAM, MAX_WINDOW

HIGH_WATER = 65536
"""Bytes that wait on a stream, from which on its application waits, too..."""
LOW_WATER = 16384
"""...until so few are left."""
MAX_READY = 65536
"""Bytes of data in `Outbox.frames`, from which on more of it waits on its stream, whatever the windows allow."""


class Lane:
    """The sending side of one stream."""

    __slots__ = ("_parts", "has_ended", "id", "is_clogged", "is_ready", "queued", "tail", "window")

    def __init__(self, id_: int, window: int) -> None:
        self.id = id_
        self.window = window
        """Bytes that the client takes on this stream; below 0 where it has made the window smaller (6.9.2)."""
        self._parts: deque[bytes | memoryview] = deque()
        self.queued = 0
        """Bytes in them."""
        self.has_ended = False
        """Nothing more comes behind what is queued."""
        self.tail: bytes | None = None
        """The block that ends the stream in place of a flag on its last data: trailers."""
        self.is_ready = False
        """It stands in the outbox's line."""
        self.is_clogged = False
        """Its application waits for LOW_WATER."""

    @property
    def is_waiting(self) -> bool:
        """Whether something is queued."""
        return self.queued > 0

    def put(self, data: bytes) -> None:
        self._parts.append(data)
        self.queued += len(data)

    def take(self, size: int) -> list[bytes | memoryview]:
        """The next `size` bytes, of at least as many."""
        taken: list[bytes | memoryview] = []
        self.queued -= size
        while size:
            part = self._parts.popleft()
            if len(part) > size:
                view = memoryview(part)
                self._parts.appendleft(view[size:])
                part = view[:size]
            taken.append(part)
            size -= len(part)
        return taken

    def drop(self) -> None:
        """Forget what is queued."""
        self._parts.clear()
        self.queued = 0
        self.tail = None
        self.has_ended = True


L = TypeVar("L", bound=Lane)


class Outbox(Generic[L]):
    """All that a connection has to send: `frames` in their order, and what its lanes still hold."""

    def __init__(self) -> None:
        self.frames: list[bytes | memoryview] = []
        """To be written now, in this order."""
        self.size = 0
        """About so many bytes of data in them."""
        self.window = frames.DEFAULT_WINDOW
        """Bytes that the client takes on the connection."""
        self.max_frame = frames.LEAST_MAX_FRAME_SIZE
        self.initial_window = frames.DEFAULT_WINDOW
        """What a new stream begins with: the client's SETTINGS_INITIAL_WINDOW_SIZE."""
        self.is_held = False
        """What was written before does not leave: more of the bodies waits on the lanes, where it has a bound."""
        self._line: deque[L] = deque()
        """Lanes that hold something and whose own window is open: the first goes next, and then to the end."""
        self.points = 0
        """What the client owes for small frames (above 0), or the data frames since this was last taken pay of its answers."""

    @property
    def has_more(self) -> bool:
        """Whether `pump` would send something."""
        return bool(self._line) and self.window > 0

    def add(self, parts: Iterable[bytes]) -> None:
        """Send whole frames that no window holds back."""
        self.frames += parts

    def put(self, lane: L, data: bytes, end: bool) -> bool:
        """Send `data` on `lane`, at once where windows allow all of it. Returns whether the stream's END_STREAM is out."""
        size = len(data)
        if not size and not end:
            return False
        is_open = size <= lane.window and size <= self.window and size <= self.max_frame
        # 6.9.1: an end without data needs no window.
        # Not past those that stand in line, who may be waiting for the window of the connection.
        if not lane.queued and (
            not size or (is_open and self.size < MAX_READY and not self.is_held and not self._line)
        ):
            lane.window -= size
            self.window -= size
            self.size += size
            self.points -= ANSWERS + size // ANSWER_SIZE
            self.frames.append(frames.header(size, DATA, END_STREAM if end else 0, lane.id))
            if size:
                self.frames.append(data)
            lane.has_ended = end
            return end
        lane.put(data)
        lane.has_ended = end
        self._stand(lane)
        return False

    def end(self, lane: L, block: bytes) -> bool:
        """End `lane` with trailers. Returns whether they are out."""
        lane.has_ended = True
        if not lane.queued:
            self.add(frames.headers(lane.id, block, True, self.max_frame))
            return True
        lane.tail = block
        self._stand(lane)
        return False

    def _stand(self, lane: L) -> None:
        if not lane.is_ready and lane.window > 0:
            lane.is_ready = True
            self._line.append(lane)

    def open(self, lane: L, increment: int) -> bool:
        """The client takes so many bytes more on `lane`, or fewer. Returns False where the window would be too large (6.9.1)."""
        lane.window += increment
        if lane.queued:
            self._stand(lane)
        return lane.window <= MAX_WINDOW

    def open_connection(self, increment: int) -> bool:
        """The same for the connection."""
        self.window += increment
        return self.window <= MAX_WINDOW

    def forget(self, lane: L) -> None:
        """Nothing more is sent on `lane`. What stands in `frames` already is."""
        lane.drop()
        if lane.is_ready:
            lane.is_ready = False
            self._line.remove(lane)

    def pump(self, limit: int, ended: list[L], freed: list[L]) -> None:
        """Move what the windows allow to `frames`, a frame of each lane in turn, until `size` is `limit`.

        Appends the lanes whose END_STREAM is out to `ended`, and those that are below LOW_WATER again to `freed`.
        """
        line = self._line
        while line and self.window > 0 and self.size < limit:
            lane = line.popleft()
            size = min(lane.queued, lane.window, self.window, self.max_frame)
            if size <= 0:
                lane.is_ready = False  # the window was made smaller
                continue
            is_last = lane.has_ended and size == lane.queued
            self._send(lane, size, is_last and lane.tail is None)
            if is_last:
                if lane.tail is not None:
                    self.add(frames.headers(lane.id, lane.tail, True, self.max_frame))
                lane.is_ready = False
                ended.append(lane)
            elif lane.queued and lane.window > 0:
                line.append(lane)
            else:
                lane.is_ready = False
            if lane.is_clogged and lane.queued <= LOW_WATER:
                lane.is_clogged = False
                freed.append(lane)

    def _send(self, lane: L, size: int, end: bool) -> None:
        self.points += (
            SMALL_FRAME
            if size < LEAST_FRAME and size < lane.queued
            else -(ANSWERS + size // ANSWER_SIZE)
        )
        self.frames.append(frames.header(size, DATA, END_STREAM if end else 0, lane.id))
        self.frames += lane.take(size)
        lane.window -= size
        self.window -= size
        self.size += size
