"""One HTTP/2 connection: the transport below, a `Protocol`, and an `Exchange` for each stream."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from ..asgi.extensions import ExtendedStream
from ..asgi.http import HTTPStream
from ..asgi.scope import Scope, http_scope
from ..asgi.websocket import WebSocketStream
from ..connection import CLOSED, LINGER, Connection, Ending
from ..errors import RequestError
from ..request import Request
from ..wire import NEVER, Header
from .budget import REFUSED
from .events import Acknowledged, Event, Failed, Leaving, Malformed, Opened, Received, Refused, Reset
from .exchange import Exchange
from .protocol import Protocol
from .request import read_request
from .streams import CLOSED as GONE
from .streams import Limits, Stream
from .tunnel import Tunnel

if TYPE_CHECKING:
    from ..accept import Listener
    from ..access import Access, Record
    from ..asgi.scope import Address
    from ..server import Server
    from ..settings import Settings

FLUSH_SIZE = 65536
"""Bytes of data that are gathered before they are written, turn of the loop or not."""
MAX_BACKLOG = 65536
"""Bytes of heads and answers that may join what does not leave already. With more, nothing is read from a client that reads nothing."""

GOAWAY_SECONDS = 0.5
"""How long a client that is told of an error over TLS may still send before that is closed in its face."""


class Reading(Enum):
    """What the next bytes from the client are, until it is one of `Ending`."""

    FRAMES = "of any stream"


FRAMES = Reading.FRAMES


class H2Connection(Connection):
    """A client on a transport, with any number of exchanges at once."""

    __slots__ = (
        "_backlog",
        "_exchanges",
        "_idle_until",
        "_is_ending",
        "_is_flushing",
        "_more_until",
        "_stuck_at",
        "protocol",
        "server",
        "settings",
    )

    _reading: Reading | Ending

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        self.settings: Settings = server.settings
        self.server = server
        self._reading = FRAMES
        self._exchanges: dict[Exchange, None] = {}
        """Those that are not over, in their order."""
        self._is_flushing = False
        """What is to be sent will be, in this turn of the loop or the next."""
        self._is_ending = False
        """It closes behind its last exchange."""
        self._idle_until = NEVER
        """When it ends, unless there is an exchange."""
        self._more_until = NEVER
        """When the preface, or the rest of a field block, has to be there."""
        self._stuck_at = NEVER
        """When something of what was written has to have left, where that is `_clogged`."""
        self._backlog = 0
        """Bytes that were written since."""

    def __repr__(self) -> str:
        return f"<H2Connection {self._client} {self._reading.name} {len(self._exchanges)} exchanges>"

    def _make_protocol(self) -> Protocol:
        settings, has_websocket = self.settings, self._server.websocket is not None
        limits = Limits(
            max_streams=settings.http2_max_concurrent_streams,
            window=settings.http2_initial_window_size,
            max_frame=settings.http2_max_frame_size,
            max_header_list=settings.http2_max_header_list_size,
            has_websocket=has_websocket,
        )
        read = partial(read_request, rules=self._rules, max_list=limits.max_header_list, has_websocket=has_websocket)
        return Protocol(limits, read)

    def begin(self, origin: Connection, data: bytes) -> None:
        """Go on in place of `origin`, which has received `data` and nothing else."""
        self._take_over(origin)
        self.protocol = self._make_protocol()
        self.protocol.start()
        self._begin(data)

    def begin_upgraded(self, origin: Connection, request: Request, settings: bytes, data: bytes, record: Record | None) -> None:
        """The same behind ``Upgrade: h2c``: `request`, whose response is sent as that of stream 1, had those `settings`.

        `record` is what the log has of it. Raises ConnectionFailure where they are none; then nothing has happened.
        """
        self._rules = origin._rules
        self.protocol = self._make_protocol()
        stream = self.protocol.start_upgraded(settings)
        origin._write(SWITCHING_PROTOCOLS)
        self._take_over(origin)
        self._resume_reading()
        if record is not None:
            record.protocol = "HTTP/" + LOGGED_VERSION
        exchange = self._open(stream, request, True, record)
        self._start([exchange])
        self._begin(data)

    def _begin(self, data: bytes) -> None:
        self._more_until = self._server.now + self.settings.head_timeout_s
        self._idle_until = self._server.idle_deadline
        if self._clogged:
            self.pause_writing()
        if self._server.is_draining:
            self.announce()
            self._server.start_lame_duck(self)  # also for a client that does not acknowledge
        self._set_deadline()
        if data:
            self.data_received(data)
        else:
            self._flush()

    # From the transport.

    def data_received(self, data: bytes) -> None:
        if self._reading is not FRAMES:
            if self._reading is LINGER:
                self._drop(len(data))
            return
        protocol = self.protocol
        self._is_flushing = True  # at the end of this
        protocol.abandoned = len(self._exchanges) - len(protocol.streams)
        starting: list[Exchange] = []
        for event in protocol.receive(data, self._server.now):
            if isinstance(event, Opened):
                starting.append(self._open(*event))
            else:
                self._take(event)
        if starting:
            self._start(starting)
        if protocol.awaits_more:
            if self._more_until == NEVER:
                self._more_until = self._server.now + self.settings.head_timeout_s
                self.watch(self._more_until)
        else:
            self._more_until = NEVER
        self._flush()

    def pause_writing(self) -> None:
        self._clogged = self.protocol.outbox.is_held = True
        self._seen = self._look()
        self._stuck_at = self._server.now + self.settings.write_timeout_s
        self.watch(self._stuck_at)

    def resume_writing(self) -> None:
        self._clogged = self.protocol.outbox.is_held = False
        self._stuck_at = NEVER
        self._backlog = 0
        if self._reading is not CLOSED:
            self._resume_reading()
        if self._reading is FRAMES:
            self._flush()
        elif self._reading is LINGER:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading = CLOSED
        self._lost = True
        self._more_until = self._stuck_at = NEVER
        self._lose()
        if self._exchanges:
            self.deadline = self._next_deadline()  # also of one that knew it before
        else:
            self.deadline = NEVER
            self._server.forget(self)

    # What comes.

    def _open(self, stream: Stream, request: Request, has_ended: bool, record: Record | None = None) -> Exchange:
        """There is a request; nothing of it is run yet."""
        method, path, raw_path, query, fields = request
        server, listener = self._server, self._listener
        scheme = fields.scheme or listener.scheme
        exchange = Exchange(self, stream, record)
        exchange.fields = fields
        if not self._exchanges:
            self.deadline = min(self._more_until, self._stuck_at)
        self._exchanges[exchange] = None
        if server.access is not None and record is None:
            try:
                exchange.record = self._record(server.access, request, scheme)
            except RequestError as error:
                self.protocol.charge(REFUSED)
                pseudo = [(b":method", method.encode()), (b":path", raw_path + b"?" + query if query else raw_path)]
                self._log_refused([*pseudo, *fields.headers], error, method == "HEAD")
                exchange.refuse(error, method == "HEAD")
                return exchange
        root_path = fields.root_path
        if root_path is None:
            root_path = listener.root_path
            if root_path and path != "*":
                path, raw_path = root_path + path, listener.raw_root_path + raw_path
        scope = http_scope(
            *(fields.version, method, scheme, path, raw_path, query, root_path, fields.headers.copy()),
            *(fields.client or self._client, self._server_address, server.state, self._tls),
        )
        if fields.upgrade:
            self._open_websocket(exchange, scope, has_ended)
        else:
            exchange.stream = ExtendedStream(exchange, scope, not has_ended, fields.expect_continue, server)
            if not has_ended:
                exchange.expect_body(fields.expect_continue)
        return exchange

    def _record(self, access: Access, request: Request, scheme: str) -> Record:
        method, _, raw_path, query, fields = request
        return access.begin(
            *(method, raw_path, query, LOGGED_VERSION, scheme, fields.headers, self._client, self._server_address, fields.script_name)
        )

    def _open_websocket(self, exchange: Exchange, scope: Scope, has_ended: bool) -> None:
        server = self._server
        assert server.websocket is not None
        try:
            if has_ended:
                # RFC 8441, 5: that is the end of a TCP connection.
                raise RequestError(400, "Invalid WebSocket handshake: its stream has ended")
            exchange.stream = stream = WebSocketStream(exchange, scope, server, server.websocket)
        except RequestError as error:
            self.protocol.charge(REFUSED)
            exchange.refuse(error)
        else:
            exchange.tunnel = Tunnel(exchange, stream)
            exchange.set_deadline(stream.deadline)

    def _start(self, exchanges: list[Exchange]) -> None:
        """Run the applications, behind all that has come with their requests."""
        server = self._server
        for exchange in exchanges:
            stream = exchange.stream
            if stream is None:
                continue  # refused
            if exchange.lane.state is GONE:
                exchange.finish(stream)  # the client has changed its mind
            elif len(server.tasks) >= server.limit_concurrency:
                exchange.stream = None
                exchange.refuse(server.overloaded(), stream.method == "HEAD")
            else:
                server.start(stream)

    def _take(self, event: Event) -> None:
        match event:
            case Received(stream, data, has_ended):
                assert stream.exchange is not None
                stream.exchange.received(data, has_ended)
            case Refused(stream, error, block):
                exchange = Exchange(self, stream, None)
                self._exchanges[exchange] = None
                bodyless = (b":method", b"HEAD") in block.fields
                self._log_refused(block.fields, error, bodyless)
                exchange.refuse(error, bodyless)
            case Malformed(block, reason):
                self.complain("request", reason)
                self._log_refused(block.fields, RequestError(400, reason), True)
            case Reset(stream, _, reason):
                if reason is not None:
                    self.complain("HTTP/2 frame", reason)
                assert stream.exchange is not None
                stream.exchange.lost()
            case Failed(_, reason):
                self.complain("HTTP/2 frame", reason)
                self._fail()
            case Acknowledged():
                self.drain()
            case Leaving():
                self._end_when_idle()

    def _log_refused(self, fields: list[Header], error: RequestError, bodyless: bool) -> None:
        access = self._server.access
        if access is not None:
            sent = 0 if bodyless else len(str(error)) + 1
            access.refused_fields(fields, error.status, sent, self._listener.scheme, self._client, self._server_address)

    # What goes.

    def flush_soon(self) -> None:
        """Something is to be sent: all that comes up in this turn of the loop in one write."""
        if not self._is_flushing:
            self._is_flushing = True
            self._server.loop.call_soon(self._flush)
        elif self.protocol.outbox.size >= FLUSH_SIZE and not self._clogged:
            self._write_out()

    def _flush(self) -> None:
        self._is_flushing = False
        if self._reading is not FRAMES:
            return
        self._write_out()
        while self.protocol.outbox.has_more and not self._clogged and self._reading is FRAMES:
            self._write_out()

    def _write_out(self) -> None:
        protocol = self.protocol
        outbox = protocol.outbox
        if not self._clogged and outbox.has_more:
            self._pump()
        parts = outbox.frames
        if parts:
            data = b"".join(parts)
            parts.clear()
            outbox.size = 0
            if self._clogged:
                self._backlog += len(data)
                if self._backlog > MAX_BACKLOG:
                    self._pause_reading()
            self._write(data)
        if outbox.points:
            failed = protocol.settle()
            if failed is not None:
                self._take(failed)

    def _pump(self) -> None:
        ended, freed = self.protocol.pump(FLUSH_SIZE)
        for lane in freed:
            assert lane.exchange is not None
            lane.exchange.freed()
        for lane in ended:
            assert lane.exchange is not None
            lane.exchange.completed()

    def forget(self, exchange: Exchange) -> None:
        """`exchange` is over."""
        if exchange not in self._exchanges:
            return
        del self._exchanges[exchange]
        exchange.deadline = NEVER
        exchange.stream = None  # they hold each other
        if exchange.tunnel is not None:
            exchange.tunnel.let_go()
        if not self._exchanges:
            if self._lost:
                self._server.forget(self)
            elif self._is_ending:
                self._server.loop.call_soon(self._end)  # behind what is still to be sent
            elif self._reading is FRAMES:
                self._idle_until = self._server.idle_deadline
                self.deadline = min(self._idle_until, self._more_until, self._stuck_at)

    # The end.

    def announce(self) -> None:
        if self._reading is FRAMES and not self._is_ending:
            self.protocol.announce()
            self.flush_soon()

    def drain(self) -> None:
        if self._reading is FRAMES:
            if self._exchanges:
                self.protocol.stop()
                self.flush_soon()
            self._end_when_idle()

    def _end_when_idle(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            if not self._exchanges:
                self._server.loop.call_soon(self._end)

    def _end(self) -> None:
        """Every exchange is over: close."""
        if self._reading is FRAMES and self._exchanges:
            self.protocol.stop()  # one has come meanwhile
            self.flush_soon()
        elif self._reading is FRAMES:
            is_owing = self._is_on_its_way()
            self.protocol.stop()
            self._flush()
            if self._reading is FRAMES and self._listener.scheme == "https" and not is_owing:
                self._shut_idle()
            elif self._reading is FRAMES:
                # The client may be sending, if only what it says of its windows, and by that TLS would cut itself off.
                self._linger(is_sending=True)
                self._seen = self._look()

    def _fail(self) -> None:
        """The protocol has failed, and said so."""
        self._lose()
        parts = self.protocol.outbox.frames
        self._write(b"".join(parts))
        parts.clear()
        if self._reading is FRAMES:
            self._linger(is_sending=True)
            if self._listener.scheme == "https":
                # 5.4.1: the connection is closed behind GOAWAY. Without TLS the client has seen that; here it may be waiting for it, and
                # not for as long as a clock takes that comes by once a second.
                self._server.loop.call_later(GOAWAY_SECONDS, self._part)

    def _part(self) -> None:
        if self._reading is LINGER:
            self._shut_idle()

    def _lose(self) -> None:
        """No stream goes on."""
        self.protocol.lose()
        for exchange in list(self._exchanges):
            exchange.lost()

    # Deadlines.

    @property
    def now(self) -> float:
        """The latest that it can be on the loop's clock."""
        return self._server.now

    @property
    def is_clogged(self) -> bool:
        """Whether what was written does not leave."""
        return self._clogged

    def call_soon(self, callback: Callable[[], object]) -> None:
        """In the next turn of the loop."""
        self._server.loop.call_soon(callback)

    def watch(self, deadline: float) -> None:
        """`expired` is to be called by then."""
        self.deadline = min(self.deadline, deadline)

    def postpone(self, seconds: float) -> None:
        super().postpone(seconds)
        self._idle_until += seconds
        self._more_until += seconds
        self._stuck_at += seconds
        for exchange in self._exchanges:
            exchange.postpone(seconds)

    def _patience(self) -> float:
        return self._next_deadline() - self._server.now

    def _next_deadline(self) -> float:
        idle = NEVER if self._exchanges or self._lost else self._idle_until
        return min([self._more_until, self._stuck_at, idle, *[exchange.deadline for exchange in self._exchanges]])

    def expired(self) -> None:
        now = self._server.now
        if self._reading is LINGER and not self._lost and not self._clogged and self._is_on_its_way() and not self._is_stuck():
            self._set_deadline()  # it takes its time, and gets on
        elif self._reading is not FRAMES and not self._lost:
            super().expired()
        elif self._stuck_at <= now and not self._lost:
            if self._is_stuck():
                self._reset()
            else:
                self._stuck_at = now + self.settings.write_timeout_s
        elif self._more_until <= now and not self._lost:
            self._shut_idle()
        elif not self._exchanges and self._idle_until <= now:
            self._end()
        for exchange in list(self._exchanges):
            if exchange.deadline <= now:
                exchange.expired()
        if self._reading is FRAMES or self._lost:
            self.deadline = self._next_deadline()

    def _overdue(self) -> None:
        """Nothing of this version waits in the way of the base."""

    # For the base, and through it for the server.

    def _streams(self) -> tuple[HTTPStream, ...]:
        return tuple(exchange.stream for exchange in self._exchanges if exchange.stream is not None and not exchange.has_ended)

    def refuse(self, error: RequestError) -> None:
        self._reset()  # there is no stream to answer on

    def close_websocket(self) -> None:
        for exchange in list(self._exchanges):
            if exchange.tunnel is not None:
                exchange.tunnel.close_websocket()

    def kill(self) -> None:
        self.close_websocket()  # so that the client knows why
        exchanges = list(self._exchanges)
        if self._reading is FRAMES:
            self.protocol.stop()
            self._flush()
        if self._lost:
            self._server.forget(self)
        elif self._clogged or self._reading is CLOSED:
            self._reset()
        else:
            self._shut()  # a stream without its end is not taken for whole
        for exchange in exchanges:
            if exchange.stream is not None:
                exchange.stream.cancel()
            exchange.record_end()


SWITCHING_PROTOCOLS = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
LOGGED_VERSION = "2.0"
"""As Gunicorn, nginx and Apache write it."""
