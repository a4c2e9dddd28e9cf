"""The gauges of a worker: taken in each heartbeat, in one pass over its connections."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..net.load import Load
from ..net.transport import Transport
from ..observe.resident_memory import resident_bytes
from .catalog import PLACES, UNKNOWN, Values

if TYPE_CHECKING:
    from ..server import Server

AT_ONCE = 1000
"""Connections that are looked at in one turn of the event loop: about a millisecond."""
TASKS_PAUSE_FACTOR = 1000
"""Counting very many tasks takes the loop milliseconds. The next count is so many times as late."""
WORST_SECONDS = 60.0
REQUESTS = PLACES["requests_total"]
CLOSED_FOR_ROOM = PLACES["connections_closed_for_room_total"]
IDLE, BUSY, HANDSHAKING = range(PLACES["connections"], PLACES["connections"] + 3)
WEBSOCKETS = PLACES["websockets"]
HTTP2_STREAMS = PLACES["http2_streams"]
RUNNING = PLACES["running_requests"]
TASKS = PLACES["tasks"]
UNSENT = PLACES["unsent_bytes"]
LAG = PLACES["loop_lag_seconds"]
WORST_LAG = PLACES["loop_lag_max_seconds"]
MEMORY = PLACES["resident_memory_bytes"]


class Gauges:
    """Writes the gauges of `server`, and the counters that it has anyway, into `values`."""

    def __init__(self, server: Server, values: Values) -> None:
        self._server = server
        self._values = values
        self._lag = Lag()
        self._left: list[Transport] = []
        """The connections that a pass in several turns has not reached, in reverse order."""
        self._load = Load()
        self._tasks_at = 0.0
        """When tasks are counted again."""

    def tick(self, interval: float) -> None:
        """Take all gauges. To be called in each heartbeat, about every `interval` seconds."""
        values = self._values
        values[LAG], values[WORST_LAG] = self._lag.tick(self._server.loop.time(), interval)
        resident = resident_bytes()
        values[MEMORY] = UNKNOWN if resident is None else resident
        self._count_tasks()
        self.refresh()

    def refresh(self) -> None:
        """Take the gauges that change with each request.

        Of more than AT_ONCE connections, the load follows in later turns of the loop.
        """
        self.count()
        server, values = self._server, self._values
        values[HANDSHAKING] = len(server.acceptors.pending)
        values[RUNNING] = len(server.tasks)
        if self._left:
            return  # the last pass is not over
        self._load = Load()
        if len(server.connections) <= AT_ONCE:
            self._add(server.connections)
            self._write_load()
        else:
            self._left = list(server.connections)[::-1]
            server.continue_later(self._go_on)

    def count(self) -> None:
        """Take the counters that the server has."""
        self._values[REQUESTS] = self._server.host.nr
        self._values[CLOSED_FOR_ROOM] = self._server.acceptors.room.closed

    def _go_on(self) -> bool:
        """Look at further connections. Returns whether some are left: see `net.work_queue`."""
        connections = self._server.connections
        part = self._left[-AT_ONCE:]
        del self._left[-AT_ONCE:]
        self._add(transport for transport in part if transport in connections)
        if not self._left:
            self._write_load()
        return bool(self._left)

    def _add(self, connections: Iterable[Transport]) -> None:
        load, lost = self._load, self._server.lost
        for transport in connections:
            if transport not in lost:
                load.unsent += transport.raw.get_write_buffer_size()
                transport.handler.add_load(load)

    def _write_load(self) -> None:
        load, values = self._load, self._values
        values[IDLE] = load.idle
        values[BUSY] = load.busy
        values[WEBSOCKETS] = load.websockets
        values[HTTP2_STREAMS] = load.http2_streams
        values[UNSENT] = load.unsent

    def _count_tasks(self) -> None:
        begin = time.monotonic()
        if begin >= self._tasks_at:
            self._values[TASKS] = len(asyncio.all_tasks(self._server.loop))
            now = time.monotonic()
            self._tasks_at = now + TASKS_PAUSE_FACTOR * (now - begin)


class Lag:
    """How late the event loop runs the heartbeat: the last time, and the worst of a minute."""

    def __init__(self) -> None:
        self._due = UNKNOWN
        self._worst: deque[tuple[float, float]] = deque()
        """Times and lags of the last minute. Each lag is smaller than those before it."""

    def tick(self, now: float, interval: float) -> tuple[float, float]:
        """Return the lag of a heartbeat `now`, and the worst. The next is due after `interval`."""
        lag = max(0.0, now - self._due) if self._due == self._due else 0.0
        self._due = now + interval
        worst = self._worst
        while worst and worst[-1][1] <= lag:
            worst.pop()
        worst.append((now, lag))
        while worst[0][0] <= now - WORST_SECONDS:
            worst.popleft()
        return lag, worst[0][1]
