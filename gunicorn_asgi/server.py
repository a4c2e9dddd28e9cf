"""The connections of one worker: their applications, the clock, and the graceful shutdown."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .asgi.async_library import Asyncio, AsyncLibrary, load_trio
from .asgi.health import answer_health_check
from .asgi.request_timeout import cancel_overdue
from .asgi.scope import Address, Application
from .asgi.stream_drain import StreamDrain
from .config.settings import Settings
from .errors import RequestError
from .http.contract import ApplicationTask, ASGIStream, Header
from .http.fields import DATE, SERVER
from .http.trust import make_rules, peer_rules, trusted_peers
from .http1 import parser
from .http1.connection import H1Connection
from .http1.field_lines import FieldLines
from .net.accept import Acceptors
from .net.balance import WorkerRow
from .net.listener import Listener
from .net.transport import Handler, Transport
from .net.turn import Turn
from .net.work_queue import Step, WorkQueue
from .observe.access_log import Access
from .observe.log import Log
from .process.exits import read_exit_code

if TYPE_CHECKING:
    from .websocket.share import WebSocketShare


class WorkerHost(Protocol):
    """Gunicorn's worker, as the server sees it."""

    nr: int
    """Requests served, Gunicorn's own attribute."""
    max_requests: int

    @property
    def is_being_replaced(self) -> bool:
        """Newer workers are on their way."""

    def hand_over(self) -> bool:
        """``max_requests`` is reached. Return whether this worker serves on for now."""

    def retire(self) -> None:
        """The worker leaves."""

    def leave(self, code: int) -> None:
        """The application, or a signal handler within it, has ended the process by exception."""


HANDSHAKE_SECONDS = 1.0
"""Time limit for handshakes in progress, once idle connections are closed."""

RETRY_AFTER = ((b"retry-after", b"1"),)
"""RFC 9110, 10.2.3: a whole number of seconds. Mostly, there is room again in less."""


class ShutdownPhase(Enum):
    """The phases of a graceful shutdown."""

    SERVING = "requests are served, and connections kept"
    LAME_DUCK = "running requests finish, and idle connections stay open for a moment"
    FINISHING = "running requests finish"


SERVING, LAME_DUCK, FINISHING = ShutdownPhase


def load_protocols(settings: Settings) -> None:
    """Import what the settings switch on, and nothing of what is off: it would take memory.

    See `BaseWorker.load_modules`. So no client waits for an import either. Other modules name what
    is imported here within functions. Raises ConfigError if trio is asked for and does not work.
    """
    if settings.websocket is not None:
        from .http1 import (  # noqa: PLC0415 # need websockets, and take memory
            websocket_handshake,  # noqa: F401 # to have it loaded
            websocket_transport,  # noqa: F401 # to have it loaded
        )
    if settings.http2:
        from . import protocol_detection  # noqa: F401, PLC0415 # needs hpack, and takes memory
    if settings.async_library == "trio":
        load_trio()
    with suppress(ImportError, OSError, AttributeError):  # no shared C library
        from .asgi import linux_calls  # noqa: F401, PLC0415 # may be missing


class Server:
    """The connections of one worker: a `net.transport.ConnectionHost` for each of them."""

    # Requests ask for many of them. Without slots, CPython keeps more than 30 in a dict of each
    # server, where each access takes a lookup.
    __slots__ = (
        "_changed",
        "_lame_ducks",
        "_phase",
        "_refused",
        "_spawn",
        "_stream_drain",
        "_streams_end_at",
        "acceptors",
        "access",
        "app",
        "cancelled",
        "connections",
        "context",
        "default_headers",
        "default_lines",
        "grace_s",
        "health_path",
        "host",
        "idle_deadline",
        "is_closing_websockets",
        "is_out_of_service",
        "keeps_alive",
        "limit_concurrency",
        "log",
        "loop",
        "lost",
        "make_handler",
        "rules_for",
        "settings",
        "state",
        "switched_off",
        "tasks",
        "tick_end",
        "transport_class",
        "trusts_proxy",
        "turn",
        "websocket_share",
        "work_queue",
    )

    def __init__(
        self,
        settings: Settings,
        app: Application,
        host: WorkerHost,
        log: Log,
        access: Access | None,
        loop: asyncio.AbstractEventLoop,
        share: WorkerRow | None = None,
        has_own_queue: bool = False,
        library: AsyncLibrary | None = None,
    ) -> None:
        # Set once.
        self.transport_class: type[Transport] = Transport
        """Tests set another, which delivers data in pieces."""
        self.settings = settings
        self.app = app
        self.host = host
        self.log = log
        self.access = access
        self.loop = loop
        self.state: Mapping[str, Any] | None = None
        self.limit_concurrency = settings.limit_concurrency
        self.health_path = settings.health_path
        self.grace_s = settings.disconnect_grace_s
        self.switched_off = settings.switched_off
        self.rules_for = peer_rules(
            make_rules(settings, FieldLines(parser.load(settings.http))), settings
        )
        self.trusts_proxy = trusted_peers(settings.proxy_allow_ips, "proxy_allow_ips")
        load_protocols(settings)
        self.make_handler: Callable[[Transport], Handler] = H1Connection
        if settings.http2:
            from . import protocol_detection  # noqa: PLC0415 # see load_protocols

            self.make_handler = protocol_detection.make_handler
        self.websocket_share: WebSocketShare | None = None
        if settings.websocket is not None:
            from .websocket.share import WebSocketShare  # noqa: PLC0415 # see load_protocols

            self.websocket_share = WebSocketShare(settings.ws_memory_limit)
        self.turn = Turn(loop)
        self.work_queue = WorkQueue(loop)
        self.context = contextvars.copy_context()
        """Every exchange runs in a copy of it, so that nothing leaks from one to the next."""
        library = library or Asyncio(loop)
        self.cancelled = library.cancelled
        self._spawn = library.spawn
        # Connections and applications.
        self.acceptors = Acceptors(self, share, has_own_queue)
        self.connections: dict[Transport, None] = {}
        """The open connections, and closed ones whose exchange is not over, in the order of their
        beginning."""
        self.lost: set[Transport] = set()
        """Those of `connections` whose transport is lost. Their application is still running."""
        self.tasks: dict[ApplicationTask, tuple[ASGIStream, float]] = {}
        """The running applications, also after a complete response: their exchange, and the time
        when it began (``time.monotonic``)."""
        self._refused = 0
        """Requests above ``limit_concurrency`` since the last tick."""
        # Refreshed by the clock.
        self.tick_end = math.inf
        """Upper bound of ``loop.time()`` until the next tick, so that deadlines never fire early.

        During a tick, the time of the tick itself."""
        self.idle_deadline = 0.0
        self.default_lines: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        self.default_headers: tuple[tuple[Header, ...], ...] = ((), (), (), ())
        # The graceful shutdown.
        self.keeps_alive = settings.keepalive_s > 0
        self.is_closing_websockets = False
        self._streams_end_at = math.inf
        """When running streams are asked to end, on the loop's clock."""
        self._stream_drain = StreamDrain(self.grace_s)
        self.is_out_of_service = False
        """Gunicorn stops, and load balancers are to choose another server."""
        self._phase: ShutdownPhase = SERVING
        self._lame_ducks: set[Transport] = set()
        """Idle connections whose lame-duck time began later than that of the others."""
        self._changed = asyncio.Event()
        self.tick(1.0)

    # Connections.

    def connect(self, listener: Listener, client: Address | None) -> Transport:
        """The transport of a new connection."""
        return self.transport_class(self, listener, client)

    def opened(self, transport: Transport) -> None:
        """`transport` is connected."""
        self.connections[transport] = None
        self.acceptors.pending.pop(transport, None)
        if self._phase is FINISHING:
            transport.deadline = min(transport.deadline, self.tick_end + HANDSHAKE_SECONDS)

    def connections_changed(self) -> None:
        """There are more or fewer connections than before, pending or made."""
        self.acceptors.balance()
        if self._phase is not SERVING:
            self._changed.set()

    def transport_lost(self, transport: Transport) -> None:
        """`transport` is lost, and its exchanges are not over: it holds no place any more."""
        self.lost.add(transport)
        self.acceptors.room.forget(transport)
        self.connections_changed()

    def closed(self, transport: Transport) -> None:
        """`transport` is closed, and its exchanges are over."""
        self.connections.pop(transport, None)
        self.lost.discard(transport)
        self.acceptors.room.forget(transport)
        self.connections_changed()

    # Applications.

    def start(self, stream: ASGIStream) -> None:
        """Count a request, and run the application for it in a task of its own."""
        host = self.host
        host.nr += 1
        if host.nr >= host.max_requests and not host.hand_over():
            self.retire()
        stream.task = task = self._spawn(stream.run(self.app), context=self.context.copy())
        if not task.done():
            # It has not ended within its first step. The loop itself holds tasks only weakly.
            self.tasks[task] = stream, time.monotonic()
            task.add_done_callback(self._task_done)

    def start_health_check(self, stream: ASGIStream) -> None:
        """Answer `stream` in place of the application, in a task that never waits.

        It is no request for ``max_requests`` and ``limit_concurrency``.
        """
        answer = partial(answer_health_check, self)
        stream.task = self._spawn(stream.run(answer), context=self.context.copy())

    def overloaded(self) -> RequestError:
        """The error for a request above ``limit_concurrency``. The log has one line a second."""
        self._refused += 1
        return RequestError(503, "Too many requests at once", is_logged=True, fields=RETRY_AFTER)

    def _task_done(self, task: ApplicationTask) -> None:
        running = self.tasks.pop(task, None)
        if running is not None and task.cancelled():
            running[0].end_cancelled()
        if self._phase is not SERVING:
            self._changed.set()

    def continue_later(self, step: Step) -> None:
        """Call `step` in later turns of the loop until it returns False."""
        self.work_queue.add(step)

    # The clock.

    def tick(self, interval: float) -> None:
        """Refresh the time and the default fields, and act on deadlines that have passed.

        To be called about every `interval` seconds.
        """
        now = self.loop.time()
        late = now - self.tick_end
        self.acceptors.announce()
        self.idle_deadline = now + interval + self.settings.keepalive_s
        self._refresh_default_fields()
        if self._refused:
            self.log.warning(
                "Answered with 503, for limit_concurrency is %d: %d",
                self.limit_concurrency,
                self._refused,
            )
            self._refused = 0
        self.acceptors.report(now)
        limit_s = self.settings.request_timeout_s
        if limit_s != math.inf:
            cancel_overdue(self.tasks, limit_s, time.monotonic(), self.log)
        if self._streams_end_at <= now:
            self._stream_drain.look(self.tasks, now)  # also at those that have begun since
        if late > interval / 4:
            # Something has blocked the loop, so nobody could be served: the time does not count.
            # Data that has arrived is read only after this, for uvloop runs timers first.
            for transport in self.connections:
                transport.postpone(late)
        self.tick_end = now  # the deadlines that have passed now, and no later ones
        for transport in [each for each in self.connections if each.deadline <= now]:
            try:
                transport.deadline_passed()
            except Exception:  # the fault of one connection must not end the heartbeat
                self.log.exception("Error at the deadline of a connection")
                transport.deadline = math.inf
        self.tick_end = now + interval

    def _refresh_default_fields(self) -> None:
        settings = self.settings
        date: tuple[Header, ...] = ()
        if settings.date_header:
            date = ((b"date", formatdate(time.time(), usegmt=True).encode()),)
        server: tuple[Header, ...] = ()
        if settings.server_header:
            server = ((b"server", settings.server_header.encode()),)
        headers: dict[int, tuple[Header, ...]] = {
            0: (*date, *server),
            DATE: server,
            SERVER: date,
            DATE | SERVER: (),
        }
        self.default_headers = (headers[0], headers[1], headers[2], headers[3])
        lines = [b"".join([b"%b: %b\r\n" % field for field in each]) for each in headers.values()]
        self.default_lines = (lines[0], lines[1], lines[2], lines[3])

    # The graceful shutdown.

    def retire(self) -> None:
        """The worker is to leave: this response and all later ones end their connections."""
        if not self.acceptors.retire():
            return  # this is asked again with each request
        self.keeps_alive = False
        self.host.retire()

    @property
    def is_shutting_down(self) -> bool:
        """Whether the worker stops."""
        return self._phase is not SERVING

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """``sys.exit()`` was called within an exchange.

        uvloop would swallow the exception where an exchange began in a callback of its transport.
        """
        self.host.leave(read_exit_code(error, self.log))

    async def shut_down(self, seconds: float, abort_seconds: float) -> None:
        """Let running exchanges finish, for at most `seconds`.

        Then the applications are told, and the rest is aborted within `abort_seconds`. An idle
        connection is not closed under the client's next request: it stays open for a moment, and a
        request in this time is answered with ``Connection: close``.
        """
        self._phase = LAME_DUCK
        self.keeps_alive = False
        for transport in list(self.connections):
            transport.handler.announce_shutdown()
        end = self.loop.time() + seconds
        # In time for both sides to close.
        closing = self.loop.call_later(
            min(self.settings.ws_drain_delay_s, seconds / 2), self._close_websockets
        )
        if self.settings.stream_drain_delay_s:
            delay_s = min(self.settings.stream_drain_delay_s, seconds / 2)
            self._streams_end_at = self.loop.time() + delay_s
        await self.acceptors.close(seconds / 4, self.host.is_being_replaced)
        await self._until_idle(min(self.settings.lame_duck_s, seconds / 4))
        self._phase = FINISHING
        for transport in list(self.connections):
            if transport not in self._lame_ducks:
                transport.handler.shut_down()
        # Handshakes that are in progress may end.
        giving_up = self.loop.call_later(min(HANDSHAKE_SECONDS, seconds / 4), self.acceptors.cancel)
        notice = min(1.0, seconds / 4)
        if not await self._until_idle(end - notice - self.loop.time()):
            for transport in list(self.connections):
                transport.handler.ask_to_end()
            await self._until_idle(end - self.loop.time())
        giving_up.cancel()
        closing.cancel()
        busy = self.count_busy()
        if busy or self.tasks:
            self.log.warning(
                "%d responses were not complete, and %d applications running, at the end of "
                "graceful_timeout",
                busy,
                len(self.tasks),
            )
        await self.abort(abort_seconds)

    def count_busy(self, with_lost: bool = True) -> int:
        """The number of connections with an exchange in progress."""
        return sum(
            transport.handler.is_busy
            for transport in self.connections
            if with_lost or transport not in self.lost
        )

    def _close_websockets(self) -> None:
        self.is_closing_websockets = True
        for transport in list(self.connections):
            transport.handler.close_websockets()

    def start_lame_duck(self, transport: Transport) -> None:
        """Close `transport`, idle and not told of the shutdown, after ``lame_duck`` seconds."""
        self._lame_ducks.add(transport)
        self.loop.call_later(self.settings.lame_duck_s, self._end_lame_duck, transport)

    def _end_lame_duck(self, transport: Transport) -> None:
        self._lame_ducks.discard(transport)
        if transport in self.connections:
            transport.handler.shut_down()

    async def abort(self, seconds: float = 0.5) -> None:
        """Abort all connections, and give the cancelled applications `seconds` to clean up."""
        self._phase = FINISHING
        self.acceptors.stop()
        self.acceptors.cancel()
        for transport in list(self.connections):
            transport.handler.abort_all()
        for task in list(self.tasks):
            task.cancel()
        await self._until_idle(seconds)

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until no connection and no application is left. Returns whether that was in time."""
        deadline = self.loop.time() + seconds
        while self.connections or self.tasks or self.acceptors.pending:
            left = deadline - self.loop.time()
            if left <= 0:
                return False
            self._changed.clear()
            waiter = self.loop.create_task(self._changed.wait(), name="gunicorn_asgi shutdown")
            await asyncio.wait({waiter}, timeout=left)
            waiter.cancel()
        return True
