"""Pure: frames to send, and data waiting for the client's flow-control windows (RFC 9113, 5.2).

`Outbox` is the sending side of a connection, `SendQueue` the sending side of a stream. Queues with
an open window take turns, a frame each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from . import frames
from .budget import LEAST_FRAME, REPLIES, REPLY_SIZE, SMALL_FRAME
from .frames import DATA, END_STREAM, MAX_WINDOW_SIZE

STREAM_HIGH_WATER = 65536
"""Bytes in a stream's queue above which its application waits..."""
STREAM_LOW_WATER = 16384
"""...until so few are left."""
MAX_READY = 65536
"""Bytes of data in `Outbox.frames` from which on further data stays in the queues, whatever the
windows allow."""


class SendQueue:
    """The sending side of a stream."""

    __slots__ = (
        "_parts",
        "has_end_stream",
        "id",
        "is_paused",
        "is_scheduled",
        "size",
        "trailers",
        "window",
    )

    def __init__(self, id_: int, window: int) -> None:
        self.id = id_
        self.window = window
        """Bytes the client accepts on this stream; below 0 after it made the window smaller
        (6.9.2)."""
        self._parts: deque[bytes | memoryview] | None = None
        """The data; made when some has to wait, which is rare."""
        self.size = 0
        """Bytes in the queue."""
        self.has_end_stream = False
        """The end of the stream is sent, or follows the queued data."""
        self.trailers: bytes | None = None
        """A field block that ends the stream, in place of a flag on its last data."""
        self.is_scheduled = False
        """The outbox has it in the line of queues to send from."""
        self.is_paused = False
        """The application waits until at most STREAM_LOW_WATER is left."""

    def append(self, data: bytes | memoryview) -> None:
        if self._parts is None:
            self._parts = deque()
        self._parts.append(data)
        self.size += len(data)

    def take(self, size: int) -> list[bytes | memoryview]:
        """Remove and return the next `size` bytes. The queue has at least as many."""
        taken: list[bytes | memoryview] = []
        parts = self._parts
        assert parts is not None
        self.size -= size
        while size:
            part = parts.popleft()
            if len(part) > size:
                view = memoryview(part)
                parts.appendleft(view[size:])
                part = view[:size]
            taken.append(part)
            size -= len(part)
        return taken

    def discard(self) -> None:
        """Remove everything, and accept nothing more."""
        self._parts = None
        self.size = 0
        self.trailers = None
        self.has_end_stream = True


class Outbox:
    """The sending side of a connection: `frames` in their order, and the queues of its streams."""

    def __init__(self) -> None:
        self.frames: list[bytes | memoryview] = []
        """To be written next, in this order."""
        self.size = 0
        """About the bytes of data in `frames`."""
        self.window = frames.DEFAULT_WINDOW_SIZE
        """Bytes of data the client accepts on the connection."""
        self.max_frame_size = frames.LEAST_MAX_FRAME_SIZE
        self.initial_window = frames.DEFAULT_WINDOW_SIZE
        """The window of a new stream: the client's SETTINGS_INITIAL_WINDOW_SIZE."""
        self.is_paused = False
        """The transport's buffer is full: data stays in the queues, where it has a limit."""
        self.scheduled: deque[SendQueue] = deque()
        """Queues with data and an open window. The first sends a frame, then goes to the end."""
        self.frame_cost = 0
        """Tokens of the budget for the data frames since this was last reset. Above 0: the client's
        cost for small frames. Below 0: a payment for its replies."""

    @property
    def has_sendable(self) -> bool:
        """Whether `pump` would send something."""
        return bool(self.scheduled) and self.window > 0

    def add(self, parts: Iterable[bytes]) -> None:
        """Send whole frames to which no window applies."""
        self.frames += parts

    def send_data(self, queue: SendQueue, data: bytes | memoryview, end: bool) -> bool:
        """Send `data`, at once where the windows allow all of it, or queue it.

        Returns whether the stream's END_STREAM is among the frames.
        """
        size = len(data)
        if not size and not end:
            return False
        fits = size <= queue.window and size <= self.window and size <= self.max_frame_size
        # 6.9.1: an end without data needs no window.
        # Queues in the line go first: they may be waiting for the window of the connection.
        if not queue.size and (
            not size
            or (fits and self.size < MAX_READY and not self.is_paused and not self.scheduled)
        ):
            queue.window -= size
            self.window -= size
            self.size += size
            self.frame_cost -= REPLIES + size // REPLY_SIZE
            self.frames.append(frames.header(size, DATA, END_STREAM if end else 0, queue.id))
            if size:
                self.frames.append(data)
            queue.has_end_stream = end
            return end
        queue.append(data)
        queue.has_end_stream = end
        self._schedule(queue)
        return False

    def send_trailers(self, queue: SendQueue, block: bytes) -> bool:
        """End the stream with trailers, after the queued data. Returns whether they are sent."""
        queue.has_end_stream = True
        if not queue.size:
            self.add(frames.headers(queue.id, block, True, self.max_frame_size))
            return True
        queue.trailers = block
        self._schedule(queue)
        return False

    def _schedule(self, queue: SendQueue) -> None:
        if not queue.is_scheduled and queue.window > 0:
            queue.is_scheduled = True
            self.scheduled.append(queue)

    def widen(self, queue: SendQueue, increment: int) -> bool:
        """Add `increment`, which may be below 0, to the stream's window.

        Returns False where the window becomes too large (6.9.1).
        """
        queue.window += increment
        if queue.size:
            self._schedule(queue)
        return queue.window <= MAX_WINDOW_SIZE

    def widen_connection(self, increment: int) -> bool:
        """Add `increment` to the connection's window. Returns False where it becomes too large."""
        self.window += increment
        return self.window <= MAX_WINDOW_SIZE

    def discard(self, queue: SendQueue) -> None:
        """Send nothing more from `queue`. Its data in `frames` stays."""
        queue.discard()
        if queue.is_scheduled:
            queue.is_scheduled = False
            self.scheduled.remove(queue)

    def pump(self, limit: int, finished: list[SendQueue], writable: list[SendQueue]) -> None:
        """Move queued data to `frames`, as far as the windows allow, until `size` is `limit`.

        Appends queues to `finished` after their END_STREAM, and paused queues to `writable` once
        they are down to STREAM_LOW_WATER.
        """
        line = self.scheduled
        while line and self.window > 0 and self.size < limit:
            queue = line.popleft()
            size = min(queue.size, queue.window, self.window, self.max_frame_size)
            if size <= 0:
                queue.is_scheduled = False  # the client made the window smaller
                continue
            is_last = queue.has_end_stream and size == queue.size
            self._send(queue, size, is_last and queue.trailers is None)
            if is_last:
                if queue.trailers is not None:
                    self.add(frames.headers(queue.id, queue.trailers, True, self.max_frame_size))
                queue.is_scheduled = False
                finished.append(queue)
            elif queue.size and queue.window > 0:
                line.append(queue)
            else:
                queue.is_scheduled = False
            if queue.is_paused and queue.size <= STREAM_LOW_WATER:
                queue.is_paused = False
                writable.append(queue)

    def _send(self, queue: SendQueue, size: int, end: bool) -> None:
        is_small = size < LEAST_FRAME and size < queue.size
        self.frame_cost += SMALL_FRAME if is_small else -(REPLIES + size // REPLY_SIZE)
        self.frames.append(frames.header(size, DATA, END_STREAM if end else 0, queue.id))
        self.frames += queue.take(size)
        queue.window -= size
        self.window -= size
        self.size += size
