"""The answering half of an HTTP/1.x connection: the `ResponseWriter` of its current exchange, and what comes after that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..asgi.http import HTTPStream
from ..asgi.websocket import WebSocketStream
from ..errors import ClientDisconnected, RequestError
from ..http.contract import CLIENT_CLOSED_REQUEST, NEVER, Header
from ..http.fields import copied
from ..http.request import Fields, takes_trailers
from ..net.connection import CLOSED, LINGER, Connection, Ending
from .body import Framing
from .encode import informational
from .inbox import Inbox
from .response import Response
from .states import BODY, DONE, HEAD, MAX_DRAIN, Reading
from .upgrade import switching_protocols
from .upgraded import UpgradedConnection

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..net.accept import Listener
    from ..observe.access_log import Record
    from ..server import Server


class Answering(Connection):
    """A connection with one exchange at a time, which was begun by H1Connection, on top of it."""

    __slots__ = (
        "_awaits_100",
        "_drain_left",
        "_fields",
        "_framing",
        "_half_closed",
        "_inbox",
        "_more",
        "_record",
        "_response",
        "_stream",
        "_stuck_at",
    )

    _reading: Reading | Ending

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        # The reading side, which is H1Connection's.
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
        self._stuck_at = NEVER
        """When the client is given up if it takes nothing more of the last response; NEVER while that is not waited for."""

    def _streams(self) -> tuple[HTTPStream, ...]:
        return () if self._stream is None else (self._stream,)

    # For the stream (see `http.contract`).

    def start(self, status: int, headers: Iterable[Header]) -> int:
        declared = self._response.start(status, headers)
        if self._record is not None:
            self._record.response_headers = copied(headers)
        return declared

    def respond(
        self,
        body: bytes,
        end: bool,
        bodyless: bool,
        is_held: bool = False,
        is_whole: bool = False,
    ) -> bytes:
        """`is_held`: return it all instead of writing it; `is_whole`: what is not among it follows at once."""
        fields, stream = self._fields, self._stream
        assert fields is not None
        assert stream is not None
        server = self._server
        keep_alive = (
            fields.keep_alive
            and server.keep_alive
            and stream.may_be_followed
            and not (self._reading is BODY and (end or is_whole) and not self._is_drainable())
            and not (self._half_closed and not self._more and not self._inbox.data)
        )
        data, large = self._response.begin(
            fields.version, body, end, bodyless, keep_alive, server.default_fields
        )
        if is_held:
            return data
        self._transport.write(data)
        if large:
            self._write(large)
        if bodyless and not end:
            self._set_deadline()  # that of the stream
        return b""

    def write(self, data: bytes, end: bool) -> None:
        data = self._response.part(data, end)
        if data:
            self._write(data)

    def set_length(self, length: int) -> None:
        self._response.set_length(length)

    def allows_trailers(self) -> bool:
        fields = self._fields
        assert fields is not None
        return (
            fields.version == "1.1"
            and self._response.may_be_chunked
            and takes_trailers(fields.headers)
        )

    def write_trailers(self, headers: Iterable[Header]) -> None:
        self._write(self._response.write_trailers(headers))

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        head = (
            b""
            if self._response.begun
            else self.respond(b"", False, False, is_held=True, is_whole=end)
        )
        may_send = (
            self._server.settings.sendfile
            and self._listener.scheme == "http"
            and not self._response.is_chunked
        )
        if may_send and self._start_transfer(head, descriptor, offset, count):
            self._response.sent += count
            return True
        self._write(head)
        return False

    def stop_file(self) -> int:
        return self._end_transfer()

    def _end_transfer(self) -> int:
        left = super()._end_transfer()
        self._response.sent -= left
        return left

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        if status == 100:
            if not self._awaits_100:
                return  # the body is on its way
            self._awaits_100 = False
            self._wait_anew()
        if self._fields is not None and self._fields.version != "1.0":
            self._write(informational(status, headers))

    def resume_body(self) -> None:
        if self._reading_paused and self._reading is BODY:
            self._resume_reading()
            self._wait_anew()

    def abort(self) -> None:
        self._response.keep_alive = False
        if self._reading is CLOSED:
            return
        if self._response.delimited:
            self._reset()  # an ordinary end would make it look whole
        else:
            self._shut()

    def accept(self, headers: Iterable[Header]) -> tuple[UpgradedConnection, bytes]:
        # TLS tells the protocol that it had before of a loss. In Python 3.10, it only shows by the lack of a socket that it is closing.
        if (
            self._half_closed
            or self._is_closing()
            or self._transport.get_extra_info("socket") is None
        ):
            raise ClientDisconnected("the client is gone")
        assert self._fields is not None
        self._write(switching_protocols(self._fields.headers, headers, self._server.default_fields))
        if self._record is not None:
            self._record.response_headers = copied(headers)
        record, self._record = self._record, None
        stream = self._stream
        assert isinstance(stream, WebSocketStream)
        self._stream, self._reading = None, CLOSED
        return UpgradedConnection(self, stream, record), self._inbox.take()

    def finish(self) -> None:
        if self._stream is None:
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

    def _wait_anew(self) -> None:
        """Something has come from the client, which is no reason to wait longer for it to take something."""
        if not self._clogged and not self._is_transferring:
            self._set_deadline()

    # Between exchanges.

    def _await_next(self) -> None:
        """The exchange is over, and its request was read to the end."""
        if self._clogged:
            return  # the next response has to wait until this one leaves; `resume_writing` comes back here
        self.deadline = self._server.idle_deadline
        self._stuck_at = NEVER
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
        return (
            self._framing is not None and self._framing.left <= MAX_DRAIN and not self._awaits_100
        )

    def _close(self) -> None:
        """Close behind what is written, whatever else the client has sent or still sends."""
        self._inbox.data.clear()
        expected = (
            self._reading is DONE and self._fields is not None and not self._fields.keep_alive
        )
        if expected or self._half_closed:
            self._shut()
        else:
            self._linger(is_sending=self._reading is not DONE and not self._response.delimited)

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
            self.abort()
        elif self._reading is BODY and stream is None:
            self._close()  # the body of a request that was answered before: it gets no second answer
            return
        else:
            bodyless = head[:5] == b"HEAD " or (stream is not None and stream.method == "HEAD")
            data = response.refuse(error, bodyless, server.default_fields[0])
            if self._record is not None:
                self._record.response_headers = ()  # of the head that may have been held
            self._write(data)
            self._close()
        if self._record is not None:
            self._record_end()
        elif server.access is not None:
            seconds = max(0.0, server.loop.time() - since)
            server.access.refused(
                head,
                error.status,
                response.sent,
                self._listener.scheme,
                self._client,
                self._server_address,
                seconds,
            )
        if stream is not None:
            # For the application the client is gone; it is waited for as if the connection were lost.
            stream.connection_lost()
            if stream.task is None:
                self._stream = None

    def _record_end(self) -> None:
        record, self._record = self._record, None
        access = self._server.access
        if record is not None and access is not None:
            if not self._response.begun:
                record.response_headers = ()  # they were held, and did not go out
            access.end(
                record,
                self._response.status if self._response.begun else CLIENT_CLOSED_REQUEST,
                self._response.sent,
            )

    @abstractmethod
    def _serve_buffered(self) -> None:
        """Go on with the requests that wait, once nothing is being answered."""
