"""An HTTP exchange: the application's ``receive()`` and ``send()``, and the order of messages."""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from typing import Any, NoReturn

from ..errors import ApplicationError, ClientDisconnected, RequestError, is_disconnect
from ..http.contract import NEVER, ApplicationTask, ResponseWriter
from ..http.fields import as_list
from ..http.grammar import Header
from ..observe.printable import printable
from .exchange import (
    COMPLETE,
    PARTS_PER_TURN,
    SENDING,
    STARTED,
    STREAMING,
    TRAILING,
    UNDECLARED,
    WAITING,
    ExchangeHost,
    ResponsePhase,
    Waiters,
    end_cancelled,
    pace,
    run_application,
    unexpected_body,
    wait,
    wake,
)
from .extensions import promised_trailers, send_extension
from .scope import Message, Scope

MAX_CHUNKS = 256
"""Number of parts of a request body that are stored separately until they are read."""
CHUNK_SIZE = 65536
"""Size in bytes from which a part is never joined with others."""
MAX_PIECE = 1048576
"""Bytes of a response that are written at once. To encrypt them takes about three milliseconds."""
PART_SIZE = MAX_PIECE // PARTS_PER_TURN
"""Bytes of a part of a response that count as one more part for PARTS_PER_TURN."""


class RequestBody(Enum):
    """The progress of a request's body."""

    AWAITS_CONTINUE = "the client waits for 100 (Continue) before it sends the body"
    EXPECTED = "more of the body is to come"
    RECEIVED = "the whole body has arrived"
    TAKEN = "the application has received the whole body"


AWAITS_CONTINUE, EXPECTED, RECEIVED, TAKEN = RequestBody


class ClientState(Enum):
    """The client of an exchange, as the application knows it. It never goes back."""

    PRESENT = "the client waits for the response"
    ASKED_TO_END = "receive() returns http.disconnect, and send() still works"
    GONE = "receive() returns http.disconnect, and send() raises"


PRESENT, ASKED_TO_END, GONE = ClientState


class HTTPStream:
    """A request and its response, over any version of HTTP (see `http.contract`).

    A WebSocket's handshake has an HTTPStream as well: its response denies the WebSocket.
    """

    __slots__ = (
        "_chunks",
        "_is_sending_pieces",
        "_parts",
        "_returned_at_once",
        "_waiters",
        "body",
        "client",
        "content_left",
        "deadline",
        "host",
        "is_bodyless",
        "is_writing_paused",
        "method",
        "phase",
        "raw_path",
        "scope",
        "task",
        "trailers",
        "unread",
        "writer",
    )

    is_health_check = False
    may_be_followed = True

    def __init__(
        self,
        writer: ResponseWriter,
        scope: Scope,
        has_body: bool,
        expects_continue: bool,
        host: ExchangeHost,
    ) -> None:
        # Set once.
        self.writer = writer
        self.host = host
        self.scope = scope
        # Copied, because the application may change its scope.
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.task: ApplicationTask | None = None
        self.deadline = NEVER
        """When the application has to end, after a response without a body."""
        # The request.
        self.body: RequestBody = RECEIVED
        if has_body:
            self.body = AWAITS_CONTINUE if expects_continue else EXPECTED
        self._chunks: list[bytes] = []
        self.unread = 0
        # The response: see `extensions.ExtensibleResponse`.
        self.phase: ResponsePhase = WAITING
        self.is_bodyless = False
        self.content_left = UNDECLARED
        self.trailers: list[Header] | None = None
        self._parts = 0
        """The count for PARTS_PER_TURN."""
        self._is_sending_pieces = False
        """A ``send()`` waits between the pieces of its part."""
        # The client.
        self.client: ClientState = PRESENT
        self.is_writing_paused = False
        self._waiters: Waiters | None = None
        self._returned_at_once = 0
        """The count for `pace`."""

    def __repr__(self) -> str:
        gone = " gone" if self.client is GONE else ""
        return f"<HTTPStream {self.method} {self.raw_path!r} {self.phase.name}{gone}>"

    # From the connection.

    def feed_data(self, data: bytes) -> None:
        self._chunks.append(data)
        self.unread += len(data)
        if len(self._chunks) >= MAX_CHUNKS:
            self._join_chunks()
        if self._waiters:
            wake(self._waiters)

    def feed_eof(self) -> None:
        self.body = RECEIVED
        if self._waiters:
            wake(self._waiters)

    def ask_to_end(self) -> None:
        if self.client is PRESENT:
            self.client = ASKED_TO_END
        self._wake()

    @property
    def is_endless(self) -> bool:
        """Whether the response has begun, and may go on for ever. Its request is complete."""
        # A response with a declared length ends by itself, and its rest cannot be left out.
        is_stream = STARTED <= self.phase < TRAILING and self.content_left == UNDECLARED
        return is_stream and self.client is not GONE and self.body in (RECEIVED, TAKEN)

    def pause_writing(self) -> None:
        self.is_writing_paused = True

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        self._wake()

    def connection_lost(self) -> None:
        self.client = GONE
        self.is_writing_paused = False
        self._chunks.clear()
        self._wake()

    def deadline_passed(self) -> None:
        """The client has had its whole response, which has no body, and the application goes on.

        First the application is told that the client is gone, then it is cancelled.
        """
        if self.client is GONE:
            self.deadline = NEVER
            self.cancel()
        else:
            self.deadline = self.host.tick_end + self.host.grace_s
            self.connection_lost()

    def cancel(self) -> None:
        self.client = GONE
        if self.task is not None:
            self.task.cancel()

    def refuse(self, error: RequestError) -> None:
        """Answer in place of the application, and cancel it. A response that has begun is aborted.

        To be called only while `is_unanswered`.
        """
        if self.task is not None:
            # First, for the answer ends the waits of the application, and trio prefers their result
            # to a cancellation that comes later.
            self.task.cancel()
        if self.phase is SENDING:
            self.writer.stop_file()
        self.writer.refuse(error)
        self.client = GONE

    @property
    def is_unanswered(self) -> bool:
        """Whether the client still waits for the end of the response."""
        return self.client is not GONE and self.phase is not COMPLETE

    @property
    def is_waiting(self) -> bool:
        """Whether the application waits in ``receive()`` or ``send()``."""
        return bool(self._waiters)

    @property
    def awaits_body(self) -> bool:
        return self.is_waiting and self.body in (AWAITS_CONTINUE, EXPECTED)

    # The application.

    run = run_application
    end_cancelled = end_cancelled

    async def receive(self) -> Message:
        """Return ``http.request`` until the body is complete, then ``http.disconnect``.

        ``http.disconnect`` comes with the end of the response, or when the client goes.
        """
        while self.client is not GONE and self.phase is not COMPLETE:
            if self._chunks or self.body is RECEIVED:
                return self._take_body()
            if self.client is ASKED_TO_END:
                break
            if self.body is AWAITS_CONTINUE:
                # RFC 9110, 10.1.1: not before the application reads the body, and not after a
                # final status.
                self.body = EXPECTED
                if self.phase < STREAMING:
                    self.writer.write_informational(100, ())
            if self._waiters is None:
                self._waiters = []
            await wait(self._waiters, self.host.loop)
        self._returned_at_once += 1
        await pace(self._returned_at_once)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send ``http.response.start``, ``http.response.body``, or a message of an extension.

        Waits while the connection's buffer is full, also between the pieces of a long part. Raises
        ApplicationError for a message that is not allowed here, and ClientDisconnected (an OSError)
        once the client is gone. After the end of the response, messages are ignored (ASGI, "HTTP",
        "Response Body").
        """
        phase = self.phase
        if phase is COMPLETE and self.client is not GONE:
            self._returned_at_once += 1
            await pace(self._returned_at_once)
            return
        try:
            if self.client is GONE:
                raise ClientDisconnected("the client is gone")
            try:
                kind = message["type"]
            except (TypeError, KeyError):
                raise ApplicationError(
                    f"a message must be a dict with a 'type', not {message!r}"
                ) from None
            if kind == "http.response.body":
                if phase is not STARTED and phase is not STREAMING:
                    await self._send_after_pieces(message)
                    return
                if self.send_body(message, True):
                    await self._send_pieces(message)
                if self.phase is not STREAMING:
                    return
            elif kind == "http.response.start":
                if phase is not WAITING:
                    raise ApplicationError(
                        "'http.response.start' was sent before; expected 'http.response.body'"
                    )
                self.send_start(message, message.get("trailers"))
                return
            elif not await send_extension(self, kind, message):
                return
            # Similar lines stand in `WebSocketStream.send`: a call would cost too much there.
            self._parts += 1
            if self.is_writing_paused:
                await self.wait_for_room()
            elif self._parts >= PARTS_PER_TURN:
                self._parts = 0
                await asyncio.sleep(0)
        except Exception:
            self._returned_at_once += 1
            await pace(self._returned_at_once)
            raise

    # The response.

    def send_start(self, message: Message, trailers: object) -> None:
        """Check and start the response. `trailers`: the application is going to send some."""
        try:
            status = message["status"]
        except KeyError:
            raise ApplicationError(f"{message['type']!r} needs a 'status'") from None
        if not isinstance(status, int) or not 200 <= status <= 999:
            _refuse_status(status)
        headers = message.get("headers", ())
        if type(headers) is not list:
            headers = as_list(headers)
        self.content_left = self.writer.start(status, headers)
        if trailers:
            self.trailers = promised_trailers(self)
        # RFC 9110, 6.4.1.
        if status == 204 or status == 304 or self.method == "HEAD":
            self.is_bodyless = True
            self.content_left = UNDECLARED
            self.trailers = None
        self.phase = STARTED

    def send_body(self, message: Message, may_wait: bool = False) -> bool:
        """Send a part of the body. The last part finishes the exchange.

        If the caller `may_wait`, a part that is too large for one turn of the loop is left to
        `_send_pieces`: then this returns True, and nothing has happened.
        """
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body, MAX_PIECE if may_wait else sys.maxsize)
        size = len(body)
        if size > PART_SIZE:
            if may_wait and size > MAX_PIECE:
                return True
            self._parts += size // PART_SIZE
        end = not message.get("more_body", False)
        left = self.content_left
        if left >= 0:
            left -= size
            if left < 0:
                raise _too_long(-left)
            self.content_left = left
        is_last = end and self.trailers is None and left <= 0
        if self.phase is STARTED:
            self.phase = STREAMING
            if self.is_bodyless and not end:
                self.deadline = self.host.tick_end + self.host.grace_s
            self.writer.respond(body, is_last, self.is_bodyless)
        elif not self.is_bodyless:
            self.writer.write(body, is_last)
        if end:
            if left > 0:
                # The body must not be taken for complete, so it has no regular end (RFC 9112, 8;
                # RFC 9113, 8.1).
                self.writer.abort()
                self.finish()
                raise ApplicationError(f"the body is {left} bytes shorter than its content-length")
            if is_last:
                self.finish()
            else:
                self.phase = TRAILING
        return False

    async def _send_pieces(self, message: Message) -> None:
        """Send a long part of the body in pieces.

        After each, the client has to keep up, and the loop can run other tasks.
        """
        if self.is_bodyless:
            self.send_body(message)  # nothing is written
            return
        view = _as_view(message["body"])
        end = not message.get("more_body", False)
        size, left = len(view), self.content_left
        if 0 <= left < size:
            raise _too_long(size - left)
        is_whole = end and self.phase is STARTED and self.trailers is None
        if is_whole and left < 0:
            self.writer.set_length(size)
            self.content_left = size
        self._is_sending_pieces = True
        last = (size - 1) // MAX_PIECE * MAX_PIECE
        try:
            for start in range(0, last, MAX_PIECE):
                self._write_piece(_as_bytes(view[start : start + MAX_PIECE], size), is_whole)
                self.phase = SENDING
                await self._await_piece()
                self.phase = STREAMING
            self.send_body({"body": view[last:], "more_body": not end})
        finally:
            self._is_sending_pieces = False
            if self.phase is SENDING:
                self.cut()
            self._wake()

    def cut(self) -> None:
        """End the response within a part: the ``send()`` of the part was cancelled.

        An application that goes on does not know how much was sent, and its next parts could make
        the body look complete (RFC 9112, 8; RFC 9113, 8.1.1).
        """
        self.phase = STREAMING
        self.writer.abort()
        self.client = GONE

    def _write_piece(self, piece: bytes | memoryview, is_whole: bool) -> None:
        """Write a piece that is not the last of the body. `is_whole`: the others follow."""
        if self.content_left >= 0:
            self.content_left -= len(piece)
        if self.phase is STARTED:
            self.writer.respond(piece, False, False, is_whole)
        else:
            self.writer.write(piece, False)

    async def _await_piece(self) -> None:
        """Let other tasks run, and the client take a piece. Raises ClientDisconnected."""
        if self.is_writing_paused:
            await self.wait_for_room()
        else:
            await asyncio.sleep(0)
            self.check_client()
        if self.phase is not SENDING:
            raise ClientDisconnected("the response has ended while a part of it was sent")

    async def _send_after_pieces(self, message: Message) -> None:
        """Send a part once another ``send()`` has sent all pieces of its part.

        Raises as `send` does.
        """
        may_wait = self._is_sending_pieces
        if not may_wait:
            raise unexpected_body(message["type"], self.phase)
        while self._is_sending_pieces:
            if self._waiters is None:
                self._waiters = []
            await wait(self._waiters, self.host.loop)
        await self.send(message)

    def finish(self) -> None:
        self.phase = COMPLETE
        if self._chunks:
            self._chunks.clear()
        self.writer.finish()
        if self._waiters:
            self.is_writing_paused = False
            wake(self._waiters)

    async def wait_for_room(self) -> None:
        """Wait while the connection's buffer is full. Raises ClientDisconnected."""
        while self.is_writing_paused:
            if self._waiters is None:
                self._waiters = []
            await wait(self._waiters, self.host.loop)
        self.check_client()

    def check_client(self) -> None:
        """Raises ClientDisconnected if the client is gone."""
        if self.client is GONE:
            raise ClientDisconnected("the client is gone")

    # The end of the application: see `run_application`.

    def application_returned(self) -> None:
        if self.client is GONE:
            return
        if self.phase is TRAILING:
            self.writer.write(b"", True)  # the body is complete, only the trailers are missing
        elif self.client is ASKED_TO_END:  # the application has seen http.disconnect
            self.writer.abort()
        elif self.phase >= STREAMING:
            self.report_failure(
                "ASGI application returned without completing its response to %s %s", None
            )
        else:
            self.report_failure(
                "ASGI application returned without sending a response to %s %s", None
            )

    def application_cancelled(self) -> None:
        if self.client is not GONE:
            self.report_failure("ASGI application was cancelled, handling request %s %s", None)

    def application_raised(self, error: BaseException) -> None:
        if not (self.client is GONE and is_disconnect(error)):
            self.report_failure("Error handling request %s %s", error)

    def application_exited(self) -> None:
        if self.phase >= STREAMING and self.phase is not COMPLETE and self.client is not GONE:
            self.writer.abort()  # the worker serves on for a moment, and no response may follow

    def report_failure(self, text: str, error: BaseException | None) -> None:
        """Log the application's failure. Answer with 500, or abort a response after its head."""
        self.host.log.error(text, printable(self.method), printable(self.raw_path), exc_info=error)
        if self.client is GONE or self.phase is COMPLETE:
            return
        if self.phase < STREAMING:
            body = b"Internal Server Error"
            self.writer.start(
                500,
                [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")],
            )
            self.writer.respond(body, True, self.method == "HEAD")
        else:
            self.writer.abort()

    # Private.

    def _wake(self) -> None:
        if self._waiters:
            wake(self._waiters)

    def _join_chunks(self) -> None:
        """Join many small parts: each takes some fifty bytes of memory beside its content."""
        chunks = self._chunks
        start = next(
            (position for position, chunk in enumerate(chunks) if len(chunk) < CHUNK_SIZE),
            len(chunks),
        )
        if len(chunks) - start > 1:
            chunks[start:] = [b"".join(chunks[start:])]

    def _take_body(self) -> Message:
        chunks, self._chunks = self._chunks, []
        self.unread = 0
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self.body is RECEIVED:
            self.body = TAKEN
            return {"type": "http.request", "body": body, "more_body": False}
        self.writer.resume_body()
        return {"type": "http.request", "body": body, "more_body": True}


def _refuse_status(status: object) -> NoReturn:
    # RFC 9110, 15.2: a 1xx precedes the final response, and does not replace it.
    hint = " (an early hint is sent with 'http.response.early_hint')" if status == 103 else ""
    raise ApplicationError(
        f"'status' must be an int from 200 to 999, that of a final response, not {status!r}{hint}"
    )


def _too_long(surplus: int) -> ApplicationError:
    return ApplicationError(f"the body is {surplus} bytes longer than its content-length")


def _as_bytes(body: Any, limit: int) -> bytes | memoryview:
    """Copy other views of bytes, since they may change after ``send()`` has returned.

    A view of more than `limit` bytes is not copied.
    """
    view = _as_view(body)
    return view if len(view) > limit or type(view.obj) is bytes else bytes(view)


def _as_view(body: Any) -> memoryview:
    """A view of single bytes. Raises ApplicationError."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body)
        is_plain = view.ndim == view.itemsize == 1 and view.c_contiguous
        return view if is_plain else memoryview(bytes(view))
    raise ApplicationError(f"'body' must be bytes, not {type(body).__name__}")
