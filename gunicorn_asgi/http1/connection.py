"""The reading side of an HTTP/1.x connection: requests, pipelining, deadlines and shutdown.

The writing side is `writer.H1ResponseWriter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

from ..asgi.http import HTTPStream
from ..asgi.scope import Scope, http_scope
from ..errors import RequestError
from ..http.contract import NEVER, ASGIStream
from ..http.exchange import LATE_BODY, LATE_HEAD, BodyDeadline, ExchangeLog, body_deadline
from ..http.request import Fields, Request, may_be_health_check
from ..net import kernel
from ..net.deadlines import Deadline
from ..net.idleness import BUSY, INCOMPLETE, KEPT, LEFT, SILENT, Idleness
from ..net.transport import LINGER_SECONDS, LOST, OPEN, Handler, Transport
from .body import ChunkedFraming, Framing, LengthFraming
from .inbox import Inbox
from .request import read_head
from .states import (
    BODY,
    BODY_END,
    END,
    ENDED,
    EXCHANGE_OVER,
    HEAD,
    HIGH_WATER,
    LOOK_SECONDS,
    MAX_DISCARD,
    MAX_PIPELINED,
    MAX_PIPELINED_SIZE,
    NEXT_STATE,
    NEXT_TURN,
    REQUEST,
    REQUEST_WITH_BODY,
    RESPONDING,
    ReadState,
)
from .writer import H1ResponseWriter

UpgradeToHTTP2 = Callable[[Transport, Request, bytes, ExchangeLog | None], bool]
"""Answers a request for h2c over HTTP/2; the bytes followed it. Returns whether it does."""


class H1Connection(Handler):
    """A connection of HTTP/1.x. It answers requests one after the other (RFC 9112, 9.3.2)."""

    __slots__ = (
        "_discard_left",
        "_framing",
        "_is_continuing",
        "_upgrade",
        "_writer",
        "body",
        "fields",
        "has_pipelined_data",
        "inbox",
        "is_half_closed",
        "reading",
        "stream",
    )

    def __init__(self, transport: Transport, upgrade: UpgradeToHTTP2 | None = None) -> None:
        # Set once. (Not by the base class: a call less for each connection.)
        self.transport = transport
        self.host = transport.host
        self._upgrade = upgrade
        self._writer = H1ResponseWriter(transport, self)
        # The connection.
        self.reading: ReadState = HEAD
        self.inbox = Inbox()
        self.is_half_closed = False
        """The client has closed its side, and gets its response."""
        self.has_pipelined_data = False
        """Data of later requests follows the current one; `_serve` continues with it."""
        # The current request, or the last.
        self.stream: ASGIStream | None = None
        """The exchange in progress."""
        self.fields: Fields | None = None
        self.body: BodyDeadline | None = None
        """The deadline of a request's body; None without a body."""
        self._framing: Framing | None = None
        self._is_continuing = False
        """`_continue_body` waits for its turn."""
        self._discard_left = 0
        """Bytes that may still be dropped, of a body that nobody reads."""

    def __repr__(self) -> str:
        return f"<H1Connection {self.reading.name} {self.stream!r}>"

    # From the transport.

    def data_received(self, data: bytes) -> None:
        reading = self.reading
        if reading is HEAD:
            if self.inbox.data:
                self._add_to_head(data)
            else:
                self._serve(data)
        elif reading is BODY:
            try:
                data = self._read_body(data)
            except RequestError as error:
                self.refuse(error)
            else:
                if data:
                    self._keep(data)
        elif reading is RESPONDING:
            self._keep(data)

    def eof_received(self) -> bool:
        is_handshake = (
            self.stream is not None
            and not self.stream.may_be_followed
            and not self._writer.response.begun
        )
        transport = self.transport
        may_serve = (
            (self.reading is RESPONDING or (self.reading is BODY and self._has_unread_body()))
            and transport.listener.scheme == "http"
            and not is_handshake
            and self.host.settings.half_close != "disconnect"
        )
        if may_serve:
            # The request is complete, so it gets its response, though maybe nobody reads it
            # (RFC 9112, 9.6). Or its rest is here, and may be complete. TLS cannot do this.
            self.is_half_closed = True
            if self.stream is not None and not transport.is_blocked:
                transport.deadline = self.host.tick_end + LOOK_SECONDS
        return may_serve

    def reading_ended(self) -> None:
        self.reading = NEXT_STATE[self.reading, END]

    def connection_lost(self) -> bool:
        self._writer.response.keep_alive = False
        if self.stream is not None:
            self.stream.connection_lost()
        return self.stream is not None

    def resume_writing(self) -> None:
        if self.body is not None and not self.body.awaits_continue:
            # Meanwhile the client was waited for to take something.
            self.body.received(self.host.tick_end)
            self.transport.set_deadline()
        super().resume_writing()
        if self.reading is RESPONDING and self.stream is None:
            self.exchange_over()

    def file_stopped(self, unsent: int) -> None:
        self._writer.response.sent -= unsent

    def postpone(self, seconds: float) -> None:
        if self.body is not None:
            self.body.postpone(seconds)

    def release(self) -> None:
        del self._writer  # they refer to each other

    # Requests.

    def _serve(self, data: bytes, position: int = 0, since: float = NEVER) -> None:
        """Answer the requests in `data` in turn, until one of them or the client has to be awaited.

        They begin at `position`. `since`: when the first began to arrive, on the loop's clock, if
        not now.
        """
        count, size, last = 0, len(data), position + MAX_PIPELINED_SIZE
        while position < size and self.reading is HEAD:
            end = data.find(b"\r\n\r\n", position) + 4
            if end < 4 or data[position] == 13:
                if self.inbox.passes_empty_line(data, position):
                    position += 2
                    continue
                if end < 4:
                    self._add_to_head(data[position:])
                    break
            if count:
                if self.transport.is_closing():
                    break  # a response could not be written: nobody waits for the others
                if count == MAX_PIPELINED or position > last:
                    self.reading = NEXT_STATE[self.reading, NEXT_TURN]
                    self.inbox.keep(data, position)
                    self.host.continue_later(self._serve_later)
                    break
            count += 1
            try:
                request = read_head(data[position:end], self.fields, self.transport.rules)
                position = self._begin(request, data, end, size)
            except RequestError as error:
                self.refuse(error, data[position:], since if count == 1 else NEVER)
                break
        else:
            if position < size and self.reading is not ENDED:
                self._keep(data, position)
            elif self.is_half_closed and self.reading is HEAD:
                self.transport.close()

    def _begin(self, request: Request, data: bytes, end: int, size: int) -> int:
        """Begin the exchange of `request`.

        Its head ends in `data`, which has `size` bytes, at `end`. Returns the position after the
        request, where later ones begin. Raises RequestError.
        """
        host, transport, writer = self.host, self.transport, self._writer
        is_health_check = request[2] == host.health_path and may_be_health_check(
            request[0], request[4]
        )
        if len(host.tasks) >= host.limit_concurrency and not is_health_check:
            raise host.overloaded()
        self.fields = fields = request[4]
        self.inbox.empty_lines = 0
        log = writer.log
        if log is not None and not is_health_check:
            log.begin(request, fields.version, transport)
        scope = http_scope(request, transport, host.state, host.switched_off)
        response = writer.response
        response.begun = response.keep_alive = False
        response.sent = 0
        transport.progress.deadline = NEVER
        if fields.upgrade and self._begin_upgrade(request, scope, data[end:]):
            return size
        length = fields.length
        if 0 <= length <= size - end:
            # The whole body, if there is one, came with its head: nothing has to be awaited.
            self.stream = stream = HTTPStream(writer, scope, False, False, host)
            self.reading = NEXT_STATE[self.reading, REQUEST]
            transport.deadline = NEVER
            if length:
                start, end = end, end + length
                stream.feed_data(data[start:end])
        else:
            self.stream = stream = HTTPStream(writer, scope, True, fields.expect_continue, host)
            end = self._begin_body(fields, data, end)
            if self.is_half_closed and self.reading is BODY and not self._has_unread_body():
                self.stream = None
                transport.close()  # the rest will never come
                return end
        self.has_pipelined_data = end < size
        if is_health_check:
            host.start_health_check(stream)
        else:
            host.start(stream)
        return end

    def _begin_upgrade(self, request: Request, scope: Scope, data: bytes) -> bool:
        """Begin what `request` asks for in its Upgrade field, if it is offered. Returns whether."""
        host, writer, websocket = self.host, self._writer, self.host.settings.websocket
        fields = request[4]
        if fields.upgrade == "h2c":
            if self._upgrade is None or not self._upgrade(
                self.transport, request, data, writer.log
            ):
                return False
            self.reading_ended()
            self.release()
            return True
        if websocket is None:
            return False
        from .websocket_handshake import begin_handshake  # noqa: PLC0415 # see load_protocols

        self.stream = stream = begin_handshake(writer, scope, fields, host, websocket)
        self.reading = NEXT_STATE[self.reading, REQUEST]
        self.transport.set_deadline()
        self._keep(data)
        self.has_pipelined_data = False
        host.start(stream)
        return True

    def _begin_body(self, fields: Fields, data: bytes, start: int) -> int:
        """Read a body that begins in `data` at `start`.

        Returns the position after it, where later requests begin. Raises RequestError.
        """
        self.reading = NEXT_STATE[self.reading, REQUEST_WITH_BODY]
        length, rules, host = fields.length, self.transport.rules, self.host
        self.body = body_deadline(host.settings, host.tick_end, fields.expect_continue)
        self._framing = (
            LengthFraming(length)
            if length > 0
            else ChunkedFraming(rules.limit_fields, rules.limit_field_size)
        )
        end = len(data)
        if start == end:
            self.transport.set_deadline()
            return end
        # Where a chunked body ends is not known. So it is given in two parts: the requests after a
        # short one are not copied with it.
        part = data[start:] if length > 0 else data[start : start + MAX_PIPELINED_SIZE]
        start += len(part) - len(self._read_body(part))
        if self.reading is BODY and start < end:
            start = end - len(self._read_body(data[start:]))
        return start

    def _read_body(self, data: bytes) -> bytes:
        """Take the body's part of `data`, and return the rest. Raises RequestError."""
        body, framing = self.body, self._framing
        assert framing is not None
        assert body is not None
        content, is_complete, data = framing.feed(data)
        stream = self.stream
        if is_complete:
            self._framing = self.body = None
            self.reading = NEXT_STATE[self.reading, BODY_END]
        if stream is not None:
            if content:
                stream.feed_data(content)
            if is_complete:
                stream.feed_eof()
                # asyncio's TLS of Python 3.10 hands over what it has decrypted, paused or not. So
                # the body may end while reading is paused for it.
                if self.transport.is_reading_paused:
                    self.transport.resume_reading()
            else:
                body.received(self.host.tick_end)
                if stream.unread > HIGH_WATER:
                    self.transport.pause_reading()
            self.transport.set_deadline()
        elif is_complete:
            self.has_pipelined_data = bool(data)
            self.exchange_over()
        else:
            self._discard_left -= len(content)
            if self._discard_left < 0:
                self.close()
        if framing.has_more and self.reading is BODY:
            self.transport.pause_reading()
            if not self._is_continuing:
                self._is_continuing = True
                self.host.continue_later(self._continue_body)
        return data

    def _has_unread_body(self) -> bool:
        """Whether data of the body has arrived that later turns of the loop read."""
        return self._framing is not None and self._framing.has_more

    def _continue_body(self) -> bool:
        """Read on in data of the body. Returns whether there is more of it: see `work_queue`."""
        if self.reading is BODY and self._has_unread_body():
            self.data_received(b"")
        if self.reading is BODY and self._has_unread_body():
            return True
        self._is_continuing = False
        self._read_on()
        return False

    def _read_on(self) -> None:
        """Read from the client again, unless enough has arrived already."""
        if self.reading is ENDED:
            return
        if self.reading is BODY and self.is_half_closed:
            self.transport.close()  # the rest of the body will never come
            return
        is_full = (
            self.stream is not None and self.stream.unread > HIGH_WATER
            if self.reading is BODY
            else self.inbox.size > HIGH_WATER
        )
        if not is_full:
            self.transport.resume_reading()
            if self.reading is BODY:  # it has the deadline of the next part again
                self.transport.set_deadline()

    def _keep(self, data: bytes, position: int = 0) -> None:
        """Keep data of later requests, from `position` on, within a limit."""
        if self.reading is HEAD:  # it follows the discarded rest of a body
            self._serve(data, position)
        elif self.reading is RESPONDING and self.inbox.keep(data, position):
            self.transport.pause_reading()
            self.transport.set_deadline()

    def _add_to_head(self, data: bytes) -> None:
        """Keep the beginning of a head until it is complete."""
        if self.is_half_closed:
            self.transport.close()  # the rest will never come
            return
        host, inbox = self.host, self.inbox
        if not inbox.data:
            limit_s = host.settings.head_timeout_s
            if host.is_shutting_down:  # `shut_down` was called before
                limit_s = min(LINGER_SECONDS, limit_s)
            deadline = host.tick_end + limit_s
            if self.fields is None:  # the first request's time began with the connection
                deadline = min(deadline, self.transport.deadline)
            self.transport.deadline = deadline
            inbox.began = host.loop.time()
        try:
            is_complete = inbox.add_to_head(data, self.transport.rules)
        except RequestError as error:
            self.refuse(error, bytes(inbox.data), inbox.began)
            return
        if is_complete:
            data, _ = inbox.take()
            self._serve(data, since=inbox.began)

    def _serve_later(self) -> bool:
        self._serve_buffered()
        return False

    def _serve_buffered(self) -> None:
        """Continue with the requests that wait, if nothing is being answered."""
        transport = self.transport
        if self.reading is not RESPONDING or self.stream is not None or transport.is_writing_paused:
            return
        if transport.is_closing():
            transport.raw.abort()  # TLS that is not read would never know
            return
        self.reading = NEXT_STATE[self.reading, EXCHANGE_OVER]
        transport.resume_reading()
        self._serve(*self.inbox.take())

    # For the writer.

    def resume_body(self) -> None:
        if self.transport.is_reading_paused and self.reading is BODY and not self._is_continuing:
            assert self.body is not None
            self.transport.resume_reading()
            self.body.received(self.host.tick_end)
            self.transport.set_deadline()

    def may_continue(self, is_whole: bool) -> bool:
        if self.reading is BODY and is_whole and not self._is_discardable():
            return False
        return (
            not self.is_half_closed
            or self.has_pipelined_data
            or bool(self.inbox.data)
            or self._has_unread_body()
        )

    def exchange_over(self) -> None:
        transport, reading = self.transport, self.reading
        if not self._writer.response.keep_alive or reading is ENDED:
            if reading is not ENDED:
                self.close()
            elif transport.state is LOST:
                transport.finished()
        elif reading is RESPONDING:
            if transport.is_writing_paused:
                return  # `resume_writing` comes back here once this response has left
            transport.deadline = self.host.idle_deadline
            if self.inbox.data:
                # Later: this may be within the task of the exchange that has just ended.
                self.host.loop.call_soon(self._serve_buffered)
                return
            self.reading = NEXT_STATE[reading, EXCHANGE_OVER]
            if self.has_pipelined_data:
                return
            if self.is_half_closed:
                self.close()
            elif not self.host.keeps_alive:  # since the head of this response was written
                self.host.start_lame_duck(transport)
        elif self._is_discardable():
            assert self.body is not None
            self._discard_left = MAX_DISCARD
            self.body.received(self.host.tick_end)
            if not self._is_continuing:
                transport.resume_reading()
            transport.set_deadline()
        else:
            self.close()

    def _is_discardable(self) -> bool:
        """Whether the rest of a body that nobody reads is probably short, and surely sent."""
        return (
            self._framing is not None
            and self._framing.left <= MAX_DISCARD
            and self.body is not None
            and not self.body.awaits_continue
        )

    def close(self) -> None:
        self.inbox.clear()
        is_expected = (
            self.reading is RESPONDING and self.fields is not None and not self.fields.keep_alive
        )
        if is_expected or self.is_half_closed:
            self.transport.close()
        else:
            self.transport.linger(
                is_sending=self.reading is not RESPONDING
                and not self._writer.response.ends_with_connection
            )

    def give_up(self) -> None:
        stream = self.stream
        if stream is not None:
            # The application is given the time to end that it has after a loss.
            stream.connection_lost()
            if stream.task is None:
                self.stream = None

    def refuse(self, error: RequestError, head: bytes = b"", since: float = NEVER) -> None:
        """Answer a request in place of the application, and close.

        Where no exchange has begun, `head` is the received part of it, and `since` the time when
        that began to arrive, on the loop's clock, if not now.
        """
        host, transport, writer = self.host, self.transport, self._writer
        writer.is_head = head[:5] == b"HEAD "
        if self.stream is not None or (writer.log is not None and writer.log.is_open):
            writer.refuse(error)
            return
        if not error.is_logged:
            transport.log_invalid("request", error)
        if self.reading is BODY:
            self.close()  # the rest of an answered request: it gets no second answer
            return
        writer.write_refusal(error)
        if host.access is not None:
            host.access.refused(
                head,
                error.status,
                writer.response.sent,
                transport.listener.scheme,
                transport.client,
                transport.server_address,
                max(0.0, host.loop.time() - since),
            )

    # Deadlines.

    def next_deadline(self) -> float:
        host, transport, stream = self.host, self.transport, self.stream
        now = host.tick_end
        if transport.state is LOST:
            return now + host.settings.disconnect_grace_s
        if self.reading is ENDED:
            return NEVER
        if self.reading is HEAD:
            is_first = self.fields is None
            return now + host.settings.head_timeout_s if is_first else host.idle_deadline
        if transport.is_blocked:
            return NEVER  # the client has to take something first
        deadline = NEVER if stream is None else stream.deadline
        if self.reading is BODY and not transport.is_reading_paused:
            assert self.body is not None
            return min(deadline, self.body.next_at(now))
        if self._may_be_gone():
            return min(deadline, now + LOOK_SECONDS)
        return deadline

    def _may_be_gone(self) -> bool:
        """Whether only a look tells that the client has gone."""
        if self.reading is BODY:
            return self.transport.listener.scheme == "https"
        return self.stream is not None and (self.is_half_closed or self.transport.is_reading_paused)

    def deadline_passed(self) -> None:
        if self.transport.state is OPEN and self.transport.is_blocked:
            self.transport.set_deadline()  # the client has to take something first
            return
        H1_DEADLINES[self._waits_for()].action(self)

    def _waits_for(self) -> H1Wait:
        stream, reading = self.stream, self.reading
        if self.transport.state is LOST:
            return H1Wait.APPLICATION_END
        if reading is HEAD:
            return H1Wait.HEAD if self.inbox.data else H1Wait.NEXT_REQUEST
        if stream is not None and stream.deadline <= self.host.tick_end:
            return H1Wait.STREAM
        if reading is BODY and stream is None:
            return H1Wait.DISCARDED_BODY
        if reading is BODY and not self.transport.is_reading_paused:
            return H1Wait.BODY
        return H1Wait.CLIENT

    def _refuse_late_head(self) -> None:
        self.refuse(
            LATE_HEAD,
            bytes(self.inbox.data),
            self.inbox.began,
        )

    def _end_idle(self) -> None:
        """Close an idle connection, unless the client is still taking the last response.

        Then ``keepalive`` counts from the moment when it has all of it.
        """
        transport, progress, now = self.transport, self.transport.progress, self.host.tick_end
        if transport.has_undelivered(unknown=False):
            if progress.deadline == NEVER:
                progress.start(now, transport.delivery_count())
            transport.deadline = min(progress.deadline, now + LOOK_SECONDS)
        elif progress.deadline != NEVER:
            progress.stop()
            transport.deadline = self.host.idle_deadline
        else:
            transport.close_idle()

    def _pass_deadline(self) -> None:
        stream, reading = self.stream, self.reading
        assert stream is not None
        stream.deadline_passed()
        if self.stream is stream and self.reading is reading:
            self.transport.set_deadline()

    def _check_body(self) -> None:
        assert self.body is not None
        assert self.stream is not None
        count = self.transport.received_count()
        if self.body.is_overdue(self.host.tick_end, self.stream, count):
            self.refuse(LATE_BODY)
        else:
            self.transport.set_deadline()

    def _close_late(self) -> None:
        assert self.body is not None
        if self.body.at <= self.host.tick_end:
            self.transport.close_idle()
        else:
            self.transport.set_deadline()

    def _look_for_client(self) -> None:
        transport, stream = self.transport, self.stream
        is_gone = self.is_half_closed or (self._may_be_gone() and kernel.is_gone(transport.raw))
        if not is_gone or stream is None:
            transport.set_deadline()  # the application takes its time
        elif self.reading is BODY:
            # asyncio's TLS does not report the end until it reads on, and drops all writes.
            transport.resume_reading()
        elif self.host.settings.half_close == "disconnect":
            transport.close()  # reading is paused, so the transport has not seen the FIN
        else:
            stream.ask_to_end()
            transport.deadline = min(stream.deadline, transport.progress.deadline)

    # From the server.

    def streams(self) -> tuple[ASGIStream, ...]:
        return () if self.stream is None else (self.stream,)

    def idleness(self) -> tuple[Idleness, float]:
        transport = self.transport
        if self.reading is HEAD:
            if self.inbox.data:
                return INCOMPLETE, self.inbox.began
            if self.fields is None:
                return SILENT, transport.accepted_at
            return KEPT, transport.deadline - self.host.settings.keepalive_s
        if self.reading is BODY and self.stream is None:
            return INCOMPLETE, transport.accepted_at
        if self.is_half_closed or (transport.is_reading_paused and kernel.is_gone(transport.raw)):
            return LEFT, transport.accepted_at
        return BUSY, NEVER

    def make_room(self) -> None:
        if self.stream is None:
            self.transport.close_idle()
        else:
            self.transport.abort()  # nobody may take the response for complete

    def shut_down(self) -> None:
        transport = self.transport
        if self.reading is HEAD:
            if self.inbox.data:  # a request is arriving; a slow client is not waited for
                limit = self.host.tick_end + LINGER_SECONDS
                transport.deadline = min(transport.deadline, limit)
            else:
                transport.close_idle()
        elif self.reading is BODY and self.stream is None:
            self.close()

    def abort_all(self) -> None:
        transport, stream, writer = self.transport, self.stream, self._writer
        writer.flush()
        transport.stop_file()
        self.stream = None
        if transport.state is LOST:
            transport.finished()
        elif stream is not None or transport.raw.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()
        if stream is not None:
            stream.cancel()
        if writer.log is not None:
            writer.end_log()


class H1Wait(IntEnum):
    """The things that a connection of HTTP/1.x waits for, beside those of the transport."""

    NEXT_REQUEST = 0
    HEAD = 1
    """The rest of a request's head."""
    BODY = 2
    """The next part of a request's body."""
    DISCARDED_BODY = 3
    """The rest of a body that nobody reads."""
    STREAM = 4
    """A deadline of the exchange."""
    CLIENT = 5
    """The application responds, and the client is still there."""
    APPLICATION_END = 6
    """The application ends; the client is gone."""


H1_DEADLINES: Mapping[H1Wait, Deadline[H1Connection]] = {
    H1Wait.NEXT_REQUEST: Deadline("keepalive; head_timeout for the first", H1Connection._end_idle),
    H1Wait.HEAD: Deadline("head_timeout; RFC 9110, 15.5.9", H1Connection._refuse_late_head),
    H1Wait.BODY: Deadline("body_timeout; RFC 9110, 15.5.9", H1Connection._check_body),
    H1Wait.DISCARDED_BODY: Deadline("body_timeout", H1Connection._close_late),
    H1Wait.STREAM: Deadline("ASGIStream.deadline", H1Connection._pass_deadline),
    H1Wait.CLIENT: Deadline("LOOK_SECONDS; RFC 9112, 9.6", H1Connection._look_for_client),
    H1Wait.APPLICATION_END: Deadline("asgi_disconnect_grace_period", H1Connection.cancel),
}
"""The limit of each wait, and the action after it."""
