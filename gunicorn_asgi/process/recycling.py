"""Recycling: a worker that has served enough, grown too large or run too long is replaced.

The limits are Gunicorn's ``max_requests`` and the options ``max_rss`` and ``max_lifetime``. One
worker is replaced after the other, so that the machine needs memory for one more at most.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from ..config.settings import Settings
from ..observe.log import Log
from ..observe.resident_memory import resident_bytes
from .roster import SERVING, RosterRow

MEBIBYTE = 1024 * 1024


class Recycling:
    """The limits of one worker, and the moment at which it may begin to leave."""

    def __init__(
        self,
        settings: Settings,
        row: RosterRow,
        begin: Callable[[], None],
        log: Log,
        rss: Callable[[], int | None] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`begin` is called when this worker is the one to be replaced, until it leaves."""
        self._row = row
        self._begin = begin
        self._log = log
        self._rss = rss
        self._clock = clock
        self.max_rss = settings.max_rss + random.uniform(0, settings.max_rss_jitter)  # noqa: S311 # no secret
        """Bytes, with jitter; infinity for no limit."""
        self.ends_at = (
            clock() + settings.max_lifetime_s + random.uniform(0, settings.max_lifetime_jitter_s)  # noqa: S311 # no secret
        )
        """The time (`clock`) at which ``max_lifetime`` is over, with jitter."""
        self._is_first_look = True
        self._reason = ""
        self._is_logged = False

    def demand(self, reason: str) -> None:
        """A limit is reached: replace this worker as soon as no other one is being replaced."""
        if not self._reason:
            self._reason = reason
            self.look()

    def look(self) -> None:
        """Look at the limits, if this worker serves. To be called with each heartbeat."""
        if self._row.state != SERVING:
            return  # a worker that boots has not the size with which it begins to serve
        if not self._reason:
            self._reason = self._find_reason()
        if self._reason and self._row.roster.is_quiet():
            if not self._is_logged:
                self._is_logged = True
                self._log.info("Autorestarting worker: %s", self._reason)
            self._begin()

    def _find_reason(self) -> str:
        if self._clock() >= self.ends_at:
            return "max_lifetime is reached"
        if self.max_rss == math.inf:
            return ""
        rss, is_first = self._rss(), self._is_first_look
        self._is_first_look = False
        if rss is None or rss <= self.max_rss:
            return ""
        if is_first:
            # Its replacement would be as large, and be replaced at once.
            self._log.warning(
                "max_rss is %.0f MiB, and this worker has %.0f MiB already at its start: "
                "it is not replaced for its size; raise max_rss",
                self.max_rss / MEBIBYTE,
                rss / MEBIBYTE,
            )
            self.max_rss = math.inf
            return ""
        return f"max_rss is reached, with {rss / MEBIBYTE:.0f} MiB"
