"""The request to stop the worker: made at any time, awaited by the event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any


class StopRequest:
    """The request to stop, its time, and the exit code.

    Signal handlers make it, and the reloader's thread, ``max_requests`` and the application. The
    arbiter repeats TERM: only the first request counts, and the first quick one after it.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """A request was made while the event loop ran."""
        self.quick = asyncio.Event()
        """A quick request was made while the event loop ran."""
        self.exit_code = 0
        self.requested_at = 0.0
        """The time of the first request (``time.monotonic``), or 0.0."""
        self.quick_at = 0.0
        """The time of the first quick request (``time.monotonic``), or 0.0."""
        self._has_begun_quick = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_made(self) -> bool:
        return self.requested_at != 0.0

    @property
    def is_quick(self) -> bool:
        return self.quick_at != 0.0

    @property
    def is_awaited(self) -> bool:
        """True from the start of the event loop, which can then stop the worker."""
        return self._loop is not None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have later requests set the events in `loop`."""
        self._loop = loop

    def begin_quick(self) -> bool:
        """Announce a quick request; return whether it is the first."""
        is_first = not self._has_begun_quick
        self._has_begun_quick = True
        return is_first

    def make(self, quick: bool = False, exit_code: int = 0) -> None:
        """Request to stop. The first exit code that is not 0 counts."""
        self.exit_code = self.exit_code or exit_code
        now = time.monotonic()
        self.requested_at = self.requested_at or now
        if quick:
            self._has_begun_quick = True
            self.quick_at = self.quick_at or now
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.requested.set)
                if quick:
                    self._loop.call_soon_threadsafe(self.quick.set)


async def wait_for_either(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Wait until `task` is done or `event` is set."""
    waiter = asyncio.create_task(event.wait(), name="gunicorn_asgi signals")
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
