"""A client's connection below HTTP: its transport, flow control, the ends, and what surrounds it.

Three classes work together. A `Transport` lives as long as the client's connection. Its `Handler`
speaks one protocol on it; an upgrade replaces the handler, and the transport stays. Both see the
server as a `ConnectionHost`.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Sized
from enum import Enum, IntEnum
from typing import Any, Protocol

from ..asgi.exchange import ExchangeHost
from ..asgi.scope import Address
from ..config.settings import Settings
from ..errors import RequestError
from ..http.contract import NEVER, ASGIStream, Header
from ..http.request import Rules
from ..observe.access_log import Access
from ..observe.log import Log
from ..observe.printable import printable
from . import kernel, tls_extension
from .deadlines import UNKNOWN, Deadline, make_progress
from .idleness import BUSY, ENDING, LEFT, SILENT, Idleness
from .listener import Listener, read_address
from .load import Load
from .proxy_preamble import ProxyPreamble
from .sendfile import FileTransfer
from .turn import Turn

LINGER_SECONDS = 2.0
"""Time limit for a client to notice the end of this direction, and to end its own."""
MAX_LINGER = 1048576
"""Bytes that are read and dropped while a closing connection waits for the client to notice."""
MAX_TLS_WRITE = 65536
"""Bytes that are given to TLS at once."""


class TransportState(Enum):
    """The life of a transport. It only advances."""

    OPEN = "data goes to the handler"
    LINGERING = "everything is written, FIN included where possible; the client may still send"
    CLOSING = "the transport is closed to the handler; written data may still be leaving"
    LOST = "the transport is gone; an application may still be running"


OPEN, LINGERING, CLOSING, LOST = TransportState


class ConnectionHost(ExchangeHost, Protocol):
    """The server, as the handlers of its connections see it."""

    # Set once.
    settings: Settings
    log: Log
    loop: asyncio.AbstractEventLoop
    access: Access | None
    """The access log and the hooks; None where nobody listens."""
    limit_concurrency: float
    """The setting, which each request asks for."""
    health_path: bytes
    """The setting, which each request is compared with."""
    state: Mapping[str, Any] | None
    """The state that ``lifespan.startup`` has left for the requests."""

    # Refreshed by the clock, about once a second.
    tick_end: float
    """Upper bound of ``loop.time()`` until the next tick, so that deadlines never fire early."""
    idle_deadline: float
    """The end of ``keepalive`` for a connection that becomes idle now."""
    default_lines: tuple[bytes, bytes, bytes, bytes]
    """The ``date`` and ``server`` lines, indexed by the DATE | SERVER that the application set."""
    default_headers: tuple[tuple[Header, ...], ...]
    """The same as headers."""
    turn: Turn
    """The current turn of the loop."""

    # The graceful shutdown.
    keeps_alive: bool
    """Whether a response may leave its connection open."""
    is_closing_websockets: bool
    """Open WebSockets were asked to end, and a new one is at once."""

    @property
    def is_shutting_down(self) -> bool:
        """Whether the worker stops."""

    @property
    def tasks(self) -> Sized:
        """The applications that run now."""

    def start_lame_duck(self, transport: Transport) -> None:
        """Close `transport`, idle and not told of the shutdown, after ``lame_duck`` seconds."""

    def start(self, stream: ASGIStream) -> None:
        """Run the application for `stream`, and count its request."""

    def start_health_check(self, stream: ASGIStream) -> None:
        """Answer `stream` in place of the application. It is not counted."""

    def overloaded(self) -> RequestError:
        """The error for a request above ``limit_concurrency``."""


class TransportHost(ConnectionHost, Protocol):
    """The server, as transports see it: their beginning and end."""

    def rules_for(self, peer: Address | None, proxied: Address | None, /) -> Rules:
        """The rules for requests of `peer`, where it speaks for the client `proxied`."""

    def make_handler(self, transport: Transport) -> Handler:
        """The handler of a new connection: it speaks a version of HTTP, or finds out which."""

    def opened(self, transport: Transport) -> None:
        """`transport` is connected."""

    def transport_lost(self, transport: Transport) -> None:
        """`transport` is lost, and its exchanges are not over."""

    def closed(self, transport: Transport) -> None:
        """`transport` is closed, and its exchanges are over."""


class Handler:
    """Speaks one protocol on a transport. `Transport` and the server call these methods."""

    __slots__ = ("host", "transport")

    has_closing_deadlines = False
    """Whether `next_deadline` counts while the transport closes."""

    def __init__(self, transport: Transport) -> None:
        # Set once.
        self.transport = transport
        self.host: ConnectionHost = transport.host

    # From the transport.

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Data has arrived.

        Ignored after `reading_ended`: uvloop keeps this method, and may still call it.
        """

    def eof_received(self) -> bool:
        """The client has closed its side. Returns whether this side stays open."""
        return False

    def reading_ended(self) -> None:
        """The transport is no longer open: no data comes any more. Called once."""

    def begin(self, data: bytes = b"") -> None:
        """This has become the transport's handler. `data` was received before, for it."""
        if data:
            self.data_received(data)

    def data_dropped(self, data: bytes) -> None:
        """Data has arrived while the transport lingers, and is dropped."""

    def connection_lost(self) -> bool:
        """The transport is gone. Returns whether the handler is still busy.

        Then it calls `Transport.finished` later.
        """
        for stream in self.streams():
            stream.connection_lost()
        return self.is_busy

    def pause_writing(self) -> None:
        """Written data does not leave."""
        for stream in self.streams():
            stream.pause_writing()

    def resume_writing(self) -> None:
        """Written data has left."""
        for stream in self.streams():
            stream.resume_writing()

    def file_stopped(self, unsent: int) -> None:
        """A file has ended, and so many of its bytes were not sent."""

    @abstractmethod
    def next_deadline(self) -> float:
        """The time of the handler's own next deadline, on the loop's clock, in every state."""

    @abstractmethod
    def deadline_passed(self) -> None:
        """`next_deadline` has passed, or may have. Sets the transport's next deadline."""

    def cancel(self) -> None:
        """Cancel the applications of the exchanges that are not over."""
        for stream in self.streams():
            stream.cancel()

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long: deadlines of the handler's own come later."""

    def release(self) -> None:
        """Everything is over: drop references that would form a circle."""

    # From the server.

    @abstractmethod
    def streams(self) -> Sequence[ASGIStream]:
        """The exchanges that are not over."""

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is not over."""
        return bool(self.streams())

    def idleness(self) -> tuple[Idleness, float]:
        """How the open connection is idle, and since when."""
        return BUSY, NEVER

    def add_load(self, load: Load) -> None:
        """Count this connection, which is not lost."""
        if self.is_busy:
            load.busy += 1
        else:
            load.idle += 1

    def make_room(self) -> None:
        """Close an idle connection, or one whose client has left: another client waits."""
        self.transport.close_idle()

    @abstractmethod
    def refuse(self, error: RequestError) -> None:
        """Answer a client that has not sent a request, and close."""

    def announce_shutdown(self) -> None:
        """The worker stops, and there is time to tell the client."""

    @abstractmethod
    def shut_down(self) -> None:
        """Close an idle connection now, and a busy one after its response."""

    def close_websockets(self) -> None:
        """The worker stops, and ``ws_drain_delay`` is over."""

    def ask_to_end(self) -> None:
        """The worker is about to stop: tell applications that listen."""
        for stream in self.streams():
            stream.ask_to_end()

    @abstractmethod
    def abort_all(self) -> None:
        """The worker stops now: abort the transport and cancel the applications."""


class Transport(asyncio.Protocol):
    """The transport of one client. asyncio calls it; `data_received` is the handler's own.

    It ends by one of these. `linger` follows an answer that the client may not expect to be the
    last. `close` is for a client that does, or sends nothing more. `close_idle` and `close_soon`
    close where the client would miss nothing. `abort` is for a message that nobody may take for
    complete. `connection_lost` comes after each.
    """

    __slots__ = (
        "_closing_deadline",
        "_linger_left",
        "_must_deliver",
        "_transfer",
        "accepted_at",
        "client",
        "data_received",
        "deadline",
        "handler",
        "host",
        "is_reading_paused",
        "is_writing_paused",
        "listener",
        "preamble",
        "progress",
        "raw",
        "rules",
        "server_address",
        "state",
        "tls",
    )

    raw: asyncio.Transport
    """The loop's transport. Hot paths write to it directly."""
    handler: Handler
    data_received: Callable[[bytes], None]  # type: ignore[assignment]  # a call less per packet

    def __init__(self, host: TransportHost, listener: Listener, client: Address | None) -> None:
        # Set once. The client is the peer that was accepted: a connection that is reset has no
        # peer any more, and neither has one of a unix socket.
        self.host = host
        self.listener = listener
        self.client = client
        self.rules = host.rules_for(client, None)
        self.accepted_at = host.tick_end
        """On the loop's clock; up to a second too late."""
        self.server_address: Address | None = None
        self.tls: Mapping[str, Any] | None = None
        """The ``tls`` extension of a scope; None without TLS."""
        self.preamble: ProxyPreamble | None = None
        """The PROXY protocol's header; set before the connection is made."""
        # How far it is.
        self.state: TransportState = OPEN
        self.handler = FINISHED
        self.data_received = _ignore
        self.is_reading_paused = False
        self.is_writing_paused = False
        """The loop's buffer is above its high-water mark."""
        self._transfer: FileTransfer | None = None
        """The file that is being sent."""
        self._must_deliver = True
        """Part of a response may still be leaving. False once an idle connection is closed."""
        self._linger_left = MAX_LINGER
        """Bytes that may still be dropped while lingering."""
        settings = host.settings
        self.progress = make_progress(settings.write_timeout_s, settings.min_read_rate)
        self._closing_deadline = NEVER
        """While it ends: when the next step is taken, if nothing has to be delivered first."""
        self.deadline = NEVER
        """On the loop's clock. The server calls `deadline_passed`."""

    def __repr__(self) -> str:
        return f"<Transport {self.client} {self.state.name} {self.handler!r}>"

    # From asyncio.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a full transport
        host = self.host
        self.raw = transport
        self.server_address = self.listener.address or read_address(
            transport.get_extra_info("sockname")
        )
        self.deadline = host.tick_end + host.settings.head_timeout_s
        if self.listener.scheme == "https":
            self.tls = tls_extension.describe(transport.get_extra_info("ssl_object"))
        preamble, self.preamble = self.preamble, None
        if preamble is not None:
            self.deadline -= preamble.seconds
            if preamble.client is not None:
                self.rules = host.rules_for(self.client, preamble.client)
                self.client, self.server_address = preamble.client, preamble.server
        self.set_handler(host.make_handler(self))
        host.opened(self)
        if preamble is not None and preamble.error is not None:
            self.handler.refuse(preamble.error)
        else:
            self.handler.begin(b"" if preamble is None else preamble.data)

    def set_handler(self, handler: Handler) -> None:
        """Have `handler` go on with the transport, as it is."""
        self.handler = handler
        if self.state is OPEN:
            self.data_received = handler.data_received
            # uvloop keeps the method of the protocol that it was given, not the protocol.
            self.raw.set_protocol(self)

    def making_cancelled(self) -> None:
        """The task that makes the connection was cancelled.

        If it was made in the same turn of the loop, uvloop closes it without a `connection_lost`.
        """
        if self.handler is not FINISHED:
            self.end_now()
            self.host.loop.call_soon(self._ensure_lost)

    def _ensure_lost(self) -> None:
        if self.state is not LOST:
            self.connection_lost(None)

    def pause_writing(self) -> None:
        self.is_writing_paused = True
        self._await_delivery()
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.is_writing_paused = False
        if self.state is OPEN or self.state is LINGERING:
            if self.is_sending_file:
                return
            self._delivered()
            self.handler.resume_writing()

    def eof_received(self) -> bool:
        if self.state is OPEN and self.handler.eof_received():
            return True
        self._advance(CLOSING)
        self._closing_deadline = self.host.tick_end + self.host.settings.write_timeout_s
        self._await_delivery()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state is OPEN:
            self._advance(LOST)
        self.state = LOST
        self._must_deliver = True
        if self._transfer is not None:
            self.stop_file()
        self.progress.deadline = NEVER
        if self.handler.connection_lost():
            self.set_deadline()
            self.host.transport_lost(self)
        else:
            self.finished()

    def finished(self) -> None:
        """The transport is lost, and its exchanges are over."""
        self.deadline = NEVER
        self.host.closed(self)
        # They refer to each other, and are not left to the garbage collector.
        handler, self.handler = self.handler, FINISHED
        self.data_received = _ignore
        handler.release()

    def _advance(self, state: TransportState) -> None:
        was_open = self.state is OPEN
        self.state = state
        if was_open:
            self.data_received = _ignore
            self.handler.reading_ended()

    # Reading and writing.

    def pause_reading(self) -> None:
        """Read no more data until `resume_reading`."""
        if not self.is_reading_paused:
            self.is_reading_paused = True
            self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Read data again."""
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.raw.resume_reading()

    def write(self, data: bytes | memoryview) -> None:
        """Write `data`, unless nobody would get it."""
        if self.raw.is_closing():
            return
        if self.listener.scheme == "https":
            self._write_tls(data)
        else:
            self.raw.write(data)

    def _write_tls(self, data: bytes | memoryview) -> None:
        is_asyncio = self.host.settings.asgi_loop == "asyncio"
        if is_asyncio and kernel.tcp_state(self.raw) == kernel.TCP_CLOSE:
            # asyncio would warn of it. uvloop counts such a write, and says nothing.
            return
        if len(data) <= MAX_TLS_WRITE:
            self.raw.write(data)
            return
        # TLS passes on at once everything it has encrypted, and then knows no more of it. Data in
        # pieces is stopped by the transport below, and the buffer of TLS shows the rest.
        view = memoryview(data)
        for start in range(0, len(view), MAX_TLS_WRITE):
            self.raw.write(view[start : start + MAX_TLS_WRITE])

    def write_head_and_body(self, head: bytes, body: bytes | memoryview) -> None:
        """Write the head of a response, and a body that is too large to copy.

        The loop sends them in one system call where it can, and encrypts them together.
        """
        if self.listener.scheme == "https":
            if len(body) <= MAX_TLS_WRITE:
                self.raw.writelines((head, body))
            else:
                view = memoryview(body)
                self.raw.writelines((head, view[:MAX_TLS_WRITE]))
                self.write(view[MAX_TLS_WRITE:])
        elif self.host.settings.asgi_loop == "uvloop":
            self.raw.writelines((head, body))
        else:
            # asyncio's `writelines` copies the body before Python 3.12. After that, it may leave
            # all of it in the buffer without pausing the protocol (CPython 3.13.0).
            self.raw.write(head)
            self.write(body)

    def is_closing(self) -> bool:
        """Whether written data goes nowhere.

        TLS does not know it before `connection_lost`; the kernel does, on Linux.
        """
        return self.raw.is_closing() or (
            self.listener.scheme == "https" and kernel.tcp_state(self.raw) == kernel.TCP_CLOSE
        )

    def start_file(self, head: bytes, descriptor: int, offset: int, count: int) -> bool:
        """Send `head`, then part of a file without reading it.

        The handler is paused until the file is sent. Returns False where that is not possible.
        """
        if self.raw.is_closing():
            return False
        try:
            self._transfer = FileTransfer(
                self.host.loop, self.raw, head, descriptor, offset, count, self._file_sent
            )
        except OSError:  # no descriptor left
            return False
        if not self._transfer.start():
            self._await_delivery()
            self.handler.pause_writing()
        return True

    def _file_sent(self) -> None:
        if self.state is OPEN or self.state is LINGERING:
            self._delivered()
        self.handler.resume_writing()

    @property
    def is_sending_file(self) -> bool:
        """Whether a file is on its way."""
        return self._transfer is not None and not self._transfer.has_ended

    def stop_file(self) -> int:
        """Send nothing more of a file. Returns how many of its bytes were not sent."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            return 0
        is_cut_off = self.state is OPEN and not transfer.has_ended
        if is_cut_off and not self.is_writing_paused:
            self.progress.stop()
        transfer.stop()
        self.handler.file_stopped(transfer.left)
        if is_cut_off and not self.is_writing_paused:
            self.handler.resume_writing()  # the file had paused it
        return transfer.left

    @property
    def is_blocked(self) -> bool:
        """Whether written data does not leave."""
        return self.is_writing_paused or self.is_sending_file

    def delivery_count(self) -> int:
        """A number that changes whenever written data reaches the client."""
        return kernel.delivery_count(self.raw, 0 if self._transfer is None else self._transfer.left)

    def received_count(self) -> int | None:
        """Bytes received so far, where ``min_body_rate`` needs them and the kernel tells."""
        return kernel.received_count(self.raw) if self.host.settings.min_body_rate else None

    def has_undelivered(self, unknown: bool) -> bool:
        """Whether written data has not reached the client's system; `unknown` if nobody knows."""
        if self.raw.get_write_buffer_size() > 0:
            return True
        left = kernel.unacknowledged(self.raw)
        return unknown if left is None else left > 0

    def log_invalid(self, what: str, reason: object) -> None:
        """Log the one line about a rule that the client has broken."""
        ip = self.client[0] if self.client else ""
        self.host.log.warning("Invalid %s from ip=%s: %s", what, ip, printable(str(reason)))

    # The ends.

    def linger(self, is_sending: bool, must_deliver: bool = True) -> None:
        """Close so that the client gets everything: no reset while it sends (RFC 9112, 9.6).

        With TLS, no direction can end before the other. There, a client that `is_sending` is given
        time to find its answer and to close. A client that reads to the end needs no such wait.
        Unless `must_deliver`, the client would miss nothing: this side closes at once, and the
        client has LINGER_SECONDS to end its own.
        """
        if self.state is LOST:
            return
        self._must_deliver = must_deliver
        self.resume_reading()
        if self.raw.can_write_eof():
            try:
                self.raw.write_eof()
            except OSError:  # asyncio's: the client has reset, and the transport does not know yet
                self.close()
                return
        elif not is_sending and must_deliver:
            self.close()
            return
        elif not is_sending:
            self.raw.close()
        self._advance(LINGERING)
        self.data_received = self._drop
        self.raw.set_protocol(self)
        self._closing_deadline = self.host.tick_end + LINGER_SECONDS
        # The client has had no time to acknowledge the end.
        self.progress.start(self.host.tick_end, UNKNOWN)
        self.set_deadline()

    def allow_linger(self, size: int) -> None:
        """Drop up to `size` bytes while lingering, instead of MAX_LINGER."""
        self._linger_left = size

    def _drop(self, data: bytes) -> None:
        if self.state is LINGERING:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.close()
            else:
                self.handler.data_dropped(data)

    def close(self) -> None:
        """Close once everything is sent; the client has to make progress."""
        if self.state is LOST:
            return
        self._advance(CLOSING)
        self._must_deliver = True
        if self.raw.get_write_buffer_size():
            self.progress.start(self.host.tick_end, self.delivery_count())
        else:
            # The kernel has everything, and mostly the connection is gone at the next look.
            self.progress.start_at(self.host.tick_end)
        self.deadline = self.progress.deadline
        if self.handler.has_closing_deadlines:
            self.set_deadline()
        if self.listener.scheme == "https":
            # The end of TLS is an exchange of its own, and the client may have begun it.
            self.resume_reading()
        if not self.raw.is_closing():
            # asyncio's TLS transport cannot be aborted after it was closed twice.
            self.raw.close()

    def close_idle(self) -> None:
        """Close without a response to wait for, unless part of the last one is still leaving."""
        is_leaving = self.has_undelivered(unknown=False)
        if is_leaving and not (self.host.is_shutting_down and kernel.is_unresponsive(self.raw)):
            self.close()
        else:
            self.close_soon()

    def close_soon(self) -> None:
        """Close where the client would miss nothing: its TLS has a moment to answer."""
        self.close()
        self.progress.stop()
        self._must_deliver = False
        self._closing_deadline = self.host.tick_end + LINGER_SECONDS
        self.set_deadline()

    def abort(self) -> None:
        """Reset, so that nobody takes the received data for complete. (TLS shows it by itself.)"""
        if self.state is not LOST:
            self._advance(CLOSING)
        if self.listener.scheme == "http":
            kernel.reset_on_close(self.raw)
        self.raw.abort()

    # Room for others: see `net.room`.

    def idleness(self) -> tuple[Idleness, float]:
        """How the connection is idle, and since when."""
        if self.state is OPEN:
            if self.handler is FINISHED:
                return SILENT, self.accepted_at  # it is not made yet: TLS, or the PROXY header
            return self.handler.idleness()
        if self.state is LOST or self.is_blocked:
            return BUSY, NEVER
        return ENDING, self.accepted_at

    def can_make_room(self, kind: Idleness) -> bool:
        """Whether nothing is lost if the connection ends now: no data is on its way."""
        if kind is LEFT or self.handler is FINISHED:
            return True
        if kind is not ENDING and kernel.has_unread(self.raw):
            return False
        return not self.has_undelivered(unknown=False)

    def make_room(self) -> None:
        """End an idle connection, or one whose client has left."""
        if self.state is OPEN:
            self.handler.make_room()
        else:
            self.end_now()

    def end_now(self) -> None:
        """End a connection that has nothing to deliver, and wait for nothing."""
        if self.state is not LOST:
            self._advance(CLOSING)
            self.raw.abort()

    # Deadlines.

    def _await_delivery(self) -> None:
        self.progress.start(self.host.tick_end, self.delivery_count())
        self.set_deadline()

    def _delivered(self) -> None:
        self.progress.stop()
        self._closing_deadline = self.host.tick_end + LINGER_SECONDS
        self.set_deadline()

    def set_deadline(self) -> None:
        """Set `deadline` for the things that are waited for now."""
        deadline = self.progress.deadline
        if self.state is LINGERING and not self.is_blocked:
            deadline = self._closing_deadline
        elif not self._must_deliver and self.state is not LINGERING:
            deadline = min(deadline, self._closing_deadline)
        self.deadline = min(deadline, self.handler.next_deadline())

    def deadline_passed(self) -> None:
        """`deadline` has passed. Acts by the table `DEADLINES`."""
        now = self.host.tick_end
        self.deadline = NEVER
        wait = self._waits_for()
        if wait in (TransportWait.CLIENT_END, TransportWait.TEARDOWN) and (
            self._closing_deadline > now
        ):
            self.set_deadline()
        else:
            DEADLINES[wait].action(self)
        if self.state in (LINGERING, CLOSING) and self.handler.next_deadline() <= now:
            self.handler.deadline_passed()
            self.set_deadline()

    def _waits_for(self) -> TransportWait:
        if self.state is LOST:
            return TransportWait.HANDLER
        if self.state is LINGERING and not self.is_blocked:
            return TransportWait.CLIENT_END
        if not self._must_deliver and self.state is not LINGERING:
            return TransportWait.TEARDOWN
        return TransportWait.DELIVERY if self.progress.deadline != NEVER else TransportWait.HANDLER

    def _check_delivery(self) -> None:
        has_waiting = not self.host.settings.min_read_rate or self.has_undelivered(unknown=True)
        if self.progress.is_stuck(self.host.tick_end, self.delivery_count(), has_waiting):
            self.abort()
        elif self.state is OPEN:
            self.handler.deadline_passed()
        else:
            self.set_deadline()

    def _end_linger(self) -> None:
        is_moving = self.progress.has_moved(self.delivery_count())
        if is_moving and self.has_undelivered(unknown=True):
            self._closing_deadline = self.host.tick_end + LINGER_SECONDS
            self.set_deadline()
        elif self._must_deliver:
            self.close_idle()
        else:
            self.close_soon()

    def _ask_handler(self) -> None:
        self.handler.deadline_passed()

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long: deadlines of transport and handler come later."""
        self.deadline += seconds
        self._closing_deadline += seconds
        self.progress.postpone(seconds)
        self.handler.postpone(seconds)


class TransportWait(IntEnum):
    """The things that a transport waits for."""

    DELIVERY = 0
    """The client takes written data."""
    CLIENT_END = 1
    """The client notices the end of this direction, and ends its own."""
    TEARDOWN = 2
    """The connection ends by itself; the client would miss nothing."""
    HANDLER = 3
    """Something of the protocol above: see the handler's own table."""


DEADLINES: Mapping[TransportWait, Deadline[Transport]] = {
    TransportWait.DELIVERY: Deadline("write_timeout", Transport._check_delivery),
    TransportWait.CLIENT_END: Deadline("LINGER_SECONDS; RFC 9112, 9.6", Transport._end_linger),
    TransportWait.TEARDOWN: Deadline("LINGER_SECONDS", Transport.abort),
    TransportWait.HANDLER: Deadline("the handler's", Transport._ask_handler),
}
"""The limit of each wait of a transport, and the action after it."""


class _Finished(Handler):
    """The handler of a connection that is over."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def __repr__(self) -> str:
        return "finished"

    def data_received(self, data: bytes) -> None:
        pass

    def next_deadline(self) -> float:
        return NEVER

    def deadline_passed(self) -> None:
        pass

    def streams(self) -> Sequence[ASGIStream]:
        return ()

    def refuse(self, error: RequestError) -> None:
        pass

    def shut_down(self) -> None:
        pass

    def abort_all(self) -> None:
        pass


FINISHED = _Finished()


def _ignore(data: bytes) -> None:
    pass
