"""Pure: a bounded memory of work that many requests repeat.

Everything that is remembered across connections is kept in a `Memory`. Its rules hold for a client
that sends new things without end:

* It has two generations of `size` entries. An entry that is found in the older one moves to the
  younger one. When the younger one is full, it becomes the older one. So entries in use stay.
* Once a generation was full, only each `SAMPLE`-th new entry is taken. What many requests have in
  common is soon among them. A flood of new entries takes `size` * `SAMPLE` requests to push out
  what others do not use meanwhile; and it saves the work of adding entries that nobody will need.

Secrets must not be added: a request that guesses an entry is a little faster.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SAMPLE = 64


class Memory(Generic[K, V]):
    """At most 2 * `size` entries. No value may be None."""

    __slots__ = ("_older", "_passed", "_size", "recent")

    def __init__(self, size: int) -> None:
        self._size = size
        self.recent: dict[K, V] = {}
        """The younger generation. Look here first; then `recall`."""
        self._older: dict[K, V] = {}
        self._passed = 0
        """New entries that were not taken since the last one that was."""

    def recall(self, key: K) -> V | None:
        """Return the value of a `key` that is not in `recent`, or None."""
        value = self._older.get(key)
        if value is not None:
            self.put(key, value)
        return value

    def has_older(self, keys: Iterable[K]) -> bool:
        """Return whether `recall` finds one of `keys`."""
        return not self._older.keys().isdisjoint(keys)

    def sample(self, count: int) -> range:
        """Return which of `count` new entries to `put`."""
        if not self._older:
            return range(count)
        first = SAMPLE - 1 - self._passed
        self._passed = (self._passed + count) % SAMPLE
        return range(first, count, SAMPLE)

    def put(self, key: K, value: V) -> None:
        """Remember `value` among the recent entries."""
        if len(self.recent) >= self._size:
            self._older, self.recent = self.recent, {}
        self.recent[key] = value
