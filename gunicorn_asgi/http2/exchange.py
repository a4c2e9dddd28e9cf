"""One exchange on a stream of HTTP/2: its request goes to an HTTPStream, its response to frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Protocol as TypingProtocol

from ..errors import ClientDisconnected, RequestError
from ..http import exchange
from ..http.contract import NEVER, ASGIStream, Header
from ..http.exchange import LATE_BODY, BodyDeadline, ExchangeLog, body_deadline
from ..http.fields import DATE, SERVER
from ..http.request import UNKNOWN_LENGTH, Fields, takes_trailers
from ..net.deadlines import Deadline, Progress, make_progress
from ..net.transport import LINGER_SECONDS, MAX_LINGER, ConnectionHost, Transport
from .frame_writer import FrameWriter
from .frames import ErrorCode
from .literals import STATUS_FIELDS, encode_defaults, encode_fields, encode_length
from .outbox import STREAM_HIGH_WATER
from .protocol import Protocol
from .stream import HALF_CLOSED_LOCAL, STREAM_CLOSED, STREAM_OPEN, Stream
from .tunnel import Tunnel

MAX_DISCARDED = 33554432
"""Bytes of a request that are dropped after a response with a 2xx: curl 7.88 goes on sending after
it. They are not kept in memory."""


class ExchangePhase(IntEnum):
    """The progress of an exchange. It only advances."""

    RUNNING = 0
    """The application runs, or will."""
    LOST = 1
    """The application was told that the client is gone, and has not ended."""
    FINISHED = 2
    """The application has ended, or there is none."""
    STOPPING = 3
    """The client will be told to send no more, once it has received the response."""


EXCHANGE_RUNNING, EXCHANGE_LOST, EXCHANGE_FINISHED, EXCHANGE_STOPPING = ExchangePhase


class ExchangeOwner(TypingProtocol):
    """The connection, as far as its exchanges need it."""

    host: ConnectionHost
    transport: Transport
    protocol: Protocol
    writer: FrameWriter
    exchanges: dict[Exchange, None]
    """The exchanges that are not over."""

    def exchange_over(self, exchange: Exchange) -> None:
        """The application has ended, and the stream is closed."""


class Exchange:
    """The `ResponseWriter` of one HTTPStream, and the owner of one stream of the protocol.

    It is over once the application has ended and the stream is closed. `_settle` decides that.
    """

    __slots__ = (
        "_block",
        "_declared",
        "_found",
        "_progress",
        "_sent",
        "_status",
        "body",
        "connection",
        "deadline",
        "fields",
        "h2_stream",
        "is_head",
        "log",
        "phase",
        "queue",
        "stream",
        "tunnel",
    )

    def __init__(
        self, connection: ExchangeOwner, h2_stream: Stream, is_head: bool, log: ExchangeLog | None
    ) -> None:
        # Set once.
        self.connection = connection
        self.h2_stream = h2_stream
        self.queue = h2_stream.send_queue
        self.is_head = is_head
        """The method is HEAD, so an answer of the server's own has no body."""
        self.log = log
        h2_stream.exchange = self
        self.fields: Fields | None = None
        """The fields of a valid request."""
        self.stream: ASGIStream | None = None
        """None where no application sees the request."""
        self.tunnel: Tunnel | None = None
        """The transport of a WebSocket, also before it is accepted."""
        # The exchange.
        self.phase: ExchangePhase = EXCHANGE_RUNNING
        self.body: BodyDeadline | None = None
        """The deadline of a request's body; None without a body."""
        self._progress: Progress | None = None
        """The client's progress with queued data; made when some has to wait."""
        self.deadline = NEVER
        """On the loop's clock. The connection calls `deadline_passed`."""
        # The response. Its head is held until there is a body.
        self._status = 0
        self._block = b""
        self._declared = -1
        self._found = 0
        self._sent = 0
        """Bytes of the body."""

    def __repr__(self) -> str:
        return f"<Exchange {self.h2_stream!r} {self.stream!r}>"

    # From the connection: see `stream.StreamOwner`.

    def expect_body(self, awaits_continue: bool) -> None:
        """The body of the request follows."""
        host = self.connection.host
        self.body = body_deadline(host.settings, host.tick_end, awaits_continue)
        self.set_deadline(self.body.next_at(host.tick_end))

    def data_received(self, data: bytes, end: bool) -> None:
        if self.tunnel is not None:
            self.tunnel.data_received(data, end)
            return
        stream, connection = self.stream, self.connection
        if self.body is not None:
            self.body.awaits_continue = False
        if stream is None or self.phase is not EXCHANGE_RUNNING:
            self._discard(data, end)
            return
        if data:
            stream.feed_data(data)
        if end and self.h2_stream.expected > 0:
            stream.ask_to_end()  # the client has given up: the body is not complete
        elif end:
            stream.feed_eof()
        if self.body is not None:
            self.body.received(connection.host.tick_end)
        if not self.queue.size:  # otherwise the response is waited for
            self._watch()

    def _discard(self, data: bytes, end: bool) -> None:
        """Drop a part of the body that nobody reads. It moves no deadline."""
        h2_stream, connection = self.h2_stream, self.connection
        connection.protocol.flow.consume(h2_stream, len(data))
        if end and h2_stream.state is STREAM_CLOSED:
            connection.writer.wake_client()
        if h2_stream.state is STREAM_CLOSED or (
            h2_stream.state is HALF_CLOSED_LOCAL and not self._may_end()
        ):
            self._settle()

    def connection_lost(self) -> None:
        """The stream or the connection is gone, or the client is given up.

        The application is told, and has ``asgi_disconnect_grace_period`` to end.
        """
        if self.tunnel is not None:
            self.tunnel.connection_lost()
            if self.tunnel.is_accepted:
                self.end_log()
        if self.stream is None or self.phase >= EXCHANGE_FINISHED:
            self.phase = max(self.phase, EXCHANGE_FINISHED)
            self._settle()
        elif self.phase is EXCHANGE_RUNNING:
            self.phase = EXCHANGE_LOST
            host = self.connection.host
            self.set_deadline(host.tick_end + host.settings.disconnect_grace_s)
            self.stream.connection_lost()

    def resume_writing(self) -> None:
        if self.stream is not None and not self.queue.is_paused:
            self.stream.resume_writing()

    def end_sent(self) -> None:
        if self.tunnel is None or not self.tunnel.is_accepted:
            self._settle()
        elif self.h2_stream.state is STREAM_CLOSED:
            self.connection_lost()
        else:
            self.tunnel.end_sent()

    def response_acknowledged(self) -> None:
        if self.phase is EXCHANGE_STOPPING:  # otherwise it was not asked
            self._stop_now()

    # Deadlines.

    def set_deadline(self, deadline: float) -> None:
        """Have `deadline_passed` called at that time, instead of any other."""
        self.deadline = deadline
        transport = self.connection.transport
        transport.deadline = min(transport.deadline, deadline)

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long."""
        self.deadline += seconds
        if self.body is not None:
            self.body.postpone(seconds)
        if self._progress is not None:
            self._progress.postpone(seconds)

    def deadline_passed(self) -> None:
        """`deadline` has passed. Acts by the table `EXCHANGE_DEADLINES`."""
        self.deadline = NEVER
        EXCHANGE_DEADLINES[self._waits_for()].action(self)

    def _waits_for(self) -> ExchangeWait:
        if self.phase is EXCHANGE_LOST:
            return ExchangeWait.APPLICATION_END
        if self.tunnel is not None and self.tunnel.is_accepted:
            return ExchangeWait.WEBSOCKET
        if self.is_stuck():
            return ExchangeWait.DELIVERY
        if self.stream is None or self.phase >= EXCHANGE_FINISHED:
            return ExchangeWait.DISCARDED_BODY
        if self.stream.deadline <= self.connection.host.tick_end:
            return ExchangeWait.STREAM
        return ExchangeWait.BODY

    def _cancel(self) -> None:
        assert self.stream is not None
        self.stream.cancel()

    def _ask_tunnel(self) -> None:
        assert self.tunnel is not None
        self.tunnel.deadline_passed()

    def _give_up_client(self) -> None:
        self.reset(ErrorCode.CANCEL)

    def _end_discarded_body(self) -> None:
        if self.h2_stream.state is HALF_CLOSED_LOCAL:
            self._stop_now()
        else:
            self._watch()

    def _pass_deadline(self) -> None:
        stream = self.stream
        assert stream is not None
        stream.deadline_passed()
        if stream.deadline != NEVER and self.phase < EXCHANGE_FINISHED:
            self.set_deadline(stream.deadline)

    def _check_body(self) -> None:
        stream, body = self.stream, self.body
        assert stream is not None
        is_late = (
            body is not None
            and self.h2_stream.state is STREAM_OPEN
            and not self.queue.size
            and body.is_overdue(
                self.connection.host.tick_end, stream, self.connection.transport.received_count()
            )
        )
        if is_late:
            self.refuse(LATE_BODY)
        else:
            self._watch()

    def is_stuck(self) -> bool:
        """Whether the client has taken nothing of the queued data within ``write_timeout``."""
        progress, now = self._progress, self.connection.host.tick_end
        if not self.queue.size or progress is None:
            return False
        if self.connection.writer.is_paused:
            progress.start(now, self._delivered())  # the transport's own progress decides
            return False
        return progress.is_stuck(now, self._delivered())

    @property
    def has_finished(self) -> bool:
        """Whether the application has ended."""
        return self.phase >= EXCHANGE_FINISHED

    @property
    def delivery_deadline(self) -> float:
        """When the client has to have taken queued data; NEVER if there is none."""
        if not self.queue.size or self._progress is None:
            return NEVER
        return self._progress.deadline

    def _delivered(self) -> int:
        return self._sent - self.queue.size

    def _watch(self) -> None:
        """Set the deadline for the thing that is waited for now."""
        host, state = self.connection.host, self.h2_stream.state
        deadline = NEVER
        if self.queue.size:
            deadline = self.delivery_deadline
        elif state is STREAM_OPEN or state is HALF_CLOSED_LOCAL:
            if self.body is None:
                self.body = body_deadline(host.settings, host.tick_end, False)
            deadline = self.body.next_at(host.tick_end)
        if self.stream is not None and self.phase < EXCHANGE_FINISHED:
            deadline = min(deadline, self.stream.deadline)
        self.set_deadline(deadline)

    # For the stream: see `http.contract.ResponseWriter`.

    def start(self, status: int, headers: Iterable[Header]) -> int:
        self._block, self._declared, self._found = encode_fields(headers)
        self._status = status
        if self.log is not None:
            self.log.set_headers(headers)
        return self._declared

    def respond(
        self, body: bytes | memoryview, end: bool, bodyless: bool, is_whole: bool = False
    ) -> None:
        """`is_whole` means nothing here: the connection stays open."""
        status, connection, h2_stream = self._status, self.connection, self.h2_stream
        length = b""
        # RFC 9110, 8.6: a 204 has no length. A 304 and the answer to HEAD have the length of the
        # answer to GET, or none.
        if status == 204:
            pass
        elif self._declared >= 0:
            length = encode_length(self._declared)
        elif end and not (bodyless and (status == 304 or not body)):
            length = encode_length(len(body))
        defaults = encode_defaults(connection.host.default_headers[self._found])
        block = b"".join((STATUS_FIELDS[status], self._block, defaults, length))
        h2_stream.is_answered = True
        if end and h2_stream.state is STREAM_OPEN:
            self._make_room()
        if bodyless or (end and not body):
            connection.protocol.streams.send_head(h2_stream, block, True)
            if not end:
                assert self.stream is not None
                self.set_deadline(self.stream.deadline)
        else:
            connection.protocol.streams.send_head(h2_stream, block, False)
            self.put(body, end)
        connection.writer.flush_soon()

    def write(self, data: bytes | memoryview, end: bool) -> None:
        if end and self.h2_stream.state is STREAM_OPEN:
            self._make_room()
        self.put(data, end)
        self.connection.writer.flush_soon()

    def put(self, data: bytes | memoryview, end: bool) -> None:
        """Queue a part of the body, the last one if `end`."""
        queue = self.queue
        self._sent += len(data)
        self.connection.protocol.streams.send_data(self.h2_stream, data, end)
        if queue.size:
            self._await_window(len(data))

    def _await_window(self, size: int) -> None:
        """Data is queued, of which the last `size` bytes are new."""
        queue = self.queue
        if queue.size > STREAM_HIGH_WATER and not queue.is_paused and self.stream is not None:
            queue.is_paused = True
            self.stream.pause_writing()
        if queue.size == size:  # the queue was empty
            host = self.connection.host
            if self._progress is None:
                settings = host.settings
                self._progress = make_progress(settings.write_timeout_s, settings.min_read_rate)
            self._progress.start(host.tick_end, self._delivered())
            if self.tunnel is None or not self.tunnel.is_accepted:
                self._watch()
        if self.deadline == NEVER:
            self._watch()

    def set_length(self, length: int) -> None:
        if self._declared < 0:
            self._declared = length

    def allows_trailers(self) -> bool:
        return self.fields is not None and takes_trailers(self.fields.headers)

    def write_trailers(self, headers: Iterable[Header]) -> None:
        block = encode_fields(headers)[0]
        if self.h2_stream.state is STREAM_OPEN:
            self._make_room()
        self.connection.protocol.streams.send_trailers(self.h2_stream, block)
        self.connection.writer.flush_soon()

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        if not self.h2_stream.is_answered:
            self.respond(b"", False, False)
        return False  # it has to be cut into frames

    def stop_file(self) -> int:
        return 0

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        connection = self.connection
        if status == 100:
            if self.body is None or not self.body.continue_sent(connection.host.tick_end):
                return
            self.set_deadline(self.body.next_at(connection.host.tick_end))
        block = STATUS_FIELDS[status] + encode_fields(headers)[0]
        connection.protocol.streams.send_head(self.h2_stream, block, False)
        connection.writer.flush_soon()
        if connection.writer.is_paused:  # no window limits these
            assert self.stream is not None
            self.stream.pause_writing()
            connection.writer.await_room(self)

    def resume_body(self) -> None:
        h2_stream, connection = self.h2_stream, self.connection
        connection.protocol.flow.consume(h2_stream, h2_stream.unread)
        if connection.protocol.outbox.frames:  # mostly, no WINDOW_UPDATE is due
            connection.writer.flush_soon()

    def abort(self) -> None:
        self._end_stream(ErrorCode.INTERNAL_ERROR)

    def accept(self, headers: Iterable[Header]) -> tuple[Tunnel, bytes]:
        tunnel, h2_stream, connection = self.tunnel, self.h2_stream, self.connection
        assert tunnel is not None
        if h2_stream.state is STREAM_CLOSED:
            raise ClientDisconnected("the client is gone")
        # RFC 9110, 9.3.6: the answer to CONNECT has no length.
        block, _, found = encode_fields(headers)
        if self.log is not None:
            self.log.set_headers(headers)
        block += encode_defaults(connection.host.default_headers[found & (DATE | SERVER)])
        # RFC 8441, 5: a 2xx accepts, without a Sec-WebSocket-Accept.
        self._status, h2_stream.is_answered = 200, True
        connection.protocol.streams.send_head(h2_stream, STATUS_FIELDS[200] + block, False)
        connection.writer.flush_soon()
        return tunnel, tunnel.accept()

    def finish(self) -> None:
        self.phase = EXCHANGE_FINISHED
        if self.log is not None:
            self.end_log()
        self._settle()

    def finish_tunnel(self) -> None:
        """The application of a WebSocket has ended; its closing handshake may go on."""
        self.phase = EXCHANGE_FINISHED
        if self.h2_stream.state is STREAM_CLOSED:
            self.connection.exchange_over(self)

    # The end.

    def reset(self, code: ErrorCode) -> None:
        """Abort the stream, and tell the application that the client is gone."""
        self._end_stream(code)
        self.connection_lost()

    def _end_stream(self, code: ErrorCode) -> None:
        self.connection.protocol.streams.reset(self.h2_stream, code)
        self.connection.writer.flush_soon()

    def _settle(self) -> None:
        """The application, or the stream, has ended: act if both have, or wait for the other."""
        h2_stream, connection = self.h2_stream, self.connection
        if self.phase < EXCHANGE_FINISHED:
            return
        if h2_stream.state is STREAM_CLOSED:
            connection.exchange_over(self)
        elif h2_stream.state is HALF_CLOSED_LOCAL and (
            self.phase is EXCHANGE_STOPPING or not self._may_end()
        ):
            self._stop_body()
        elif not self.queue.has_end_stream:
            self.reset(ErrorCode.INTERNAL_ERROR)  # sys.exit() within an incomplete response
        else:
            # The rest of the response leaves, or a short rest of the request arrives to be dropped.
            connection.protocol.flow.consume(h2_stream, h2_stream.unread)
            if h2_stream.state is HALF_CLOSED_LOCAL and h2_stream.expected == UNKNOWN_LENGTH:
                # Probably its end comes next. A reset would hide the client's own faults, and some
                # clients take it for ours.
                limit = connection.host.tick_end + LINGER_SECONDS
                self.set_deadline(min(self.deadline, limit))
            else:
                self._watch()

    def _make_room(self) -> None:
        """The response ends before the request: let the client send a rest that is not too long.

        The rest is dropped. The room has to come before the end: curl 7.88 reads nothing more after
        a complete response with a 2xx, and would wait for room for ever.
        """
        h2_stream = self.h2_stream
        awaits_continue = self.body is not None and self.body.awaits_continue
        if not (awaits_continue or h2_stream.is_tunnel):
            limit = MAX_LINGER if self._status >= 300 else MAX_DISCARDED
            rest = limit if h2_stream.expected == UNKNOWN_LENGTH else h2_stream.expected
            if rest <= limit:
                self.connection.protocol.flow.make_room(h2_stream, rest)

    def _may_end(self) -> bool:
        """Whether the client can send the rest of its body without more room."""
        h2_stream = self.h2_stream
        if self.body is not None and self.body.awaits_continue:
            return False
        if h2_stream.expected == UNKNOWN_LENGTH:
            return h2_stream.receive_window > 0
        return h2_stream.expected <= h2_stream.receive_window

    def _stop_body(self) -> None:
        """Stop a client whose rest of the body is longer than the room that it has.

        The response is complete, and RFC 9113, 8.1, has RST_STREAM for that. Some clients lose a
        response that arrives together with it: curl 7.88 closes the stream as soon as it has read
        the reset, and then fails as it sends the body. So a PING first asks the client whether it
        has received the response. It gets no more room meanwhile, and its data is dropped.
        """
        protocol, h2_stream = self.connection.protocol, self.h2_stream
        protocol.flow.consume(h2_stream, h2_stream.unread)
        if self._status < 300:
            # After a 2xx, curl 7.88 goes on sending. It should fail at once: where the reset comes
            # later, it waits for room for ever.
            self._stop_now()
        elif self.phase is not EXCHANGE_STOPPING:
            self.phase = EXCHANGE_STOPPING
            protocol.control.ask_for_response(h2_stream)
            self.connection.writer.flush_soon()
            self.set_deadline(self.connection.host.tick_end + LINGER_SECONDS)

    def _stop_now(self) -> None:
        """RFC 9113, 8.1: the response is complete, and the client need not send the rest."""
        self._end_stream(ErrorCode.NO_ERROR)
        self.connection.exchange_over(self)

    def refuse(self, error: RequestError) -> None:
        exchange.refuse(self, error)

    # For `http.exchange.refuse`.

    @property
    def has_begun(self) -> bool:
        return self.h2_stream.is_answered

    def log_invalid(self, what: str, reason: object) -> None:
        self.connection.transport.log_invalid(what, reason)

    def abort_begun(self) -> None:
        self._end_stream(ErrorCode.CANCEL)

    def write_refusal(self, error: RequestError) -> None:
        h2_stream, connection = self.h2_stream, self.connection
        if h2_stream.state is STREAM_CLOSED:
            return
        body = error.body
        self._status, h2_stream.is_answered = error.status, True
        headers = [*error.fields, (b"content-type", b"text/plain; charset=utf-8")]
        block = (
            STATUS_FIELDS[error.status]
            + encode_defaults(connection.host.default_headers[0])
            + encode_fields(headers)[0]
            + encode_length(len(body))
        )
        if self.is_head:
            body = b""
        connection.protocol.streams.send_head(h2_stream, block, not body)
        if body:
            self.put(body, True)

    def end_log(self) -> None:
        if self.log is not None:
            self.log.end(self._status, self._sent, self.h2_stream.is_answered)

    def give_up(self) -> None:
        self.connection.writer.flush_soon()
        self.connection_lost()


class ExchangeWait(IntEnum):
    """The things that an exchange waits for."""

    APPLICATION_END = 0
    """The application ends; the client is gone."""
    WEBSOCKET = 1
    """See `tunnel.TUNNEL_DEADLINES`."""
    DELIVERY = 2
    """The client takes queued data."""
    DISCARDED_BODY = 3
    """The rest of a request that nobody reads."""
    STREAM = 4
    """A deadline of the ASGI side."""
    BODY = 5
    """The next part of the request's body."""


EXCHANGE_DEADLINES: Mapping[ExchangeWait, Deadline[Exchange]] = {
    ExchangeWait.APPLICATION_END: Deadline("asgi_disconnect_grace_period", Exchange._cancel),
    ExchangeWait.WEBSOCKET: Deadline("the tunnel's", Exchange._ask_tunnel),
    ExchangeWait.DELIVERY: Deadline("write_timeout", Exchange._give_up_client),
    ExchangeWait.DISCARDED_BODY: Deadline(
        "body_timeout or LINGER_SECONDS; RFC 9113, 8.1", Exchange._end_discarded_body
    ),
    ExchangeWait.STREAM: Deadline("ASGIStream.deadline", Exchange._pass_deadline),
    ExchangeWait.BODY: Deadline("body_timeout; RFC 9110, 15.5.9", Exchange._check_body),
}
"""The limit of each wait, and the action after it."""
