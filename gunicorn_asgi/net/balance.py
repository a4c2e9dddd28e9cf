"""How many connections each worker of one master has: shared memory, so that those with fewer take the next.

Whoever accepts faster gets more, and with connections that stay (keep-alive, WebSocket) keeps more. The kernel does not balance that for a
socket that several processes wait on: it wakes all, and the first one takes what there is. So a worker that is ahead of the others lets
them go first, for a moment.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable

SLOTS = 256
"""Workers that are told apart. Two that share a slot balance worse, no more."""
STALE_SECONDS = 3.0
"""Behind this, a worker that has not said anything is dead or stuck, and not to be waited for."""
REFRESH_SECONDS = 0.1
"""How old the list of living workers may be."""
LEEWAY = 4
"""Connections that a worker may have above its share, whatever that is."""


class WorkerTable:
    """One row for each worker. Made in the master, so that all workers inherit the same memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * 16 + 8)
        numbers = memoryview(self._memory)
        self.generation = numbers[SLOTS * 16 :].cast("Q")
        """How often the master has read its configuration."""
        self._configuration: object = None
        self.first_workers = 0
        """The workers that the master started with have ages up to this; later ones replace others."""
        # Others may read while one writes; nothing depends on a single number.
        self.counts = numbers[: SLOTS * 8].cast("Q")
        self.seen = numbers[SLOTS * 8 : SLOTS * 16].cast("d")
        """When each worker last said something, on the clock of time.monotonic(), which is the same for all processes; 0 is never."""

    def of(self, configuration: object) -> WorkerTable:
        """Itself, of this `configuration`: another object each time that the master has read it. For the master."""
        if configuration is not self._configuration:
            self._configuration = configuration
            self.generation[0] += 1
        return self


class WorkerRow:
    """One worker's view of the `board`; `age` is Gunicorn's number of the worker."""

    def __init__(
        self, board: WorkerTable, age: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._slot = age % SLOTS
        self._clock = clock
        self._others: list[int] = []
        self._looked = -math.inf
        self._has_left = False
        self._generation = board.generation[0]

    @property
    def is_outdated(self) -> bool:
        """Whether the master has read its configuration again since this worker was forked: after a HUP, which forks all workers anew."""
        return self._board.generation[0] != self._generation

    def publish(self, count: int) -> None:
        """Say how many connections this worker has."""
        self._board.counts[self._slot] = count

    def attend(self) -> None:
        """Say that this worker is there, and takes what comes. To be repeated at least every other second."""
        if not self._has_left:
            self._board.seen[self._slot] = self._clock()

    def leave(self) -> None:
        """This worker takes no more."""
        self._has_left = True
        self._board.seen[self._slot] = 0.0

    def leave_if_others(self) -> bool:
        """Leave, unless no other worker is there. If several try at the same time, it may be that none can: try again."""
        if self._has_left:
            return True
        self.leave()
        if self.has_others():
            return True
        self._has_left = False
        self.attend()
        return False

    def has_others(self) -> bool:
        """Whether another worker takes what this one leaves."""
        self._look(self._clock())
        return bool(self._others)

    def is_ahead(self, count: int) -> bool:
        """Whether this worker, having `count` connections, should let others go first."""
        if count <= LEEWAY:
            return False
        now = self._clock()
        if now - self._looked > REFRESH_SECONDS:
            self._look(now)
        if not self._others:
            return False
        counts = self._board.counts
        workers = len(self._others) + 1
        total = count + sum([counts[slot] for slot in self._others])
        return count * workers > total * 1.125 + LEEWAY * workers

    def _look(self, now: float) -> None:
        self._looked = now
        self._others = [
            slot
            for slot, seen in enumerate(self._board.seen)
            if now - seen < STALE_SECONDS and slot != self._slot
        ]
