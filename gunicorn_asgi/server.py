"""Listeners, live connections, the clock that sweeps them, and draining: all that the connections of one worker share."""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .asgi.http import HTTPStream
from .asgi.scope import Address, Application
from .config.settings import Settings
from .errors import RequestError
from .http.contract import Header
from .http.fields import DATE, SERVER
from .http.request import MAX_LINE, Request, Rules
from .http.trust import peer_rules, trusted_peers
from .http1 import parser
from .http1.connection import H1Connection
from .net.accept import Acceptors, Listener
from .net.balance import WorkerRow
from .net.connection import Connection
from .process.exits import read_exit_code

if TYPE_CHECKING:
    from .observe.access_log import Access, Record


class Log(Protocol):
    """What of Gunicorn's logger is used by the server and its connections."""

    def debug(self, message: str, *args: object) -> None: ...

    def info(self, message: str, *args: object) -> None: ...

    def warning(
        self, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None: ...

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None: ...

    def exception(self, message: str, *args: object) -> None: ...


class Host(Protocol):
    """What the server needs of Gunicorn's worker."""

    nr: int
    """Requests served, Gunicorn's own attribute."""
    max_requests: int

    def retire(self) -> None:
        """``max_requests`` is reached."""

    def leave(self, code: int) -> None:
        """The application, or a signal handler in the midst of it, wants the process to end."""


HANDSHAKE_SECONDS = 1.0
"""What a connection that is still being made has, once idle ones are closed."""


RETRY_AFTER = ((b"retry-after", b"1"),)
"""RFC 9110, 10.2.3, in seconds. Such a lack of room is mostly over in less, and it cannot say so."""

Spawn = Callable[..., "asyncio.Task[None]"]
"""(coroutine, context=...) -> task."""


def _spawner(loop: asyncio.AbstractEventLoop) -> Spawn:
    """How an application is started: at once from Python 3.12 on, before that in the loop's next turn."""
    if sys.version_info >= (3, 12):
        return partial(asyncio.Task, loop=loop, eager_start=True)
    if sys.version_info >= (3, 11):
        return loop.create_task
    return lambda exchange, context: context.run(loop.create_task, exchange)


class Phase(Enum):
    """How far the worker is on its way out."""

    SERVING = "requests are served, and connections kept"
    LAME_DUCK = "running requests finish, and idle connections stay open for a moment"
    CLOSING = "running requests finish"


SERVING, LAME_DUCK, CLOSING = Phase


class Server:
    """The side of a worker that serves connections."""

    protocol: Callable[[Server, Listener, Address | None], Connection] = H1Connection
    """What speaks HTTP/1.1 with a new connection."""

    def __init__(
        self,
        settings: Settings,
        app: Application,
        host: Host,
        log: Log,
        access: Access | None,
        loop: asyncio.AbstractEventLoop,
        share: WorkerRow | None = None,
        has_own_queue: bool = False,
    ) -> None:
        self.settings = settings
        self.app = app
        self.host = host
        self.log = log
        self.access = access
        self.loop = loop
        self.state: Mapping[str, Any] | None = None
        """What lifespan.startup left for the requests."""
        rules = Rules(
            parse_fields=parser.load(settings.http),
            limit_line=settings.limit_request_line or MAX_LINE,
            limit_fields=settings.limit_request_fields,
            limit_field_size=settings.limit_request_field_size,
            header_map=settings.header_map,
            permit_unconventional_method=settings.permit_unconventional_http_method,
            secure_scheme={},
            forwarder_names=frozenset(),
            script_name=settings.script_name,
        )
        self.rules_for = peer_rules(rules, settings)
        self.trusts_proxy = trusted_peers(settings.proxy_allow_ips, "proxy_allow_ips")
        self._opening: Callable[[Server, Listener, Address | None], Connection] = self.protocol
        self.upgrade: Callable[[H1Connection, Request, bytes, Record | None], bool] = lambda *_: (
            False
        )
        """What answers a request for h2c, where that is served. Returns whether it does."""
        if settings.http2:
            from . import protocol_detection as opening  # noqa: PLC0415 # needs hpack, and takes memory

            self._opening, self.upgrade = opening.Opening, opening.upgrade
        self.connections: set[Connection] = set()
        """Those with a transport, and those whose exchange has outlasted it."""
        self.tasks: dict[asyncio.Task[None], tuple[HTTPStream, float]] = {}
        """Applications that are still running, also behind a complete response: their exchange, and when it began (``time.monotonic``)."""
        self.limit_concurrency = settings.limit_concurrency
        self.grace_s = settings.disconnect_grace_s
        self._refused = 0
        """Requests since the last tick that were above it."""
        self.switched_off = settings.switched_off
        self.websocket = settings.websocket
        self.is_closing_websockets = False
        """Those that there are have been told to end, and new ones are at once."""
        self.keep_alive = settings.keepalive_s > 0
        """Whether a response may leave its connection open."""
        self.now = math.inf
        """Upper bound of loop.time() until the next tick, so that deadlines never fire early. During a tick, its own time: what is due by then."""
        self.idle_deadline = 0.0
        self.default_fields: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        """The ``date`` and ``server`` lines, indexed by what of DATE | SERVER the application brought itself."""
        self.default_headers: tuple[tuple[Header, ...], ...] = ((), (), (), ())
        """The same as headers."""
        self.context = contextvars.copy_context()
        """Every exchange runs in a copy of it, so that nothing leaks from one to the next."""
        self._spawn = _spawner(loop)
        self.acceptors = Acceptors(self, share, has_own_queue)
        self._phase: Phase = SERVING
        self._lame_ducks: set[Connection] = set()
        """Idle connections whose lame-duck time is not that of the others."""
        self._changed = asyncio.Event()
        self.tick(1.0)

    # Connections.

    def connect(self, listener: Listener, client: Address | None) -> Connection:
        """What speaks with a new connection."""
        settings = self.settings
        if settings.http2 and (
            listener.scheme == "https"
            or (
                settings.http2_cleartext != "off"
                and self.rules_for(client, None).h2c in ("prior-knowledge", "both")
            )
        ):
            return self._opening(self, listener, client)
        return self.protocol(self, listener, client)

    def admit(self, connection: Connection) -> None:
        """`connection` has a transport."""
        self.connections.add(connection)
        self.acceptors.pending.pop(connection, None)
        if self._phase is CLOSING:
            connection.deadline = min(connection.deadline, self.now + HANDSHAKE_SECONDS)

    def changed(self) -> None:
        """There are more or fewer connections than before, pending or made."""
        self.acceptors.balance()
        if self._phase is not SERVING:
            self._changed.set()

    def replace(self, origin: Connection, connection: Connection) -> None:
        """`connection` goes on with the transport of `origin`, in another protocol."""
        self.connections.discard(origin)
        self.connections.add(connection)

    def forget(self, connection: Connection) -> None:
        """`connection` is closed, and its exchange over."""
        self.connections.discard(connection)
        self.changed()

    # Applications.

    def start(self, stream: HTTPStream) -> None:
        """Start an exchange: count its request, and run the application for it in a task of its own."""
        host = self.host
        host.nr += 1
        if host.nr >= host.max_requests:
            self.retire()
        stream.task = task = self._spawn(stream.run(self.app), context=self.context.copy())
        if not task.done():
            # Not done after its first step: the loop itself holds tasks only weakly.
            self.tasks[task] = stream, time.monotonic()
            task.add_done_callback(self._task_done)

    def overloaded(self) -> RequestError:
        """``limit_concurrency`` is reached. Returns what to raise; the log gets one line for all of a second."""
        self._refused += 1
        return RequestError(503, "Too many requests at once", is_logged=True, fields=RETRY_AFTER)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if self._phase is not SERVING:
            self._changed.set()

    # The clock.

    def tick(self, interval: float) -> None:
        """Refresh what is known about the time, and end what has waited too long. To be called about every `interval` seconds."""
        now = self.loop.time()
        late = now - self.now
        self.acceptors.attend()
        self.idle_deadline = now + interval + self.settings.keepalive_s
        date = (
            ((b"date", formatdate(time.time(), usegmt=True).encode()),)
            if self.settings.date_header
            else ()
        )
        server = (
            ((b"server", self.settings.server_header.encode()),)
            if self.settings.server_header
            else ()
        )
        headers: dict[int, tuple[Header, ...]] = {
            0: (*date, *server),
            DATE: server,
            SERVER: date,
            DATE | SERVER: (),
        }
        self.default_headers = (headers[0], headers[1], headers[2], headers[3])
        lines = [
            b"".join([b"%b: %b\r\n" % field for field in fields]) for fields in self.default_headers
        ]
        self.default_fields = (lines[0], lines[1], lines[2], lines[3])
        if self._refused:
            self.log.warning(
                "Answered with 503, for limit_concurrency is %d: %d",
                self.limit_concurrency,
                self._refused,
            )
            self._refused = 0
        self.acceptors.report(now)
        if late > interval / 4:
            # Something has blocked the loop. Meanwhile nobody could be served, and what came is read only behind this (uvloop runs timers
            # first): the time does not count.
            for connection in self.connections:
                connection.postpone(late)
        self.now = now  # an exchange whose deadline comes later than its connection's is not due
        for connection in [
            connection for connection in self.connections if connection.deadline <= now
        ]:
            try:
                connection.expired()
            except Exception:  # the fault of one connection must not end the heartbeat
                self.log.exception("Error at the deadline of a connection")
                connection.deadline = math.inf
        self.now = now + interval

    # Draining.

    def retire(self) -> None:
        """``max_requests`` is reached: this response and all later ones end their connections."""
        if not self.acceptors.retire():
            return  # this is asked again with each request
        self.keep_alive = False
        self.host.retire()

    @property
    def is_draining(self) -> bool:
        """Whether the worker is to stop."""
        return self._phase is not SERVING

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """Somebody called ``sys.exit()`` within an exchange. uvloop would swallow that where an exchange began in a callback of its transport."""
        self.host.leave(read_exit_code(error, self.log))

    async def drain(self, seconds: float, abort_seconds: float) -> None:
        """Let what is running finish, for at most `seconds`. Then what is left hears it, and is ended within `abort_seconds`.

        An idle connection is not closed under the client's next request: for a moment it stays open, and a request that comes is
        answered with ``Connection: close``.
        """
        self._phase = LAME_DUCK
        self.keep_alive = False
        for connection in list(self.connections):
            connection.announce()
        end = self.loop.time() + seconds
        # At the latest when there is time left for both sides of the closing.
        closing = self.loop.call_later(
            min(self.settings.ws_drain_delay_s, seconds / 2), self._close_websockets
        )
        await self.acceptors.close(seconds / 4)
        await self._until_idle(min(self.settings.lame_duck_s, seconds / 4))
        self._phase = CLOSING
        for connection in self.connections - self._lame_ducks:
            connection.drain()
        # Handshakes that are under way may end.
        giving_up = self.loop.call_later(min(HANDSHAKE_SECONDS, seconds / 4), self.acceptors.cancel)
        notice = min(1.0, seconds / 4)
        if not await self._until_idle(end - notice - self.loop.time()):
            for connection in list(self.connections):
                connection.hang_up()
            await self._until_idle(end - self.loop.time())
        giving_up.cancel()
        closing.cancel()
        busy = sum(connection.is_busy for connection in self.connections)
        if busy or self.tasks:
            self.log.warning(
                "%d responses were not complete, and %d applications running, at the end of graceful_timeout",
                busy,
                len(self.tasks),
            )
        await self.abort(abort_seconds)

    def _close_websockets(self) -> None:
        self.is_closing_websockets = True
        for connection in list(self.connections):
            connection.close_websocket()

    def start_lame_duck(self, connection: Connection) -> None:
        """`connection` has ended a response in which there was no time to announce that the worker leaves: it is a lame duck from now on."""
        self._lame_ducks.add(connection)
        self.loop.call_later(self.settings.lame_duck_s, self._end_lame_duck, connection)

    def _end_lame_duck(self, connection: Connection) -> None:
        self._lame_ducks.discard(connection)
        if connection in self.connections:
            connection.drain()

    async def abort(self, seconds: float = 0.5) -> None:
        """End all that is still open: reset the connections, cancel the applications and give them `seconds` to clean up."""
        self._phase = CLOSING
        self.acceptors.stop()
        self.acceptors.cancel()
        for connection in list(self.connections):
            connection.kill()
        for task in list(self.tasks):
            task.cancel()
        await self._until_idle(seconds)

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until no connection and no application is left. Returns whether that came within `seconds`."""
        deadline = self.loop.time() + seconds
        while self.connections or self.tasks or self.acceptors.pending:
            left = deadline - self.loop.time()
            if left <= 0:
                return False
            self._changed.clear()
            waiter = self.loop.create_task(self._changed.wait(), name="gunicorn_asgi drain")
            await asyncio.wait({waiter}, timeout=left)
            waiter.cancel()
        return True
