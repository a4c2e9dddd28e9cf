"""Listeners, live connections, the clock that sweeps them, and draining: all that the connections of one worker share."""

from __future__ import annotations

import asyncio
import contextvars
import math
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .accept import Acceptor, LoopAcceptor
from .asgi.http import HTTPStream
from .asgi.scope import Address, Application
from .balance import Share
from .connection import Connection
from .http1 import parser
from .http1.connection import H1Connection
from .http1.encode import DATE, SERVER
from .http1.request import MAX_LINE, Rules
from .proxy import peer_rules, trusted_peers
from .settings import Settings

if TYPE_CHECKING:
    from gunicorn.sock import BaseSocket

    from .access import Access
    from .asgi.http import HTTPStream


class Log(Protocol):
    """What of Gunicorn's logger is used by the server and its connections."""

    def debug(self, message: str, *args: object) -> None: ...

    def info(self, message: str, *args: object) -> None: ...

    def warning(self, message: str, *args: object, exc_info: BaseException | None = None) -> None: ...

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


class Listener:
    """What all connections of one listening socket have in common."""

    def __init__(self, sock: BaseSocket, scheme: str, root_path: str) -> None:
        self.sock = sock
        self.scheme = scheme
        self.root_path = root_path
        self.raw_root_path = root_path.encode()
        self.address = _fixed_address(sock.sock.getsockname())


def _fixed_address(name: Any) -> Address | None:
    """The address that every connection has as its server, or None where the socket listens on several (a wildcard)."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if isinstance(name, str):
        return name, None  # ASGI statement 37: the path of a unix socket
    return None if name[0] in ("0.0.0.0", "::") else (name[0], name[1])  # noqa: S104 # compared, not bound


def _tls_arguments(settings: Settings, context: ssl.SSLContext | None) -> dict[str, Any]:
    """What connect_accepted_socket takes for TLS. A shutdown flushes what was written."""
    if context is None:
        return {}
    arguments: dict[str, Any] = {"ssl": context, "ssl_handshake_timeout": min(settings.tls_handshake_timeout_s, LONG_SECONDS)}
    if sys.version_info >= (3, 11) or settings.asgi_loop == "uvloop":
        arguments["ssl_shutdown_timeout"] = min(settings.write_timeout_s, LONG_SECONDS)
    return arguments


OVERLAP_SECONDS = 0.1
"""How long a worker with a queue of its own listens on when it is to stop: a new one is forked just before, and binds at once."""
HANDSHAKE_SECONDS = 1.0
"""What a connection that is still being made has, once idle ones are closed."""
LONG_SECONDS = 86400.0
"""Stands for no limit where a loop wants a number."""


Spawn = Callable[..., "asyncio.Task[None]"]
"""(coroutine, context=...) -> task."""


def _spawner(loop: asyncio.AbstractEventLoop) -> Spawn:
    """How an application is started: at once from Python 3.12 on, before that in the loop's next turn."""
    if sys.version_info >= (3, 12):
        return partial(asyncio.Task, loop=loop, eager_start=True)
    if sys.version_info >= (3, 11):
        return loop.create_task
    return lambda exchange, context: context.run(loop.create_task, exchange)


class Server:
    """The side of a worker that serves connections."""

    protocol: Callable[[Server, Listener], Connection] = H1Connection
    """What speaks with a new connection."""

    def __init__(
        self,
        settings: Settings,
        app: Application,
        host: Host,
        log: Log,
        access: Access | None,
        loop: asyncio.AbstractEventLoop,
        share: Share | None = None,
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
        self.rules = Rules(
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
        self._peer_rules = peer_rules(self.rules, settings)
        self._trusts_forwarded = trusted_peers(settings.forwarded_allow_ips, "forwarded_allow_ips")
        self.trusts_proxy = trusted_peers(settings.proxy_allow_ips, "proxy_allow_ips")
        self.connections: set[Connection] = set()
        self.expected: set[Connection] = set()
        """Those that are accepted, and whose transport (or its TLS) is not ready."""
        self.tasks: dict[asyncio.Task[None], tuple[HTTPStream, float]] = {}
        """Applications that are still running, also behind a complete response: their exchange, and when it began (``time.monotonic``)."""
        self.busy = 0
        """Requests since the last tick that ``limit_concurrency`` refused."""
        self.keep_alive = settings.keepalive_s > 0
        """Whether a response may leave its connection open."""
        self.now = math.inf
        """The latest that it can be before the next tick: deadlines are set from it, and none comes early."""
        self.idle_deadline = 0.0
        self.default_fields: tuple[bytes, bytes, bytes, bytes] = (b"", b"", b"", b"")
        """The ``date`` and ``server`` lines, indexed by what of DATE | SERVER the application brought itself."""
        self.context = contextvars.copy_context()
        """Every exchange runs in a copy of it, so that nothing leaks from one to the next."""
        self._spawn = _spawner(loop)
        self._share = share
        """What is known of the other workers."""
        self._has_own_queue = has_own_queue
        """Nobody else takes the connections that wait for this worker: ``reuse_port``."""
        self._acceptors: list[Acceptor] = []
        self._closed_acceptors: list[Acceptor] = []
        self._held: dict[Connection, None] = {}
        """Connections above ``worker_connections``, in their order: the loop had taken them before it could be told."""
        self._is_paused = False
        """``worker_connections`` is reached."""
        self._draining = False
        self._past_lame_duck = False
        self._lame_ducks: set[Connection] = set()
        """Idle connections whose lame-duck time is not that of the others."""
        self._changed = asyncio.Event()
        self.tick(1.0)

    def rules_for(self, peer: Address | None, proxied: Address | None) -> Rules:
        """What requests of this `peer` may look like, which may speak for a `proxied` client in the PROXY protocol.

        As in Gunicorn, it is the peer that is trusted or not, for it may have added to the request. But it had no reason to believe the
        addresses in it, and its own word for the client is the last one unless that is a trusted proxy, too.
        """
        rules = self._peer_rules(peer[0] if peer else None)
        if proxied is not None and rules.read_proxy is not None and not self._trusts_forwarded(proxied[0]):
            return replace(rules, read_proxy=None)
        return rules

    # Accepting.

    def listen(self, sockets: Sequence[BaseSocket], ssl_context: ssl.SSLContext | None) -> None:
        """Begin to accept on all of Gunicorn's `sockets`."""
        scheme = "https" if ssl_context is not None else "http"
        tls = _tls_arguments(self.settings, ssl_context)
        is_alone = self._has_own_queue or self.settings.workers == 1
        is_loops = is_alone and self.settings.asgi_loop == "uvloop" and self.settings.proxy_protocol == "off"
        way = LoopAcceptor if is_loops else Acceptor
        for sock in sockets:
            acceptor = way(self, Listener(sock, scheme, self.settings.root_path), tls)
            self._acceptors.append(acceptor)
            acceptor.open()
        self._count_changed()

    @property
    def _count(self) -> int:
        return len(self.connections) + len(self.expected)

    @property
    def is_full(self) -> bool:
        """Whether there are ``worker_connections``."""
        return self._count >= self.settings.worker_connections

    @property
    def is_ahead(self) -> bool:
        """Whether other workers should go first."""
        return self._share is not None and not self._has_own_queue and self._share.is_ahead(self._count)

    def expect(self, listener: Listener) -> Connection:
        """A connection is accepted; it counts from now on. Returns its protocol."""
        connection = self.protocol(self, listener)
        self.expected.add(connection)
        self._count_changed()
        return connection

    def admit(self, connection: Connection) -> None:
        """`connection` has a transport."""
        self.expected.discard(connection)
        self.connections.add(connection)
        if self._past_lame_duck:
            connection.deadline = min(connection.deadline, self.now + HANDSHAKE_SECONDS)
        elif self._acceptors and len(self.connections) > self.settings.worker_connections:
            self._held[connection] = None
            connection.hold()

    def give_up(self, connection: Connection) -> None:
        """The accepting of `connection` is over: if it has no transport by now, it will have none."""
        if connection in self.expected:
            self.expected.discard(connection)
            self._count_changed()

    def pause_accepting(self) -> None:
        """``worker_connections`` is reached: what comes waits, or goes to another worker."""
        self._is_paused = True
        for acceptor in self._acceptors:
            acceptor.pause()

    def _count_changed(self) -> None:
        if self._share is not None and self._acceptors:
            self._share.publish(self._count)
        if self.is_full:
            if not self._is_paused:
                self.pause_accepting()
        elif self._is_paused:
            self._is_paused = False
            for acceptor in self._acceptors:
                acceptor.open()
        if self._draining:
            self._changed.set()

    def forget(self, connection: Connection) -> None:
        """`connection` is closed, and its exchange over."""
        self.connections.discard(connection)
        if self._held:
            self._held.pop(connection, None)
            if self._held and len(self.connections) - len(self._held) < self.settings.worker_connections:
                first = next(iter(self._held))
                del self._held[first]
                first.release()
        self._count_changed()

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

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if self._draining:
            self._changed.set()

    # The clock.

    def tick(self, interval: float) -> None:
        """Refresh what is known about the time, and end what has waited too long. To be called about every `interval` seconds."""
        now = self.loop.time()
        late = now - self.now
        self.now = now + interval
        self._count_changed()
        self.idle_deadline = self.now + self.settings.keepalive_s
        date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode() if self.settings.date_header else b""
        server = b"server: %b\r\n" % self.settings.server_header.encode() if self.settings.server_header else b""
        fields = {0: date + server, DATE: server, SERVER: date, DATE | SERVER: b""}
        self.default_fields = (fields[0], fields[1], fields[2], fields[3])
        if self.busy:
            self.log.warning("%d requests were answered with 503: limit_concurrency is %d", self.busy, self.settings.limit_concurrency)
            self.busy = 0
        if late > interval / 4:
            # Something has blocked the loop. Meanwhile nobody could be served, and what came is read only behind this (uvloop runs timers
            # first): the time does not count.
            for connection in self.connections:
                connection.deadline += late
        for connection in [connection for connection in self.connections if connection.deadline <= now]:
            try:
                connection.expired()
            except Exception:  # the fault of one connection must not end the heartbeat
                self.log.exception("Error at the deadline of a connection")
                connection.deadline = math.inf

    # Draining.

    def retire(self) -> None:
        """``max_requests`` is reached: this response and all later ones end their connections."""
        if self._has_own_queue:
            # Who connects while no worker listens is refused. So one after the other: this is asked again with each request.
            if self.settings.workers > 1 and self._share is not None and not self._share.leave_if_others():
                return
        else:
            # At once, not when the worker gets to it: what is accepted now would only be sent away.
            self.stop_listening()
        self.keep_alive = False
        self.host.retire()

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """Somebody called ``sys.exit()`` within an exchange. uvloop would swallow that where an exchange began in a callback of its transport."""
        code = error.code if isinstance(error, SystemExit) else 1
        if code is not None and not isinstance(code, int):
            self.log.error("sys.exit: %s", code)  # what the interpreter would print
        self.host.leave(code if isinstance(code, int) else int(code is not None))

    def stop_listening(self) -> None:
        """Accept what waits, unless others will, and then no more."""
        acceptors, self._acceptors = self._acceptors, []
        held, self._held = self._held, {}
        for connection in held:
            connection.release()
        if self._share is not None:
            self._share.leave()
        # Where nobody else will take them, all that wait, also above ``worker_connections``: they would be reset.
        others = self._share is not None and self._share.has_others() and not self._has_own_queue
        take = 0 if others else self.settings.backlog
        for acceptor in acceptors:
            acceptor.close(take, self._has_own_queue)
        self._closed_acceptors += acceptors

    async def drain(self, seconds: float, abort_seconds: float) -> None:
        """Let what is running finish, for at most `seconds`. Then what is left hears it, and is ended within `abort_seconds`.

        An idle connection is not closed under the client's next request: for a moment it stays open, and a request that comes is
        answered with ``Connection: close``.
        """
        self._draining = True
        self.keep_alive = False
        end = self.loop.time() + seconds
        if self._has_own_queue:
            # The kernel goes on to give it connections, until those that are to replace it listen.
            await asyncio.sleep(min(OVERLAP_SECONDS, seconds / 4))
        self.stop_listening()
        await self._until_idle(min(self.settings.lame_duck_s, seconds / 4))
        self._past_lame_duck = True
        for connection in self.connections - self._lame_ducks:
            connection.drain()
        # Handshakes that are under way may end.
        giving_up = self.loop.call_later(min(HANDSHAKE_SECONDS, seconds / 4), self._cancel_expected)
        notice = min(1.0, seconds / 4)
        if not await self._until_idle(end - notice - self.loop.time()):
            for connection in list(self.connections):
                connection.hang_up()
            await self._until_idle(end - self.loop.time())
        giving_up.cancel()
        busy = sum(connection.is_busy for connection in self.connections)
        if busy or self.tasks:
            self.log.warning(
                "%d responses were not complete, and %d applications running, at the end of graceful_timeout", busy, len(self.tasks)
            )
        await self.abort(abort_seconds)

    def become_idle(self, connection: Connection) -> None:
        """`connection` has ended a response in which there was no time to announce that the worker leaves: it is a lame duck from now on."""
        self._lame_ducks.add(connection)
        self.loop.call_later(self.settings.lame_duck_s, self._end_lame_duck, connection)

    def _end_lame_duck(self, connection: Connection) -> None:
        self._lame_ducks.discard(connection)
        if connection in self.connections:
            connection.drain()

    async def abort(self, seconds: float = 0.5) -> None:
        """End all that is still open: reset the connections, cancel the applications and give them `seconds` to clean up."""
        self._draining = True
        self.stop_listening()
        self._cancel_expected()
        for connection in list(self.connections):
            connection.kill()
        for task in list(self.tasks):
            task.cancel()
        await self._until_idle(seconds)

    def _cancel_expected(self) -> None:
        for acceptor in self._closed_acceptors:
            acceptor.cancel()

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until no connection and no application is left. Returns whether that came within `seconds`."""
        deadline = self.loop.time() + seconds
        while self.connections or self.tasks or self.expected:
            left = deadline - self.loop.time()
            if left <= 0:
                return False
            self._changed.clear()
            waiter = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({waiter}, timeout=left)
            waiter.cancel()
        return True
