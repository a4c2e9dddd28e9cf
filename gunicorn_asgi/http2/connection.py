"""One HTTP/2 connection: the transport below, a `Protocol`, and an `Exchange` for each stream.

It is made of layers: `Sender`, what goes; `Admission`, how exchanges begin; and here what comes, the deadlines, and how it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..asgi.http import HTTPStream
from ..errors import RequestError
from ..http.contract import NEVER
from ..http.request import Request
from ..net.connection import CLOSED, LINGER, Connection
from .admission import LOGGED_VERSION, Admission
from .events import (
    Acknowledged,
    Event,
    Failed,
    Leaving,
    Malformed,
    Opened,
    Received,
    Refused,
    Reset,
    Seen,
)
from .exchange import Exchange
from .frames import Code
from .sender import FRAMES

if TYPE_CHECKING:
    from ..asgi.scope import Address
    from ..net.accept import Listener
    from ..observe.access_log import Record
    from ..server import Server

GOAWAY_SECONDS = 0.5
"""How long a client that is told of an error over TLS may still send before that is closed in its face."""


class H2Connection(Admission):
    """A client on a transport, with any number of exchanges at once."""

    __slots__ = ("_awaited", "_idle_until", "_is_ending")

    def __init__(self, server: Server, listener: Listener, client: Address | None) -> None:
        super().__init__(server, listener, client)
        self._is_ending = False
        """It closes behind its last exchange."""
        self._awaited: object = None
        """What is to be whole by `_more_until`."""
        self._idle_until = NEVER
        """When it ends, unless there is an exchange."""

    def __repr__(self) -> str:
        return (
            f"<H2Connection {self._client} {self._reading.name} {len(self._exchanges)} exchanges>"
        )

    def begin(self, origin: Connection, data: bytes) -> None:
        """Go on in place of `origin`, which has received `data` and nothing else."""
        self._take_over(origin)
        self.protocol = self._make_protocol()
        self.protocol.start()
        self._begin(data)

    def begin_upgraded(
        self,
        origin: Connection,
        request: Request,
        settings: bytes,
        data: bytes,
        record: Record | None,
    ) -> None:
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
        self._awaited = self.protocol.awaited
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
                if not self._is_open():
                    break
        if starting:
            self._start(starting)
        awaited = protocol.awaited
        if awaited is not self._awaited:
            self._awaited = awaited
            self._more_until = (
                NEVER if awaited is None else self._server.now + self.settings.head_timeout_s
            )
            self.watch(self._more_until)
        self._flush()

    def _is_open(self) -> bool:
        return self._reading is FRAMES

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
            case Seen(stream):
                assert stream.exchange is not None
                stream.exchange.seen()
            case Leaving(code) if code == Code.NO_ERROR:
                self._end_when_idle()
            case Leaving():
                self._part_with()

    def forget(self, exchange: Exchange) -> None:
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
            self._had_all = not self._exchanges and not self._is_on_its_way()
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
            is_owing = not self._had_all and self._is_on_its_way()
            self.protocol.stop()
            self._flush()
            if self._reading is FRAMES and self._listener.scheme == "https" and not is_owing:
                self._shut_soon()  # but for that GOAWAY
            elif self._reading is FRAMES:
                # The client may be sending, if only what it says of its windows, and by that TLS would cut itself off.
                self._linger(is_sending=True, is_owing=is_owing)
                self._seen = self._look()

    def _fail(self) -> None:
        """The protocol has failed, and said so."""
        self._lose()
        parts = self.protocol.outbox.frames
        self._write(b"".join(parts))
        parts.clear()
        if self._reading is FRAMES:
            self._linger(is_sending=True, is_owing=False)
            if self._listener.scheme == "https":
                # 5.4.1: the connection is closed behind GOAWAY. Without TLS the client has seen that; here it may be waiting for it, and
                # not for as long as a clock takes that comes by once a second.
                self._server.loop.call_later(GOAWAY_SECONDS, self._part)

    def _part_with(self) -> None:
        """The client has found a connection error, and will not take anything (5.4.1)."""
        self._lose()
        self._flush()
        if self._reading is FRAMES:
            self._linger(is_sending=False, is_owing=False)

    def _part(self) -> None:
        if self._reading is LINGER:
            self._shut_idle()

    def _lose(self) -> None:
        """No stream goes on."""
        self.protocol.lose()
        for exchange in list(self._exchanges):
            exchange.lost()

    # Deadlines.

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
        return min(
            [
                self._more_until,
                self._stuck_at,
                idle,
                *[exchange.deadline for exchange in self._exchanges],
            ]
        )

    def expired(self) -> None:
        now = self._server.now
        if self._reading is not FRAMES and not self._lost:
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
        return tuple(
            exchange.stream
            for exchange in self._exchanges
            if exchange.stream is not None and not exchange.has_ended
        )

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


SWITCHING_PROTOCOLS = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
)
