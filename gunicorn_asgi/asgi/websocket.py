"""One WebSocket: the application's ``receive()`` and ``send()``, and how it ends (ASGI statements 76 to 102 and 117 to 120)."""

from __future__ import annotations

import asyncio

from ..errors import ApplicationError, ClientDisconnected, RequestError, Violation, is_disconnect
from ..http.contract import NEVER, Header, ResponseWriter, WebSocketTransport
from ..observe.printable import printable
from ..websocket.close import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL_CLOSURE,
    SERVICE_RESTART,
    Close,
    close_payload,
    echo_payload,
)
from ..websocket.deflate import Deflate
from ..websocket.frames import OP_CLOSE, OP_PING, OP_PONG, control_frame, data_frame
from ..websocket.negotiation import negotiate_deflate, read_headers, read_subprotocols
from ..websocket.reader import MAX_UNREAD, FrameReader, Ping
from ..websocket.state import WebSocketLimits, WebSocketState
from .http import COMPLETE, PARTS_PER_TURN, STREAMING, WAITING, Host, HTTPStream
from .scope import Message, Scope, websocket_scope

CONNECTING, OPEN, CLOSING, CLOSED = WebSocketState


class WebSocketStream(HTTPStream):
    """A WebSocket, for whatever version of HTTP is below (see `http.contract`).

    Until it is accepted this is an exchange whose response denies it (statements 84 and 117 to 120), and all of that is HTTPStream's.
    """

    __slots__ = (
        "_accepted",
        "_closing",
        "_connected",
        "_create_future",
        "_deflate",
        "_ends_at",
        "_held",
        "_is_told",
        "_learns",
        "_limits",
        "_messages",
        "_owed_pong",
        "_ping_at",
        "_pong_due",
        "_reader",
        "_receiver",
        "_state",
        "_subprotocols",
        "_transport",
        "_violation",
    )

    may_be_followed = False
    """What the client has sent behind its handshake are frames, and must never be taken for a request."""

    _transport: WebSocketTransport
    """Since the handshake."""

    def __init__(
        self, writer: ResponseWriter, scope: Scope, host: Host, limits: WebSocketLimits
    ) -> None:
        """`scope` is that of the handshake's request. Raises RequestError."""
        super().__init__(writer, scope, False, False, host)
        # Set once.
        self._create_future = host.loop.create_future
        self._limits = limits
        self._subprotocols = read_subprotocols(scope["headers"])
        self._deflate: Deflate | None = (
            negotiate_deflate(scope["headers"]) if limits.deflate else None
        )
        self._scope = websocket_scope(scope, self._subprotocols.copy())
        # How far it is.
        self._state: WebSocketState = CONNECTING
        self._accepted = False
        # The application was handed ``websocket.connect``, and ``websocket.disconnect``.
        self._connected = self._is_told = False
        self._closing = ABNORMAL_CLOSURE, ""
        """Code and reason of ``websocket.disconnect``."""
        self._learns = False
        """Behind what is still to be read, a Close may say them better."""
        # What comes.
        self._receiver: asyncio.Future[None] | None = None
        """Of the one who waits in `receive`, as `_wait` does, without a coroutine of its own for each message. Further ones use that."""
        self._reader = FrameReader(limits.max_message_size, limits.max_queue, self._deflate)
        self._messages = self._reader.messages
        self._held = False
        """The application has enough: nothing is read."""
        self._violation: Close | None = None
        """The client has broken the protocol behind `_messages`, and this is to tell it so. Not the exception: its frames hold the stream."""
        self._owed_pong: Ping | None = None
        """The last ping that came while nothing could be written (RFC 6455, 5.5.3: to answer the most recent is enough)."""
        # Deadlines, on the loop's clock.
        self.deadline = host.now + limits.accept_timeout_s
        self._ends_at = self._ping_at = self._pong_due = NEVER
        """`_pong_due`: of a ping after which nothing has been received. Whatever comes counts: a
        pong may have to wait for the end of a long message."""

    def __repr__(self) -> str:
        return f"<WebSocketStream {self.raw_path!r} {self._state.name}>"

    # From the connection.

    def feed_data(self, data: bytes) -> None:
        self._pong_due = NEVER
        try:
            control = self._reader.read(data)
        except Violation as error:
            self._read_on(None, Close(error.code, str(error)))
            return
        if control is not None or self._reader.is_full:
            self._read_on(control)
        else:
            receiver = self._receiver
            if receiver is not None and not receiver.done():
                receiver.set_result(None)
            if self._waiters:
                self._wake()

    def feed_eof(self) -> None:
        if self._state is not CLOSED:
            self._lose()
            self._transport.close(is_clean=False)

    def has_closed(self, data: bytes = b"") -> bool:
        """Whether the client's Close frame has been received, in `data` or before.

        To be asked once no frame is read any more: from `WebSocketTransport.close` or `WebSocketTransport.fail` on.
        """
        return self._reader.find_close(data)

    def ask_to_end(self) -> None:
        if self._state is OPEN:
            self._start_close(SERVICE_RESTART, "", keep=True)
        elif self._state is CONNECTING:
            super().ask_to_end()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._owed_pong is not None:
            if self._state is OPEN:
                self._transport.write(control_frame(OP_PONG, self._owed_pong.payload))
            self._owed_pong = None

    def connection_lost(self) -> None:
        self._lose()
        super().connection_lost()

    def deadline_passed(self) -> None:
        if self._state is CONNECTING and self._phase is not WAITING:
            super().deadline_passed()  # a denial is a response like any other
        elif self._state is CONNECTING:
            self._expire_handshake()
        elif self._state is CLOSING:
            self._over(ABNORMAL_CLOSURE, "")
            self._transport.abort()
        elif self._state is OPEN and self._violation is not None:
            self._fail_connection(self._violation)
        elif self._state is OPEN:
            self._keep_alive(self._host.now)

    # The application.

    async def receive(self) -> Message:
        """``websocket.connect``, the messages, and ``websocket.disconnect`` once nothing more can come."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        messages = self._messages
        if messages:
            self._parts += 1
            if self._parts % PARTS_PER_TURN == 0:
                # Here are messages without waiting, for as long as the client sends; the rest of the worker would wait. Not behind taking one,
                # which a cancelled receive() would lose.
                await asyncio.sleep(0)
        while not messages:
            if self._violation is not None and self._state is OPEN:
                self._fail_connection(self._violation)
            if self._gone or self._phase is COMPLETE or self._hung_up:
                await self._tell()
                self._is_told = True
                code, reason = self._closing
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if self._receiver is None or self._receiver.done():
                self._receiver = self._create_future()
                await self._receiver
            else:
                await self._wait()
        message = messages.popleft()
        self._reader.unread -= len(message)
        if (
            self._held
            and len(messages) <= self._limits.max_queue // 2
            and self._reader.unread <= MAX_UNREAD // 2
        ):
            self._let_go()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Message) -> None:
        """Send ``websocket.accept``, ``.send`` or ``.close``, or deny the handshake with ``websocket.http.response.start`` and ``.body``.

        Waits while the client does not take what was sent. Raises ApplicationError for a message that is not allowed here, and
        ClientDisconnected (an OSError) once the WebSocket is closed.
        """
        try:
            try:
                kind = message["type"]
            except (TypeError, KeyError):
                raise ApplicationError(
                    f"a message must be a dict with a 'type', not {message!r}"
                ) from None
            if self._state is OPEN:
                if kind == "websocket.send":
                    self._transport.write(
                        data_frame(message.get("bytes"), message.get("text"), self._deflate)
                    )
                elif kind == "websocket.close":
                    self._start_close(
                        message.get("code", NORMAL_CLOSURE), message.get("reason") or ""
                    )
                    self._messages.clear()
                    return
                else:
                    raise ApplicationError(
                        f"expected 'websocket.send' or 'websocket.close', not {kind!r}"
                    )
            elif self._gone:
                raise ClientDisconnected("the WebSocket is closed")
            else:
                self._answer(kind, message)
                if self._phase is not STREAMING:
                    return
            self._parts += 1
            if self._clogged:
                await self._drain()
            elif self._parts % PARTS_PER_TURN == 0:
                # A client that reads fast enough never makes an endless stream wait; the rest of the worker would.
                await asyncio.sleep(0)
        except Exception:
            await self._tell()
            raise

    # Inside: the handshake.

    def _answer(self, kind: str, message: Message) -> None:
        """What the application may send before there is a WebSocket."""
        phase = self._phase
        if phase is not WAITING:
            if kind != "websocket.http.response.body":
                raise ApplicationError(f"expected 'websocket.http.response.body', not {kind!r}")
            self._send_body(message, phase)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._deny(403, b"")
        elif kind == "websocket.http.response.start":
            self._send_start(message)
            self.deadline = NEVER
        else:
            raise ApplicationError(
                f"expected 'websocket.accept', 'websocket.close' or 'websocket.http.response.start', not {kind!r}"
            )

    def _accept(self, message: Message) -> None:
        headers: list[Header] = []
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in self._subprotocols:
                # RFC 6455, 4.1: the client would have to fail the connection.
                raise ApplicationError(
                    f"'subprotocol' must be one of those that the client offers, {self._subprotocols!r}, not {subprotocol!r}"
                )
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        if self._deflate is not None:
            headers.append((b"sec-websocket-extensions", self._deflate.header))
        headers += read_headers(message.get("headers"))
        try:
            self._transport, data = self._writer.accept(headers)
        except ClientDisconnected:
            self._gone = True
            raise
        self._accepted = True
        self._state = OPEN
        self._ends_at = self._host.now + self._limits.max_lifetime_s
        self._ping_at = self._host.now + self._limits.ping_interval_s
        self._keep_alive(self._host.now)
        if data:
            self.feed_data(data)
        if not self._held:
            self._transport.resume_reading()

    def _deny(self, status: int, body: bytes) -> None:
        self._writer.start(status, ())
        self._writer.respond(body, True, False)
        self._end()

    def _expire_handshake(self) -> None:
        self.deadline = NEVER
        self._host.log.error(
            "ASGI application did not answer the WebSocket handshake %s in time (%g s, option ws_accept_timeout)",
            printable(self.raw_path),
            self._limits.accept_timeout_s,
        )
        self._writer.refuse(RequestError(500, "Internal Server Error", is_logged=True))

    # Inside: what goes, and what comes.

    def _read_on(self, control: Ping | Close | None, violation: Close | None = None) -> None:
        """Answer `control`, and read until there is enough for the application."""
        reader = self._reader
        pongs = bytearray()
        try:
            while isinstance(control, Ping):
                if self._state is OPEN and not self._clogged:
                    pongs += control_frame(OP_PONG, control.payload)
                elif self._state is OPEN:
                    self._owed_pong = control
                control = reader.read()
        except Violation as error:
            violation = Close(error.code, str(error))
        self._wake()
        if pongs:
            self._transport.write(bytes(pongs))
        if violation is not None:
            self._violation = violation
            if self._messages and self._state is OPEN:
                # They were in order, so the application may still answer them: `receive` fails the connection once it has taken them all.
                # No message after the violation is read (RFC 6455, 7.1.7).
                self._held = self._reader.is_full = True
                self._transport.pause_reading()
                self.deadline = self._host.now + self._limits.close_timeout_s
                self._transport.deadline_changed()
            else:
                self._fail_connection(violation)
        elif isinstance(control, Close):
            self._closed_by_client(control)
        elif reader.is_full and not self._held:
            self._held = True
            self._transport.pause_reading()

    def _let_go(self) -> None:
        """Go on reading: first what is here."""
        if self._held and self._violation is None:
            self._held = self._reader.is_full = False
            self.feed_data(b"")  # what is here already
            if not self._held and self._state is not CLOSED:
                self._transport.resume_reading()

    def _keep_alive(self, now: float) -> None:
        """Ping, look for an answer, or end a life that was long enough; and say when to be asked again."""
        limits = self._limits
        if now >= self._ends_at:
            self._start_close(GOING_AWAY, "", keep=True)
            return
        if now >= self._pong_due and not (self._held or self._clogged):
            self._give_up(INTERNAL_ERROR, "keepalive ping timeout")
            self._transport.close(is_clean=False)
            return
        if now >= self._pong_due:
            self._pong_due = NEVER
        if now >= self._ping_at:
            if (
                self._pong_due == NEVER and not self._clogged
            ):  # one at a time, and where it gets through
                self._transport.write(control_frame(OP_PING, b""))
                self._pong_due = now + limits.ping_timeout_s
            self._ping_at = now + limits.ping_interval_s
        self.deadline = min(self._ends_at, self._pong_due, self._ping_at)
        self._transport.deadline_changed()

    # Inside: the end.

    def _start_close(self, code: object, reason: object, keep: bool = False) -> None:
        """Send a Close frame, and wait for the client's. `keep`: the application did not ask for it, and may still read what comes before that.

        Raises ApplicationError.
        """
        payload = close_payload(code, reason)
        assert isinstance(code, int)
        assert isinstance(reason, str)
        self._transport.write(control_frame(OP_CLOSE, payload))
        if self._violation is not None:
            self._over(code, reason)
            self._transport.fail(
                self._violation.reason
            )  # nothing that comes behind it is waited for
            return
        self._over(code, reason, CLOSING)
        if not keep:
            self._reader.drop()
        self.deadline = self._host.now + self._limits.close_timeout_s
        self._transport.deadline_changed()
        self._let_go()

    def _over(self, code: int, reason: str, state: WebSocketState = CLOSED) -> None:
        """Nothing more can be sent. The application reads what has come before, and then `code`, unless another was there first."""
        if not self._gone or self._learns:
            self._learns = False
            self._closing = code, reason
            self._host.log.debug(
                "WebSocket %s is over: %d %r", printable(self.raw_path), code, reason
            )
        self._state = state
        self._gone = True
        self._clogged = False
        self.deadline = NEVER
        self._wake()

    def _lose(self) -> None:
        """Nothing more comes, but what is here may not have been looked at."""
        was_gone, learns = self._gone, self._learns
        self._learns = False
        self._over(ABNORMAL_CLOSURE, "")
        self._learns = learns if was_gone else self._held and self._violation is None

    def _closed_by_client(self, close: Close) -> None:
        if self._state is OPEN:
            self._transport.write(control_frame(OP_CLOSE, echo_payload(close)))
        self._over(close.code, close.reason)
        self._transport.close(is_clean=True)

    def _fail_connection(self, violation: Close) -> None:
        self._give_up(violation.code, violation.reason)
        self._transport.fail(violation.reason)

    def _give_up(self, code: int, reason: str) -> None:
        """RFC 6455, 7.1.7: say why, and wait for nothing."""
        if self._state is OPEN:
            self._transport.write(control_frame(OP_CLOSE, close_payload(code, reason)))
        self._over(code, reason)

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        super()._wake()

    # What HTTPStream.run asks for.

    def _unfinished(self) -> None:
        if self._state is OPEN and self._violation is not None:
            self._fail_connection(self._violation)
        elif self._state is OPEN:
            self._start_close(NORMAL_CLOSURE, "")  # statement 92
        elif self._hung_up and self._phase is WAITING:
            # The worker leaves, or the client has closed its side: told so, the application has answered nothing.
            self._deny(500, b"Internal Server Error")
        elif self._phase is WAITING:
            self._fail(
                "ASGI application returned without accepting or denying the WebSocket of %s %s",
                None,
            )
        else:
            super()._unfinished()

    def _fail(self, what: str, error: BaseException | None) -> None:
        if self._state is OPEN:
            self._host.log.error(
                what, printable(self.method), printable(self.raw_path), exc_info=error
            )
            self._start_close(INTERNAL_ERROR, "")  # statement 93
        elif not (self._is_told and error is not None and is_disconnect(error, is_told=True)):
            super()._fail(what, error)

    def _end(self) -> None:
        if self._accepted:
            self._phase = COMPLETE
            self._messages.clear()
            self._transport.finish()
            self._wake()
        else:
            self._gone = True  # statement 99: there is nobody to send to behind a denial
            super()._end()
