"""One HTTP exchange: the application's ``receive()`` and ``send()``, the order of messages, and how much body is due."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NoReturn, Protocol

from ..errors import ApplicationError, ClientDisconnected, is_disconnect
from ..http.contract import NEVER, Header, ResponseWriter
from ..http.fields import as_list
from ..observe.printable import printable
from .scope import Application, Message, Scope

UNKNOWN = -1
"""No ``content-length`` was declared."""

DISCONNECT = "http.disconnect"
MAX_CHUNKS = 256
"""Parts of the request's body that wait for the application one by one."""
CHUNK_SIZE = 65536
"""Bytes from which on a part is left as it is."""
PARTS_PER_TURN = 64
"""Parts of a body that are sent without letting the loop turn. Ends and errors that are told without it."""


class Phase(IntEnum):
    """How far the response is."""

    WAITING = 0
    """The application has sent nothing."""
    STARTED = 1
    """It has sent ``http.response.start``; the connection holds the head, nothing is written."""
    STREAMING = 2
    """The head is written, the body is not complete."""
    SENDING = 3
    """A file is on its way, and nothing else may be written before it has ended: the one phase that goes back, to STREAMING."""
    TRAILING = 4
    """The body is complete, and the trailers are waited for that were promised."""
    COMPLETE = 5
    """All is written, or it was given up: the connection no longer belongs to this exchange."""


WAITING, STARTED, STREAMING, SENDING, TRAILING, COMPLETE = Phase


class Log(Protocol):
    """What of Gunicorn's logger is used here."""

    def debug(self, message: str, *args: object) -> None: ...

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None: ...


class Host(Protocol):
    """What an exchange needs of the server."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def log(self) -> Log: ...

    @property
    def now(self) -> float:
        """The latest that it can be on the loop's clock before deadlines are looked at again."""

    @property
    def grace_s(self) -> float:
        """Seconds that an application has to end once its client has gone: ``asgi_disconnect_grace_period``."""

    @property
    def switched_off(self) -> Mapping[str, str]:
        """The extensions of a response that are not offered, each with the option that says so."""

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """The process is to end."""


class HTTPStream:
    """One request and its response, for whatever version of HTTP is below (see `http.contract`)."""

    __slots__ = (
        "_body_ended",
        "_body_taken",
        "_bodyless",
        "_chunks",
        "_clogged",
        "_due",
        "_expects_continue",
        "_gone",
        "_host",
        "_hung_up",
        "_parts",
        "_phase",
        "_scope",
        "_told",
        "_trailers",
        "_waiters",
        "_writer",
        "deadline",
        "method",
        "raw_path",
        "task",
        "unread",
    )

    may_be_followed = True
    """The connection may be kept for another exchange."""

    def __init__(
        self,
        writer: ResponseWriter,
        scope: Scope,
        has_body: bool,
        expects_continue: bool,
        host: Host,
    ) -> None:
        # Set once.
        self._writer = writer
        self._host = host
        self._scope = scope
        # Kept because the application may change its scope.
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.task: asyncio.Task[None] | None = None
        self.deadline = NEVER
        """When an application whose response has no body is to be through with it."""
        # The request.
        self._chunks: list[bytes] = []
        self.unread = 0
        """Bytes of the body that wait for the application."""
        self._body_ended = not has_body
        self._body_taken = False
        """The application was handed the last part of the body."""
        self._expects_continue = expects_continue
        # The response.
        self._phase: Phase = WAITING
        self._bodyless = False
        self._due = UNKNOWN
        """Bytes that the declared ``content-length`` still asks for."""
        self._parts = 0
        self._trailers: list[Header] | None = None
        """Those that have come; None where none were promised, or could be sent."""
        # The client.
        self._gone = False
        self._told = 0
        """How often the application was told that the exchange is over, or that a message of its own is wrong."""
        self._hung_up = False
        self._clogged = False
        self._waiters: list[asyncio.Future[None]] | None = None
        """Made by the first who waits: most never do."""

    def __repr__(self) -> str:
        gone = " gone" if self._gone else ""
        return f"<HTTPStream {self.method} {self.raw_path!r} {self._phase.name}{gone}>"

    # From the connection.

    def feed_data(self, data: bytes) -> None:
        self._chunks.append(data)
        self.unread += len(data)
        if len(self._chunks) >= MAX_CHUNKS:
            self._join()
        self._wake()

    def feed_eof(self) -> None:
        self._body_ended = True
        self._wake()

    def ask_to_end(self) -> None:
        self._hung_up = True
        self._wake()

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self._wake()

    def connection_lost(self) -> None:
        self._gone = True
        self._clogged = False
        self._chunks.clear()
        self._wake()

    def deadline_passed(self) -> None:
        """The client has had all of its response for a while, which has no body, and the application goes on: as if the client had gone."""
        if self._gone:
            self.deadline = NEVER
            self.cancel()
        else:
            self.deadline = self._host.now + self._host.grace_s
            self.connection_lost()

    def cancel(self) -> None:
        self._gone = True
        if self.task is not None:
            self.task.cancel()

    @property
    def awaits_body(self) -> bool:
        """Whether the application waits for more of the body."""
        return bool(self._waiters) and not self._body_ended

    # The application.

    async def run(self, app: Application) -> None:
        """Call the application, and see to it that the exchange ends, however it does."""
        try:
            await app(self._scope, self.receive, self.send)
        except (SystemExit, KeyboardInterrupt) as error:
            self._host.leave(error)  # a signal handler's, or the application's own
        except asyncio.CancelledError:
            if not self._gone and self._phase is not COMPLETE:
                self._fail("ASGI application was cancelled, handling request %s %s", None)
            raise
        except BaseException as error:  # noqa: BLE001 # whatever leaves the application ends here, in the log
            if not (is_disconnect(error) and self._gone):
                self._fail("Error handling request %s %s", error)
        else:
            if self._phase is not COMPLETE and not self._gone:
                self._unfinished()
        finally:
            if self._phase is not COMPLETE:
                self._end()

    async def receive(self) -> Message:
        """``http.request`` until the body is complete, then ``http.disconnect`` as soon as the response is, or the client gone."""
        while not (self._gone or self._phase is COMPLETE):
            if self._chunks or (self._body_ended and not self._body_taken):
                return self._take()
            if self._hung_up:
                break
            if self._expects_continue:
                # RFC 9110, 10.1.1: only now that the content is wanted, and not behind a final status.
                self._expects_continue = False
                if self._phase < STREAMING and not self._body_ended:
                    self._writer.write_informational(100, ())
            await self._wait()
        await self._tell()
        return {"type": DISCONNECT}

    async def send(self, message: Message) -> None:
        """Send ``http.response.start`` or ``http.response.body``.

        Waits while the client does not take what was sent. Raises ApplicationError for a message that is not allowed here, and
        ClientDisconnected (an OSError) once the client is gone.
        """
        phase = self._phase
        if phase is COMPLETE and not self._gone:
            await self._tell()
            return  # statement 61: later messages are ignored
        try:
            if self._gone:
                raise ClientDisconnected("the client is gone")
            try:
                kind = message["type"]
            except (TypeError, KeyError):
                raise ApplicationError(
                    f"a message must be a dict with a 'type', not {message!r}"
                ) from None
            if kind == "http.response.body":
                if phase is not STARTED and phase is not STREAMING:
                    self._refuse_body(kind, phase)
                self._send_body(message, phase)
                if self._phase is STREAMING:
                    self._parts += 1
                    if self._clogged:
                        await self._drain()
                    elif self._parts % PARTS_PER_TURN == 0:
                        # A client that reads fast enough never makes an endless stream wait; the rest of the worker would.
                        await asyncio.sleep(0)
            elif kind == "http.response.start":
                if phase is not WAITING:
                    raise ApplicationError(
                        "'http.response.start' was sent before; expected 'http.response.body'"
                    )
                self._send_start(message)
            else:
                await self._send_extension(kind, message, phase)
        except Exception:
            await self._tell()
            raise

    # Inside.

    async def _tell(self) -> None:
        """Let the loop turn now and then before the application is told of an end or an error.

        An application that ignores it and asks again, without an end, would otherwise keep the loop
        from everything else, its own cancellation included. Not each time, for frameworks poll:
        they cancel a ``receive()`` that does not return at once (Starlette's ``is_disconnected``).
        """
        self._told += 1
        if self._told % PARTS_PER_TURN == 0:
            await asyncio.sleep(0)

    def _join(self) -> None:
        """Of many small parts make few large ones: each takes some fifty bytes of memory besides its content, which may be a single one."""
        chunks = self._chunks
        start = next(
            (position for position, chunk in enumerate(chunks) if len(chunk) < CHUNK_SIZE),
            len(chunks),
        )
        if len(chunks) - start > 1:
            chunks[start:] = [b"".join(chunks[start:])]

    def _send_start(self, message: Message) -> None:
        try:
            status = message["status"]
        except KeyError:
            raise ApplicationError(f"{message['type']!r} needs a 'status'") from None
        if not isinstance(status, int) or not 200 <= status <= 999:
            _refuse_status(status)
        headers = message.get("headers", ())
        if type(headers) is not list:
            headers = as_list(headers)
        self._due = self._writer.start(status, headers)
        if message.get("trailers"):
            self._promise_trailers()
        # RFC 9110, 6.4.1.
        if status == 204 or status == 304 or self.method == "HEAD":
            self._bodyless = True
            self._due = UNKNOWN
            self._trailers = None
        self._phase = STARTED

    def _send_body(self, message: Message, phase: Phase) -> None:
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        end = not message.get("more_body", False)
        due = self._due
        if due >= 0:
            due -= len(body)
            if due < 0:
                raise ApplicationError(f"the body is {-due} bytes longer than its content-length")
            self._due = due
        is_last = end and self._trailers is None and due <= 0
        if phase is STARTED:
            self._phase = STREAMING
            if self._bodyless and not end:
                self.deadline = self._host.now + self._host.grace_s
            self._writer.respond(body, is_last, self._bodyless)
        elif not self._bodyless:
            self._writer.write(body, is_last)
        if end:
            if due > 0:
                # Nobody may take it for whole: it ends short of the announced length, and without an end of its own (RFC 9112, 8; RFC 9113, 8.1).
                self._writer.abort()
                self._end()
                raise ApplicationError(f"the body is {due} bytes shorter than its content-length")
            if is_last:
                self._end()
            else:
                self._phase = TRAILING

    def _refuse_body(self, kind: str, phase: Phase) -> NoReturn:
        if phase is SENDING:
            raise ApplicationError(f"a file is being sent: expected {kind!r} behind it")
        expected = "http.response.start" if phase is WAITING else "http.response.trailers"
        raise ApplicationError(
            f"expected {expected!r} before {kind!r}"
            if phase is WAITING
            else f"expected {expected!r}, not {kind!r}"
        )

    def _promise_trailers(self) -> None:
        """Trailers are to follow: see `extensions`. A denied WebSocket has none."""

    async def _send_extension(self, kind: str, _message: Message, _phase: Phase) -> None:
        """Send what is neither the start nor a part of the body: see `extensions`."""
        raise ApplicationError(
            f"expected 'http.response.start' or 'http.response.body', not {kind!r}"
        )

    def _take(self) -> Message:
        chunks, self._chunks = self._chunks, []
        self.unread = 0
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._body_ended:
            self._body_taken = True
            return {"type": "http.request", "body": body, "more_body": False}
        self._writer.resume_body()
        return {"type": "http.request", "body": body, "more_body": True}

    async def _wait(self) -> None:
        """Wait until something has changed. Each caller has a future of its own, so that cancelling one does not concern the others."""
        waiter = self._host.loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _wake(self) -> None:
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _drain(self) -> None:
        while self._clogged:
            await self._wait()
        self._check_client()

    def _check_client(self) -> None:
        if self._gone:
            raise ClientDisconnected("the client is gone")

    def _unfinished(self) -> None:
        """The application has returned, and its response is not complete."""
        if self._phase is TRAILING:
            self._writer.write(b"", True)  # statement 152: the body was whole
        elif self._hung_up:  # it was told http.disconnect, and has drawn the consequence
            self._writer.abort()
        elif self._phase >= STREAMING:
            self._fail("ASGI application returned without completing its response to %s %s", None)
        else:
            self._fail("ASGI application returned without sending a response to %s %s", None)

    def _fail(self, what: str, error: BaseException | None) -> None:
        """The application did not finish: a clean 500 where nothing is written yet, otherwise an end that cannot be taken for one."""
        self._host.log.error(what, printable(self.method), printable(self.raw_path), exc_info=error)
        if self._gone or self._phase is COMPLETE:
            return
        if self._phase < STREAMING:
            body = b"Internal Server Error"
            self._writer.start(
                500,
                [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")],
            )
            self._writer.respond(body, True, self.method == "HEAD")
        else:
            self._writer.abort()

    def _end(self) -> None:
        self._phase = COMPLETE
        if self._chunks:
            self._chunks.clear()
        self._writer.finish()
        if self._waiters:
            self._clogged = False  # what nobody sends any more need not be waited for
            self._wake()


def _refuse_status(status: object) -> NoReturn:
    # RFC 9110, 15.2: a 1xx is followed by the final response, and is no end of the wait for it.
    hint = " (an early hint is sent with 'http.response.early_hint')" if status == 103 else ""
    raise ApplicationError(
        f"'status' must be an int from 200 to 999, that of a final response, not {status!r}{hint}"
    )


def _as_bytes(body: Any) -> bytes:
    """Statement 75: other views of bytes are accepted, and copied, since they may change after ``send()`` has returned."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ApplicationError(f"'body' must be bytes, not {type(body).__name__}")
