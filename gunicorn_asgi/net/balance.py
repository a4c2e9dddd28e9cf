"""The number of connections of each worker, in memory that all workers of a master share.

The worker that accepts fastest gets the most connections, and with long ones (keep-alive,
WebSocket) keeps them. The kernel does not balance a socket on which several processes wait: it
wakes all, and the first accepts everything. So a worker with clearly more connections than average
waits a moment, and the others accept first.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable

SLOTS = 256
"""Rows of the table. Two workers with the same row balance worse, with no other consequence."""
STALE_SECONDS = 3.0
"""After this time without a sign of life, a worker counts as dead or blocked."""
REFRESH_SECONDS = 0.1
"""Maximum age of the list of living workers."""
LEEWAY = 4
"""Connections above average that a worker may always have."""


class WorkerTable:
    """One row for each worker. Made in the master, so that all workers inherit the same memory."""

    def __init__(self) -> None:
        numbers = memoryview(mmap.mmap(-1, SLOTS * 16))
        # Workers read while another writes. Nothing depends on a single number.
        self.counts = numbers[: SLOTS * 8].cast("Q")
        self.seen = numbers[SLOTS * 8 :].cast("d")
        """The time of each worker's last sign of life; 0 for none.

        On the clock of time.monotonic(), which is the same for all processes.
        """


class WorkerRow:
    """One worker's row of the table. `age` is Gunicorn's number of the worker."""

    def __init__(
        self, table: WorkerTable, age: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = table
        self._slot = age % SLOTS
        self._clock = clock
        self._others: list[int] = []
        self._found_at = -math.inf
        self._has_withdrawn = False

    def publish(self, count: int) -> None:
        """Write the number of this worker's connections."""
        self._table.counts[self._slot] = count

    def announce(self) -> None:
        """Write a sign of life: this worker accepts connections. Repeat it every 2 s or sooner."""
        if not self._has_withdrawn:
            self._table.seen[self._slot] = self._clock()

    def withdraw(self) -> None:
        """Write that this worker accepts no more connections."""
        self._has_withdrawn = True
        self._table.seen[self._slot] = 0.0

    def withdraw_if_others(self) -> bool:
        """Call `withdraw` if another worker accepts connections. Returns False if none does.

        Several workers that call it at the same time may all fail: they have to try again.
        """
        if self._has_withdrawn:
            return True
        self.withdraw()
        if self.has_others():
            return True
        self._has_withdrawn = False
        self.announce()
        return False

    def has_others(self) -> bool:
        """True if another worker accepts connections."""
        self._find_others(self._clock())
        return bool(self._others)

    def is_ahead(self, count: int) -> bool:
        """True if this worker, with `count` connections, should let others accept first.

        It has more than average, by 12.5 % and LEEWAY.
        """
        if count <= LEEWAY:
            return False
        now = self._clock()
        if now - self._found_at > REFRESH_SECONDS:
            self._find_others(now)
        if not self._others:
            return False
        counts = self._table.counts
        workers = len(self._others) + 1
        total = count + sum([counts[slot] for slot in self._others])
        return count * workers > total * 1.125 + LEEWAY * workers

    def others_have_room(self, limit: int) -> bool:
        """True if another worker accepts, and has fewer than `limit` connections."""
        now = self._clock()
        if now - self._found_at > REFRESH_SECONDS:
            self._find_others(now)
        counts = self._table.counts
        return any(counts[slot] < limit for slot in self._others)

    def _find_others(self, now: float) -> None:
        self._found_at = now
        self._others = [
            slot
            for slot, seen in enumerate(self._table.seen)
            if now - seen < STALE_SECONDS and slot != self._slot
        ]
