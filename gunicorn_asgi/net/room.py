"""Room at the limit ``worker_connections``: idle connections are closed for clients that wait.

An idle connection costs its client nothing. So a thousand of them could keep all others out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from time import perf_counter
from typing import Protocol

from ..config.settings import Settings
from .idleness import BUSY, choose
from .transport import Transport

PAUSE_SECONDS = 0.02
"""Least pause after a choice. So a flood of clients cannot make the worker choose all the time."""
PAUSE_FACTOR = 10
"""A choice that takes long, among very many connections, is followed by a pause so much longer."""
RETRY_SECONDS = 0.25
"""Pause after a choice that has found none."""
UNKNOWN_WAITING = 8
"""Connections closed at once where the kernel does not tell how many clients wait."""
MAX_BATCH = 64
"""Maximum of connections closed at once. Each takes the loop about 20 microseconds."""
LEAVING_SECONDS = 0.2
"""Time for a client to see GOAWAY, or the end of TLS, before its connection is aborted."""


class RoomHost(Protocol):
    """The server, as far as making room needs it."""

    settings: Settings
    loop: asyncio.AbstractEventLoop

    @property
    def connections(self) -> Collection[Transport]:
        """The connections, in the order of their beginning."""

    @property
    def lost(self) -> Collection[Transport]:
        """Those of `connections` whose transport is lost. Their application is still running."""

    def connections_changed(self) -> None:
        """More or fewer connections count than before."""


class Room:
    """Closes connections of a worker to make room for others."""

    def __init__(
        self,
        host: RoomHost,
        pending: Mapping[Transport, asyncio.Task[None] | None],
        look: Callable[[], None],
    ) -> None:
        """`look` is called when `make` may be called again."""
        self._host = host
        self._pending = pending
        self._look = look
        self.leaving: set[Transport] = set()
        """Connections that were closed to make room, and are still there. They do not count for
        ``worker_connections``: at most MAX_BATCH."""
        self.closed = 0
        """Connections closed to make room, since the worker has started."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_resting(self) -> bool:
        """Whether `make` may not be called yet."""
        return self._timer is not None

    def make(self, waiting: int | None) -> None:
        """Close connections for clients that wait, and then pause.

        `waiting`: the number of clients, or None where it is not known.
        """
        loop = self._host.loop
        limit = self._host.settings.worker_connections
        # A sixteenth of all: a client has some time to send its request, even in a flood.
        most = min(MAX_BATCH, max(4, limit // 16))
        wanted = UNKNOWN_WAITING if waiting is None else waiting
        count = min(wanted, most, MAX_BATCH - len(self.leaving))
        begin = perf_counter()
        chosen = self._choose(count) if count else []
        took = perf_counter() - begin
        is_none_idle = wanted > 0 and not chosen
        self.rest(RETRY_SECONDS if is_none_idle else max(PAUSE_SECONDS, PAUSE_FACTOR * took))
        for transport in chosen:
            self._close(transport)
        if chosen:
            loop.call_later(LEAVING_SECONDS, self._end_leaving, chosen)

    def rest(self, seconds: float) -> None:
        """Call `look` after a pause."""
        assert self._timer is None
        self._timer = self._host.loop.call_later(seconds, self._end_rest)

    def _end_rest(self) -> None:
        self._timer = None
        self._look()

    def stop(self) -> None:
        """No more connections are accepted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self, transport: Transport) -> None:
        """`transport` is lost, or was not made."""
        self.leaving.discard(transport)

    def _choose(self, count: int) -> list[Transport]:
        host, leaving, now = self._host, self.leaving, self._host.loop.time()
        candidates = [
            transport
            for transport in host.connections
            if transport not in leaving and transport not in host.lost
        ]
        candidates += [
            transport
            for transport, task in self._pending.items()
            if task is not None and transport not in leaving
        ]
        return choose(candidates, count, now)

    def _close(self, transport: Transport) -> None:
        self.closed += 1
        self.leaving.add(transport)
        task = self._pending.get(transport)
        if task is not None:
            task.cancel()
        else:
            transport.make_room()

    def _end_leaving(self, transports: list[Transport]) -> None:
        for transport in transports:
            if transport not in self.leaving:
                continue
            self.leaving.discard(transport)
            # It is busy where a request over HTTP/2 came before the client saw GOAWAY.
            if transport not in self._pending and transport.idleness()[0] is not BUSY:
                transport.end_now()
            self._host.connections_changed()
