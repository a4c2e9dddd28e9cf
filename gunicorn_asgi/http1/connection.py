"""One HTTP/1.x connection: reading, writing and keep-alive, and what comes after an exchange."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..asgi.http import HTTPStream
from ..asgi.scope import http_scope
from ..connection import NEVER, Connection
from ..errors import RequestError
from ..wire import Header
from .body import ChunkedFraming, Framing, LengthFraming
from .encode import informational, refusal
from .request import Fields, check_partial_head, read_head
from .response import Response
from .states import (
    BODY,
    CLIENT_CLOSED_REQUEST,
    CLOSED,
    DONE,
    HANG_UP_SECONDS,
    HEAD,
    HIGH_WATER,
    LINGER,
    LINGER_SECONDS,
    MAX_DRAIN,
    MAX_EMPTY_LINES,
    MAX_LINGER,
    TURN,
)

if TYPE_CHECKING:
    from ..access import Record
    from ..server import Listener, Server


class H1Connection(Connection):
    """A client on a socket. Requests are answered one after the other, in their order (RFC 9112, 9.3.2)."""

    __slots__ = (
        "_awaits_continue",
        "_buffer",
        "_drop_left",
        "_empty_lines",
        "_fields",
        "_framing",
        "_half_closed",
        "_is_owing",
        "_more",
        "_reading",
        "_record",
        "_response",
        "_stream",
    )

    def __init__(self, server: Server, listener: Listener) -> None:
        super().__init__(server, listener)
        # The reading side.
        self._reading = HEAD
        self._framing: Framing | None = None
        self._buffer = bytearray()
        """The beginning of a head (HEAD), or what came behind the current request (DONE)."""
        self._more = False
        """Data of later requests stands behind the current one, which `_serve` goes on with."""
        self._fields: Fields | None = None
        """Of the current request, or of the last one."""
        self._empty_lines = 0
        """Empty lines before the next request."""
        self._half_closed = False
        self._is_owing = True
        """A part of a response may still be on its way: False once an idle connection is closed."""
        self._drop_left = 0
        """Bytes to be dropped before giving up, where nobody reads them."""
        # The exchange being answered.
        self._stream: HTTPStream | None = None
        self._record: Record | None = None
        self._awaits_continue = False
        """The client holds its body back until it is asked for."""
        self._response = Response()

    def __repr__(self) -> str:
        return f"<H1Connection {self._client} {self._reading.name} {self._stream!r}>"

    # From the transport.

    def data_received(self, data: bytes) -> None:
        reading = self._reading
        if reading is HEAD:
            if self._buffer:
                self._read_partial_head(data)
            else:
                self._serve(data)
        elif reading is BODY:
            try:
                data = self._read_body(data)
            except RequestError as error:
                self._refuse(error, b"")
            else:
                if data:
                    self._hold(data)
        elif reading is DONE:
            self._hold(data)
        elif reading is LINGER:
            self._drop(len(data))

    def eof_received(self) -> bool:
        reading = self._reading
        if reading is DONE and self._listener.scheme == "http":
            # The request is whole, so it gets its response, though nobody may be there to read it (RFC 9112, 9.6). TLS cannot do this.
            self._half_closed = True
            if self._stream is not None and not self._clogged:
                self.deadline = self._server.now + HANG_UP_SECONDS
            return True
        self._reading = CLOSED
        self._set_deadline()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading = CLOSED
        self._lost = True
        stream = self._stream
        if stream is None:
            self._server.forget(self)
            self.deadline = NEVER
            return
        self._response.keep_alive = False
        self.deadline = self._server.now + self._server.settings.disconnect_grace_s
        stream.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is CLOSED:
            return
        self._set_deadline()
        if self._stream is not None:
            self._stream.resume()
        elif self._reading is DONE:
            self._await_next()

    # Reading.

    def _serve(self, data: bytes) -> None:
        """Answer the requests in `data` one after the other, until one of them, or its client, has to be waited for."""
        server = self._server
        turn = 0
        while data and self._reading is HEAD:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or data[0] == 13:
                if data[:2] == b"\r\n" and self._empty_lines < MAX_EMPTY_LINES:  # RFC 9112, 2.2: at least one is to be ignored
                    self._empty_lines += 1
                    data = data[2:]
                    continue
                if end < 4:
                    self._hold_head(data)
                    break
            if turn == TURN:
                self._reading = DONE
                self._buffer += data
                server.loop.call_soon(self._serve_buffered)
                break
            turn += 1
            try:
                data = self._begin(read_head(data[:end], self._fields, self._rules), data[end:])
            except RequestError as error:
                self._refuse(error, data)
                break
        else:
            if data and self._reading is not CLOSED:
                self.data_received(data)
            elif self._half_closed and self._reading is HEAD:
                self._shut()

    def _begin(self, head: tuple[str, str, bytes, bytes, Fields], data: bytes) -> bytes:
        """Begin the exchange that `head` asks for, `data` being what came behind it; returns what of that is not this request's.

        Raises RequestError.
        """
        method, path, raw_path, query, fields = head
        server = self._server
        listener = self._listener
        self._fields = fields
        self._empty_lines = 0
        scheme = fields.scheme or listener.scheme
        if server.access is not None:
            self._record = server.access.begin(
                method, raw_path, query, fields.version, scheme, fields.headers, self._client, self._server_address
            )
        if listener.root_path and path != "*":
            path, raw_path = listener.root_path + path, listener.raw_root_path + raw_path
        scope = http_scope(
            fields.version,
            method,
            scheme,
            path,
            raw_path,
            query,
            listener.root_path,
            fields.headers.copy(),
            self._client,
            self._server_address,
            server.state,
        )
        response = self._response
        response.begun = response.keep_alive = False
        response.sent = 0
        length = fields.length
        self._stream = stream = HTTPStream(self, scope, length != 0, fields.expect_continue, server)
        if length == 0:
            self._reading = DONE
            self.deadline = NEVER
        else:
            self._reading = BODY
            self._awaits_continue = fields.expect_continue
            self._framing = LengthFraming(length) if length > 0 else ChunkedFraming(self._rules.limit_fields, self._rules.limit_field_size)
            self._set_deadline()
            if data:
                data = self._read_body(data)
            if self._half_closed and self._reading is BODY:
                self._stream = None
                self._shut()  # the rest will never come
                return b""
        self._more = bool(data)
        host = server.host
        host.nr += 1
        if host.nr >= host.max_requests:
            server.retire()
        stream.task = task = server.spawn(stream.run(server.app), context=server.context.copy())
        if not task.done():
            server.track(task, stream)
        return data

    def _read_body(self, data: bytes) -> bytes:
        """Take the body's part of `data`, and return what stands behind it. Raises RequestError."""
        assert self._framing is not None
        content, complete, data = self._framing.feed(data)
        stream = self._stream
        self._awaits_continue = False
        if complete:
            self._framing = None
            self._reading = DONE
        if stream is not None:
            if content:
                stream.feed(content)
            if complete:
                stream.feed_eof()
            elif stream.unread > HIGH_WATER:
                self._pause_reading()
            self._set_deadline()
        elif complete:
            self._await_next()
        else:
            self._drop(len(content))
        return data

    def _hold(self, data: bytes) -> None:
        """Keep what belongs to later requests, within a bound."""
        if self._reading is HEAD:  # what was behind the body of a request that is answered already
            self._serve(data)
            return
        if self._reading is not DONE:
            return
        self._buffer += data
        if len(self._buffer) > HIGH_WATER:
            self._pause_reading()
            self._set_deadline()

    def _hold_head(self, data: bytes) -> None:
        if self._half_closed:
            self._shut()  # the rest will never come
            return
        self._buffer += data
        self.deadline = self._server.now + self._server.settings.head_timeout_s
        self._check_partial_head(0)

    def _read_partial_head(self, data: bytes) -> None:
        buffer = self._buffer
        before = len(buffer)
        buffer += data
        if buffer.find(b"\r\n\r\n", max(0, before - 3)) >= 0 or buffer[:2] == b"\r\n":
            self._serve(self._take_buffer())
        else:
            self._check_partial_head(before)

    def _check_partial_head(self, before: int) -> None:
        try:
            check_partial_head(self._buffer, before, self._rules)
        except RequestError as error:
            self._refuse(error, bytes(self._buffer))

    def _serve_buffered(self) -> None:
        """Go on with the requests that wait, once nothing is being answered."""
        if self._reading is DONE and self._stream is None and not self._clogged:
            self._reading = HEAD
            self._resume_reading()
            self._serve(self._take_buffer())

    def _take_buffer(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    # For the stream (see `wire`).

    def head(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> int:
        if self._record is not None:
            headers = self._record.response_headers = list(headers) if isinstance(headers, Iterable) else headers
        return self._response.head(status, headers)

    def respond(self, stream: HTTPStream, body: bytes, end: bool, bodyless: bool) -> None:
        fields = self._fields
        assert fields is not None
        server = self._server
        keep_alive = (
            fields.keep_alive
            and server.keep_alive
            and not (self._reading is BODY and end and not self._is_drainable())
            and not (self._half_closed and not self._more and not self._buffer)
        )
        data, large = self._response.begin(fields.version, body, end, bodyless, keep_alive, server.default_fields)
        self._transport.write(data)
        if large:
            self._write(large)

    def write(self, stream: HTTPStream, data: bytes, end: bool) -> None:
        data = self._response.part(data, end)
        if data and not self._transport.is_closing():  # asyncio complains of every write behind a failed one
            self._write(data)

    def inform(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> None:
        if status == 100:
            if not self._awaits_continue:
                return  # the body is on its way
            self._awaits_continue = False
            self._set_deadline()
        if self._fields is not None and self._fields.version != "1.0":
            self._write(informational(status, headers))

    def credit(self, stream: HTTPStream) -> None:
        if self._reading_paused and self._reading is BODY:
            self._resume_reading()
            self._set_deadline()

    def abort(self, stream: HTTPStream) -> None:
        self._response.keep_alive = False
        if self._reading is CLOSED:
            return
        if self._response.delimited:
            self._reading = CLOSED
            self._reset()  # an ordinary end would make it look whole
        else:
            self._shut()

    def finish(self, stream: HTTPStream) -> None:
        if stream is not self._stream:
            return
        self._stream = None
        if self._record is not None:
            self._record_end()
        reading = self._reading
        if self._response.keep_alive and reading is DONE:
            self._await_next()
        elif reading is CLOSED or reading is LINGER:
            if self._lost:
                self._server.forget(self)
        elif self._response.keep_alive and reading is BODY and self._is_drainable():
            self._drop_left = MAX_DRAIN
            self._resume_reading()
            self._set_deadline()
        else:
            self._close()

    # Between exchanges.

    def _await_next(self) -> None:
        """The exchange is over, and its request was read to the end."""
        if self._clogged:
            return  # the next response has to wait until this one leaves; `resume_writing` comes back here
        self.deadline = self._server.idle_deadline
        if self._buffer:
            # Not from here: this may be within the task of the exchange that has just ended.
            self._server.loop.call_soon(self._serve_buffered)
            return
        self._reading = HEAD
        if not self._more and (self._half_closed or not self._server.keep_alive):
            self._close()

    def _is_drainable(self) -> bool:
        """Whether the rest of a body that nobody reads is likely to be short, and certain to be sent."""
        return self._framing is not None and self._framing.left <= MAX_DRAIN and not self._awaits_continue

    def _close(self) -> None:
        """Close so that the client gets all that was written (RFC 9112, 9.6): no reset while it may still be sending."""
        self._buffer.clear()
        expected = self._reading is DONE and self._fields is not None and not self._fields.keep_alive
        if expected or self._half_closed or not self._transport.can_write_eof():
            self._shut()
            return
        try:
            self._transport.write_eof()
        except OSError:  # asyncio's: the client has reset the connection, and that is not known yet
            self._shut()
            return
        self._reading = LINGER
        self._drop_left = MAX_LINGER
        self._resume_reading()
        self._set_deadline()

    def _drop(self, size: int) -> None:
        self._drop_left -= size
        if self._drop_left < 0:
            if self._reading is LINGER:
                self._shut()
            else:
                self._close()

    def _shut(self) -> None:
        """Close as soon as all is sent; `expired` sees to it that this has an end."""
        self._reading = CLOSED
        self._is_owing = True
        self._seen = self._look()
        self._transport.close()
        self._set_deadline()

    # Deadlines.

    def _set_deadline(self) -> None:
        server = self._server
        if self._clogged or self._reading is CLOSED:
            self.deadline = server.now + server.settings.write_timeout_s
        elif self._reading is LINGER:
            self.deadline = server.now + LINGER_SECONDS
        elif self._reading is BODY and not self._reading_paused and not self._awaits_continue:
            self.deadline = server.now + server.settings.body_timeout_s
        elif self._reading is DONE and self._stream is not None and (self._half_closed or self._reading_paused):
            self.deadline = server.now + HANG_UP_SECONDS
        else:
            self.deadline = NEVER

    def expired(self) -> None:
        reading = self._reading
        stream = self._stream
        self.deadline = NEVER
        if self._lost:
            if stream is not None:
                stream.cancel()
        elif self._clogged or reading is CLOSED:
            if not self._is_owing or self._is_stuck():
                self._reading = CLOSED
                self._reset()
            else:
                self._set_deadline()
        elif reading is HEAD and self._buffer:
            self._refuse(RequestError(408, "The head of the request did not arrive in time"), bytes(self._buffer))
        elif reading is BODY and stream is not None:
            if stream.awaits_body:
                self._refuse(RequestError(408, "The body of the request did not arrive in time"), b"")
            else:
                self._set_deadline()  # it is the application that takes its time
        elif reading is DONE:
            if stream is not None and (self._half_closed or self._is_gone()):
                stream.hang_up()
            else:
                self._set_deadline()
        else:
            self._shut_idle()

    def _shut_idle(self) -> None:
        """Close where nothing is owed: for TLS, its peer has a moment to answer."""
        self._shut()
        self._is_owing = False
        self.deadline = self._server.now + LINGER_SECONDS

    def drain(self) -> None:
        if self._reading is HEAD:
            if self._buffer:  # a request is on its way, but that of a client that dribbles is not waited for
                self.deadline = min(self.deadline, self._server.now + LINGER_SECONDS)
            else:
                self._shut_idle()
        elif self._reading is BODY and self._stream is None:
            self._close()

    @property
    def is_busy(self) -> bool:
        return self._stream is not None

    def hang_up(self) -> None:
        if self._stream is not None:
            self._stream.hang_up()

    def kill(self) -> None:
        stream, self._stream = self._stream, None
        if self._record is not None:
            self._record_end()
        if self._lost:
            self._server.forget(self)
        elif stream is None:
            self._reset() if self._transport.get_write_buffer_size() else self._shut()
        else:
            self._reading = CLOSED
            self._reset()
        if stream is not None:
            stream.cancel()

    # Refusals and the log.

    def _refuse(self, error: RequestError, head: bytes) -> None:
        """Answer a request that the application is not to see, and close. `head` is what came of it, where no exchange has begun."""
        server = self._server
        stream = self._stream
        if error.status != 500:
            ip = self._client[0] if self._client else ""
            server.log.warning("Invalid request from ip=%s: %s", ip, error)
        response = self._response
        if stream is not None and response.begun:
            self.abort(stream)
        elif self._reading is BODY and stream is None:
            self._close()  # the body of a request that was answered before: it gets no second answer
            return
        else:
            data, response.sent = refusal(
                error.status, str(error), head[:5] == b"HEAD " or (stream is not None and stream.method == "HEAD"), server.default_fields[0]
            )
            response.status, response.begun = error.status, True
            self._write(data)
            self._close()
        if self._record is not None:
            self._record_end()
        elif server.access is not None:
            server.access.refused(head, error.status, response.sent, self._listener.scheme, self._client, self._server_address)
        if stream is not None:
            # For the application the client is gone; it is waited for as if the connection were lost.
            stream.lost()
            if stream.task is None:
                self._stream = None

    def _record_end(self) -> None:
        record, self._record = self._record, None
        access = self._server.access
        if record is not None and access is not None:
            access.end(record, self._response.status if self._response.begun else CLIENT_CLOSED_REQUEST, self._response.sent)
