"""Handing over: a worker that is to leave serves until a newer one serves in its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..observe.log import Log
from .roster import HANDING_OVER, RosterRow

LOOK_SECONDS = 0.05
"""Time between two looks for a newer worker."""


class Handover:
    """The handing over of one worker. It begins at most once.

    It ends when a newer worker serves in this one's place. After a HUP, it also ends
    ``graceful_timeout`` after its beginning, if at least one worker serves with the new
    configuration: the two releases shall not be served side by side for ever. While none does, the
    service goes on with the old ones.
    """

    def __init__(self, row: RosterRow, limit_s: float, leave: Callable[[], None], log: Log) -> None:
        """`leave` is called at the end of the handing over."""
        self._row = row
        self._limit_s = limit_s
        self._leave = leave
        self._log = log
        self._began_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        return self._began_at != 0.0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, unless it has begun. May be called by a signal handler."""
        if not self.has_begun:
            self._began_at = time.monotonic()
            # At once: the arbiter counts the workers that hand over.
            self._row.state = HANDING_OVER
            loop.call_soon_threadsafe(self._start, loop)

    def stop(self) -> None:
        """The worker leaves."""
        if self._task is not None:
            self._task.cancel()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._wait(), name="gunicorn_asgi handover")

    async def _wait(self) -> None:
        if not self._row.has_successor:
            self._log.info(
                "Handing over: serving until a newer worker serves in this worker's place"
            )
        # The roster is memory that other processes write to: there is no event.
        while not (self._row.has_successor or self._is_overdue()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        self._log.info("Handed over, after %.1f s", time.monotonic() - self._began_at)
        self._leave()

    def _is_overdue(self) -> bool:
        row = self._row
        is_late = time.monotonic() - self._began_at > self._limit_s
        return is_late and row.roster.is_served_since(row.generation)
