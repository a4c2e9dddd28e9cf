"""A WebSocket as a protocol: control frames, flow control, keepalive and the closing handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

from ..errors import Violation
from ..http.contract import NEVER, WebSocketTransport
from ..observe.printable import printable
from ..websocket.close import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    Close,
    close_payload,
    echo_payload,
)
from ..websocket.frames import OP_CLOSE, OP_PING, OP_PONG, control_frame
from ..websocket.limits import WebSocketLimits
from ..websocket.reader import FrameReader, Ping
from .closing_handshake import (
    WS_CLOSED,
    WS_CLOSING,
    WS_FAILING,
    WS_LOST,
    ClosingHandshake,
    WebSocketPhase,
)
from .exchange import Waiters, wake
from .websocket_handshake import WebSocketHandshake


class SessionDeadline(IntEnum):
    """The deadlines of a WebSocket, in the order of their check. See SESSION_DEADLINES."""

    ANSWER = 0
    """The application has to accept or deny the handshake."""
    LIFETIME = 1
    """The WebSocket has to end."""
    FAILURE = 2
    """The application has to read the messages before the client's violation."""
    CLOSE = 3
    """The client has to answer this side's Close frame."""
    PONG = 4
    """The client has to send something after a ping."""
    PING = 5
    """The next ping is due."""


ANSWER_BY, LIVE_UNTIL, FAIL_BY, CLOSE_BY, PONG_BY, PING_AT = SessionDeadline


class WebSocketSession:
    """A WebSocket without ASGI's messages: `WebSocketStream` has these."""

    __slots__ = (
        "_handshake",
        "_limits",
        "_unanswered_ping",
        "closing",
        "create_future",
        "deadlines",
        "is_reading_paused",
        "is_writing_paused",
        "reader",
        "receiver",
        "transport",
        "waiters",
    )

    transport: WebSocketTransport
    """Set when the WebSocket is accepted."""

    def __init__(self, handshake: WebSocketHandshake, limits: WebSocketLimits) -> None:
        self._handshake = handshake
        self._limits = limits
        self.create_future = handshake.http.host.loop.create_future
        self.closing = ClosingHandshake()
        self.deadlines = [NEVER] * len(SessionDeadline)
        """Times on the loop's clock, by SessionDeadline."""
        self._start_deadline(ANSWER_BY)
        # Received.
        self.reader = FrameReader(limits.max_message_size, limits.max_queue, handshake.deflate)
        self.is_reading_paused = False
        """The application has enough messages to read."""
        self._unanswered_ping: Ping | None = None
        """The latest ping that arrived while writing was paused.

        RFC 6455, 5.5.3: it is enough to answer the latest.
        """
        # Sent.
        self.is_writing_paused = False
        # The application.
        self.receiver: asyncio.Future[None] | None = None
        """The future of the first ``receive()`` that waits.

        It saves a coroutine for each message. All others are in `waiters`.
        """
        self.waiters: Waiters = []

    def accept(self, transport: WebSocketTransport, data: bytes) -> None:
        """The handshake is complete. `data` has been received before that."""
        self.transport = transport
        self.closing.accept()
        self.deadlines[ANSWER_BY] = NEVER
        self._start_deadline(LIVE_UNTIL)
        self._start_deadline(PING_AT)
        transport.deadline_changed()
        if data:
            self.read(data)
        if not self.is_reading_paused:
            transport.resume_reading()

    def wake(self) -> None:
        """Wake all coroutines that wait."""
        if self.receiver is not None and not self.receiver.done():
            self.receiver.set_result(None)
        wake(self.waiters)

    # Frames from the client.

    def read(self, data: bytes) -> None:
        """Read frames. `WebSocketStream.feed_data` does the same without a call."""
        self.deadlines[PONG_BY] = NEVER
        try:
            control = self.reader.read(data)
        except Violation as error:
            self.violated(Close(error.code, str(error)))
        else:
            self.process(control)

    def process(self, control: Ping | Close | None) -> None:
        """Answer `control`, and read on until the application has enough messages."""
        reader, violation = self.reader, None
        pongs = bytearray()
        try:
            while isinstance(control, Ping):
                if self.closing.is_open and not self.is_writing_paused:
                    pongs += control_frame(OP_PONG, control.payload)
                elif self.closing.is_open:
                    self._unanswered_ping = control
                control = reader.read()
        except Violation as error:
            violation = Close(error.code, str(error))
        self.wake()
        if pongs:
            self.transport.write(bytes(pongs))
        if violation is not None:
            self.violated(violation)
        elif isinstance(control, Close):
            self._closed_by_client(control)
        elif reader.is_full and not self.is_reading_paused:
            self.is_reading_paused = True
            self.transport.pause_reading()

    def violated(self, violation: Close) -> None:
        """The client has broken the protocol. The messages before that can still be read.

        `violation` is not the exception: its traceback would keep the session in memory.
        """
        self.wake()
        self.closing.violate(violation, bool(self.reader.messages))
        if self.closing.phase is not WS_FAILING:
            self.fail_for_violation()
            return
        self.is_reading_paused = self.reader.is_full = True
        self.transport.pause_reading()
        self._stop_deadlines()
        self._start_deadline(FAIL_BY)
        self.transport.deadline_changed()

    # The connection.

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        self.wake()
        ping, self._unanswered_ping = self._unanswered_ping, None
        if ping is not None and self.closing.is_open:
            self.transport.write(control_frame(OP_PONG, ping.payload))

    def resume_reading(self) -> None:
        if self.is_reading_paused and self.closing.violation is None:
            self.is_reading_paused = self.reader.is_full = False
            self.read(b"")  # data that has arrived already
            if not self.is_reading_paused and self.closing.phase < WS_LOST:
                self.transport.resume_reading()

    def end_received(self) -> None:
        """The client has closed its direction without a Close frame."""
        if self.closing.phase < WS_LOST:
            self.connection_lost()
            self.transport.close(is_clean=False)

    # The actions at deadlines: see SESSION_DEADLINES.

    def deadline_passed(self, now: float) -> None:
        for kind in [kind for kind in SESSION_DEADLINES if self.deadlines[kind] <= now]:
            if self.deadlines[kind] <= now:  # an earlier action may have ended the session
                self.deadlines[kind] = NEVER
                SESSION_DEADLINES[kind].action(self)

    def _start_deadline(self, kind: SessionDeadline) -> None:
        now = self._handshake.http.host.tick_end
        self.deadlines[kind] = now + SESSION_DEADLINES[kind].seconds(self._limits)

    def _stop_deadlines(self) -> None:
        self.deadlines = [NEVER] * len(SessionDeadline)

    def refuse_handshake(self) -> None:
        self._handshake.refuse(self._limits.accept_timeout_s)

    def end_lifetime(self) -> None:
        self.start_close(GOING_AWAY, "", keep_messages=True)

    def abort_close(self) -> None:
        self._end(WS_CLOSED, ABNORMAL_CLOSURE, "")
        self.transport.abort()

    def miss_pong(self) -> None:
        # The client is not to blame while this side does not read, or cannot write.
        if not (self.is_reading_paused or self.is_writing_paused):
            self._fail(INTERNAL_ERROR, "keepalive ping timeout")
            self.transport.close(is_clean=False)

    def send_ping(self) -> None:
        # One ping at a time, and only while it can be written at once.
        if self.deadlines[PONG_BY] == NEVER and not self.is_writing_paused:
            self.transport.write(control_frame(OP_PING, b""))
            self._start_deadline(PONG_BY)
        self._start_deadline(PING_AT)

    # The end.

    def start_close(self, code: object, reason: object, keep_messages: bool = False) -> None:
        """Send a Close frame, and wait for the client's. Raises ApplicationError.

        `keep_messages`: the application did not ask for the end. It may read all messages that
        arrive before the client's Close frame.
        """
        payload = close_payload(code, reason)
        assert isinstance(code, int)
        assert isinstance(reason, str)
        self.transport.write(control_frame(OP_CLOSE, payload))
        if not keep_messages:
            self.reader.messages.clear()
            self.reader.drop()
        violation = self.closing.violation
        if violation is not None:
            self._end(WS_CLOSED, code, reason)
            self.transport.fail(violation.reason)  # nothing after a violation is waited for
            return
        self._end(WS_CLOSING, code, reason)
        self._start_deadline(CLOSE_BY)
        self.transport.deadline_changed()
        self.resume_reading()

    def _closed_by_client(self, close: Close) -> None:
        if self.closing.is_open:
            self.transport.write(control_frame(OP_CLOSE, echo_payload(close)))
        self._end(WS_CLOSED, close.code, close.reason)
        self.transport.close(is_clean=True)

    def fail_for_violation(self) -> None:
        violation = self.closing.violation
        assert violation is not None
        self._fail(violation.code, violation.reason)
        self.transport.fail(violation.reason)

    def _fail(self, code: int, reason: str) -> None:
        """Send a Close frame with the reason, and wait for nothing (RFC 6455, 7.1.7)."""
        if self.closing.is_open:
            self.transport.write(control_frame(OP_CLOSE, close_payload(code, reason)))
        self._end(WS_CLOSED, code, reason)

    def _end(self, phase: WebSocketPhase, code: int, reason: str) -> None:
        self.stop(self.closing.end(phase, code, reason))

    def connection_lost(self) -> None:
        """The connection is gone."""
        self.stop(self.closing.connection_lost(has_unread_data=self.is_reading_paused))

    def stop(self, is_news: bool) -> None:
        """Nothing more can be sent. `is_news`: the code of the end has just become known."""
        if is_news:
            http = self._handshake.http
            http.host.log.debug(
                "WebSocket %s is over: %d %r",
                printable(http.raw_path),
                self.closing.code,
                self.closing.reason,
            )
        self.is_writing_paused = False
        self._stop_deadlines()
        self.wake()


class SessionDeadlineRow(NamedTuple):
    option: str
    seconds: Callable[[WebSocketLimits], float]
    action: Callable[[WebSocketSession], None]


SESSION_DEADLINES: Mapping[SessionDeadline, SessionDeadlineRow] = {
    ANSWER_BY: SessionDeadlineRow(
        "ws_accept_timeout",
        lambda limits: limits.accept_timeout_s,
        WebSocketSession.refuse_handshake,  # with 500
    ),
    LIVE_UNTIL: SessionDeadlineRow(
        "ws_max_lifetime",
        lambda limits: limits.max_lifetime_s,
        WebSocketSession.end_lifetime,  # 1001
    ),
    FAIL_BY: SessionDeadlineRow(
        "ws_close_timeout",
        lambda limits: limits.close_timeout_s,
        WebSocketSession.fail_for_violation,  # 1002, 1007 or 1009
    ),
    CLOSE_BY: SessionDeadlineRow(
        "ws_close_timeout",
        lambda limits: limits.close_timeout_s,
        WebSocketSession.abort_close,
    ),
    PONG_BY: SessionDeadlineRow(
        "ws_ping_timeout",
        lambda limits: limits.ping_timeout_s,
        WebSocketSession.miss_pong,  # 1011
    ),
    PING_AT: SessionDeadlineRow(
        "ws_ping_interval",
        lambda limits: limits.ping_interval_s,
        WebSocketSession.send_ping,
    ),
}
"""All deadlines of a WebSocket: the option, its seconds, and the action."""
