"""Recycling: a worker that has served enough, grown too large or run too long is replaced.

The limits are Gunicorn's ``max_requests`` and the options ``max_rss`` and ``max_lifetime``. One
worker is replaced after the other, so that the machine needs memory for one more at most.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from ..config.settings import Settings
from ..observe.log import Log
from .roster import SERVING, RosterRow

STATM = Path("/proc/self/statm")
"""Linux: the sizes of this process, in pages. The second number is the resident set."""
MEBIBYTE = 1024 * 1024


def read_rss() -> int:
    """Return the bytes of this process's resident set; 0 where the system does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Recycling:
    """The limits of one worker, and the moment at which it may begin to leave."""

    def __init__(
        self,
        settings: Settings,
        row: RosterRow,
        begin: Callable[[], None],
        log: Log,
        rss: Callable[[], int] = read_rss,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`begin` is called once, when this worker is the one to be replaced."""
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

    @property
    def is_due(self) -> bool:
        """Whether a limit is reached."""
        return self._reason != ""

    def demand(self, reason: str) -> None:
        """A limit is reached: replace this worker as soon as no other one is being replaced."""
        if not self._reason:
            self._reason = reason
            self.look()

    def look(self) -> None:
        """Look at the limits. To be called with each heartbeat of a worker that serves."""
        if not self._reason:
            self._reason = self._find_reason()
        if self._reason and self._row.state == SERVING and self._row.roster.is_quiet():
            self._log.info("Autorestarting worker: %s", self._reason)
            self._begin()

    def _find_reason(self) -> str:
        if self._clock() >= self.ends_at:
            return "max_lifetime is reached"
        if self.max_rss == math.inf:
            return ""
        rss, is_first = self._rss(), self._is_first_look
        self._is_first_look = False
        if rss <= self.max_rss:
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
