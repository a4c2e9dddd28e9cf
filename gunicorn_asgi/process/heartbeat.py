"""The heartbeat: the arbiter kills a worker whose event loop is blocked for ``timeout``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..observe.log import Log

MAX_INTERVAL_SECONDS = 1.0


class Heartbeat:
    """Calls `beat` in the event loop, at least four times in ``timeout``."""

    def __init__(
        self,
        half_timeout_s: float,
        beat: Callable[[], None],
        on_failure: Callable[[], None],
        log: Log,
    ) -> None:
        """`half_timeout_s` is Gunicorn's ``worker.timeout``: half of the setting; 0 for no limit.

        `on_failure` is called if `beat` raises, for the arbiter would kill the worker.
        """
        self.interval_s = (
            min(MAX_INTERVAL_SECONDS, half_timeout_s / 2)
            if half_timeout_s
            else MAX_INTERVAL_SECONDS
        )
        self._beat = beat
        self._on_failure = on_failure
        self._log = log
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="gunicorn_asgi heartbeat")
        self._task.add_done_callback(self._has_ended)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(self.interval_s)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("The heartbeat failed", exc_info=task.exception())
            self._on_failure()
