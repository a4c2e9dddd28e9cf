"""One stream of an HTTP/2 connection: its request, as it comes, to an HTTPStream, and that one's response to frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..asgi.http import HTTPStream
from ..errors import ClientDisconnected, RequestError
from ..http.contract import CLIENT_CLOSED_REQUEST, NEVER, Header
from ..http.fields import DATE, SERVER, copied
from ..http.request import UNKNOWN_LENGTH, Fields, takes_trailers
from ..net.connection import LINGER_SECONDS, MAX_LINGER
from .blocks import STATUS_FIELDS, encode_defaults, encode_fields, encode_length
from .frames import Code
from .outbox import HIGH_WATER
from .streams import CLOSED, HALF_CLOSED_LOCAL, OPEN, Stream
from .tunnel import Tunnel

if TYPE_CHECKING:
    from ..observe.access_log import Record
    from .admission import Admission

MAX_DROPPED = 33554432
"""Bytes of a request that are dropped after a response with a 2xx, with which curl 7.88 does not stop sending. Nobody keeps them."""


class Exchange:
    """The `ResponseWriter` of one HTTPStream, on one stream of a connection that it shares with others.

    It is over once the application has ended and the stream is closed: `_settle` decides, whichever comes last.
    """

    __slots__ = (
        "_awaits_100",
        "_block",
        "_body_until",
        "_declared",
        "_found",
        "_is_lost",
        "_is_stopping",
        "_seen",
        "connection",
        "deadline",
        "fields",
        "has_ended",
        "lane",
        "record",
        "sent",
        "status",
        "stream",
        "tunnel",
    )

    def __init__(self, connection: Admission, lane: Stream, record: Record | None) -> None:
        # Set once.
        self.connection = connection
        self.lane = lane
        """The stream of the protocol."""
        lane.exchange = self
        self.record = record
        """What the log has of it, until its end is told."""
        self.fields: Fields | None = None
        """Of the request, where that is in order."""
        self.stream: HTTPStream | None = None
        """None where no application is to see the request."""
        self.tunnel: Tunnel | None = None
        """Of a WebSocket, also before it is accepted."""
        self.deadline = NEVER
        """On the loop's clock; the connection looks after it."""
        self.has_ended = False
        """The application is through with it."""
        self._is_lost = False
        """The application was told that the client is gone."""
        self._awaits_100 = False
        """The client holds its body back until it is asked for."""
        self._is_stopping = False
        """The client is to be told that it need not send the rest, once it has seen the response."""
        self._body_until = 0.0
        """When more of the body has to be here, if the application waits for it."""
        # The response: its head is held until there is a body.
        self.status = 0
        self._block = b""
        self._declared = -1
        self._found = 0
        self.sent = 0
        """Bytes of the body."""
        self._seen = 0
        """How many of them had left when that was last asked."""

    def __repr__(self) -> str:
        return f"<Exchange {self.lane!r} {self.stream!r}>"

    # From the connection.

    def expect_body(self, awaits_100: bool) -> None:
        """The body of the request is still to come."""
        self._awaits_100 = awaits_100
        self._await_body()

    def received(self, data: bytes, end: bool) -> None:
        """A part of the request's body has come."""
        if self.tunnel is not None:
            self.tunnel.received(data, end)
            return
        stream = self.stream
        self._awaits_100 = False
        if stream is None or self.has_ended or self._is_lost:
            # Nobody reads this, and it moves no deadline.
            self.connection.protocol.consume(self.lane, len(data))
            if end and self.lane.state is CLOSED:
                # curl 7.88 ends its side, and looks at its stream only when something comes.
                self.connection.protocol.wake_client()
                self.connection.flush_soon()
            if self.lane.state is CLOSED or (
                self.lane.state is HALF_CLOSED_LOCAL and not self._may_end()
            ):
                self._settle()
            return
        if data:
            stream.feed_data(data)
        if end and self.lane.expected > 0:
            stream.ask_to_end()  # the client has given the rest up: the body is not whole
        elif end:
            stream.feed_eof()
        self._body_until = self.connection.now + self.connection.settings.body_timeout_s
        if (
            not self.lane.is_waiting
        ):  # otherwise it is the response that is waited for, whatever comes
            self._watch()

    def lost(self) -> None:
        """The stream or the connection is gone, or as good as that: the application hears it, and has a moment to end."""
        if self.tunnel is not None:
            self.tunnel.lost()
            if self.tunnel.is_accepted:
                self.record_end()
        if self.stream is None or self.has_ended:
            self.has_ended = True
            self._settle()
        elif not self._is_lost:
            self._is_lost = True
            self.set_deadline(self.connection.now + self.connection.settings.disconnect_grace_s)
            self.stream.connection_lost()

    def freed(self) -> None:
        """There is room to send again."""
        if self.stream is not None and not self.lane.is_clogged:
            self.stream.resume_writing()

    def completed(self) -> None:
        """The end of the response was queued, and is out."""
        if self.tunnel is None or not self.tunnel.is_accepted:
            self._settle()
        elif self.lane.state is CLOSED:
            self.lost()
        else:
            self.tunnel.ended()

    def seen(self) -> None:
        """The client says that it has seen all that was sent on the stream."""
        if self._is_stopping:  # otherwise it was not asked
            self._give_up_body()

    def expired(self) -> None:
        """`deadline` has passed."""
        self.deadline = NEVER
        stream = self.stream
        if self._is_lost and not self.has_ended:
            assert stream is not None
            stream.cancel()
        elif self.tunnel is not None and self.tunnel.is_accepted:
            self.tunnel.expired()
        elif self.lane.is_waiting and self.is_stuck():
            self.reset(Code.CANCEL)
        elif stream is None or self.has_ended:
            if self.lane.state is HALF_CLOSED_LOCAL:
                self._give_up_body()
            else:
                self._watch()
        elif stream.deadline <= self.connection.now:
            stream.deadline_passed()
            if stream.deadline != NEVER and not self.has_ended:
                assert self.stream is not None
                self.set_deadline(self.stream.deadline)
        elif self._is_body_overdue() and stream.awaits_body:
            self.refuse(RequestError(408, "The body of the request did not arrive in time"))
        else:
            self._watch()

    def is_stuck(self) -> bool:
        """Whether nothing that is queued has left since this was asked before, and the client could have taken something."""
        before, self._seen = self._seen, self.sent - self.lane.queued
        return self._seen == before and not self.connection.is_clogged

    def set_deadline(self, deadline: float) -> None:
        self.deadline = deadline
        self.connection.watch(deadline)

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long."""
        self.deadline += seconds
        self._body_until += seconds

    def _await_body(self) -> None:
        self._body_until = self.connection.now + self.connection.settings.body_timeout_s
        self.set_deadline(self._body_until)

    def _is_body_overdue(self) -> bool:
        lane = self.lane
        return (
            lane.state is OPEN
            and not lane.is_waiting
            and not self._awaits_100
            and self._body_until <= self.connection.now
        )

    def _watch(self) -> None:
        """Set the deadline of what is waited for now."""
        now, lane = self.connection.now, self.lane
        deadline = NEVER
        if lane.is_waiting:
            deadline = now + self.connection.settings.write_timeout_s
        elif lane.state is OPEN or lane.state is HALF_CLOSED_LOCAL:
            if self._body_until <= now:
                self._body_until = now + self.connection.settings.body_timeout_s
            deadline = self._body_until
        if self.stream is not None and not self.has_ended:
            deadline = min(deadline, self.stream.deadline)
        self.set_deadline(deadline)

    # For the stream (see `http.contract`).

    def start(self, status: int, headers: Iterable[Header]) -> int:
        self._block, self._declared, self._found = encode_fields(headers)
        self.status = status
        if self.record is not None:
            self.record.response_headers = copied(headers)
        return self._declared

    def respond(self, body: bytes, end: bool, bodyless: bool) -> None:
        status, connection = self.status, self.connection
        block = (
            STATUS_FIELDS[status]
            + self._block
            + encode_defaults(connection.server.default_headers[self._found])
        )
        # RFC 9110, 8.6: a 204 has none; a 304, and the answer to HEAD, only where GET would have had it.
        if status == 204:
            pass
        elif self._declared >= 0:
            block += encode_length(self._declared)
        elif end and not (bodyless and (status == 304 or not body)):
            block += encode_length(len(body))
        self.lane.is_answered = True
        if end and self.lane.state is OPEN:
            self._make_room()
        if bodyless or (end and not body):
            connection.protocol.send_head(self.lane, block, True)
            if not end:
                assert self.stream is not None
                self.set_deadline(self.stream.deadline)
        else:
            connection.protocol.send_head(self.lane, block, False)
            self.put(body, end)
        connection.flush_soon()

    def write(self, data: bytes, end: bool) -> None:
        if end and self.lane.state is OPEN:
            self._make_room()
        self.put(data, end)
        self.connection.flush_soon()

    def put(self, data: bytes, end: bool) -> None:
        """Send a part of the body, the last one if `end`."""
        lane = self.lane
        self.sent += len(data)
        self.connection.protocol.send_data(lane, data, end)
        if lane.queued:
            if lane.queued > HIGH_WATER and not lane.is_clogged and self.stream is not None:
                lane.is_clogged = True
                self.stream.pause_writing()
            if lane.queued == len(data):  # nothing was before
                self._seen = self.sent - lane.queued
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
        if self.lane.state is OPEN:
            self._make_room()
        self.connection.protocol.send_trailers(self.lane, block)
        self.connection.flush_soon()

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        if not self.lane.is_answered:
            self.respond(b"", False, False)
        return False  # it has to be cut into frames

    def stop_file(self) -> int:
        return 0

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        if status == 100:
            if not self._awaits_100:
                return  # the body is on its way
            self._awaits_100 = False
            self._await_body()
        block, _, _ = encode_fields(headers)
        self.connection.protocol.send_head(self.lane, STATUS_FIELDS[status] + block, False)
        self.connection.flush_soon()
        if self.connection.is_clogged:  # no window holds these
            assert self.stream is not None
            self.stream.pause_writing()
            self.connection.hold_back(self)

    def resume_body(self) -> None:
        protocol = self.connection.protocol
        protocol.consume(self.lane, self.lane.unread)
        if protocol.outbox.frames:  # mostly, it is not told each time
            self.connection.flush_soon()

    def abort(self) -> None:
        self.connection.protocol.reset(self.lane, Code.INTERNAL_ERROR)
        self.connection.flush_soon()

    def accept(self, headers: Iterable[Header]) -> tuple[Tunnel, bytes]:
        tunnel = self.tunnel
        assert tunnel is not None
        if self.lane.state is CLOSED:
            raise ClientDisconnected("the client is gone")
        block, _, found = encode_fields(
            headers
        )  # RFC 9110, 9.3.6: without a length, which is left out there
        if self.record is not None:
            self.record.response_headers = copied(headers)
        block += encode_defaults(self.connection.server.default_headers[found & (DATE | SERVER)])
        # RFC 8441, 5: a 2xx accepts, without a Sec-WebSocket-Accept.
        self.status, self.lane.is_answered = 200, True
        self.connection.protocol.send_head(self.lane, STATUS_FIELDS[200] + block, False)
        self.connection.flush_soon()
        return tunnel, tunnel.accept()

    def finish(self) -> None:
        self.has_ended = True
        if self.record is not None:
            self.record_end()
        self._settle()

    # The end.

    def reset(self, code: Code) -> None:
        """End the stream at once."""
        self.connection.protocol.reset(self.lane, code)
        self.connection.flush_soon()
        self.lost()

    def _settle(self) -> None:
        """The application, or the stream, or both have ended: what now?"""
        lane = self.lane
        if not self.has_ended:
            return
        if lane.state is CLOSED:
            self.connection.forget(self)
        elif lane.state is HALF_CLOSED_LOCAL and (self._is_stopping or not self._may_end()):
            self._stop_body()
        elif not lane.has_ended:
            self.reset(
                Code.INTERNAL_ERROR
            )  # without a whole response: sys.exit() in the midst of it
        else:
            # The rest of the response is on its way, or that of a request which is short: to be dropped.
            self.connection.protocol.consume(lane, lane.unread)
            if lane.state is HALF_CLOSED_LOCAL and lane.expected == UNKNOWN_LENGTH:
                # As likely as not, its end comes next. A reset in its way would hide the client's own faults, and some take it for ours.
                self.set_deadline(min(self.deadline, self.connection.now + LINGER_SECONDS))
            else:
                self._watch()

    def _make_room(self) -> None:
        """The response is about to end before the request: let the client send a rest that is not too long, which is dropped.

        Before the end, for curl 7.88 reads nothing more after a complete response with a 2xx, and would
        wait for more room for ever.
        """
        lane = self.lane
        if not (self._awaits_100 or lane.is_connected):
            most = MAX_LINGER if self.status >= 300 else MAX_DROPPED
            rest = most if lane.expected == UNKNOWN_LENGTH else lane.expected
            if rest <= most:
                self.connection.protocol.make_room(lane, rest)

    def _may_end(self) -> bool:
        """Whether the client can send all that is left of its body without being given more room."""
        lane = self.lane
        return not self._awaits_100 and (
            lane.receive_window > 0
            if lane.expected == UNKNOWN_LENGTH
            else lane.expected <= lane.receive_window
        )

    def _stop_body(self) -> None:
        """The response is complete, and more of the body than the client may send is missing.

        RFC 9113, 8.1, has RST_STREAM for that. Some clients lose a response that comes together with it:
        curl 7.88 closes the stream as soon as it has read the reset, and then fails as it sends the body.
        So the client is first asked, by a PING, whether it has seen the response. It gets no more room
        meanwhile, and what it may still send is dropped.
        """
        protocol, lane = self.connection.protocol, self.lane
        protocol.consume(lane, lane.unread)
        if self.status < 300:
            # After these, curl 7.88 goes on sending. Better that it fails at once than that it waits
            # for ever for room, as it does where the reset comes later.
            self._give_up_body()
        elif not self._is_stopping:
            self._is_stopping = True
            protocol.ask(lane)
            self.connection.flush_soon()
            self.set_deadline(self.connection.now + LINGER_SECONDS)

    def _give_up_body(self) -> None:
        """RFC 9113, 8.1: the response is complete, and the client need not send the rest."""
        self.connection.protocol.reset(self.lane, Code.NO_ERROR)
        self.connection.flush_soon()
        self.connection.forget(self)

    def refuse(self, error: RequestError, bodyless: bool = False) -> None:
        """Answer what the application is not to see, or not to answer. `bodyless`: the request is HEAD, as it may be that of the stream."""
        connection = self.connection
        if not error.is_logged:
            connection.complain("request", error)
        if self.lane.is_answered:
            connection.protocol.reset(self.lane, Code.CANCEL)
        elif self.lane.state is not CLOSED:
            body = str(error).encode() + b"\n"
            self.status, self.lane.is_answered = error.status, True
            if self.record is not None:
                self.record.response_headers = ()  # of the head that may have been held
            block = STATUS_FIELDS[error.status] + encode_defaults(
                connection.server.default_headers[0]
            )
            block += encode_fields(
                [*error.fields, (b"content-type", b"text/plain; charset=utf-8")]
            )[0] + encode_length(len(body))
            if bodyless or (self.stream is not None and self.stream.method == "HEAD"):
                body = b""
            connection.protocol.send_head(self.lane, block, not body)
            if body:
                self.put(body, True)
        self.record_end()
        connection.flush_soon()
        self.lost()

    def record_end(self) -> None:
        """Tell the log, once."""
        record, self.record = self.record, None
        access = self.connection.server.access
        if record is not None and access is not None:
            if not self.lane.is_answered:
                record.response_headers = ()  # they were held, and did not go out
            access.end(
                record, self.status if self.lane.is_answered else CLIENT_CLOSED_REQUEST, self.sent
            )
