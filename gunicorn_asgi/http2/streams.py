"""Pure: the streams of a connection, how they open and close, and frames sent on them."""

from __future__ import annotations

from . import budget, frames
from .budget import Budget
from .closed_streams import ClosedStreams
from .flow_control import FlowControl
from .frames import ErrorCode
from .literals import TABLE_SIZE_0
from .outbox import Outbox, SendQueue
from .stream import (
    AFTER_END_STREAM_RECEIVED,
    AFTER_END_STREAM_SENT,
    HALF_CLOSED_REMOTE,
    STREAM_CLOSED,
    STREAM_OPEN,
    Stream,
)


class Streams:
    """All streams of a connection."""

    def __init__(self, outbox: Outbox, flow: FlowControl, budget_: Budget) -> None:
        # Shared with the connection.
        self._outbox = outbox
        self._flow = flow
        self._budget = budget_
        # Own.
        self.active: dict[int, Stream] = {}
        """Open and half-closed streams."""
        self.closed = ClosedStreams()
        self.last_id = 0
        """The highest identifier used by the client."""
        self.abandoned = 0
        """Closed streams with a running application; set by the connection with each packet."""
        self._block_prefix = TABLE_SIZE_0
        """Starts the next field block."""

    # Opening.

    def open(self, id_: int, has_ended: bool, expected: int) -> Stream:
        """Open a stream. `expected`: bytes of its request's body, or UNKNOWN_LENGTH."""
        stream = self.active[id_] = Stream(
            id_,
            HALF_CLOSED_REMOTE if has_ended else STREAM_OPEN,
            self._outbox.initial_window,
            self._flow.initial_window,
            expected,
        )
        return stream

    def skip_to(self, id_: int) -> None:
        """The client leaves out the identifiers between `last_id` and `id_`: it closes them."""
        self.closed.add_skipped(range((self.last_id + 1) | 1, id_, 2))

    def reject(self, id_: int, code: ErrorCode) -> None:
        """Reset a stream instead of opening it."""
        self._send_reset(id_, code, self._flow.initial_window)

    # Closing.

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Close `stream` at once; its queue is discarded."""
        if stream.state is not STREAM_CLOSED:
            self._outbox.discard(stream.send_queue)
            self._send_reset(stream.id, code, stream.receive_window)
            self._close(stream)

    def _send_reset(self, id_: int, code: ErrorCode, window: int) -> None:
        self.closed.add_reset(id_, window)
        self._outbox.add([frames.rst_stream(id_, code)])

    def reset_received(self, stream: Stream) -> None:
        """The client has sent RST_STREAM."""
        self.closed.add_client_reset(stream.id)
        self._outbox.discard(stream.send_queue)
        self._close(stream)
        self.abandon(stream)

    def abandon(self, stream: Stream) -> None:
        """Count the application of a stream closed by the client, for it may run on.

        It counts at once, because further streams in the same packet could take its place.
        """
        if stream.exchange is not None:
            self.abandoned += 1

    def end_received(self, stream: Stream) -> None:
        """The client has sent END_STREAM."""
        stream.state = AFTER_END_STREAM_RECEIVED[stream.state]
        if stream.state is STREAM_CLOSED:
            self._close(stream)

    def _end_sent(self, stream: Stream) -> None:
        self._budget.refund(budget.RESPONSE)
        state = AFTER_END_STREAM_SENT[stream.state]
        if state is not stream.state:
            stream.state = state
            if state is STREAM_CLOSED:
                self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.state = STREAM_CLOSED
        del self.active[stream.id]
        if stream.unread:
            self._flow.release(stream.unread)
            stream.unread = 0

    def close_all(self) -> None:
        """Close every stream without a frame: the connection is over."""
        for stream in self.active.values():
            self._outbox.discard(stream.send_queue)
            stream.state = STREAM_CLOSED
        self.active.clear()

    # Sending.

    def send_head(self, stream: Stream, block: bytes, end: bool) -> None:
        """Send a field block, the last of the stream if `end`. The stream's queue is empty."""
        if self._block_prefix:
            block, self._block_prefix = self._block_prefix + block, b""
        outbox = self._outbox
        outbox.frames += frames.headers(stream.id, block, end, outbox.max_frame_size)
        if end:
            stream.send_queue.has_end_stream = True
            self._end_sent(stream)

    def send_data(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        """Send a part of the body as soon as the windows allow it, the last part if `end`."""
        if self._outbox.send_data(stream.send_queue, data, end):
            self._end_sent(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End `stream` with a field block, after the queued data."""
        if self._outbox.send_trailers(stream.send_queue, block):
            self._end_sent(stream)

    def pump(self, limit: int) -> tuple[list[Stream], list[Stream]]:
        """Move up to `limit` bytes of queued data to the outbox's frames.

        Returns the streams with their END_STREAM among these frames, and the streams with room
        again.
        """
        finished_queues: list[SendQueue] = []
        writable_queues: list[SendQueue] = []
        self._outbox.pump(limit, finished_queues, writable_queues)
        writable = [self.active[queue.id] for queue in writable_queues]
        finished = [self.active[queue.id] for queue in finished_queues]
        for stream in finished:
            self._end_sent(stream)
        return finished, writable
