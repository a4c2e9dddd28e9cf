"""The writing side of an HTTP/1.x connection: the `ResponseWriter` of its current exchange."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ..errors import ClientDisconnected, RequestError
from ..http import exchange
from ..http.contract import ASGIStream, Header
from ..http.exchange import BodyDeadline, ExchangeLog
from ..http.request import Fields, takes_trailers
from ..net.transport import CLOSING, LOST, Transport
from ..net.turn import GATHER_SIZE, Turn
from .inbox import Inbox
from .response import Response, informational
from .states import RESPONDING, ReadState

if TYPE_CHECKING:
    from .websocket_transport import H1WebSocketTransport


MAX_LONE_PARTS = 8
"""An event stream has one part a turn, and following the turn costs a fifth of such a part. After
so many lone parts, only each MAX_LONE_PARTS-th looks whether others of its turn could be gathered.
"""


class Reader(Protocol):
    """The reading side of the connection, as the writing side sees it."""

    stream: ASGIStream | None
    """The exchange that is being answered."""
    fields: Fields | None
    """The fields of the current request, or of the last."""
    reading: ReadState
    is_half_closed: bool
    body: BodyDeadline | None
    inbox: Inbox

    def may_continue(self, is_whole: bool) -> bool:
        """Whether a further request can be read after a response that is whole, or not yet."""

    def resume_body(self) -> None:
        """The application has taken all of the body that was here."""

    def exchange_over(self) -> None:
        """The exchange has ended; `stream` is None."""

    def close(self) -> None:
        """Close after the response, whatever the client has sent or still sends."""

    def give_up(self) -> None:
        """Tell the application that the client is gone."""

    def reading_ended(self) -> None:
        """No further request is read."""

    def release(self) -> None:
        """Another handler goes on: drop references that would form a circle."""


class H1ResponseWriter:
    """Writes one response after the other. A connection has one writer, and uses it again."""

    __slots__ = (
        "_gathered",
        "_gathered_size",
        "_host",
        "_lone_parts",
        "_reader",
        "_transport",
        "_written_in",
        "is_head",
        "log",
        "response",
    )

    def __init__(self, transport: Transport, reader: Reader) -> None:
        self._transport = transport
        self._host = transport.host
        self._reader = reader
        self.response = Response()
        self._gathered: list[bytes | memoryview] = []
        """Parts of the body that leave when the turn of the loop ends (`net.turn`)."""
        self._gathered_size = 0
        self._written_in = -1
        """The last turn that was followed, of those in which a part was written."""
        self._lone_parts = 0
        """Parts that were written at once, since others were gathered or a response began."""
        self.is_head = False
        """The method of a request that is refused before its exchange has begun is HEAD."""
        access = transport.host.access
        self.log = ExchangeLog(access) if access is not None else None

    # For the stream: see `http.contract.ResponseWriter`.

    def start(self, status: int, headers: Iterable[Header]) -> int:
        declared = self.response.start(status, headers)
        if self.log is not None:
            self.log.set_headers(headers)
        return declared

    def respond(
        self,
        body: bytes | memoryview,
        end: bool,
        bodyless: bool,
        is_whole: bool = False,
        returns_data: bool = False,
    ) -> bytes:
        """`returns_data`: return the data instead of writing it."""
        reader = self._reader
        fields, stream, host = reader.fields, reader.stream, self._host
        assert fields is not None
        assert stream is not None
        keep_alive = (
            fields.keep_alive
            and host.keeps_alive
            and stream.may_be_followed
            and (
                (reader.reading is RESPONDING and not reader.is_half_closed)
                or reader.may_continue(end or is_whole)
            )
        )
        head, body = self.response.begin(
            fields.version, body, end, bodyless, keep_alive, host.default_lines
        )
        if returns_data:
            return head
        if body:
            self._transport.write_head_and_body(head, body)
        else:
            self._transport.raw.write(head)
        if not end:
            self._lone_parts = 0
            self._follow(host.turn)
        if bodyless and not end:
            self._transport.set_deadline()  # the stream's has changed
        return b""

    def write(self, data: bytes | memoryview, end: bool) -> None:
        gathered, turn = self._gathered, self._host.turn
        if gathered:
            gathered.append(data)
            self._gathered_size += len(data)
            if end or self._gathered_size >= GATHER_SIZE:
                self.flush(end)
        elif end or self._written_in != turn.number or self._transport.raw.get_write_buffer_size():
            data = self.response.part(data, end)
            if data:
                self._transport.write(data)
            if not end:
                self._lone_parts = lone_parts = self._lone_parts + 1
                if lone_parts < MAX_LONE_PARTS or not lone_parts % MAX_LONE_PARTS:
                    self._follow(turn)
        else:
            gathered.append(data)
            self._gathered_size = len(data)
            self._lone_parts = 0
            turn.gather(self)

    def _follow(self, turn: Turn) -> None:
        """A part was written in this `turn`. Further parts of the turn are gathered."""
        self._written_in = turn.number
        if not turn.has_begun:
            turn.begin()

    def flush(self, end: bool = False) -> None:
        """Write the gathered parts as one; `end`: they are the last of the body."""
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._transport.write(self.response.part(data, end))

    def set_length(self, length: int) -> None:
        self.response.set_length(length)

    def allows_trailers(self) -> bool:
        fields = self._reader.fields
        assert fields is not None
        return (
            fields.version == "1.1"
            and self.response.may_be_chunked
            and takes_trailers(fields.headers)
        )

    def write_trailers(self, headers: Iterable[Header]) -> None:
        data = self.response.write_trailers(headers)
        self.flush()
        self._transport.write(data)

    def start_file(self, descriptor: int, offset: int, count: int, end: bool) -> bool:
        response, transport = self.response, self._transport
        self.flush()
        head = b""
        if not response.begun:
            head = self.respond(b"", False, False, returns_data=True, is_whole=end)
        may_send = (
            self._host.settings.sendfile
            and transport.listener.scheme == "http"
            and not response.is_chunked
        )
        if may_send and transport.start_file(head, descriptor, offset, count):
            response.sent += count
            return True
        transport.write(head)
        return False

    def stop_file(self) -> int:
        return self._transport.stop_file()

    def write_informational(self, status: int, headers: Iterable[Header]) -> None:
        reader = self._reader
        if status == 100:
            if reader.body is None or not reader.body.continue_sent(self._host.tick_end):
                return
            self._transport.set_deadline()
        if reader.fields is not None and reader.fields.version != "1.0":
            self._transport.write(informational(status, headers))

    def resume_body(self) -> None:
        self._reader.resume_body()

    def abort(self) -> None:
        transport, response = self._transport, self.response
        self.flush()
        response.keep_alive = False
        if transport.state is CLOSING or transport.state is LOST:
            return
        if response.ends_with_connection:
            transport.abort()  # an ordinary end would make it look complete
        else:
            transport.close()

    def accept(self, headers: Iterable[Header]) -> tuple[H1WebSocketTransport, bytes]:
        from ..asgi.websocket import WebSocketStream  # noqa: PLC0415 # see server.load_protocols
        from .websocket_handshake import switching_protocols  # noqa: PLC0415 # the same
        from .websocket_transport import H1WebSocketTransport  # noqa: PLC0415 # the same

        reader, transport = self._reader, self._transport
        # TLS reports a loss to the handler that it had before. In Python 3.10, only the lack of a
        # socket shows that it is closing.
        if (
            reader.is_half_closed
            or transport.is_closing()
            or transport.raw.get_extra_info("socket") is None
        ):
            raise ClientDisconnected("the client is gone")
        stream = reader.stream
        assert reader.fields is not None
        assert isinstance(stream, WebSocketStream)
        transport.write(
            switching_protocols(reader.fields.headers, headers, self._host.default_lines)
        )
        log = None
        if self.log is not None:
            self.log.set_headers(headers)
            log = self.log.hand_over()
        reader.stream = None
        data, position = reader.inbox.take()
        reader.reading_ended()
        reader.release()
        websocket = H1WebSocketTransport(transport, stream, log)
        transport.set_handler(websocket)
        websocket.begin()
        return websocket, data[position:]

    def refuse(self, error: RequestError) -> None:
        exchange.refuse(self, error)

    def finish(self) -> None:
        reader = self._reader
        if reader.stream is None:
            return  # the connection was aborted meanwhile
        reader.stream = None
        if self.log is not None:
            self.end_log()
        reader.exchange_over()

    # For `exchange.refuse`.

    @property
    def has_begun(self) -> bool:
        return self._reader.stream is not None and self.response.begun

    def log_invalid(self, what: str, reason: object) -> None:
        self._transport.log_invalid(what, reason)

    def abort_begun(self) -> None:
        self.abort()

    def write_refusal(self, error: RequestError) -> None:
        stream, default_lines = self._reader.stream, self._host.default_lines[0]
        is_head = self.is_head if stream is None else stream.method == "HEAD"
        self._transport.write(self.response.refuse(error, is_head, default_lines))
        self._reader.close()

    def end_log(self) -> None:
        if self.log is not None:
            response = self.response
            self.log.end(response.status, response.sent, response.begun)

    def give_up(self) -> None:
        self._reader.give_up()
