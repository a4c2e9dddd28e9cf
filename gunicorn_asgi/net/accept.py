"""Accepting: from a listening socket to a connection, as many as there is room for, and a fair share among workers.

The loop's own server accepts whatever waits as soon as it sees it: more than ``worker_connections``, more than a worker's share, and, in uvloop,
what it then resets for lack of a descriptor. Nor does it tell of a failed handshake. So the sockets are watched and accepted from here. What that
brings, and what it costs, is measured by ``benchmarks/accepting.py``.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import math
import socket
import ssl
import struct
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..http.request import decode_path
from .connection import address
from .proxy_preamble import read_introduction

if TYPE_CHECKING:
    from gunicorn.sock import BaseSocket

    from ..asgi.scope import Address
    from ..config.settings import Settings
    from ..server import Server
    from .balance import WorkerRow
    from .connection import Connection

LONG_SECONDS = 86400.0
"""Stands for no limit where a loop wants a number."""
OVERLAP_SECONDS = 0.1
"""How long a worker with a queue of its own listens on when newer ones are to replace it: they are forked by then, and bind at once."""
BATCH = 8
"""Connections that are taken in one turn of the loop, for what is there already has to be served, too."""
YIELD_SECONDS = 0.001
"""How long a worker that is ahead lets the others go first..."""
YIELDS = 8
"""...and how often in a row, until it takes some all the same: the others may be busy."""
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The process, or the system, has no descriptor or memory left."""
COMPLAINT_SECONDS = 60.0
"""The time between two lines of the log about it."""
RETRY_SECONDS = 1.0
"""The pause then."""
FULL_SECONDS = 60.0
"""The time between two warnings that ``worker_connections`` is reached.

Also how long it must not have been reached before the log says that it no longer is. So a client
that opens and closes connections at the limit causes two lines a minute at most, and between a
warning and that line the limit was reached at least once a minute.
"""


class Listener:
    """What all connections of one listening socket have in common."""

    def __init__(self, sock: BaseSocket, scheme: str, root_path: str) -> None:
        self.sock = sock
        self.scheme = scheme
        self.raw_root_path = root_path.encode()
        self.root_path = decode_path(self.raw_root_path)
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
    arguments: dict[str, Any] = {
        "ssl": context,
        "ssl_handshake_timeout": min(settings.tls_handshake_timeout_s, LONG_SECONDS),
    }
    if sys.version_info >= (3, 11) or settings.asgi_loop == "uvloop":
        # Of the whole closing, with all that is still to be sent before it. `Connection.expired` gives up a client that takes nothing.
        arguments["ssl_shutdown_timeout"] = LONG_SECONDS
    return arguments


class Acceptors:
    """All that a worker accepts with: one `Acceptor` for each of its sockets, and what they have in common."""

    def __init__(self, server: Server, share: WorkerRow | None, has_own_queue: bool) -> None:
        self._server = server
        self._share = share
        """What is known of the other workers."""
        self._has_own_queue = has_own_queue
        """Nobody else takes the connections that wait for this worker: ``reuse_port``."""
        self.pending: dict[Connection, asyncio.Task[None] | None] = {}
        """Connections that are accepted, and whose transport (or its TLS) is not ready; what makes it."""
        self._is_accepting = False
        self._open: list[Acceptor] = []
        # What the log says about ``worker_connections``.
        self._was_full = False
        """The limit was reached at some time since the last report."""
        self._full_at = -math.inf
        """When a report last saw that."""
        self._warned_at = -math.inf
        self._is_warned = False
        """There was a warning, and no line yet that it is over."""

    def listen(self, sockets: Sequence[BaseSocket], ssl_context: ssl.SSLContext | None) -> None:
        """Begin to accept on all of Gunicorn's `sockets`."""
        settings = self._server.settings
        tls = _tls_arguments(settings, ssl_context)
        scheme = "http" if ssl_context is None else "https"
        self._open = [
            Acceptor(self._server, Listener(sock, scheme, settings.root_path), tls)
            for sock in sockets
        ]
        self.attend()
        self.balance()

    @property
    def is_ahead(self) -> bool:
        """Whether other workers should go first."""
        return (
            self._share is not None
            and not self._has_own_queue
            and self._share.is_ahead(len(self._server.connections) + len(self.pending))
        )

    def attend(self) -> None:
        """Tell the other workers that this one is there."""
        if self._share is not None and self._open:
            self._share.announce()

    def balance(self) -> None:
        """Tell the other workers how many connections there are, and accept while there are not ``worker_connections``."""
        if not self._open:
            return  # not yet, or no more
        server = self._server
        count = len(server.connections) + len(self.pending)
        if self._share is not None:
            self._share.publish(count)
        if (count < server.settings.worker_connections) is not self._is_accepting:
            self._is_accepting = not self._is_accepting
            self._was_full = self._was_full or not self._is_accepting
            for acceptor in self._open:
                acceptor.open() if self._is_accepting else acceptor.pause()

    def report(self, now: float) -> None:
        """Log whether ``worker_connections`` was reached. To be called with each tick."""
        if not self._open:
            return  # the worker does not accept for another reason
        server = self._server
        count = len(server.connections) + len(self.pending)
        if self._was_full:
            self._was_full = not self._is_accepting
            self._full_at = now
            if now - self._warned_at >= FULL_SECONDS:
                self._warned_at = now
                self._is_warned = True
                server.log.warning(
                    "worker_connections is %d, and that many connections were open: further ones "
                    "wait, or go to another worker. "
                    "Open now: %d, of which %d have no request in progress.",
                    server.settings.worker_connections,
                    count,
                    count - sum(connection.is_busy for connection in server.connections),
                )
        elif self._is_warned and now - self._full_at >= FULL_SECONDS:
            self._is_warned = False
            server.log.info(
                "worker_connections is %d, and was not reached for %d s. Open now: %d.",
                server.settings.worker_connections,
                FULL_SECONDS,
                count,
            )

    def accepted(self, listener: Listener, client: Address | None) -> Connection:
        """There is a connection from `client`. It counts from now on. Returns its protocol."""
        connection = self._server.connect(listener, client)
        self.pending[connection] = None
        self.balance()
        return connection

    def settled(self, connection: Connection) -> None:
        """`connection` has a transport by now, or will have none."""
        if connection in self.pending:
            del self.pending[connection]
            self._server.changed()

    # Leaving.

    def retire(self) -> bool:
        """``max_requests`` is reached. Returns whether the worker may leave."""
        if not self._has_own_queue:
            # At once, not when the worker gets to it: what is accepted now would only be sent away.
            self.stop()
        elif self._share is not None and self._server.settings.workers > 1:
            # Who connects while no worker listens is refused. So one after the other.
            return self._share.withdraw_if_others()
        return True

    async def close(self, seconds: float) -> None:
        """Accept no more, within so many `seconds`."""
        if (
            self._open
            and self._has_own_queue
            and self._share is not None
            and self._share.is_outdated
        ):
            # The kernel goes on to give it connections until those that are to replace it listen.
            await asyncio.sleep(min(OVERLAP_SECONDS, seconds))
        self.stop()

    def stop(self) -> None:
        """Accept what waits, unless others will, and then no more."""
        acceptors, self._open = self._open, []
        if self._share is not None:
            self._share.withdraw()
        # Where nobody else will take them, all that wait, also above ``worker_connections``: they would be reset.
        others = self._share is not None and self._share.has_others() and not self._has_own_queue
        take = 0 if others else self._server.settings.backlog
        for acceptor in acceptors:
            acceptor.close(take, self._has_own_queue)

    def cancel(self) -> None:
        """Give up what is pending."""
        for task in self.pending.values():
            if task is not None:
                task.cancel()


class Acceptor:
    """Takes the connections of one `listener`."""

    def __init__(self, server: Server, listener: Listener, tls: dict[str, Any]) -> None:
        self._server = server
        self._loop = server.loop
        self._listener = listener
        self._sock: socket.socket = listener.sock.sock
        self._sock.setblocking(False)
        self._kind = (int(self._sock.family), int(self._sock.type), self._sock.proto)
        self._tls = tls
        """What the loop takes for TLS."""
        self._is_open = False
        """After `open`, until `pause` or `close`."""
        self._timer: asyncio.TimerHandle | None = None
        """Behind which the socket is watched again."""
        self._yields = 0
        self._complained = -math.inf
        """When it was last said that the process has no descriptor left."""

    def open(self) -> None:
        """Accept from now on, until `pause` or `close`."""
        if not self._is_open:
            self._is_open = True
            self._watch()

    def pause(self) -> None:
        """Accept no more for now: what comes waits, or goes to another worker."""
        if self._is_open:
            self._is_open = False
            self._unwatch()

    def close(self, take: int, is_alone: bool) -> None:
        """Accept what waits already, up to `take` connections, and then no more. `is_alone`: nobody else accepts on this very socket."""
        self.pause()
        if is_alone:
            _ignore_syn(self._sock)
        while take > 0 and self._accept():
            take -= 1
        self._sock.close()

    # Inside.

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept_some)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _sleep(self, seconds: float) -> None:
        if self._is_open and self._timer is None:
            self._loop.remove_reader(self._sock.fileno())
            self._timer = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._watch()

    def _accept_some(self) -> None:
        acceptors = self._server.acceptors
        is_patient = self._yields < YIELDS
        for _ in range(BATCH):
            if not self._is_open:
                return  # ``worker_connections`` is reached
            if is_patient and acceptors.is_ahead:
                self._yields += 1
                self._sleep(YIELD_SECONDS)
                return
            if not self._accept():
                break
        self._yields = 0

    def _accept(self) -> bool:
        """Take one connection; False if there is none to take."""
        try:
            # What accept() calls, which would make a socket whose numbers are enum members, at the price of all the rest (see Accepted).
            descriptor, peer = self._sock._accept()  # type: ignore[attr-defined]  # typeshed leaves it out
        except OSError as error:
            if error.errno not in EXHAUSTED:
                return (
                    False  # there is none any more; or it has failed already, which Linux says here
                )
            if self._loop.time() - self._complained > COMPLAINT_SECONDS:
                self._complained = self._loop.time()
                self._server.log.error("Cannot accept connections: %s", error)  # noqa: TRY400 # the system's fault: no traceback
            self._sleep(RETRY_SECONDS)
            return False
        sock = Accepted(*self._kind, descriptor)
        sock.setblocking(False)
        acceptors = self._server.acceptors
        client = address(peer)
        connection = acceptors.accepted(self._listener, client)
        task = _start(self._loop, self._serve(sock, client, connection))
        if connection in acceptors.pending:
            acceptors.pending[connection] = task
        return True

    async def _serve(
        self, sock: socket.socket, client: Address | None, connection: Connection
    ) -> None:
        server = self._server
        try:
            if server.settings.proxy_protocol != "off":
                connection.introduction = await read_introduction(
                    sock, client, server, bool(self._tls)
                )
            await self._loop.connect_accepted_socket(lambda: connection, sock, **self._tls)
        except OSError as error:  # ssl.SSLError is one: mostly a failed handshake
            server.log.debug("A connection from %s could not be made: %r", client, error)
        finally:
            server.acceptors.settled(connection)


ACCEPT_TASK = "gunicorn_asgi accept"
"""By its name, the report on a stuck loop leaves it out."""


def _start(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, name=ACCEPT_TASK, eager_start=True)
    return loop.create_task(coroutine, name=ACCEPT_TASK)


class Accepted(socket.socket):
    """With plain numbers for `family` and `type`: to make enum members of them, each time that the loop asks, costs as much as accepting."""

    family = socket.SocketType.family  # type: ignore[assignment]  # no property, on purpose
    type = socket.SocketType.type  # type: ignore[assignment]  # as above


SO_ATTACH_FILTER = 26
"""Linux; the socket module does not name it."""
IGNORE_SYN = struct.pack(
    "=HBBIHBBIHBBIHBBI",
    *(0x30, 0, 0, 13),  # load the byte with the flags of the TCP header (RFC 9293, 3.1)
    *(0x45, 0, 1, 0x02),  # SYN?
    *(0x06, 0, 0, 0),  # then drop it
    *(0x06, 0, 0, 0xFFFFFFFF),  # otherwise take it whole
)
"""A classic BPF program: an array of struct sock_filter."""


def _ignore_syn(sock: socket.socket) -> None:
    """Let nobody begin to connect to `sock`, a listener that is about to close: who would get a reset tries again, and reaches another."""
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        program = ctypes.create_string_buffer(IGNORE_SYN, len(IGNORE_SYN))
        with suppress(OSError):  # forbidden here: one chance less
            sock.setsockopt(
                socket.SOL_SOCKET,
                SO_ATTACH_FILTER,
                struct.pack("@HP", len(IGNORE_SYN) // 8, ctypes.addressof(program)),
            )
