"""One HTTP/1.x connection: reading, writing and keep-alive, and what comes after an exchange."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..asgi.extensions import ExtendedStream
from ..asgi.http import HTTPStream
from ..asgi.scope import http_scope
from ..asgi.websocket import WebSocketStream
from ..connection import CLOSED, LINGER, LINGER_SECONDS, Connection, Ending
from ..errors import ClientDisconnected, RequestError
from ..request import Fields, Request, takes_trailers
from ..wire import CLIENT_CLOSED_REQUEST, NEVER, Header
from .body import ChunkedFraming, Framing, LengthFraming
from .encode import informational
from .inbox import Inbox
from .request import read_head
from .response import Response
from .states import BODY, DONE, HANG_UP_SECONDS, HEAD, HIGH_WATER, MAX_DRAIN, TURN, Reading
from .upgrade import check_handshake, switching_protocols
from .upgraded import UpgradedConnection

if TYPE_CHECKING:
    from ..accept import Listener
    from ..access import Record
    from ..asgi.scope import Address
    from ..server import Server


class H1Connection(Connection):
    """A client on a socket. Requests are answered one after the other, in their order (RFC 9112, 9.3.2)."""

    __slots__ = ("_awaits_100", "_drain_left", "_fields", "_framing", "_half_closed", "_inbox", "_more", "_record", "_response", "_stream")

    _reading: Reading | Ending

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        # The reading side.
        self._reading = HEAD
        self._framing: Framing | None = None
        self._inbox = Inbox()
        self._more = False
        """Data of later requests stands behind the current one, which `_serve` goes on with."""
        self._fields: Fields | None = None
        """Of the current request, or of the last one."""
        self._half_closed = False
        self._drain_left = 0
        """Bytes to be dropped, of a body that nobody reads, before giving up."""
        # The exchange being answered.
        self._stream: HTTPStream | None = None
        self._record: Record | None = None
        self._awaits_100 = False
        """The client holds its body back until it is asked for."""
        self._response = Response()

    def __repr__(self) -> str:
        return f"<H1Connection {self._client} {self._reading.name} {self._stream!r}>"

    # From the transport.

    def data_received(self, data: bytes) -> None:
        reading = self._reading
        if reading is HEAD:
            if self._inbox.data:
                self._hold_head(data)
            else:
                self._serve(data)
        elif reading is BODY:
            try:
                data = self._read_body(data)
            except RequestError as error:
                self.refuse(error)
            else:
                if data:
                    self._hold(data)
        elif reading is DONE:
            self._hold(data)
        elif reading is LINGER:
            self._drop(len(data))

    def eof_received(self) -> bool:
        if self._reading is not DONE or self._listener.scheme != "http" or (self._stream is not None and not self._stream.may_be_followed):
            return super().eof_received()
        # The request is whole, so it gets its response, though nobody may be there to read it (RFC 9112, 9.6). TLS cannot do this.
        self._half_closed = True
        if self._stream is not None and not self._clogged and self._transfer is None:
            self.deadline = self._server.now + HANG_UP_SECONDS
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._response.keep_alive = False
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is DONE and self._stream is None:
            self._await_next()

    # Reading.

    def _serve(self, data: bytes, since: float = NEVER) -> None:
        """Answer the requests in `data` one after the other, until one of them, or its client, has to be waited for.

        The first has begun to arrive at `since` on the loop's clock, where that is not now.
        """
        server = self._server
        turn = 0
        while data and self._reading is HEAD:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or data[0] == 13:
                if self._inbox.passes_empty_line(data):
                    data = data[2:]
                    continue
                if end < 4:
                    self._hold_head(data)
                    break
            if turn and self._is_closing():
                break  # a response could not be written: nobody is there for the others
            if turn == TURN:
                self._reading = DONE
                self._inbox.hold(data)
                server.loop.call_soon(self._serve_buffered)
                break
            turn += 1
            try:
                data = self._begin(read_head(data[:end], self._fields, self._rules), data[end:])
            except RequestError as error:
                self.refuse(error, data, since if turn == 1 else NEVER)
                break
        else:
            if data and self._reading is not CLOSED:
                self.data_received(data)
            elif self._half_closed and self._reading is HEAD:
                self._shut()

    def _begin(self, request: Request, data: bytes) -> bytes:
        """Begin the exchange of `request`; returns what of `data`, which came behind its head, is not this one's. Raises RequestError."""
        method, path, raw_path, query, fields = request
        server = self._server
        listener = self._listener
        if len(server.tasks) >= server.limit_concurrency:
            raise server.overloaded()
        self._fields = fields
        self._inbox.empty_lines = 0
        scheme = fields.scheme or listener.scheme
        if server.access is not None:
            self._record = server.access.begin(
                method, raw_path, query, fields.version, scheme, fields.headers, self._client, self._server_address, fields.script_name
            )
        root_path = fields.root_path
        if root_path is None:
            root_path = listener.root_path
            if root_path and path != "*":
                path, raw_path = root_path + path, listener.raw_root_path + raw_path
        version, headers, client = fields.version, fields.headers.copy(), fields.client or self._client
        scope = http_scope(
            version, method, scheme, path, raw_path, query, root_path, headers, client, self._server_address, server.state, self._tls
        )
        response = self._response
        response.begun = response.keep_alive = False
        response.sent = 0
        if fields.upgrade == "h2c" and server.upgrade(self, request, data, self._record):
            self._record, self._reading = None, CLOSED
            return b""
        stream: HTTPStream
        if fields.upgrade == "websocket" and server.websocket is not None:
            check_handshake(method, headers, fields.length != 0)
            self._stream = stream = WebSocketStream(self, scope, server, server.websocket)
            self._reading = DONE
            self._set_deadline()
            self._hold(data)
            data = b""
        elif fields.length == 0:
            self._stream = stream = ExtendedStream(self, scope, False, False, server)
            self._reading = DONE
            self.deadline = NEVER
        else:
            self._stream = stream = ExtendedStream(self, scope, True, fields.expect_continue, server)
            data = self._begin_body(fields, data)
            if self._half_closed and self._reading is BODY:
                self._stream = None
                self._shut()  # the rest will never come
                return b""
        self._more = bool(data)
        server.start(stream)
        return data

    def _begin_body(self, fields: Fields, data: bytes) -> bytes:
        """A body follows; returns what of `data` stands behind it. Raises RequestError."""
        self._reading = BODY
        self._awaits_100 = fields.expect_continue
        length, rules = fields.length, self._rules
        self._framing = LengthFraming(length) if length > 0 else ChunkedFraming(rules.limit_fields, rules.limit_field_size)
        self._set_deadline()
        return self._read_body(data) if data else data

    def _read_body(self, data: bytes) -> bytes:
        """Take the body's part of `data`, and return what stands behind it. Raises RequestError."""
        assert self._framing is not None
        content, complete, data = self._framing.feed(data)
        stream = self._stream
        self._awaits_100 = False
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
            self._drain_left -= len(content)
            if self._drain_left < 0:
                self._close()
        return data

    def _hold(self, data: bytes) -> None:
        """Keep what belongs to later requests, within a bound."""
        if self._reading is HEAD:  # what was behind the body of a request that is answered already
            self._serve(data)
            return
        if self._reading is not DONE:
            return
        if self._inbox.hold(data):
            self._pause_reading()
            self._set_deadline()

    def _hold_head(self, data: bytes) -> None:
        """Keep the beginning of a head until it is whole."""
        if self._half_closed:
            self._shut()  # the rest will never come
            return
        inbox = self._inbox
        if not inbox.data:
            self.deadline = self._server.now + self._server.settings.head_timeout_s
            inbox.began = self._server.loop.time()
        try:
            is_whole = inbox.add_to_head(data, self._rules)
        except RequestError as error:
            self.refuse(error, bytes(inbox.data), inbox.began)
            return
        if is_whole:
            self._serve(inbox.take(), inbox.began)

    def _serve_buffered(self) -> None:
        """Go on with the requests that wait, once nothing is being answered."""
        if self._reading is DONE and self._stream is None and not self._clogged and not self._is_closing():
            self._reading = HEAD
            self._resume_reading()
            self._serve(self._inbox.take())

    # For the stream (see `wire`).

    def head(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> int:
        if self._record is not None:
            headers = self._record.response_headers = list(headers) if isinstance(headers, Iterable) else headers
        return self._response.head(status, headers)

    def respond(self, stream: HTTPStream, body: bytes, end: bool, bodyless: bool, is_held: bool = False) -> bytes:
        """`is_held`: return it all instead of writing it."""
        fields = self._fields
        assert fields is not None
        server = self._server
        keep_alive = (
            fields.keep_alive
            and server.keep_alive
            and stream.may_be_followed
            and not (self._reading is BODY and end and not self._is_drainable())
            and not (self._half_closed and not self._more and not self._inbox.data)
        )
        data, large = self._response.begin(fields.version, body, end, bodyless, keep_alive, server.default_fields)
        if is_held:
            return data
        self._transport.write(data)
        if large:
            self._write(large)
        return b""

    def write(self, stream: HTTPStream, data: bytes, end: bool) -> None:
        data = self._response.part(data, end)
        if data:
            self._write(data)

    def declare(self, stream: HTTPStream, length: int) -> None:
        self._response.declare(length)

    def may_have_trailers(self, stream: HTTPStream) -> bool:
        fields = self._fields
        assert fields is not None
        return fields.version == "1.1" and self._response.may_be_chunked and takes_trailers(fields.headers)

    def trailers(self, stream: HTTPStream, headers: Iterable[Header]) -> None:
        self._write(self._response.trailers(headers))

    def start_file(self, stream: HTTPStream, descriptor: int, offset: int, count: int) -> bool:
        head = b"" if self._response.begun else self.respond(stream, b"", False, False, is_held=True)
        may_send = self._server.settings.sendfile and self._listener.scheme == "http" and not self._response.is_chunked
        if may_send and self._start_transfer(head, descriptor, offset, count):
            self._response.sent += count
            return True
        self._write(head)
        return False

    def end_file(self, stream: HTTPStream) -> int:
        return self._end_transfer()

    def _end_transfer(self) -> int:
        left = super()._end_transfer()
        self._response.sent -= left
        return left

    def inform(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> None:
        if status == 100:
            if not self._awaits_100:
                return  # the body is on its way
            self._awaits_100 = False
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
            self._reset()  # an ordinary end would make it look whole
        else:
            self._shut()

    def accept(self, stream: WebSocketStream, headers: Iterable[Header]) -> tuple[UpgradedConnection, bytes]:
        # TLS tells the protocol that it had before of a loss. In Python 3.10, it only shows by the lack of a socket that it is closing.
        if self._half_closed or self._is_closing() or self._transport.get_extra_info("socket") is None:
            raise ClientDisconnected("the client is gone")
        assert self._fields is not None
        if self._record is not None:
            headers = self._record.response_headers = list(headers)
        self._write(switching_protocols(self._fields.headers, headers, self._server.default_fields))
        record, self._record = self._record, None
        self._stream, self._reading = None, CLOSED
        return UpgradedConnection(self, stream, record), self._inbox.take()

    def fail(self, stream: HTTPStream, error: RequestError) -> None:
        self.refuse(error)

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
            self._drain_left = MAX_DRAIN
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
        if self._inbox.data:
            # Not from here: this may be within the task of the exchange that has just ended.
            self._server.loop.call_soon(self._serve_buffered)
            return
        self._reading = HEAD
        if self._more:
            return
        if self._half_closed:
            self._close()
        elif not self._server.keep_alive:  # since the head of this response was written
            self._server.start_lame_duck(self)

    def _is_drainable(self) -> bool:
        """Whether the rest of a body that nobody reads is likely to be short, and certain to be sent."""
        return self._framing is not None and self._framing.left <= MAX_DRAIN and not self._awaits_100

    def _close(self) -> None:
        """Close behind what is written, whatever else the client has sent or still sends."""
        self._inbox.data.clear()
        expected = self._reading is DONE and self._fields is not None and not self._fields.keep_alive
        if expected or self._half_closed:
            self._shut()
        else:
            self._linger(is_sending=self._reading is not DONE and not self._response.delimited)

    # For the base, and through it for the server.

    def _streams(self) -> tuple[HTTPStream, ...]:
        return () if self._stream is None else (self._stream,)

    def _patience(self) -> float:
        if self._reading is BODY and not self._reading_paused and not self._awaits_100:
            return self._server.settings.body_timeout_s
        if self._reading is DONE and self._stream is not None:
            patience = self._stream.deadline - self._server.now
            return min(patience, HANG_UP_SECONDS) if self._half_closed or self._reading_paused else patience
        return NEVER

    def _overdue(self) -> None:
        reading = self._reading
        stream = self._stream
        if reading is HEAD and self._inbox.data:
            self.refuse(RequestError(408, "The head of the request did not arrive in time"), bytes(self._inbox.data), self._inbox.began)
        elif reading is BODY and stream is not None and stream.awaits_body:
            self.refuse(RequestError(408, "The body of the request did not arrive in time"))
        elif reading is DONE and stream is not None and stream.deadline <= self._server.now:
            stream.expired()
        elif reading is DONE and stream is not None and (self._half_closed or self._is_gone()):
            stream.hang_up()
            self.deadline = stream.deadline
        elif reading is DONE or (reading is BODY and stream is not None):
            self._set_deadline()  # it is the application that takes its time
        else:
            self._shut_idle()

    def drain(self) -> None:
        if self._reading is HEAD:
            if self._inbox.data:  # a request is on its way, but that of a client that dribbles is not waited for
                self.deadline = min(self.deadline, self._server.now + LINGER_SECONDS)
            else:
                self._shut_idle()
        elif self._reading is BODY and self._stream is None:
            self._close()

    def kill(self) -> None:
        super().kill()
        self._stream = None
        if self._record is not None:
            self._record_end()

    # Refusals and the log.

    def refuse(self, error: RequestError, head: bytes = b"", since: float = NEVER) -> None:
        """Answer a request that the application is not to see, and close.

        Where no exchange has begun, `head` is what came of it, and `since` when that began on the loop's clock, if not now.
        """
        server = self._server
        stream = self._stream
        if not error.is_logged:
            self.complain("request", error)
        response = self._response
        if stream is not None and response.begun:
            self.abort(stream)
        elif self._reading is BODY and stream is None:
            self._close()  # the body of a request that was answered before: it gets no second answer
            return
        else:
            bodyless = head[:5] == b"HEAD " or (stream is not None and stream.method == "HEAD")
            data = response.refuse(error, bodyless, server.default_fields[0])
            self._write(data)
            self._close()
        if self._record is not None:
            self._record_end()
        elif server.access is not None:
            seconds = max(0.0, server.loop.time() - since)
            server.access.refused(head, error.status, response.sent, self._listener.scheme, self._client, self._server_address, seconds)
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
