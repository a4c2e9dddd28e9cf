"""Pure: frames of a whole connection: SETTINGS, PING, GOAWAY (RFC 9113, 6.5 to 6.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from . import budget, frames
from .budget import Budget
from .events import Event, GoawayAcknowledged, GoawayReceived, ResponseAcknowledged
from .flow_control import FlowControl
from .frames import (
    ACK,
    DEFAULT_WINDOW_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW_SIZE,
    ConnectionFailure,
    ErrorCode,
    FrameType,
)
from .limits import HTTP2Limits
from .outbox import Outbox
from .stream import Stream
from .streams import Streams

GOAWAY_PING = b"drained?"
"""Payload of the PING after the first GOAWAY of a graceful shutdown."""
RESPONSE_PING = b"end?"
"""The same after a response, followed by the identifier of its stream."""
WAKE_PING = b"closed.."
"""Payload of a PING with an acknowledgement of no interest."""
MAX_SENT_FRAME = 65536
"""Bytes of the longest data frame sent, even if the client accepts longer frames: the other
streams have their turn after each frame."""
UPGRADE_WINDOW = 16384
"""Bytes of the body sent directly after the 101 of ``Upgrade: h2c``. They arrive in a packet with
it, and curl, for example, fails with more than 32 KiB."""


class ConnectionState(Enum):
    """Whether the client may open streams."""

    ACCEPTING = "yes"
    REFUSING = "no: GOAWAY with the last accepted stream is sent (RFC 9113, 6.8)"
    FAILED = "no, and further frames are ignored: a connection error (RFC 9113, 5.4.1)"


ACCEPTING, REFUSING, FAILED = ConnectionState


class ConnectionControl:
    """The frames on stream 0, received and sent."""

    def __init__(
        self,
        limits: HTTP2Limits,
        outbox: Outbox,
        streams: Streams,
        flow: FlowControl,
        budget_: Budget,
    ) -> None:
        # Set once, or shared with the connection.
        self._limits = limits
        self._outbox = outbox
        self._streams = streams
        self._flow = flow
        self._budget = budget_
        # Own.
        self.state = ACCEPTING
        self.has_client_settings = False
        """The client's first SETTINGS have arrived."""
        self._is_acknowledged = False
        """The client has our SETTINGS."""
        self._last_accepted = MAX_STREAM_ID
        """The highest stream allowed by the last GOAWAY."""
        self._withheld = 0
        """Bytes of the client's window, not used before its SETTINGS arrive."""

    # The beginning.

    def start(self) -> None:
        """Send our SETTINGS, and open the connection's window."""
        limits = self._limits
        values = [
            (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (frames.INITIAL_WINDOW_SIZE, limits.window),
            (frames.MAX_FRAME_SIZE, limits.max_frame),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
        ]
        if limits.has_websocket:
            values.append((frames.ENABLE_CONNECT_PROTOCOL, 1))
        self._outbox.add([frames.settings(values)])
        if self._flow.window > DEFAULT_WINDOW_SIZE:
            increment = self._flow.window - DEFAULT_WINDOW_SIZE
            self._outbox.add([frames.window_update(0, increment)])

    def start_upgraded(self, settings: bytes) -> None:
        """The same after ``Upgrade: h2c``, with the `settings` of its request (RFC 7540, 3.2).

        Raises ConnectionFailure for invalid settings.
        """
        self._apply(settings)
        self.start()
        self._withheld = self._outbox.window - UPGRADE_WINDOW
        self._outbox.window = UPGRADE_WINDOW

    # Received frames.

    def _on_settings(self, flags: int, id_: int, payload: bytes, _events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")  # 6.5
        if flags & ACK:
            self._on_acknowledgement(payload)
            return
        self._budget.spend(budget.SETTINGS_FRAME + len(payload) // 6)
        self._apply(payload)
        self.has_client_settings = True
        self._outbox.window += self._withheld
        self._withheld = 0
        self._outbox.add([frames.SETTINGS_ACK])

    def _on_acknowledgement(self, payload: bytes) -> None:
        if payload:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that acknowledge, and set something"
            )  # 6.5
        if not self.has_client_settings:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._is_acknowledged:
            self._budget.spend(budget.IDLE_FRAME)
            return
        self._is_acknowledged = True
        self._flow.settings_acknowledged(self._streams.active.values())

    def _apply(self, payload: bytes) -> None:
        """Apply the client's SETTINGS (6.5.2). Raises ConnectionFailure.

        6.5.3: the values are processed in their order, each with all of its consequences.
        """
        if len(payload) % 6:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a size that is no multiple of 6"
            )
        outbox = self._outbox
        window, widest = outbox.initial_window, -1
        for setting, value in frames.read_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                window, widest = value, max(widest, value)
            elif setting == frames.MAX_FRAME_SIZE:
                if not frames.LEAST_MAX_FRAME_SIZE <= value < 2**24:
                    raise ConnectionFailure(
                        ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}"
                    )
                outbox.max_frame_size = min(value, MAX_SENT_FRAME)
            elif setting in (frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL) and value > 1:
                raise ConnectionFailure(
                    ErrorCode.PROTOCOL_ERROR, f"a setting of {value} that is 0 or 1"
                )
        if widest >= 0:
            self._set_initial_window(window, widest)

    def _set_initial_window(self, value: int, widest: int) -> None:
        """Apply the last of the values in a frame; `widest` is the largest of them.

        A frame may have hundreds, each for all streams. Those before the last have no consequence,
        unless one of them is too large.
        """
        if widest > MAX_WINDOW_SIZE:
            raise ConnectionFailure(
                ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {widest}"
            )
        outbox = self._outbox
        before, outbox.initial_window = outbox.initial_window, value
        # 6.9.2: the windows of active streams change, too.
        for stream in self._streams.active.values():
            if stream.send_queue.window + widest - before > MAX_WINDOW_SIZE:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            outbox.widen(stream.send_queue, value - before)

    def _on_push_promise(
        self, _flags: int, _id: int, _payload: bytes, _events: list[Event]
    ) -> None:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")  # 8.4

    def _on_ping(self, flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING on a stream")  # 6.7
        if len(payload) != 8:
            raise ConnectionFailure(
                ErrorCode.FRAME_SIZE_ERROR, "PING of another size than 8"
            )  # 6.7
        self._budget.spend_reply(budget.IDLE_FRAME)
        if not flags & ACK:
            self._outbox.add([frames.ping(payload, True)])
        elif payload == GOAWAY_PING:
            events.append(GoawayAcknowledged())
        elif payload.startswith(RESPONSE_PING):
            id_ = int.from_bytes(payload[len(RESPONSE_PING) :], "big")
            stream = self._streams.active.get(id_)
            if stream is not None:
                events.append(ResponseAcknowledged(stream))

    def _on_goaway(self, _flags: int, id_: int, payload: bytes, events: list[Event]) -> None:
        if id_:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")  # 6.8
        if len(payload) < 8:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._budget.spend(budget.SETTINGS_FRAME)
        events.append(GoawayReceived(int.from_bytes(payload[4:8], "big")))

    # Sent frames.

    def ask_for_response(self, stream: Stream) -> None:
        """Send a PING after the frames of `stream`; `ResponseAcknowledged` will follow."""
        self._outbox.add([frames.ping(RESPONSE_PING + stream.id.to_bytes(4, "big"), False)])

    def wake_client(self) -> None:
        """Send any frame: an update of the connection's window if possible, otherwise a PING."""
        if not self._flow.update_connection():
            self._outbox.add([frames.ping(WAKE_PING, False)])

    def announce(self) -> None:
        """Announce the end of the connection (6.8); `GoawayAcknowledged` will follow."""
        self._outbox.add(
            [
                frames.goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR, ""),
                frames.ping(GOAWAY_PING, False),
            ]
        )

    def refuse_streams(self) -> None:
        """Accept no more streams, and tell the client the last accepted stream (6.8)."""
        if self.state is ACCEPTING:
            self.state = REFUSING
            self._last_accepted = self._streams.last_id
            self._outbox.add([frames.goaway(self._last_accepted, ErrorCode.NO_ERROR, "")])

    def fail(self, code: ErrorCode, reason: str) -> None:
        """End the connection for `reason` (5.4.1). Further frames are ignored."""
        self.state = FAILED
        # 6.8: the number must not grow, even if the client has opened streams since.
        last = min(self._streams.last_id, self._last_accepted)
        self._outbox.add([frames.goaway(last, code, reason)])


CONNECTION_FRAMES: Mapping[
    int, Callable[[ConnectionControl, int, int, bytes, list[Event]], None]
] = {
    FrameType.SETTINGS: ConnectionControl._on_settings,
    FrameType.PUSH_PROMISE: ConnectionControl._on_push_promise,
    FrameType.PING: ConnectionControl._on_ping,
    FrameType.GOAWAY: ConnectionControl._on_goaway,
}
"""Each takes (flags, stream, payload, events), and raises ConnectionFailure."""
