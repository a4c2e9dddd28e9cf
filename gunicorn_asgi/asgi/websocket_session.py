"""A WebSocket as a protocol: control frames, flow control, keepalive and the closing handshake."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from time import perf_counter
from typing import NamedTuple

from ..errors import Violation
from ..http.contract import NEVER, WebSocketTransport
from ..observe.printable import printable
from ..websocket.close import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    MESSAGE_TOO_BIG,
    POLICY_VIOLATION,
    Close,
    close_payload,
    echo_payload,
)
from ..websocket.frames import OP_CLOSE, OP_PING, OP_PONG, LongMessage, control_frame
from ..websocket.limits import WebSocketLimits
from ..websocket.reader import FrameReader, Ping
from ..websocket.share import UNCOUNTED, WORK_PER_STEP
from .closing_handshake import (
    WS_CLOSED,
    WS_CLOSING,
    WS_FAILING,
    WS_LOST,
    ClosingHandshake,
    WebSocketPhase,
)
from .exchange import COMPLETE, Waiters, wake
from .websocket_handshake import WebSocketHandshake

STEP_SECONDS = 0.001
"""Time that a WebSocket reads on in a later turn of the loop, before it is another one's turn."""


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
    MESSAGE = 6
    """The message in progress has to be complete. Passes without effect if it is."""


ANSWER_BY, LIVE_UNTIL, FAIL_BY, CLOSE_BY, PONG_BY, PING_AT, MESSAGE_BY = SessionDeadline


class WebSocketSession:
    """A WebSocket without ASGI's messages: `WebSocketStream` has these."""

    __slots__ = (
        "_handshake",
        "_is_continuing",
        "_is_counted",
        "_is_giving_up_memory",
        "_limits",
        "_share",
        "_unanswered_ping",
        "closing",
        "create_future",
        "deadlines",
        "is_reading_paused",
        "is_writing_paused",
        "long_messages",
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
        share = handshake.http.host.websocket_share
        assert share is not None
        self._share = share
        self.reader = FrameReader(
            limits.max_message_size, limits.max_queue, handshake.deflate, share
        )
        self.is_reading_paused = False
        """The application has enough messages to read, or reading goes on in a later turn."""
        self._is_continuing = False
        """Reading goes on in a later turn, by `_continue`."""
        self._is_counted = False
        """`MessageMemory` counts the messages of this WebSocket."""
        self._is_giving_up_memory = False
        self._unanswered_ping: Ping | None = None
        """The latest ping that arrived while writing was paused.

        RFC 6455, 5.5.3: it is enough to answer the latest.
        """
        # Sent.
        self.is_writing_paused = False
        self.long_messages: deque[LongMessage] = deque()
        """The messages that are compressed in steps, and those that have to wait for them."""
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
        """Answer `control`, and read on until reading stops."""
        reader, violation = self.reader, None
        pongs = bytearray()
        try:
            while True:
                if isinstance(control, Ping):
                    if self.closing.is_open and not self.is_writing_paused:
                        pongs += control_frame(OP_PONG, control.payload)
                    elif self.closing.is_open:
                        self._unanswered_ping = control
                elif (
                    control is not None
                    or not reader.is_at_checkpoint
                    or not self._pass_checkpoint()
                ):
                    break
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
        elif reader.is_stopped:
            self._stop_reading()
        self._count_memory()

    def _pass_checkpoint(self) -> bool:
        """A message has begun, has grown or has ended. Returns whether reading goes on."""
        if self.reader.pass_checkpoint() and self.closing.is_open:
            self._start_deadline(MESSAGE_BY)
            self.transport.deadline_changed()
        self._count_memory()
        return not (self.reader.is_stopped or self._is_giving_up_memory)

    def _stop_reading(self) -> None:
        """Wait for the application to read messages, or for a later turn of the loop."""
        if not self.is_reading_paused:
            self.is_reading_paused = True
            self.transport.pause_reading()
        if not (self._is_continuing or self.reader.is_full):
            self._is_continuing = True
            self._handshake.http.host.continue_later(self._continue)

    def _continue(self) -> bool:
        """Read on, in a later turn of the loop. Returns whether there is more for another one."""
        reader, end = self.reader, perf_counter() + STEP_SECONDS
        while self._may_read_on:
            self._read_on(WORK_PER_STEP)
            if reader.is_full or not reader.is_stopped:
                break
            if perf_counter() >= end:
                return True
        self._is_continuing = False
        self._share.work_left = WORK_PER_STEP
        self.wake()  # the end may be known
        return False

    @property
    def _may_read_on(self) -> bool:
        closing = self.closing
        has_reader = closing.phase is not WS_LOST or self._handshake.http.phase is not COMPLETE
        return (
            closing.phase is not WS_CLOSED
            and closing.violation is None
            and has_reader
            and not self._is_giving_up_memory
        )

    @property
    def may_have_messages(self) -> bool:
        """Whether received data that is not read yet may have messages for the application."""
        return self._is_continuing and self._may_read_on and not self.reader.is_dropping

    def _read_on(self, work: int = 0) -> None:
        self.is_reading_paused = False
        self.reader.resume(work)
        self.read(b"")  # data that has arrived already
        if not self.is_reading_paused and self.closing.phase < WS_LOST:
            self.transport.resume_reading()

    def violated(self, violation: Close) -> None:
        """The client has broken the protocol. The messages before that can still be read.

        `violation` is not the exception: its traceback would keep the session in memory.
        """
        self.wake()
        self.reader.free_message()
        self.closing.violate(violation, bool(self.reader.messages))
        if self.closing.phase is not WS_FAILING:
            self.fail_for_violation()
            return
        self.is_reading_paused = self.reader.is_stopped = True
        self.transport.pause_reading()
        self._count_memory()
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
        """The application has room for more messages."""
        if self.is_reading_paused and not self._is_continuing and self._may_read_on:
            self._read_on()

    def end_received(self) -> None:
        """The client has closed its direction without a Close frame."""
        if self.closing.phase < WS_LOST:
            self.connection_lost()
            self.transport.close(is_clean=False)

    # Long messages to the client.

    def send_long(self, message: LongMessage) -> None:
        """Compress `message` in later turns, and write it after those before."""
        self.long_messages.append(message)
        if len(self.long_messages) == 1:
            self._handshake.http.host.continue_later(self._compress)

    def _compress(self) -> bool:
        """Compress the next part of a message. Returns whether there is more to do."""
        messages = self.long_messages
        if not self.closing.is_open:
            messages.clear()  # nothing more can be sent
        elif not messages[0].compress():
            messages.popleft().write(self.transport.write)
            self.wake()
        return bool(messages)

    # The memory of messages.

    def _count_memory(self) -> None:
        held = self.reader.held
        if held <= UNCOUNTED and not self._is_counted:
            return
        has_application = self._handshake.http.phase is not COMPLETE
        if has_application and not self._is_giving_up_memory:
            self._is_counted = self._share.memory.hold(self, held)

    def give_up_memory(self, size: int, limit: float) -> None:
        """All WebSockets hold more than `limit` bytes, and this one the most: end it."""
        http = self._handshake.http
        client = http.scope["client"]
        http.host.log.warning(
            "Closed the WebSocket %s of ip=%s with 1009: its messages, not complete or not read,"
            " have %d bytes, and those of all WebSockets more than ws_memory_limit, %d",
            printable(http.raw_path),
            client[0] if client else "",
            size,
            limit,
        )
        self._is_counted, self._is_giving_up_memory = False, True
        # Another WebSocket may just be reading, even this one.
        http.host.loop.call_soon(self._drop_memory)

    def _drop_memory(self) -> None:
        self.reader.messages.clear()
        if self.closing.phase is WS_LOST:
            self._end(WS_CLOSED, ABNORMAL_CLOSURE, "")
        elif self.closing.phase is not WS_CLOSED:
            self._fail(MESSAGE_TOO_BIG, "too much memory for messages")
            self.transport.close(is_clean=False)
        self.reader.free()
        self.wake()

    def release_memory(self) -> None:
        """The application has ended: nobody reads messages any more."""
        self.reader.messages.clear()
        if self._is_counted:
            self._is_counted = self._share.memory.hold(self, 0)

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

    def end_message(self) -> None:
        if not self.reader.is_within_message:
            return
        if self.is_reading_paused:
            self._start_deadline(MESSAGE_BY)  # this side does not read
        else:
            self.violated(Close(POLICY_VIOLATION, "a message was not complete in time"))

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
    MESSAGE_BY: SessionDeadlineRow(
        "ws_message_timeout",
        lambda limits: limits.message_timeout_s,
        WebSocketSession.end_message,  # 1008
    ),
}
"""All deadlines of a WebSocket: the option, its seconds, and the action."""
