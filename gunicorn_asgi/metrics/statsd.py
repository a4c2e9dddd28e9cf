"""Gauges of the whole service for statsd, by Gunicorn's own logger, once in an interval."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ..observe.log_failures import describe
from .exposition import Snapshot, list_gauges
from .table import MetricsRow

LIVING_SECONDS = 3.0
"""A worker without a heartbeat for so long is not waited for: another sends in its place."""


class StatsdGauges:
    """Sends the gauges by ``Statsd.gauge``, which knows the prefix and the tags.

    A logger class without this method gets none. A failure to send is a line of the log: see
    `observe.log_failures`.
    """

    def __init__(
        self, log: Any, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._gauge: Callable[[str, float], object] | None = getattr(log, "gauge", None)
        self._interval_s = interval_s
        self._clock = clock
        self._next_at = clock() + interval_s if self._gauge is not None else math.inf

    def tick(self, row: MetricsRow, take_snapshot: Callable[[], Snapshot]) -> None:
        """Send what is due, unless an older row has a living worker: one sends for all."""
        now = self._clock()
        if now < self._next_at or self._gauge is None:
            return
        self._next_at = max(self._next_at + self._interval_s, now)
        if row.table.has_older(row.slot, now - LIVING_SECONDS):
            return
        try:
            for name, value in list_gauges(take_snapshot()):
                self._gauge(name, int(value) if value.is_integer() else value)
        except Exception as error:  # noqa: BLE001 # of a logger class: it must not end the heartbeat
            self._log.warning("Gauges could not be sent to statsd: %s", describe(error))
            self._next_at = math.inf
