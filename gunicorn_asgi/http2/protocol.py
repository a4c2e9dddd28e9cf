"""Pure: the server's side of one connection, from frames to events and from what is to be sent to frames (RFC 9113, RFC 8441). No I/O.

`receive` takes what has come and returns what it means; everything that is to be sent, answers to the client's frames included, is in `outbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import RequestError
from ..http.request import UNKNOWN_LENGTH, Request
from . import budget, frames
from .blocks import TOLERANCE, Block, BlockReader
from .control import Control
from .events import Event, Failed, Malformed, Opened, Received, Refused, Reset
from .frames import END_HEADERS, END_STREAM, HAS_PRIORITY, PADDED, PREFACE, Code, ConnectionFailure
from .request import MalformedError, check_trailers
from .streams import BY_CLIENT, HALF_CLOSED_REMOTE, MAX_SKIPPED, OPEN, Limits, Stream


class Protocol(Control):
    """One connection, and the frames that its streams consist of. They come into `receive`, and go from `outbox.frames`."""

    def __init__(self, limits: Limits, read: Callable[[Block], Request]) -> None:
        """`read` says what a request's fields mean; it raises MalformedError or RequestError."""
        super().__init__(limits)
        # Set once.
        self._read = read
        # What comes.
        self._reader = frames.FrameReader(limits.max_frame)
        self._blocks = BlockReader(limits.max_header_list)
        self._preface = PREFACE
        """What is still to come of it."""
        self._held: tuple[int, bool, bool, bytearray] | None = None
        """A field block whose end is to come in CONTINUATION frames: stream, whether that ends with it, whether it depends on itself, bytes."""

    @property
    def awaited(self) -> object:
        """What was begun and is not whole: the preface, or a field block, each another object; None if nothing."""
        return self._held if self._is_settled else PREFACE

    # What comes.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take `data` at the time `now`, in seconds. Whatever the client does wrong is answered, and told in the events."""
        events: list[Event] = []
        if self.has_failed:
            return events
        self._now = now
        found: list[frames.Frame] = []
        failure: ConnectionFailure | None = None
        try:
            if self._preface:
                data = self._take_preface(data)
            try:
                self._reader.read(data, found)
            except ConnectionFailure as error:
                failure = error  # what came before it is in order
            for kind, flags, stream, payload in found:
                if self._held is not None and not (
                    kind == frames.CONTINUATION and stream == self._held[0]
                ):
                    # 6.2 and 6.10: nothing may stand between the frames of a field block.
                    raise ConnectionFailure(Code.PROTOCOL_ERROR, "a frame within a field block")
                if not self._is_settled and kind != frames.SETTINGS:
                    raise ConnectionFailure(
                        Code.PROTOCOL_ERROR, "the first frame is not SETTINGS"
                    )  # 3.4
                handler = HANDLERS.get(kind)
                if handler is None:
                    self._spend(budget.IDLE_FRAME)  # 4.1 and 5.5: unknown types are ignored
                else:
                    handler(self, flags, stream, payload, events)
            if failure is not None:
                raise failure
        except ConnectionFailure as error:
            self.fail(error.code, str(error))
            events.append(Failed(error.code, str(error)))
        return events

    def _take_preface(self, data: bytes) -> bytes:
        expected = self._preface
        if data[: len(expected)] != expected[: len(data)]:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "no connection preface")  # 3.4
        self._preface = expected[len(data) :]
        return data[len(expected) :]

    def _on_headers(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if not id_ & 1:
            # 5.1.1 and 6.2: those of a client have odd numbers.
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"HEADERS on stream {id_}")
        if flags & PADDED:
            payload = _unpad(payload)
        depends_on_itself = False
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailure(
                    Code.FRAME_SIZE_ERROR, "HEADERS without room for their priority"
                )
            depends_on_itself = frames.read_number(payload) == id_
            payload = payload[5:]
        end = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._take_block(id_, end, depends_on_itself, payload, events)
        else:
            self._held = id_, end, depends_on_itself, bytearray()
            self._hold(payload)

    def _on_continuation(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if self._held is None:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")  # 6.10
        self._spend(budget.IDLE_FRAME)
        self._hold(payload)
        if flags & END_HEADERS:
            _, end, depends_on_itself, block = self._held
            self._held = None
            self._take_block(id_, end, depends_on_itself, bytes(block), events)

    def _hold(self, payload: bytes) -> None:
        assert self._held is not None
        block = self._held[3]
        block += payload
        if len(block) > self._limits.max_header_list * TOLERANCE:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "a field block that is far too long")

    def _take_block(
        self, id_: int, end: bool, depends_on_itself: bool, data: bytes, events: list[Event]
    ) -> None:
        # 4.3: read whatever becomes of it, for the tables of both sides have to stay the same.
        block = self._blocks.read(data)
        stream = self.streams.get(id_)
        if stream is not None:
            self._take_trailers(stream, end, block, events)
        elif id_ > self.last_id:
            self._open(id_, end, depends_on_itself, block, events)
        else:
            self._spend(budget.IDLE_FRAME)
            self._on_closed(id_, 0)

    def _open(
        self, id_: int, end: bool, depends_on_itself: bool, block: Block, events: list[Event]
    ) -> None:
        if id_ > self.last_id + 2:
            self._skipped.append(range((self.last_id + 1) | 1, id_, 2))
            del self._skipped[:-MAX_SKIPPED]
        self.last_id = id_
        limit = self._limits.max_streams
        if (
            self._is_refusing
            or len(self.streams) >= limit
            or len(self.streams) + self.abandoned >= 2 * limit
        ):
            # 5.1.2 and 8.7: the client may try again.
            self._spend(budget.IDLE_FRAME)
            self._reset(id_, Code.REFUSED_STREAM, self._new_window)
            return
        if self._budget.points < 0:
            self._spend(0)  # by `charge`
        request = block.request
        try:
            if depends_on_itself:
                raise MalformedError("a stream that depends on itself")  # RFC 7540, 5.3.1
            if request is None:
                request = block.request = self._read(block)
            expected = request[4].length
            if end and expected > 0:
                raise MalformedError("less content than its content-length")
        except MalformedError as error:
            self._spend(budget.RESET)
            self._reset(id_, Code.PROTOCOL_ERROR, self._new_window)
            events.append(Malformed(block, str(error)))
            return
        except RequestError as error:
            self._spend(budget.REFUSED + block.size // 1024)
            refused = self.streams[id_] = self._make(id_, end, UNKNOWN_LENGTH)
            events.append(Refused(refused, error, block))
            return
        stream = self.streams[id_] = self._make(id_, end, expected)
        stream.is_connected = bool(request[4].upgrade)
        events.append(Opened(stream, request, end))

    def _make(self, id_: int, end: bool, expected: int) -> Stream:
        return Stream(
            id_,
            self.outbox.initial_window,
            self._new_window,
            HALF_CLOSED_REMOTE if end else OPEN,
            expected,
        )

    def _take_trailers(self, stream: Stream, end: bool, block: Block, events: list[Event]) -> None:
        if stream.state is HALF_CLOSED_REMOTE:
            self._break(
                stream, Code.STREAM_CLOSED, "HEADERS behind the end of the stream", events
            )  # 5.1
            return
        try:
            if stream.is_connected:
                raise MalformedError("HEADERS on a connected stream")  # 8.5
            if not end:
                raise MalformedError("HEADERS in the midst of a body")  # 8.1
            check_trailers(block.fields)
        except MalformedError as error:
            self._break(stream, Code.PROTOCOL_ERROR, str(error), events)
        else:
            self._take_data(stream, b"", True, events)

    def _on_closed(self, id_: int, size: int) -> None:
        """HEADERS, or DATA of `size`, have come on a stream that is no more."""
        left = self._resets.get(id_)
        if left is None and any(id_ in skipped for skipped in self._skipped):
            raise ConnectionFailure(
                Code.PROTOCOL_ERROR, f"stream {id_} behind stream {self.last_id}"
            )  # 5.1.1
        if left is None:
            raise ConnectionFailure(
                Code.STREAM_CLOSED, f"a frame on stream {id_} behind its end"
            )  # 5.1
        if left == BY_CLIENT:
            self._spend(budget.RESET)
            self.outbox.add([frames.rst_stream(id_, Code.STREAM_CLOSED)])
        elif size <= left:
            # 5.1: after our RST_STREAM it may have been on its way, as far as the window of the stream went.
            self._resets[id_] = left - size
        else:
            self._spend(budget.RESET)

    def _on_data(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise ConnectionFailure(
                Code.FLOW_CONTROL_ERROR, "more than the window of the connection"
            )  # 6.9.1
        if flags & PADDED:
            payload = _unpad(payload)
        stream = self.streams.get(id_)
        if stream is None:
            self._check_not_idle(id_, "DATA")
            self._give_back(size)  # 6.9: it counts
            if not size:
                self._spend(budget.IDLE_FRAME)
            self._on_closed(id_, size)
            return
        if stream.state is HALF_CLOSED_REMOTE:
            self._give_back(size)
            self._break(
                stream, Code.STREAM_CLOSED, "DATA behind the end of the stream", events
            )  # 5.1
            return
        stream.receive_window -= size
        stream.unread += size
        # An end without data may come whatever the window is, which our SETTINGS can have made smaller than nothing (6.9.2).
        if stream.receive_window < 0 and size:
            self._break(
                stream, Code.FLOW_CONTROL_ERROR, "more than the window of the stream", events
            )  # 6.9.1
            return
        end = bool(flags & END_STREAM)
        if not payload and not end:
            self._spend(budget.IDLE_FRAME)
        if len(payload) < size:
            self.consume(stream, size - len(payload))
        self._take_data(stream, payload, end, events)

    def _take_data(self, stream: Stream, data: bytes, end: bool, events: list[Event]) -> None:
        if stream.expected >= 0:
            stream.expected -= len(data)
            # curl stops sending when it sees the head of an answer from 400 on, and ends its side there. The
            # application is told that the body is not whole, and the response goes on.
            is_too_early = stream.state is OPEN and not stream.is_answered
            if stream.expected < 0 or (end and stream.expected and is_too_early):
                self._break(
                    stream,
                    Code.PROTOCOL_ERROR,
                    "content of another length than its content-length",
                    events,
                )  # 8.1.1
                return
        if end:
            if stream.state is OPEN:
                stream.state = HALF_CLOSED_REMOTE
            else:
                self._close(stream)
        if data or end:
            events.append(Received(stream, data, end))

    def _on_priority(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        """5.3.2: that scheme is given up. What is left of it are the errors."""
        stream = self.streams.get(id_)
        if id_ == 0:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")  # 6.3
        code, reason = Code.NO_ERROR, ""
        if len(payload) != 5:
            code, reason = Code.FRAME_SIZE_ERROR, "PRIORITY of another size than 5"  # 6.3
        elif frames.read_number(payload) == id_:
            code, reason = Code.PROTOCOL_ERROR, "a stream that depends on itself"  # RFC 7540, 5.3.1
        if reason and stream is not None:
            self._break(stream, code, reason, events)
            return
        self._spend(budget.IDLE_FRAME)
        if reason and (id_ > self.last_id or not id_ & 1):
            raise ConnectionFailure(code, reason)  # 6.4: there is no RST_STREAM of an idle stream
        if reason:
            self._spend(budget.RESET)
            self.outbox.add([frames.rst_stream(id_, code)])

    def _on_rst_stream(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(
                Code.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4"
            )  # 6.4
        stream = self.streams.get(id_)
        if stream is None:
            self._check_not_idle(id_, "RST_STREAM")
            self._spend(budget.IDLE_FRAME)
            if id_ in self._resets:
                self._resets[id_] = (
                    BY_CLIENT  # it has crossed ours: what comes behind it was not on its way (5.1)
                )
            return
        self._spend(budget.RESET)
        self._remember(id_, BY_CLIENT)
        self.outbox.forget(stream)
        self._close(stream)
        self._abandon(stream)
        events.append(Reset(stream, int.from_bytes(payload, "big"), None))

    def _on_window_update(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(
                Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4"
            )  # 6.9
        self._answer()
        increment = frames.read_number(payload)
        if id_ == 0:
            if increment == 0:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if not self.outbox.open_connection(increment):
                raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            return
        stream = self.streams.get(id_)
        if stream is None:
            self._check_not_idle(id_, "WINDOW_UPDATE")
        elif increment == 0:
            self._break(stream, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0", events)
        elif not self.outbox.open(stream, increment):
            self._break(stream, Code.FLOW_CONTROL_ERROR, "a window above 2^31-1", events)

    def _check_not_idle(self, id_: int, what: str) -> None:
        # 5.1: on an idle stream only HEADERS and PRIORITY.
        if id_ > self.last_id or not id_ & 1:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"{what} on stream {id_}, which is idle")

    # How streams end.

    def _break(self, stream: Stream, code: Code, reason: str, events: list[Event]) -> None:
        """A stream error (5.4.2). Raises ConnectionFailure where there were too many of them."""
        self.reset(stream, code)
        self._abandon(stream)
        events.append(Reset(stream, code, reason))
        self._spend(budget.RESET)

    def _abandon(self, stream: Stream) -> None:
        """Its application may run on: it counts at once, not only with the next data, for the same may open another in its place."""
        if stream.exchange is not None:
            self.abandoned += 1


Handler = Callable[[Protocol, int, int, bytes, list[Event]], None]
HANDLERS: Mapping[int, Handler] = {
    frames.DATA: Protocol._on_data,
    frames.HEADERS: Protocol._on_headers,
    frames.PRIORITY: Protocol._on_priority,
    frames.RST_STREAM: Protocol._on_rst_stream,
    frames.SETTINGS: Protocol._on_settings,
    frames.PUSH_PROMISE: Protocol._on_push_promise,
    frames.PING: Protocol._on_ping,
    frames.GOAWAY: Protocol._on_goaway,
    frames.WINDOW_UPDATE: Protocol._on_window_update,
    frames.CONTINUATION: Protocol._on_continuation,
}


def _unpad(payload: bytes) -> bytes:
    """6.1 and 6.2: the first byte says how many at the end are padding."""
    if not payload:
        raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "padding without its length")  # 4.2
    if payload[0] >= len(payload):
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "padding of more than the frame")
    return payload[1 : len(payload) - payload[0]]
