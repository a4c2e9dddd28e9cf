"""Pure: deadlines. Tables of them, and the rules for a client's progress.

There is no timer for each connection. The server looks at the deadlines about once a second. Each
protocol has one table of `Deadline`: what it waits for, by which limit, and what happens then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ..frozen import Frozen
from ..http.contract import NEVER
from ..http.exchange import RATE_SECONDS

T = TypeVar("T")

UNKNOWN = -1
"""In place of a count: the first look counts as progress."""


class Deadline(Frozen, Generic[T]):
    """One kind of deadline."""

    source: str
    """Its limit: a setting, an option, or a constant; and the section of the RFC."""
    action: Callable[[T], None]
    """Called when it has passed. Sets the next deadline, or ends something."""


class Progress:
    """The one rule for a client that has to take data: some of it must reach it within a limit.

    The limit starts anew with each look that finds progress.
    """

    __slots__ = ("_count", "_limit_s", "deadline")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._count = 0
        self.deadline = NEVER
        """When the client has to have taken something, on the loop's clock; NEVER while nothing
        has to leave."""

    def start(self, now: float, count: int) -> None:
        """Data has to leave from `now` on. `count` changes whenever some reaches the client."""
        self._count = count
        self.deadline = now + self._limit_s

    def start_at(self, look: float) -> None:
        """Data has to leave from `look` on, the time of the next look, which counts for the first
        time. So nothing is counted for data that has left by then."""
        self._count = UNKNOWN
        self.deadline = look

    def stop(self) -> None:
        """Nothing has to leave any more."""
        self.deadline = NEVER

    def postpone(self, seconds: float) -> None:
        """The loop was blocked for so long: the time does not count."""
        self.deadline += seconds

    def has_moved(self, count: int) -> bool:
        """Whether something has reached the client since the last look."""
        before, self._count = self._count, count
        return count != before

    def is_stuck(self, now: float, count: int, has_waiting: bool = True) -> bool:
        """Whether nothing has reached the client within the limit.

        `has_waiting`: data is on its way to the client.
        """
        if self.has_moved(count):
            self.deadline = now + self._limit_s
            return False
        return self.deadline <= now


class RatedProgress(Progress):
    """Progress at a minimal rate: ``min_read_rate``.

    The rate holds in each stretch of RATE_SECONDS in which data waits for the client.
    """

    __slots__ = ("_first", "_rate", "_since", "_stuck_at")

    def __init__(self, limit_s: float, rate: int) -> None:
        super().__init__(limit_s)
        self._rate = rate
        """Bytes a second."""
        self._first = UNKNOWN
        """The count at the beginning of the stretch."""
        self._since = NEVER
        """The beginning of the stretch."""
        self._stuck_at = NEVER
        """When the client has to have taken something, at whatever rate."""

    def start(self, now: float, count: int) -> None:
        super().start(now, count)
        self._begin(now, count)

    def start_at(self, look: float) -> None:
        super().start_at(look)
        self._first = UNKNOWN
        self._stuck_at = look

    def _begin(self, now: float, count: int) -> None:
        """Begin a stretch. `deadline` is that of the limit."""
        self._first, self._since, self._stuck_at = count, now, self.deadline
        self.deadline = min(self.deadline, now + RATE_SECONDS)

    def postpone(self, seconds: float) -> None:
        super().postpone(seconds)
        self._since += seconds
        self._stuck_at += seconds

    def is_stuck(self, now: float, count: int, has_waiting: bool = True) -> bool:
        """Whether nothing has reached the client within the limit, or too little."""
        if self.deadline == NEVER:
            return False  # nothing has to leave
        first, end = self._first, self._since + RATE_SECONDS
        self.deadline = self._stuck_at
        if super().is_stuck(now, count):
            return True
        if first == UNKNOWN or not has_waiting:
            self._begin(now, count)
        elif end <= now:
            # Where only the buffer tells, the count falls.
            if abs(count - first) < self._rate * (now - self._since):
                return True
            self._begin(now, count)
        else:
            self._stuck_at, self.deadline = self.deadline, min(self.deadline, end)
        return False


def make_progress(limit_s: float, rate: int) -> Progress:
    """The rule for a client, with a minimal `rate` in bytes a second unless it is 0."""
    return RatedProgress(limit_s, rate) if rate else Progress(limit_s)
