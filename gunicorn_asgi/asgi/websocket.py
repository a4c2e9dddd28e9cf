"""A WebSocket for the application: the messages of ``receive()`` and ``send()``."""

from __future__ import annotations

import asyncio
from enum import Enum

from ..errors import ApplicationError, ClientDisconnected, Violation, is_disconnect
from ..http.contract import NEVER, ApplicationTask, ResponseWriter
from ..observe.printable import printable
from ..websocket.close import INTERNAL_ERROR, NORMAL_CLOSURE, SERVICE_RESTART, Close
from ..websocket.deflate import Deflate
from ..websocket.frames import MAX_DEFLATE, LongMessage, message_size, write_message
from ..websocket.limits import WebSocketLimits
from ..websocket.reader import MAX_UNREAD
from .closing_handshake import WS_CONNECTING, WS_FAILING, WS_OPEN
from .exchange import (
    COMPLETE,
    PARTS_PER_TURN,
    STREAMING,
    ExchangeHost,
    ResponsePhase,
    end_cancelled,
    pace,
    run_application,
    wait,
    wake,
)
from .http import PRESENT
from .scope import Message, Scope
from .websocket_handshake import WebSocketHandshake
from .websocket_session import ANSWER_BY, PONG_BY, WebSocketSession

PART_SIZE = 2048
"""Bytes to compress that count as one more part for PARTS_PER_TURN. They take about 70 us."""


class Delivered(Enum):
    """The latest event, apart from messages, that the application has received."""

    NOTHING = "nothing"
    CONNECT = "websocket.connect"
    DISCONNECT = "websocket.disconnect"


NOTHING, CONNECT, DISCONNECT = Delivered


class WebSocketStream:
    """A WebSocket, over any version of HTTP (see `http.contract`).

    Its handshake is an exchange of HTTP, which the application may also deny. Its session has the
    protocol: frames, deadlines and the end.
    """

    __slots__ = (
        "_delivered",
        "_handshake",
        "_limits",
        "_parts",
        "_returned_at_once",
        "_session",
        "host",
        "method",
        "raw_path",
    )

    is_health_check = False
    may_be_followed = False
    """Data after the handshake is frames, and must never be read as a request."""
    unread = 0
    awaits_body = False

    def __init__(
        self, writer: ResponseWriter, scope: Scope, host: ExchangeHost, limits: WebSocketLimits
    ) -> None:
        """`scope` belongs to the request of the handshake. Raises RequestError."""
        # Set once.
        self.host = host
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self._limits = limits
        self._handshake = WebSocketHandshake(writer, scope, host, limits)
        self._session = WebSocketSession(self._handshake, limits)
        # The application.
        self._delivered: Delivered = NOTHING
        self._parts = 0
        """The count for PARTS_PER_TURN."""
        self._returned_at_once = 0
        """The count for `pace`."""

    def __repr__(self) -> str:
        return f"<WebSocketStream {self.raw_path!r} {self._session.closing.phase.name}>"

    # From the connection.

    @property
    def task(self) -> ApplicationTask | None:
        return self._handshake.http.task

    @task.setter
    def task(self, task: ApplicationTask | None) -> None:
        self._handshake.http.task = task

    @property
    def deadline(self) -> float:
        return min(*self._session.deadlines, self._handshake.http.deadline)

    def feed_data(self, data: bytes) -> None:
        session = self._session
        # Any data proves that the client is there: a pong may follow a long message.
        session.deadlines[PONG_BY] = NEVER
        try:
            control = session.reader.read(data)
        except Violation as error:
            session.violated(Close(error.code, str(error)))
            return
        if control is not None or session.reader.is_stopped:
            session.process(control)
        else:
            receiver = session.receiver
            if receiver is not None and not receiver.done():
                receiver.set_result(None)
            if session.waiters:
                wake(session.waiters)

    def feed_eof(self) -> None:
        self._session.end_received()

    def has_closed(self, data: bytes = b"") -> bool:
        """Whether the client's Close frame has been received, in `data` or before.

        Only for a connection that no longer feeds data: after `WebSocketTransport.close` or
        `WebSocketTransport.fail`.
        """
        return self._session.reader.find_close(data)

    @property
    def is_finding_close(self) -> bool:
        """Whether `has_closed` has data for another step, in a later turn of the loop."""
        return self._session.reader.is_finding_close

    def ask_to_end(self) -> None:
        if self._session.closing.is_open:
            self._session.start_close(SERVICE_RESTART, "", keep_messages=True)
        elif self._session.closing.phase is WS_CONNECTING:
            self._handshake.http.ask_to_end()
            self._session.wake()

    def pause_writing(self) -> None:
        self._session.is_writing_paused = True

    def resume_writing(self) -> None:
        self._session.resume_writing()

    def connection_lost(self) -> None:
        if self._session.closing.phase is WS_CONNECTING:
            is_news = not self._handshake.is_gone
            self._handshake.http.connection_lost()
            self._session.stop(is_news)
        else:
            self._session.connection_lost()

    def deadline_passed(self) -> None:
        now = self.host.tick_end
        self._session.deadline_passed(now)
        if self._handshake.http.deadline <= now:  # of a denial without a body
            is_news = not self._handshake.is_gone
            self._handshake.http.deadline_passed()
            self._session.stop(is_news)

    def cancel(self) -> None:
        self._handshake.http.cancel()

    # The application.

    run = run_application
    end_cancelled = end_cancelled

    @property
    def scope(self) -> Scope:
        return self._handshake.http.scope

    @property
    def phase(self) -> ResponsePhase:
        return self._handshake.http.phase

    async def receive(self) -> Message:
        """Return ``websocket.connect``, the messages, and ``websocket.disconnect`` at the end."""
        if self._delivered is NOTHING:
            self._delivered = CONNECT
            return {"type": "websocket.connect"}
        session = self._session
        reader = session.reader
        messages = reader.messages
        if messages:
            self._parts += 1
            if self._parts >= PARTS_PER_TURN:
                self._parts = 0
                # The client may send so fast that this never waits. It is done before a message is
                # taken, which a cancelled receive() would lose.
                await asyncio.sleep(0)
        closing, http = session.closing, self._handshake.http
        while not messages:
            if (
                closing.phase is not WS_OPEN or http.client is not PRESENT or http.phase is COMPLETE
            ) and self._has_ended():
                self._returned_at_once += 1
                await pace(self._returned_at_once)
                self._delivered = DISCONNECT
                code, reason = closing.code, closing.reason
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if session.receiver is None or session.receiver.done():
                session.receiver = session.create_future()
                await session.receiver
            else:
                await wait(session.waiters, self.host.loop)
        message = messages.popleft()
        reader.unread -= len(message)
        if (
            session.is_reading_paused
            and len(messages) <= self._limits.max_queue // 2
            and reader.unread <= MAX_UNREAD // 2
        ):
            session.resume_reading()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Message) -> None:
        """Send ``websocket.accept``, ``.send`` or ``.close``, or deny the handshake.

        A denial is ``websocket.http.response.start`` and ``.body``. Waits while the connection's
        buffer is full. Raises ApplicationError for a message that is not allowed here, and
        ClientDisconnected (an OSError) once the WebSocket is closed.
        """
        try:
            try:
                kind = message["type"]
            except (TypeError, KeyError):
                raise ApplicationError(
                    f"a message must be a dict with a 'type', not {message!r}"
                ) from None
            session = self._session
            phase = session.closing.phase
            if phase is WS_OPEN or phase is WS_FAILING:
                if kind == "websocket.send":
                    deflate = self._handshake.deflate
                    data, text = message.get("bytes"), message.get("text")
                    if deflate is None:
                        write_message(session.transport.write, data, text, None)
                    else:
                        await self._send_deflated(data, text, deflate)
                elif kind == "websocket.close":
                    if session.long_messages:
                        await self._wait_for_long_messages()
                    session.start_close(
                        message.get("code", NORMAL_CLOSURE), message.get("reason") or ""
                    )
                    return
                else:
                    raise ApplicationError(
                        f"expected 'websocket.send' or 'websocket.close', not {kind!r}"
                    )
            elif self._is_gone:
                raise ClientDisconnected("the WebSocket is closed")
            else:
                self._answer(kind, message)
                if self._handshake.http.phase is not STREAMING:
                    return
            # Much the same stands in `HTTPStream.send`: a call would cost too much here.
            self._parts += 1
            if session.is_writing_paused:
                await self._wait_for_room()
            elif self._parts >= PARTS_PER_TURN:
                self._parts = 0
                await asyncio.sleep(0)
        except Exception:
            self._returned_at_once += 1
            await pace(self._returned_at_once)
            raise

    async def _send_deflated(self, data: object, text: object, deflate: Deflate) -> None:
        """Send a message that may be compressed, in steps where that takes long."""
        session = self._session
        size = message_size(data, text)
        if size <= MAX_DEFLATE and not session.long_messages:
            write_message(session.transport.write, data, text, deflate)
            self._parts += size // PART_SIZE
            return
        long = LongMessage(data, text, deflate)
        session.send_long(long)
        while not long.is_written:
            if self._is_gone:
                raise ClientDisconnected("the client is gone")
            await wait(session.waiters, self.host.loop)

    async def _wait_for_long_messages(self) -> None:
        session = self._session
        while session.long_messages and not self._is_gone:
            await wait(session.waiters, self.host.loop)
        if self._is_gone:
            raise ClientDisconnected("the WebSocket is closed")

    def _answer(self, kind: str, message: Message) -> None:
        """Answer the handshake."""
        session = self._session
        try:
            accepted = self._handshake.answer(kind, message)
        finally:
            session.wake()  # the exchange may be complete
        session.deadlines[ANSWER_BY] = NEVER
        if accepted is not None:
            session.accept(*accepted)

    def _has_ended(self) -> bool:
        """Whether no message follows. After the last message before a violation, fail for it."""
        closing, http = self._session.closing, self._handshake.http
        if closing.phase is WS_FAILING:
            self._session.fail_for_violation()
        if self._session.may_have_messages:
            return False
        return closing.has_ended or http.client is not PRESENT or http.phase is COMPLETE

    @property
    def _is_gone(self) -> bool:
        """Whether nothing more can be sent to the client."""
        return self._session.closing.has_ended or self._handshake.is_gone

    async def _wait_for_room(self) -> None:
        session = self._session
        while session.is_writing_paused and not self._is_gone:
            await wait(session.waiters, self.host.loop)
        if self._is_gone:
            raise ClientDisconnected("the client is gone")

    # The end of the application: see `run_application`.

    def application_returned(self) -> None:
        if self._is_gone:
            return
        if self._session.closing.phase is WS_CONNECTING:
            self._handshake.application_returned()
        elif self._session.closing.phase is WS_FAILING:
            self._session.fail_for_violation()
        else:
            self._session.start_close(NORMAL_CLOSURE, "")

    def application_cancelled(self) -> None:
        if not self._is_gone:
            self._report_failure("ASGI application was cancelled, handling request %s %s", None)

    def application_raised(self, error: BaseException) -> None:
        is_told = self._delivered is DISCONNECT and not self._session.closing.is_open
        if not ((self._is_gone or is_told) and is_disconnect(error, is_told)):
            self._report_failure("Error handling request %s %s", error)

    def application_exited(self) -> None:
        if self._session.closing.phase is WS_CONNECTING:
            self._handshake.http.application_exited()
        elif self._session.closing.is_open:
            self._session.start_close(INTERNAL_ERROR, "")

    def _report_failure(self, text: str, error: BaseException | None) -> None:
        if self._session.closing.phase is WS_CONNECTING:
            self._handshake.http.report_failure(text, error)
            return
        self.host.log.error(text, printable(self.method), printable(self.raw_path), exc_info=error)
        if self._session.closing.is_open:
            self._session.start_close(INTERNAL_ERROR, "")

    def finish(self) -> None:
        session, http = self._session, self._handshake.http
        if session.closing.phase is WS_CONNECTING:
            http.finish()
        else:
            http.phase = COMPLETE
            session.release_memory()
            session.transport.finish()
        session.wake()
