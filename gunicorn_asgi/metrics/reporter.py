"""The numbers of one worker: counts, gauges, its row, its page, and what statsd is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..observe.access_log import Access
from ..observe.log import Log
from ..observe.log_failures import LimitedReport
from .catalog import BORN, PID, SEEN, STATE, STATES, Row, State
from .counting import CountingAccess, counting_transport
from .exposition import Snapshot, take_snapshot
from .gauges import Gauges
from .listening import MetricsSocket
from .page import Page
from .statsd import StatsdGauges
from .table import MetricsRow

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker

    from ..server import Server


class Reporter:
    """Made in the master, and used by the worker that is forked next."""

    def __init__(self, row: MetricsRow, sock: MetricsSocket | None) -> None:
        self._row = row
        self._socket = sock
        self._values = row.values
        self._read_state: Callable[[], State] = lambda: State.STARTING
        self._gauges: Gauges | None = None
        self._page: Page | None = None
        self._statsd: StatsdGauges | None = None
        self._failures: LimitedReport | None = None

    def start(self) -> None:
        """The worker begins."""
        self._values[PID] = os.getpid()
        self._values[BORN] = time.monotonic()
        self._sign()

    def listen(self, worker: Worker) -> Access:
        """Return the listener to the exchanges of `worker`, which counts them."""
        return CountingAccess(worker, self._values)

    def attach(self, server: Server, read_state: Callable[[], State], log: Log) -> None:
        """Count what `server` does. `read_state` returns the state of the worker."""
        server.transport_class = counting_transport(self._values)
        self._read_state = read_state
        self._failures = LimitedReport(lambda line: log.warning("%s", line))
        self._gauges = Gauges(server, self._values)
        self._statsd = StatsdGauges(log, server.settings.statsd_interval_s)
        if self._socket is not None:
            self._page = Page(server, self.snapshot, read_state, log)

    def open_page(self) -> None:
        """The worker serves: say so, and answer at ``metrics_bind`` until `close_page`."""
        self._sign()  # a worker that is blocked before the next heartbeat is not starting
        if self._page is not None and self._socket is not None:
            self._page.open(self._socket)

    async def close_page(self) -> None:
        if self._page is not None:
            await self._page.close()

    def tick(self, interval: float) -> None:
        """To be called in each heartbeat, about every `interval` seconds. Raises nothing."""
        try:
            self._tick(interval)
        except Exception as error:  # noqa: BLE001 # a number must not end the heartbeat
            if self._failures is not None:
                self._failures.add("Numbers could not be taken", error)

    def _tick(self, interval: float) -> None:
        try:
            if self._gauges is not None:
                self._gauges.tick(interval)
        finally:
            self._sign()
        if self._page is not None:
            self._page.tick(interval)
        if self._statsd is not None:
            self._statsd.tick(self._row, self.snapshot)

    def snapshot(self) -> Snapshot:
        """The numbers of all workers, those of this one as of now."""
        if self._gauges is not None:
            self._gauges.refresh()
        self._sign()
        totals, rows = self._row.table.read()
        living = [row if is_alive(int(row[PID])) else _without_life(row) for row in rows]
        return take_snapshot(totals, living, time.monotonic())

    def end(self) -> None:
        """The worker ends, and its loop is closed. Its counters stay in its row."""
        if self._gauges is not None:
            self._gauges.count()
        self._sign()
        self._row.end()

    def _sign(self) -> None:
        """Write a sign of life."""
        values = self._values
        values[SEEN] = time.monotonic()
        values[STATE] = STATES.index(self._read_state())


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs. A worker that was killed could not write its end."""
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _without_life(row: Row) -> Row:
    return [*row[:SEEN], 0.0, *row[SEEN + 1 :]]
