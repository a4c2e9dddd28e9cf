"""The deadline of an invocation, and the moment a little before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .invocation import Invocation

MARGIN_SECONDS = 0.25
"""Time before the deadline at which the application is cancelled: its client needs an answer."""
MARGIN_SHARE = 0.1
"""The same as a share of the time that an invocation has, for very short ones."""


class Deadline:
    """The deadline of one invocation. AWS Lambda ends the whole environment at it."""

    def __init__(self, invocation: Invocation, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        left_s = invocation.deadline_ms / 1000 - time.time()
        self._at = loop.time() + left_s
        self._margin_s = min(MARGIN_SECONDS, left_s * MARGIN_SHARE)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, or 0."""
        return max(0.0, self._at - self._loop.time())

    @property
    def near_s(self) -> float:
        """Seconds until the deadline is near, or 0: there has to be time for an answer."""
        return max(0.0, self._at - self._margin_s - self._loop.time())

    def arm(self, action: Callable[[], None]) -> None:
        """Have `action` called when the deadline is near."""
        self._timer = self._loop.call_later(self.near_s, action)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
