"""Accepting: as many connections as there is room for, and a fair share among workers.

The loop's own server accepts everything that waits as soon as it sees it: more than
``worker_connections``, more than a worker's share, and, in uvloop, connections that it then resets
for lack of a descriptor. It does not tell of a failed handshake either. So this module watches the
sockets and accepts from them. ``benchmarks/accepting.py`` measures the gain and the cost.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..asgi.scope import Address
from ..config.settings import Settings
from .acceptor import AcceptHost, Acceptor
from .balance import WorkerRow
from .listener import Listener
from .own_queue import ClosedQueues
from .room import Room
from .transport import Transport

if TYPE_CHECKING:
    from gunicorn.sock import BaseSocket

LONG_SECONDS = 86400.0
"""No limit, for a loop that requires a number."""
ELSEWHERE_SECONDS = 0.1
"""Pause of a full worker while others have room: they accept the clients that wait."""
OVERLAP_SECONDS = 0.1
"""How long a leaving worker with its own queue goes on listening while newer workers replace it.
They are forked by then, and bind at once."""
FULL_SECONDS = 60.0
"""Time between two warnings that ``worker_connections`` is reached.

After as long without reaching it, the log says that it is over. So a client that opens and closes
connections at the limit causes two lines a minute at most.
"""


def _tls_arguments(settings: Settings, context: ssl.SSLContext | None) -> dict[str, Any]:
    """The arguments of ``connect_accepted_socket`` for TLS."""
    if context is None:
        return {}
    arguments: dict[str, Any] = {
        "ssl": context,
        "ssl_handshake_timeout": min(settings.tls_handshake_timeout_s, LONG_SECONDS),
    }
    if sys.version_info >= (3, 11) or settings.asgi_loop == "uvloop":
        # The limit includes the data that is still to be sent. `Transport.deadline_passed` aborts
        # a client that takes none of it.
        arguments["ssl_shutdown_timeout"] = LONG_SECONDS
    return arguments


class Acceptors:
    """The listening side of a worker: an `Acceptor` for each socket, and their common limit."""

    def __init__(self, server: AcceptHost, share: WorkerRow | None, has_own_queue: bool) -> None:
        self._server = server
        self._share = share
        """The connection counts of all workers; None where a worker is alone."""
        self._has_own_queue = has_own_queue
        """No other worker accepts the connections that wait here: ``reuse_port``."""
        self.pending: dict[Transport, asyncio.Task[None] | None] = {}
        """Accepted connections that are not made, or whose TLS handshake is in progress, and the
        task that makes them."""
        self.room = Room(server, self.pending, self._look)
        self._is_accepting = False
        self._open: list[Acceptor] = []
        # The log lines about ``worker_connections``.
        self._was_full = False
        """The limit was reached at some time since the last report."""
        self._full_at = -math.inf
        """When a report last saw the limit reached."""
        self._warned_at = -math.inf
        self._is_warned = False
        """The warning was logged, and its end was not."""
        self._reported = 0
        """Connections closed to make room that the log has told of."""

    def listen(
        self,
        sockets: Sequence[BaseSocket],
        ssl_context: ssl.SSLContext | None,
        closed: ClosedQueues | None = None,
    ) -> None:
        """Begin to accept on all of Gunicorn's `sockets`; those in `closed` listen again."""
        settings = self._server.settings
        tls = _tls_arguments(settings, ssl_context)
        scheme = "http" if ssl_context is None else "https"
        self._open = [
            Acceptor(self._server, self, Listener(sock, scheme, settings.root_path), tls)
            for sock in sockets
        ]
        self.announce()
        self.balance()
        if closed is not None:
            closed.open(settings.backlog)
            for acceptor, each in zip(self._open, sockets, strict=True):
                for descriptor, peer in closed.early.pop(each.sock, ()):
                    acceptor.make(descriptor, peer)

    @property
    def is_ahead(self) -> bool:
        """Whether other workers should go first."""
        return (
            self._share is not None and not self._has_own_queue and self._share.is_ahead(self.count)
        )

    @property
    def count(self) -> int:
        """The number of connections that count for ``worker_connections``."""
        server = self._server
        return (
            len(server.connections) + len(self.pending) - len(server.lost) - len(self.room.leaving)
        )

    def announce(self) -> None:
        """Tell the other workers that this worker accepts."""
        if self._share is not None and self._open:
            self._share.announce()

    def balance(self) -> None:
        """Publish the number of connections, and accept below ``worker_connections``."""
        if not self._open:
            return  # not yet, or no more
        count = self.count
        if self._share is not None:
            self._share.publish(count)
        if (count < self._server.settings.worker_connections) is self._is_accepting:
            return
        self._is_accepting = not self._is_accepting
        if self._is_accepting:
            for acceptor in self._open:
                acceptor.open()
        else:
            self._was_full = True
            self._look()

    # Full.

    def _look(self) -> None:
        """Look whether a client waits, if this worker is full."""
        if not self._is_accepting:
            for acceptor in self._open:
                acceptor.pause() if self.room.is_resting else acceptor.watch()

    def client_waits(self) -> None:
        """A client waits, and this worker is full: close idle connections for it."""
        if self._is_accepting or self.room.is_resting:
            return  # at another socket, in the same turn of the loop
        if self._others_have_room():
            self.room.rest(ELSEWHERE_SECONDS)
        else:
            waiting = [acceptor.waiting() for acceptor in self._open]
            known = [number for number in waiting if number is not None]
            self.room.make(sum(known) if len(known) == len(waiting) else None)
        self._look()
        self.balance()

    def _others_have_room(self) -> bool:
        return (
            self._share is not None
            and not self._has_own_queue
            and self._share.others_have_room(self._server.settings.worker_connections)
        )

    def report(self, now: float) -> None:
        """Log whether ``worker_connections`` was reached. To be called with each tick."""
        if not self._open:
            return  # the worker does not accept for another reason
        server, count = self._server, self.count
        closed = self.room.closed - self._reported
        if self._was_full:
            self._was_full = not self._is_accepting
            self._full_at = now
            if now - self._warned_at >= FULL_SECONDS:
                self._warned_at = now
                self._is_warned = True
                self._reported += closed
                server.log.warning(
                    "worker_connections is %d, and that many connections were open: "
                    "%d of them were closed to make room. "
                    "Open now: %d, of which %d have no request in progress. "
                    "If most have none, lower keepalive; otherwise add workers, or raise "
                    "worker_connections if the application has room for more.",
                    server.settings.worker_connections,
                    closed,
                    count,
                    count - server.count_busy(with_lost=False),
                )
        elif self._is_warned and now - self._full_at >= FULL_SECONDS:
            self._is_warned = False
            self._reported += closed
            server.log.info(
                "worker_connections is %d, and was not reached for %d s. "
                "%d more connections were closed to make room before that. Open now: %d.",
                server.settings.worker_connections,
                FULL_SECONDS,
                closed,
                count,
            )

    def accepted(self, listener: Listener, client: Address | None) -> Transport:
        """Return the transport of a new connection from `client`. It counts from now on."""
        transport = self._server.connect(listener, client)
        self.pending[transport] = None
        self.balance()
        return transport

    def settled(self, transport: Transport) -> None:
        """`transport` is connected, or never will be."""
        if transport in self.pending:
            del self.pending[transport]
            self.room.forget(transport)
            self._server.connections_changed()

    # The end.

    def retire(self) -> bool:
        """``max_requests`` is reached. Returns whether the worker may shut down."""
        if not self._has_own_queue:
            # At once: further connections would only be closed again.
            self.stop()
        elif self._share is not None and self._server.settings.workers > 1:
            # One worker after the other: a client is refused while no worker listens.
            return self._share.withdraw_if_others()
        return True

    async def close(self, seconds: float, is_replaced: bool) -> None:
        """Stop to accept, within so many `seconds`.

        `is_replaced`: newer workers are on their way.
        """
        if self._open and self._has_own_queue and is_replaced:
            # The kernel gives it connections until the workers that replace it listen.
            await asyncio.sleep(min(OVERLAP_SECONDS, seconds))
        self.stop()

    def stop(self) -> None:
        """Accept the waiting connections, unless another worker will, and then no more."""
        acceptors, self._open = self._open, []
        self.room.stop()
        if self._share is not None:
            self._share.withdraw()
        # Where no other worker accepts them, all that wait, also above ``worker_connections``: the
        # kernel would reset them.
        others = self._share is not None and self._share.has_others() and not self._has_own_queue
        take = 0 if others else self._server.settings.backlog
        for acceptor in acceptors:
            acceptor.close(take, self._has_own_queue)

    def cancel(self) -> None:
        """Give up the connections that are not made."""
        for task in self.pending.values():
            if task is not None:
                task.cancel()
