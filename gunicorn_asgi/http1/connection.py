"""One HTTP/1.x connection: reading, writing and keep-alive, and what comes after an exchange."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..asgi.http import HTTPStream
from ..asgi.scope import Address, http_scope
from ..errors import RequestError
from ..wire import Header
from .body import ChunkedFraming, Framing, LengthFraming
from .encode import CLOSE, STATUS_LINES, chunk, encode_fields, frame
from .request import Fields, check_partial_head, read_head

if TYPE_CHECKING:
    from ..access import Record
    from ..server import Listener, Server

NEVER = math.inf
HIGH_WATER = 65536
"""Bytes of the body, or of requests behind the current one, that wait in memory before reading is paused."""
MAX_DRAIN = 65536
"""Bytes of a body that nobody read which are read and dropped to keep the connection; of a longer one, it is closed."""
MAX_LINGER = 1048576
"""Bytes that are read and dropped while a closing connection waits for the client to notice."""
LINGER_SECONDS = 2.0
HANG_UP_SECONDS = 1.0
"""How long a client that has closed its side may wait for the response before an application that listens is told."""
TURN = 32
"""Pipelined requests that are answered before the loop gets to serve others."""


class Reading(Enum):
    """What the next bytes from the client are."""

    HEAD = "the head of a request, and no exchange is going on"
    BODY = "the body of the current request"
    DONE = "a later request, which waits for the current one"
    LINGER = "nothing that matters: the last response is written, and the client has not noticed"
    CLOSED = "none: the transport is closed or closing"


HEAD, BODY, DONE, LINGER, CLOSED = Reading


class H1Connection(asyncio.Protocol):
    """A client on a socket. Requests are answered one after the other, in their order (RFC 9112, 9.3.2)."""

    __slots__ = (
        "_awaits_continue",
        "_buffer",
        "_chunked",
        "_client",
        "_clogged",
        "_declared",
        "_delimited",
        "_drain_left",
        "_fields",
        "_found",
        "_framing",
        "_half_closed",
        "_head_written",
        "_keep",
        "_lines",
        "_listener",
        "_lost",
        "_more",
        "_reading",
        "_reading_paused",
        "_record",
        "_rules",
        "_sent",
        "_server",
        "_server_address",
        "_status",
        "_stream",
        "_transport",
        "_unsent",
        "deadline",
    )

    _transport: asyncio.Transport

    def __init__(self, server: Server, listener: Listener) -> None:
        # Shared with the server.
        self._server = server
        self._listener = listener
        # Set once, when the connection is made.
        self._client: Address | None = None
        self._server_address: Address | None = None
        self._rules = server.rules
        # The reading side.
        self._reading = HEAD
        self._framing: Framing | None = None
        self._buffer = bytearray()
        """The beginning of a head (HEAD), or what came behind the current request (DONE)."""
        self._fields: Fields | None = None
        """Of the current request, or of the last one."""
        self._reading_paused = False
        self._half_closed = False
        self._lost = False
        self._drain_left = 0
        """Bytes to be dropped before giving up, where nobody reads them."""
        # The exchange being answered.
        self._stream: HTTPStream | None = None
        self._record: Record | None = None
        self._awaits_continue = False
        # The writing side of it.
        self._lines = b""
        self._declared = -1
        self._found = 0
        self._status = 0
        self._head_written = False
        self._chunked = False
        self._delimited = False
        self._keep = False
        self._sent = 0
        # The connection.
        self._more = False
        """Data of later requests stands behind the current one, which `_serve` goes on with."""
        self._clogged = False
        self._unsent = 0
        self.deadline = NEVER
        """When `expired` is to be called, on the loop's clock."""

    def __repr__(self) -> str:
        return f"<H1Connection {self._client} {self._reading.name} {self._stream!r}>"

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a full transport
        server = self._server
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self._rules = server.rules_for(self._client)
        self._server_address = self._listener.address or _address(transport.get_extra_info("sockname"))
        self.deadline = server.now + server.settings.head_timeout_s
        server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        reading = self._reading
        if reading is HEAD:
            if self._buffer:
                self._read_partial_head(data)
            else:
                self._serve(data)
        elif reading is BODY:
            data = self._read_body(data)
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
        self._keep = False
        self.deadline = self._server.now + self._server.settings.disconnect_grace_s
        stream.lost()

    def pause_writing(self) -> None:
        self._clogged = True
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self._server.now + self._server.settings.write_timeout_s
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        self._clogged = False
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
                if data[:2] == b"\r\n":  # RFC 9112, 2.2: an empty line before a request is ignored
                    data = data[2:]
                    continue
                if end < 4:
                    self._hold_head(data)
                    break
            if turn == TURN:
                self._buffer += data
                server.loop.call_soon(self._serve_buffered)
                break
            turn += 1
            try:
                head = read_head(data[:end], self._fields, self._rules)
            except RequestError as error:
                self._refuse(error, data)
                break
            data = self._begin(head, data[end:])
        else:
            if data and self._reading is not CLOSED:
                self.data_received(data)

    def _begin(self, head: tuple[str, str, bytes, bytes, Fields], data: bytes) -> bytes:
        """Begin the exchange that `head` asks for, `data` being what came behind it; returns what of it is not this request's."""
        method, path, raw_path, query, fields = head
        server = self._server
        listener = self._listener
        self._fields = fields
        if server.access is not None and not self._record_begin(method, raw_path, query, fields):
            return data
        if listener.root_path:
            path, raw_path = listener.root_path + path, listener.raw_root_path + raw_path
        scope = http_scope(
            fields.version,
            method,
            fields.scheme or listener.scheme,
            path,
            raw_path,
            query,
            listener.root_path,
            fields.headers.copy(),
            self._client,
            self._server_address,
            server.state,
        )
        self._head_written = False
        self._keep = False
        self._sent = 0
        length = fields.length
        self._stream = stream = HTTPStream(self, scope, length != 0, fields.expect_continue, server)
        if length == 0:
            self._reading = DONE
            self.deadline = NEVER
        else:
            self._reading = BODY
            self._awaits_continue = fields.expect_continue
            self._framing = LengthFraming(length) if length > 0 else ChunkedFraming(self._rules.limit_fields, self._rules.limit_field_size)
            self.deadline = server.now + server.settings.body_timeout_s
            if data:
                data = self._read_body(data)
                if self._stream is None:  # it was refused
                    return data
        self._more = bool(data)
        host = server.host
        host.nr += 1
        if host.nr >= host.max_requests:
            server.retire()
        stream.task = server.spawn(stream.run(server.app))
        return data

    def _read_body(self, data: bytes) -> bytes:
        """Take the body's part of `data`, and return what stands behind it."""
        assert self._framing is not None
        try:
            content, complete, data = self._framing.feed(data)
        except RequestError as error:
            self._refuse(error, b"")
            return b""
        stream = self._stream
        self._awaits_continue = False
        if complete:
            self._framing = None
            self._reading = DONE
            self.deadline = NEVER
        else:
            self.deadline = self._server.now + self._server.settings.body_timeout_s
        if stream is not None:
            if content:
                stream.feed(content)
            if complete:
                stream.feed_eof()
            elif stream.unread > HIGH_WATER:
                self._pause_reading()
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

    def _hold_head(self, data: bytes) -> None:
        self._buffer += data
        self.deadline = self._server.now + self._server.settings.head_timeout_s
        self._check_partial_head(0)

    def _read_partial_head(self, data: bytes) -> None:
        buffer = self._buffer
        before = len(buffer)
        buffer += data
        if buffer.find(b"\r\n\r\n", max(0, before - 3)) >= 0 or buffer[:2] == b"\r\n":
            self._serve_buffered()
        else:
            self._check_partial_head(before)

    def _check_partial_head(self, before: int) -> None:
        try:
            check_partial_head(self._buffer, before, self._rules)
        except RequestError as error:
            self._refuse(error, bytes(self._buffer))

    def _serve_buffered(self) -> None:
        """Go on with what is kept, once nothing is being answered."""
        if self._reading is HEAD and self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._resume_reading()
            self._serve(data)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._reading is BODY:
                self.deadline = NEVER  # it is the application that is slow

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    # For the stream (see `wire`).

    def head(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> int:
        if self._record is not None:
            headers = self._record.response_headers = list(headers)
        self._lines, self._declared, self._found = encode_fields(headers)
        self._status = status
        return self._declared

    def respond(self, stream: HTTPStream, body: bytes, end: bool, bodyless: bool) -> None:
        fields = self._fields
        assert fields is not None
        server = self._server
        status = self._status
        found = self._found
        framing, self._chunked, self._delimited = frame(fields.version, status, self._declared, len(body) if end else -1, bodyless)
        self._keep = keep = (
            fields.keep_alive
            and server.keep_alive
            and not (found & CLOSE or self._delimited or status < 200)
            and not (self._reading is BODY and end and not self._is_drainable())
            and not (self._half_closed and not self._more and not self._buffer)
        )
        if not keep:
            framing += b"connection: close\r\n"
        elif fields.version == "1.0":
            framing += b"connection: keep-alive\r\n"
        if bodyless:
            body = b""
        else:
            self._sent = len(body)
            if self._chunked:
                body = chunk(body, end)
        self._head_written = True
        self._transport.write(b"".join((STATUS_LINES[status], self._lines, server.default_fields[found & 3], framing, b"\r\n", body)))

    def write(self, stream: HTTPStream, data: bytes, end: bool) -> None:
        self._sent += len(data)
        if self._chunked:
            data = chunk(data, end)
        if data:
            self._transport.write(data)

    def inform(self, stream: HTTPStream, status: int, headers: Iterable[Header]) -> None:
        if status == 100:
            if not self._awaits_continue:
                return  # the body is on its way
            self._awaits_continue = False
        if self._fields is not None and self._fields.version != "1.0":
            self._transport.write(b"".join((STATUS_LINES[status], encode_fields(headers)[0], b"\r\n")))

    def credit(self, stream: HTTPStream) -> None:
        if self._reading_paused and self._reading is BODY:
            self.deadline = self._server.now + self._server.settings.body_timeout_s
            self._resume_reading()

    def abort(self, stream: HTTPStream) -> None:
        self._keep = False
        if self._reading is CLOSED:
            return
        if self._delimited:
            self._reading = CLOSED
            _reset(self._transport)  # an ordinary end would make it look whole
        else:
            self._shut()

    def finish(self, stream: HTTPStream) -> None:
        if stream is not self._stream:
            return
        self._stream = None
        if self._record is not None:
            self._record_end()
        reading = self._reading
        if self._keep and reading is DONE:
            self._await_next()
        elif reading is CLOSED:
            if self._lost:
                self._server.forget(self)
        elif self._keep and reading is BODY and self._is_drainable():
            self._drain_left = MAX_DRAIN
            self._resume_reading()
            self.deadline = self._server.now + self._server.settings.body_timeout_s
        else:
            self._close()

    # Between exchanges.

    def _await_next(self) -> None:
        """The exchange is over, and its request was read to the end."""
        if self._clogged:
            return  # the next response has to wait until this one leaves; `resume_writing` comes back here
        self._reading = HEAD
        self.deadline = self._server.idle_deadline
        if self._buffer:
            # Not from here: this may be within the task of the exchange that has just ended.
            self._server.loop.call_soon(self._serve_buffered)
        elif not self._more and (self._half_closed or not self._server.keep_alive):
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
        self._reading = LINGER
        self._drain_left = MAX_LINGER
        self._transport.write_eof()
        self._resume_reading()
        self._set_deadline()

    def _drop(self, size: int) -> None:
        self._drain_left -= size
        if self._drain_left < 0:
            if self._reading is LINGER:
                self._shut()
            else:
                self._close()

    def _shut(self) -> None:
        """Close as soon as all is sent; `expired` sees to it that this has an end."""
        self._reading = CLOSED
        self._transport.close()
        self._set_deadline()

    # Deadlines.

    def _set_deadline(self) -> None:
        server = self._server
        if self._clogged or self._reading is CLOSED:
            self.deadline = server.now + server.settings.write_timeout_s
        elif self._reading is LINGER:
            self.deadline = server.now + LINGER_SECONDS
        elif self._reading is BODY and not self._reading_paused:
            self.deadline = server.now + server.settings.body_timeout_s
        elif self._half_closed and self._stream is not None:
            self.deadline = server.now + HANG_UP_SECONDS
        else:
            self.deadline = NEVER

    def expired(self) -> None:
        """What was waited for until `deadline` has not come."""
        reading = self._reading
        stream = self._stream
        self.deadline = NEVER
        if self._lost:
            if stream is not None:
                stream.cancel()
        elif self._clogged or reading is CLOSED:
            unsent, before = self._transport.get_write_buffer_size(), self._unsent
            self._unsent = unsent
            if 0 < unsent < before:
                self._set_deadline()
            else:
                self._reading = CLOSED
                _reset(self._transport)
        elif reading is HEAD and self._buffer:
            self._refuse(RequestError(408, "The head of the request did not arrive in time"), bytes(self._buffer))
        elif reading is BODY and stream is not None and not self._head_written:
            self._refuse(RequestError(408, "The body of the request did not arrive in time"), b"")
        elif reading is DONE:
            if stream is not None:
                stream.hang_up()
        else:
            self._shut()

    def drain(self) -> None:
        """The worker is to stop: an idle connection ends now, a busy one after its response."""
        if self._reading is HEAD and not self._buffer:
            self._shut()

    def hang_up(self) -> None:
        """The worker is about to stop: tell an application that listens."""
        if self._stream is not None:
            self._stream.hang_up()

    def kill(self) -> None:
        """The worker stops now."""
        stream, self._stream = self._stream, None
        if self._record is not None:
            self._record_end()
        if self._lost:
            self._server.forget(self)
        else:
            self._reading = CLOSED
            _reset(self._transport)
        if stream is not None:
            stream.cancel()

    # Refusals and the log.

    def _refuse(self, error: RequestError, head: bytes) -> None:
        """Answer a request that the application is not to see, and close. `head` is what came of it, where no exchange has begun."""
        server = self._server
        stream, self._stream = self._stream, None
        if error.status != 500:
            ip = self._client[0] if self._client else ""
            server.log.warning("Invalid request from ip=%s: %s", ip, error)
        body = b"%b\n" % str(error).encode()
        if stream is None or not self._head_written:
            self._status = error.status
            lines = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            if head[:5] == b"HEAD ":
                body = b""
            self._transport.write(b"".join((STATUS_LINES[error.status], server.default_fields[0], lines, body)))
            self._sent = len(body)
            self._head_written = True
            self._record_refusal(head)
            self._close()
        else:
            self._stream = stream
            self.abort(stream)
            self._stream = None
        if stream is not None:
            if self._record is not None:
                self._record_end()
            stream.lost()

    def _record_begin(self, method: str, raw_path: bytes, query: bytes, fields: Fields) -> bool:
        access = self._server.access
        assert access is not None
        scheme = fields.scheme or self._listener.scheme
        try:
            self._record = access.begin(method, raw_path, query, fields.version, scheme, fields.headers, self._client, self._server_address)
        except RequestError as error:
            self._refuse(error, b"")
            return False
        return True

    def _record_end(self) -> None:
        record, self._record = self._record, None
        access = self._server.access
        if record is not None and access is not None:
            access.end(record, self._status if self._head_written else CLIENT_CLOSED_REQUEST, self._sent)

    def _record_refusal(self, head: bytes) -> None:
        access = self._server.access
        if access is not None and self._record is None:
            access.refused(head, self._status, self._sent, self._listener.scheme, self._client, self._server_address)


CLIENT_CLOSED_REQUEST = 499
"""The status that nginx's log has made known for a client that went away before there was a response; never sent."""


def _address(sockname: Any) -> Address | None:
    if isinstance(sockname, tuple):
        return sockname[0], sockname[1]
    return None


def _reset(transport: asyncio.Transport) -> None:
    """Abort with a TCP reset, so that what was received cannot be taken for the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
