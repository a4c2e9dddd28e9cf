"""Pure: the server's side of a connection, from frames to events (RFC 9113, RFC 8441). No I/O.

`Protocol.receive` takes received bytes and returns events. Everything to be sent is in
`Protocol.outbox`, the replies to the client's frames included. The parts, each for a concern:

=====================  ==================================================================
`Outbox`               frames to send, and data waiting for the client's windows
`Streams`              the streams, their states, and frames sent on them
`FlowControl`          how much the client may send
`StreamFrames`         received frames of streams: requests and their bodies
`ConnectionControl`    frames of the connection: SETTINGS, PING and GOAWAY
`Budget`               the work the client may cause
=====================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable

from ..http.request import Request
from . import budget, frames
from .blocks import Block
from .budget import Budget
from .control import CONNECTION_FRAMES, FAILED, ConnectionControl
from .events import Event, Failed
from .flow_control import FlowControl
from .frames import PREFACE, ConnectionFailure, ErrorCode, FrameType
from .limits import HTTP2Limits
from .outbox import Outbox
from .stream import Stream
from .stream_frames import STREAM_FRAMES, StreamFrames
from .streams import Streams


class Protocol:
    """The server's side of a connection."""

    def __init__(self, limits: HTTP2Limits, read: Callable[[Block], Request]) -> None:
        """`read` gives a request's fields their meaning.

        It raises MalformedError or RequestError.
        """
        self.outbox = Outbox()
        self.budget = Budget()
        self.flow = FlowControl(limits, self.outbox)
        self.streams = Streams(self.outbox, self.flow, self.budget)
        self.control = ConnectionControl(limits, self.outbox, self.streams, self.flow, self.budget)
        self.stream_frames = StreamFrames(
            limits, read, self.outbox, self.streams, self.flow, self.control, self.budget
        )
        self.received = frames.FrameBuffer(limits.max_frame)
        """While it `has_more`, `receive` without data continues."""
        self._preface = PREFACE
        """The missing part of the preface."""

    @property
    def incomplete(self) -> object:
        """The preface, or a field block, if it has begun and is incomplete; otherwise None.

        Each is another object, so `is` tells them apart.
        """
        return self.stream_frames.block if self.control.has_client_settings else PREFACE

    def start_upgraded(self, settings: bytes) -> Stream:
        """Start after ``Upgrade: h2c``, with the `settings` of its request (RFC 7540, 3.2).

        Returns stream 1, which is the request. The client has ended its side. Raises
        ConnectionFailure for invalid settings.
        """
        self.control.start_upgraded(settings)
        self.streams.last_id = 1
        stream = self.streams.open(1, True, 0)
        stream.receive_window = 0
        return stream

    def settle(self) -> Failed | None:
        """Charge the budget for the sent data frames, or refund it.

        Returns a connection error where the budget is exceeded.
        """
        cost, self.outbox.frame_cost = self.outbox.frame_cost, 0
        if cost < 0:
            self.budget.allow_replies(-cost)
        elif cost > 0 and not self.budget.take_reply(cost):
            failure = Failed(ErrorCode.ENHANCE_YOUR_CALM, "a window that allows next to nothing")
            self.control.fail(*failure)
            return failure
        return None

    # Received bytes.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Read `data`, which arrived at the time `now`, in seconds.

        Handles a bounded number of frames: see `received`. An error of the client is answered, and
        among the events.
        """
        events: list[Event] = []
        control, stream_frames = self.control, self.stream_frames
        if control.state is FAILED:
            return events
        self.budget.now = now
        found: list[frames.Frame] = []
        failure: ConnectionFailure | None = None
        try:
            if self._preface:
                data = self._take_preface(data)
            try:
                self.received.read(data, found)
            except ConnectionFailure as error:
                failure = error  # the frames before it are valid
            for kind, flags, stream, payload in found:
                if stream_frames.block is not None and not (
                    kind == FrameType.CONTINUATION and stream == stream_frames.block[0]
                ):
                    # 6.2 and 6.10: no other frame may interrupt a field block.
                    raise ConnectionFailure(
                        ErrorCode.PROTOCOL_ERROR, "a frame within a field block"
                    )
                if not control.has_client_settings and kind != FrameType.SETTINGS:
                    raise ConnectionFailure(
                        ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS"
                    )  # 3.4
                on_stream = STREAM_FRAMES.get(kind)
                if on_stream is not None:
                    on_stream(stream_frames, flags, stream, payload, events)
                elif kind in CONNECTION_FRAMES:
                    CONNECTION_FRAMES[kind](control, flags, stream, payload, events)
                else:
                    self.budget.spend(budget.IDLE_FRAME)  # 4.1 and 5.5: unknown types are ignored
            if failure is not None:
                raise failure
        except ConnectionFailure as error:
            control.fail(error.code, str(error))
            events.append(Failed(error.code, str(error)))
        return events

    def _take_preface(self, data: bytes) -> bytes:
        expected = self._preface
        if data[: len(expected)] != expected[: len(data)]:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "no connection preface")  # 3.4
        self._preface = expected[len(data) :]
        return data[len(expected) :]
