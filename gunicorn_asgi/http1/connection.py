"""One HTTP/1.x connection: its requests as they come, pipelining, deadlines and draining. How they are answered is `Answering`'s."""

from __future__ import annotations

from ..asgi.extensions import ExtendedStream
from ..asgi.http import HTTPStream
from ..asgi.scope import http_scope
from ..asgi.websocket import WebSocketStream
from ..errors import RequestError
from ..http.contract import NEVER
from ..http.request import Fields, Request
from ..net.connection import CLOSED, LINGER, LINGER_SECONDS
from .answering import Answering
from .body import ChunkedFraming, LengthFraming
from .request import read_head
from .states import BODY, DONE, HANG_UP_SECONDS, HEAD, HIGH_WATER, TURN
from .upgrade import check_handshake


class H1Connection(Answering):
    """A client on a socket. Requests are answered one after the other, in their order (RFC 9112, 9.3.2)."""

    __slots__ = ()

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
        is_handshake = (
            self._stream is not None
            and not self._stream.may_be_followed
            and not self._response.begun
        )
        may_read = self._reading is DONE and self._listener.scheme == "http" and not is_handshake
        if not may_read or self._server.settings.half_close == "disconnect":
            return super().eof_received()
        # The request is whole, so it gets its response, though nobody may be there to read it (RFC 9112, 9.6). TLS cannot do this.
        self._half_closed = True
        if self._stream is not None and not self._clogged and not self._is_transferring:
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
                method,
                raw_path,
                query,
                fields.version,
                scheme,
                fields.headers,
                self._client,
                self._server_address,
                fields.script_name,
            )
        root_path = fields.root_path
        if root_path is None:
            root_path = listener.root_path
            if root_path and path != "*":
                path, raw_path = root_path + path, listener.raw_root_path + raw_path
        version, headers, client = (
            fields.version,
            fields.headers.copy(),
            fields.client or self._client,
        )
        address, state, off = self._server_address, server.state, server.switched_off
        scope = http_scope(
            version,
            method,
            scheme,
            path,
            raw_path,
            query,
            root_path,
            headers,
            client,
            address,
            state,
            self._tls,
            off,
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
            self._stream = stream = ExtendedStream(
                self, scope, True, fields.expect_continue, server
            )
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
        self._framing = (
            LengthFraming(length)
            if length > 0
            else ChunkedFraming(rules.limit_fields, rules.limit_field_size)
        )
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
                stream.feed_data(content)
            if complete:
                stream.feed_eof()
            elif stream.unread > HIGH_WATER:
                self._pause_reading()
            self._wait_anew()
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
            self._wait_anew()

    def _hold_head(self, data: bytes) -> None:
        """Keep the beginning of a head until it is whole."""
        if self._half_closed:
            self._shut()  # the rest will never come
            return
        inbox = self._inbox
        if not inbox.data:
            server = self._server
            # Of one that dribbles, a worker that leaves does not wait for the whole: as `drain` has it, which has been here already.
            patience = (
                min(LINGER_SECONDS, server.settings.head_timeout_s)
                if server.is_draining
                else server.settings.head_timeout_s
            )
            self.deadline = server.now + patience
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
        if self._reading is not DONE or self._stream is not None or self._clogged:
            return
        if self._is_closing():
            self._transport.abort()  # TLS that does not read would never know
            return
        self._reading = HEAD
        self._resume_reading()
        self._serve(self._inbox.take())

    # For the base, and through it for the server.

    def _patience(self) -> float:
        stream = self._stream
        patience = NEVER
        if self._reading is BODY and not self._reading_paused and not self._awaits_100:
            patience = self._server.settings.body_timeout_s
        elif (
            self._reading is BODY and self._reading_paused and self._listener.scheme == "https"
        ) or (
            self._reading is DONE
            and stream is not None
            and (self._half_closed or self._reading_paused)
        ):
            patience = HANG_UP_SECONDS
        return patience if stream is None else min(patience, stream.deadline - self._server.now)

    def _overdue(self) -> None:
        reading = self._reading
        stream = self._stream
        if reading is HEAD and self._inbox.data:
            self.refuse(
                RequestError(408, "The head of the request did not arrive in time"),
                bytes(self._inbox.data),
                self._inbox.began,
            )
        elif stream is not None and stream.deadline <= self._server.now:
            stream.deadline_passed()
            if self._stream is stream and self._reading is reading:
                self._set_deadline()
        elif reading is BODY and stream is not None and stream.awaits_body:
            self.refuse(RequestError(408, "The body of the request did not arrive in time"))
        elif reading is DONE and stream is not None and (self._half_closed or self._is_gone()):
            if self._server.settings.half_close == "disconnect":
                self._shut()  # reading is paused, so the transport has not seen the FIN
                return
            stream.ask_to_end()
            self.deadline = stream.deadline
        elif (
            reading is BODY
            and self._reading_paused
            and self._listener.scheme == "https"
            and self._is_gone()
        ):
            self._resume_reading()  # asyncio's TLS keeps the end to itself until it is to read on, and drops what is written
        elif reading is DONE or (reading is BODY and stream is not None):
            self._set_deadline()  # it is the application that takes its time
        elif reading is HEAD and (self._is_known_to_owe() or self._stuck_at != NEVER):
            self._await_departure()
        else:
            self._shut_idle()

    def _await_departure(self) -> None:
        """The application has ended, but the client takes its time with the response: ``keepalive`` counts from when it has all of it."""
        now = self._server.now
        if not self._is_known_to_owe():
            self._stuck_at = NEVER
            self.deadline = self._server.idle_deadline
            return
        if not self._is_stuck() or self._stuck_at == NEVER:
            self._stuck_at = now + self._server.settings.write_timeout_s
        elif self._stuck_at <= now:
            self._reset()
            return
        self.deadline = min(self._stuck_at, now + HANG_UP_SECONDS)

    def postpone(self, seconds: float) -> None:
        super().postpone(seconds)
        self._stuck_at += seconds

    def drain(self) -> None:
        if self._reading is HEAD:
            if (
                self._inbox.data
            ):  # a request is on its way, but that of a client that dribbles is not waited for
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
