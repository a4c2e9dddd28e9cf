"""Pure: deadlines. Tables of them, and the rule for a client's progress.

There is no timer for each connection. The server looks at the deadlines about once a second. Each
protocol has one table of `Deadline`: what it waits for, by which limit, and what happens then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..http.contract import NEVER

T = TypeVar("T")

UNKNOWN = -1
"""In place of a count: the first look counts as progress."""


@dataclass(frozen=True, repr=False, eq=False)  # unused, and slow to make
class Deadline(Generic[T]):
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

    def is_stuck(self, now: float, count: int) -> bool:
        """Whether nothing has reached the client within the limit."""
        if self.has_moved(count):
            self.deadline = now + self._limit_s
            return False
        return self.deadline <= now
