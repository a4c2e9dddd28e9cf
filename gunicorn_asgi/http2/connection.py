"""One HTTP/2 connection: a `Protocol` on a transport, and an `Exchange` for each stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum

from ..errors import RequestError
from ..http.contract import NEVER, ASGIStream
from ..http.exchange import ExchangeLog
from ..http.request import Request
from ..net.deadlines import Deadline
from ..net.idleness import BUSY, INCOMPLETE, KEPT, Idleness
from ..net.load import Load
from ..net.transport import CLOSING, LINGERING, LOST, OPEN, Handler, Transport
from ..observe.access_log import HTTP2_LOGGED_VERSION
from .begin import (
    log_refused,
    make_protocol,
    open_exchange,
    refuse_stream,
    start_exchanges,
)
from .events import (
    Event,
    Failed,
    GoawayAcknowledged,
    GoawayReceived,
    Malformed,
    Opened,
    Received,
    Refused,
    Reset,
    ResponseAcknowledged,
)
from .exchange import EXCHANGE_FINISHED, Exchange
from .frame_writer import FrameWriter
from .frames import ErrorCode

GOAWAY_SECONDS = 0.5
"""Time that a client over TLS has to read the GOAWAY of a connection error, and to close."""
UPGRADE_TO_H2C = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"


class H2Connection(Handler):
    """A connection of HTTP/2, with any number of exchanges at once."""

    __slots__ = (
        "_all_acknowledged",
        "_head_deadline",
        "_idle_deadline",
        "_incomplete",
        "_is_continuing",
        "_is_ending",
        "exchanges",
        "protocol",
        "writer",
    )

    has_closing_deadlines = True  # those of its exchanges

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        # Set once.
        self.protocol = make_protocol(transport)
        self.writer = FrameWriter(transport, self.protocol, self._take)
        # The connection.
        self.exchanges: dict[Exchange, None] = {}
        """The exchanges that are not over, in their order."""
        self._is_continuing = False
        """`_continue` waits for its turn."""
        self._is_ending = False
        """The connection closes after its last exchange."""
        self._all_acknowledged = False
        """The client has received every response; the GOAWAY that followed it would not miss."""
        # Deadlines.
        self._incomplete: object = None
        """The preface, or the field block, that has to be complete by `_head_deadline`."""
        self._head_deadline = NEVER
        self._idle_deadline = NEVER
        """The end of an idle connection. Counts while there is no exchange."""

    def __repr__(self) -> str:
        return f"<H2Connection {len(self.exchanges)} exchanges>"

    def begin(self, data: bytes = b"") -> None:
        self.protocol.control.start()
        self._begin(data, self.transport.deadline)

    def begin_upgraded(
        self, request: Request, settings: bytes, data: bytes, log: ExchangeLog | None
    ) -> None:
        """Begin after ``Upgrade: h2c`` with `request`, whose response is sent on stream 1.

        `settings` come with it (RFC 7540, 3.2.1). `log` has its record. Raises ConnectionFailure
        for invalid settings; then nothing has happened.
        """
        transport = self.transport
        stream = self.protocol.start_upgraded(settings)
        transport.write(UPGRADE_TO_H2C)
        transport.set_handler(self)
        transport.resume_reading()
        own = None if log is None else log.hand_over(HTTP2_LOGGED_VERSION)
        start_exchanges(self, [open_exchange(self, stream, request, True, own)])
        self._begin(data)

    def _begin(self, data: bytes, latest: float = NEVER) -> None:
        """`latest`: when the time for the preface ends, which began with the connection."""
        host, transport = self.host, self.transport
        self._head_deadline = min(latest, host.tick_end + host.settings.head_timeout_s)
        self._incomplete = self.protocol.incomplete
        self._idle_deadline = host.idle_deadline
        if transport.is_writing_paused:
            self.writer.pause()
        if host.is_shutting_down:
            self.announce_shutdown()
            host.start_lame_duck(transport)  # also for a client that does not acknowledge
        transport.set_deadline()
        if data:
            self.data_received(data)
        else:
            self.writer.flush()

    # From the transport.

    def data_received(self, data: bytes) -> None:
        transport, protocol, writer = self.transport, self.protocol, self.writer
        if transport.state is not OPEN:
            return
        writer.is_scheduled = True  # `flush` follows below
        protocol.streams.abandoned = len(self.exchanges) - len(protocol.streams.active)
        starting: list[Exchange] = []
        for event in protocol.receive(data, self.host.tick_end):
            if isinstance(event, Opened):
                self._all_acknowledged = False
                if not self.exchanges:
                    transport.deadline = min(self._head_deadline, transport.progress.deadline)
                starting.append(open_exchange(self, event.stream, event.request, event.has_ended))
            else:
                self._take(event)
                if not self._is_open():
                    break
        if starting:
            start_exchanges(self, starting)
        incomplete = protocol.incomplete
        if incomplete is not self._incomplete:
            self._incomplete = incomplete
            self._await_head(incomplete is not None)
        writer.flush()
        if protocol.received.has_more and transport.state is OPEN:
            # So the end of the connection comes after the frames before it.
            transport.pause_reading()
            if not self._is_continuing:
                self._is_continuing = True
                self.host.continue_later(self._continue)

    def _continue(self) -> bool:
        """Handle further frames. Returns whether there are still more: see `net.work_queue`."""
        received, transport = self.protocol.received, self.transport
        if received.has_more and transport.state is OPEN:  # it may be lost, and released
            self.data_received(b"")
        if transport.state is OPEN:
            if received.has_more:
                return True
            if not self.writer.is_backlogged:
                transport.resume_reading()
        self._is_continuing = False
        return False

    def _is_open(self) -> bool:
        return self.transport.state is OPEN

    def _await_head(self, is_incomplete: bool) -> None:
        host, transport = self.host, self.transport
        self._head_deadline = NEVER
        if is_incomplete:
            self._head_deadline = host.tick_end + host.settings.head_timeout_s
            transport.deadline = min(transport.deadline, self._head_deadline)

    def pause_writing(self) -> None:
        self.writer.pause()

    def resume_writing(self) -> None:
        self.writer.resume()

    def connection_lost(self) -> bool:
        self._head_deadline = NEVER
        self._close_streams()
        return bool(self.exchanges)

    def release(self) -> None:
        del self.writer  # they refer to each other

    # Events.

    def _take(self, event: Event) -> None:
        match event:
            case Received(stream, data, has_ended):
                if stream.exchange is not None:
                    stream.exchange.data_received(data, has_ended)
                elif has_ended:
                    self.writer.wake_client()
            case Refused(stream, error, block):
                refuse_stream(self, stream, error, block)
            case Malformed(block, reason):
                self.transport.log_invalid("request", reason)
                log_refused(self.transport, block.fields, RequestError(400, reason), True)
            case Reset(stream, _, reason):
                if reason is not None:
                    self.transport.log_invalid("HTTP/2 frame", reason)
                if stream.exchange is not None:
                    stream.exchange.connection_lost()
            case Failed(_, reason):
                self.transport.log_invalid("HTTP/2 frame", reason)
                self._fail()
            case GoawayAcknowledged():
                self.shut_down()
            case ResponseAcknowledged(stream):
                if stream.exchange is not None:
                    stream.exchange.response_acknowledged()
            case GoawayReceived(code) if code == ErrorCode.NO_ERROR:
                self._end_when_idle()
            case GoawayReceived():
                self._close_failed()

    def exchange_over(self, exchange: Exchange) -> None:
        """The application has ended, and the stream is closed. Called again without effect."""
        if exchange not in self.exchanges:
            return
        del self.exchanges[exchange]
        exchange.deadline = NEVER
        # These refer to each other, and are not left to the garbage collector.
        exchange.stream = exchange.h2_stream.exchange = None
        if exchange.tunnel is not None:
            exchange.tunnel.release()
        if not self.exchanges:
            transport = self.transport
            if transport.state is LOST:
                transport.finished()
            elif self._is_ending:
                self.host.loop.call_soon(self._end)  # after the frames that are still to be sent
            elif transport.state is OPEN:
                self._idle_deadline = self.host.idle_deadline
                transport.deadline = min(
                    self._idle_deadline, self._head_deadline, transport.progress.deadline
                )

    # The end.

    def announce_shutdown(self) -> None:
        if self.transport.state is OPEN and not self._is_ending:
            self._all_acknowledged = not (
                self.exchanges or self.transport.has_undelivered(unknown=True)
            )
            self.protocol.control.announce()
            self.writer.flush_soon()

    def shut_down(self) -> None:
        if self.transport.state is OPEN:
            if self.exchanges:
                self._refuse_streams()
            self._end_when_idle()

    def _refuse_streams(self) -> None:
        self.protocol.control.refuse_streams()
        self.writer.flush_soon()

    def _end_when_idle(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            if not self.exchanges:
                self.host.loop.call_soon(self._end)

    def _end(self) -> None:
        """Close, for every exchange is over."""
        transport = self.transport
        if transport.state is not OPEN:
            return
        if self.exchanges:
            self._refuse_streams()  # a stream was opened meanwhile
            return
        must_deliver = not self._all_acknowledged and transport.has_undelivered(unknown=True)
        self.protocol.control.refuse_streams()
        self.writer.flush()
        if not self._is_open():
            return
        if transport.listener.scheme == "https" and self._all_acknowledged:
            transport.close_soon()  # the client would miss the GOAWAY only
        else:
            # The client may be sending WINDOW_UPDATE frames, and TLS would fail by them: a client
            # that cannot write may not read either what its system has received.
            transport.linger(is_sending=True, must_deliver=must_deliver)

    def _fail(self) -> None:
        """The client has broken the protocol, and GOAWAY is among the frames."""
        transport = self.transport
        self._close_streams()
        self.writer.write_last_frames()
        if transport.state is OPEN:
            transport.linger(is_sending=True, must_deliver=False)
            if transport.listener.scheme == "https":
                # 5.4.1: the connection is closed after GOAWAY. Without TLS the client has seen
                # the end. With TLS it may be waiting for it, and a tick of the clock is too long.
                self.host.loop.call_later(GOAWAY_SECONDS, self._close_lingering)

    def _close_failed(self) -> None:
        """The client reports a connection error, and takes nothing any more (5.4.1)."""
        self._close_streams()
        self.writer.flush()
        if self._is_open():
            self.transport.linger(is_sending=False, must_deliver=False)

    def _close_lingering(self) -> None:
        if self.transport.state is LINGERING:
            self.transport.close_idle()

    def _close_streams(self) -> None:
        self.protocol.streams.close_all()
        for exchange in list(self.exchanges):
            exchange.connection_lost()

    # Deadlines.

    def next_deadline(self) -> float:
        deadline = min((exchange.deadline for exchange in self.exchanges), default=NEVER)
        if self.transport.state is not OPEN:
            return deadline
        idle = NEVER if self.exchanges else self._idle_deadline
        return min(deadline, idle, self._head_deadline)

    def deadline_passed(self) -> None:
        for wait in list(self._waits()):
            H2_DEADLINES[wait].action(self)
        if self.transport.state is OPEN or self.transport.state is LOST:
            self.transport.set_deadline()

    def _waits(self) -> Iterator[H2Wait]:
        """The waits whose deadline has passed."""
        now = self.host.tick_end
        if self.transport.state is OPEN:
            if self._head_deadline <= now:
                yield H2Wait.HEAD
            elif not self.exchanges and self._idle_deadline <= now:
                yield H2Wait.NEXT_REQUEST
        yield H2Wait.EXCHANGES

    def _close_idle(self) -> None:
        self.transport.close_idle()

    def _check_exchanges(self) -> None:
        now = self.host.tick_end
        for exchange in list(self.exchanges):
            if exchange.deadline <= now:
                exchange.deadline_passed()

    def postpone(self, seconds: float) -> None:
        self._idle_deadline += seconds
        self._head_deadline += seconds
        for exchange in self.exchanges:
            exchange.postpone(seconds)

    # From the server.

    def streams(self) -> tuple[ASGIStream, ...]:
        return tuple(
            exchange.stream
            for exchange in self.exchanges
            if exchange.stream is not None and exchange.phase < EXCHANGE_FINISHED
        )

    def idleness(self) -> tuple[Idleness, float]:
        if self.exchanges:
            return BUSY, NEVER
        if self.protocol.incomplete is not None:
            return INCOMPLETE, self.transport.accepted_at
        return KEPT, self._idle_deadline - self.host.settings.keepalive_s

    def add_load(self, load: Load) -> None:
        exchanges = self.exchanges
        if not exchanges:
            load.idle += 1
            return
        load.busy += 1
        load.http2_streams += len(exchanges)
        for exchange in exchanges:
            load.unsent += exchange.queue.size
            load.websockets += exchange.tunnel is not None and exchange.tunnel.is_open

    def make_room(self) -> None:
        self.shut_down()  # GOAWAY first: it says that a request which is on its way may be retried

    def refuse(self, error: RequestError) -> None:
        self.transport.abort()  # there is no stream to answer on

    def close_websockets(self) -> None:
        for exchange in list(self.exchanges):
            if exchange.tunnel is not None:
                exchange.tunnel.close_websocket()

    def abort_all(self) -> None:
        self.close_websockets()  # so that the client knows why
        transport = self.transport
        exchanges = [(exchange, exchange.stream) for exchange in self.exchanges]
        if transport.state is OPEN:
            self.protocol.control.refuse_streams()
            self.writer.flush()
        if transport.state is LOST:
            transport.finished()
        elif transport.is_writing_paused or transport.state is CLOSING:
            transport.abort()
        else:
            transport.close()  # nobody takes a stream without its end for complete
        for exchange, stream in exchanges:
            if stream is not None:
                stream.cancel()
            exchange.end_log()


class H2Wait(IntEnum):
    """The things that a connection of HTTP/2 waits for, beside those of the transport."""

    NEXT_REQUEST = 0
    HEAD = 1
    """The rest of the preface, or of a field block."""
    EXCHANGES = 2
    """See `exchange.EXCHANGE_DEADLINES`."""


H2_DEADLINES: Mapping[H2Wait, Deadline[H2Connection]] = {
    H2Wait.NEXT_REQUEST: Deadline("keepalive", H2Connection._end),
    H2Wait.HEAD: Deadline("head_timeout", H2Connection._close_idle),
    H2Wait.EXCHANGES: Deadline("the exchanges'", H2Connection._check_exchanges),
}
"""The limit of each wait, and the action after it."""
