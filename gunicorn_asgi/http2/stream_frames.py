"""Pure: frames of streams, from a client to events (RFC 9113, 6.1 to 6.4, 6.9, 6.10, 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import RequestError
from ..http.request import UNKNOWN_LENGTH, Request
from . import budget, frames
from .blocks import TOLERANCE, Block, BlockReader
from .budget import Budget
from .closed_streams import LateFrame
from .control import ACCEPTING, ConnectionControl
from .events import Event, Malformed, Opened, Received, Refused, Reset
from .flow_control import FlowControl
from .frames import (
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    PADDED,
    ConnectionFailure,
    ErrorCode,
    FrameType,
)
from .limits import HTTP2Limits
from .outbox import Outbox
from .request import MalformedError, check_trailers
from .stream import HALF_CLOSED_REMOTE, STREAM_OPEN, Stream
from .streams import Streams


class StreamFrames:
    """Reads the frames of all streams of a connection."""

    def __init__(
        self,
        limits: HTTP2Limits,
        read: Callable[[Block], Request],
        outbox: Outbox,
        streams: Streams,
        flow: FlowControl,
        control: ConnectionControl,
        budget_: Budget,
    ) -> None:
        # Set once, or shared with the connection.
        self._limits = limits
        self.read = read
        self._outbox = outbox
        self._streams = streams
        self._flow = flow
        self._control = control
        self._budget = budget_
        # Own.
        self.blocks = BlockReader(limits.max_header_list)
        self.block: tuple[int, bool, bool, bytearray] | None = None
        """A field block to be continued by CONTINUATION frames: its stream, whether the stream ends
        with it, whether the stream depends on itself, the bytes so far."""

    # Field blocks.

    def _on_headers(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if not id_ & 1:
            # 5.1.1 and 6.2: streams of a client have odd identifiers.
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {id_}")
        if flags & PADDED:
            payload = _unpad(payload)
        depends_on_itself = False
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailure(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for their priority"
                )
            depends_on_itself = frames.read_number(payload) == id_
            payload = payload[5:]
        end = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._take_block(id_, end, depends_on_itself, payload, events)
        else:
            self.block = id_, end, depends_on_itself, bytearray()
            self._extend_block(payload)

    def _on_continuation(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if self.block is None:
            raise ConnectionFailure(
                ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS"
            )  # 6.10
        self._budget.spend(budget.IDLE_FRAME)
        self._extend_block(payload)
        if flags & END_HEADERS:
            _, end, depends_on_itself, block = self.block
            self.block = None
            self._take_block(id_, end, depends_on_itself, bytes(block), events)

    def _extend_block(self, payload: bytes) -> None:
        assert self.block is not None
        block = self.block[3]
        block += payload
        if len(block) > self._limits.max_header_list * TOLERANCE:
            raise ConnectionFailure(
                ErrorCode.ENHANCE_YOUR_CALM, "a field block that is far too long"
            )

    def _take_block(
        self, id_: int, end: bool, depends_on_itself: bool, data: bytes, events: list[Event]
    ) -> None:
        # 4.3: the block is decoded even if it is ignored, or the tables of the sides would differ.
        block = self.blocks.read(data)
        streams = self._streams
        stream = streams.active.get(id_)
        if stream is not None:
            self._take_trailers(stream, end, block, events)
        elif id_ > streams.last_id:
            self._open(id_, end, depends_on_itself, block, events)
        else:
            self._budget.spend(budget.IDLE_FRAME)
            self._on_closed_stream(id_, 0)

    def _open(
        self, id_: int, end: bool, depends_on_itself: bool, block: Block, events: list[Event]
    ) -> None:
        streams = self._streams
        if id_ > streams.last_id + 2:
            streams.skip_to(id_)
        streams.last_id = id_
        limit = self._limits.max_streams
        if (
            self._control.state is not ACCEPTING
            or len(streams.active) >= limit
            or len(streams.active) + streams.abandoned >= 2 * limit
        ):
            # 5.1.2 and 8.7: the client may retry.
            self._budget.spend(budget.IDLE_FRAME)
            streams.reject(id_, ErrorCode.REFUSED_STREAM)
            return
        if self._budget.tokens < 0:
            self._budget.spend(0)  # `Budget.take` was called without a check
        request = block.request
        try:
            if depends_on_itself:
                raise MalformedError("a stream that depends on itself")  # RFC 7540, 5.3.1
            if request is None:
                request = block.request = self.read(block)
            expected = request[4].length
            if end and expected > 0:
                raise MalformedError("less content than its content-length")
        except MalformedError as error:
            self._budget.spend(budget.RESET)
            streams.reject(id_, ErrorCode.PROTOCOL_ERROR)
            events.append(Malformed(block, str(error)))
            return
        except RequestError as error:
            self._budget.spend(budget.REFUSED + block.size // 1024)
            events.append(Refused(streams.open(id_, end, UNKNOWN_LENGTH), error, block))
            return
        stream = streams.open(id_, end, expected)
        stream.is_tunnel = bool(request[4].upgrade)
        events.append(Opened(stream, request, end))

    def _take_trailers(self, stream: Stream, end: bool, block: Block, events: list[Event]) -> None:
        if stream.state is HALF_CLOSED_REMOTE:
            self._fail_stream(
                stream, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream", events
            )  # 5.1
            return
        try:
            if stream.is_tunnel:
                raise MalformedError("HEADERS on a connected stream")  # 8.5
            if not end:
                raise MalformedError("HEADERS in the midst of a body")  # 8.1
            check_trailers(block.fields)
        except MalformedError as error:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR, str(error), events)
        else:
            self._take_data(stream, b"", True, events)

    # Data.

    def _on_data(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        self._flow.data_received(size)
        if flags & PADDED:
            payload = _unpad(payload)
        stream = self._streams.active.get(id_)
        if stream is None:
            self._check_not_idle(id_, "DATA")
            self._flow.release(size)  # 6.9: it counts for the connection
            if not size:
                self._budget.spend(budget.IDLE_FRAME)
            self._on_closed_stream(id_, size)
            return
        if stream.state is HALF_CLOSED_REMOTE:
            self._flow.release(size)
            self._fail_stream(
                stream, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream", events
            )  # 5.1
            return
        stream.receive_window -= size
        stream.unread += size
        # 6.9.2: our SETTINGS can have made the window negative. Even then an end without data may
        # arrive.
        if stream.receive_window < 0 and size:
            self._fail_stream(
                stream,
                ErrorCode.FLOW_CONTROL_ERROR,
                "more than the window of the stream",
                events,
            )  # 6.9.1
            return
        end = bool(flags & END_STREAM)
        if not payload and not end:
            self._budget.spend(budget.IDLE_FRAME)
        if len(payload) < size:
            self._flow.consume(stream, size - len(payload))
        self._take_data(stream, payload, end, events)

    def _take_data(self, stream: Stream, data: bytes, end: bool, events: list[Event]) -> None:
        if stream.expected >= 0:
            stream.expected -= len(data)
            # curl stops sending when it sees the head of a response from 400 on, and ends its side
            # there. The application learns that the body is incomplete, and the response goes on.
            is_too_early = stream.state is STREAM_OPEN and not stream.is_answered
            if stream.expected < 0 or (end and stream.expected and is_too_early):
                self._fail_stream(
                    stream,
                    ErrorCode.PROTOCOL_ERROR,
                    "content of another length than its content-length",
                    events,
                )  # 8.1.1
                return
        if end:
            self._streams.end_received(stream)
        if data or end:
            events.append(Received(stream, data, end))

    # Other frames of streams.

    def _on_priority(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        """5.3.2: priorities are deprecated. Invalid priorities are errors all the same."""
        stream = self._streams.active.get(id_)
        if id_ == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")  # 6.3
        code, reason = ErrorCode.NO_ERROR, ""
        if len(payload) != 5:
            code, reason = ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another size than 5"  # 6.3
        elif frames.read_number(payload) == id_:
            # RFC 7540, 5.3.1
            code, reason = ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself"
        if reason and stream is not None:
            self._fail_stream(stream, code, reason, events)
            return
        self._budget.spend(budget.IDLE_FRAME)
        if reason and (id_ > self._streams.last_id or not id_ & 1):
            raise ConnectionFailure(code, reason)  # 6.4: an idle stream cannot be reset
        if reason:
            self._budget.spend(budget.RESET)
            self._outbox.add([frames.rst_stream(id_, code)])

    def _on_rst_stream(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4"
            )  # 6.4
        stream = self._streams.active.get(id_)
        if stream is None:
            self._check_not_idle(id_, "RST_STREAM")
            self._budget.spend(budget.IDLE_FRAME)
            self._streams.closed.reset_received(id_)
            return
        self._budget.spend(budget.RESET)
        self._streams.reset_received(stream)
        events.append(Reset(stream, int.from_bytes(payload, "big"), None))

    def _on_window_update(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4"
            )  # 6.9
        self._budget.spend_reply(budget.IDLE_FRAME)
        increment = frames.read_number(payload)
        if id_ == 0:
            if increment == 0:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if not self._outbox.widen_connection(increment):
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            return
        stream = self._streams.active.get(id_)
        if stream is None:
            self._check_not_idle(id_, "WINDOW_UPDATE")
        elif increment == 0:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0", events)
        elif not self._outbox.widen(stream.send_queue, increment):
            self._fail_stream(stream, ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1", events)

    # Streams in other states.

    def _check_not_idle(self, id_: int, frame: str) -> None:
        # 5.1: an idle stream allows HEADERS and PRIORITY only.
        if id_ > self._streams.last_id or not id_ & 1:
            raise ConnectionFailure(
                ErrorCode.PROTOCOL_ERROR, f"{frame} on stream {id_}, which is idle"
            )

    def _on_closed_stream(self, id_: int, size: int) -> None:
        """HEADERS, or DATA of `size` bytes, on a closed stream. Raises ConnectionFailure."""
        late = self._streams.closed.late_frame(id_, size, self._streams.last_id)
        if late is not LateFrame.IN_FLIGHT:
            self._budget.spend(budget.RESET)
        if late is LateFrame.AFTER_ITS_RESET:
            self._outbox.add([frames.rst_stream(id_, ErrorCode.STREAM_CLOSED)])

    def _fail_stream(
        self, stream: Stream, code: ErrorCode, reason: str, events: list[Event]
    ) -> None:
        """A stream error (5.4.2). Raises ConnectionFailure where there were too many of them."""
        self._streams.reset(stream, code)
        self._streams.abandon(stream)
        events.append(Reset(stream, code, reason))
        self._budget.spend(budget.RESET)


STREAM_FRAMES: Mapping[int, Callable[[StreamFrames, int, int, bytes, list[Event]], None]] = {
    FrameType.DATA: StreamFrames._on_data,
    FrameType.HEADERS: StreamFrames._on_headers,
    FrameType.PRIORITY: StreamFrames._on_priority,
    FrameType.RST_STREAM: StreamFrames._on_rst_stream,
    FrameType.WINDOW_UPDATE: StreamFrames._on_window_update,
    FrameType.CONTINUATION: StreamFrames._on_continuation,
}
"""Each takes (flags, stream, payload, events), and raises ConnectionFailure."""


def _unpad(payload: bytes) -> bytes:
    """6.1 and 6.2: the first byte is the length of the padding at the end."""
    if not payload:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "padding without its length")  # 4.2
    if payload[0] >= len(payload):
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding of more than the frame")
    return payload[1 : len(payload) - payload[0]]
