"""Pure: the limits that the WebSockets of a worker share: work in a turn, memory of messages."""

from __future__ import annotations

from typing import Protocol

WORK_PER_STEP = 64
"""The work of a step of reading, about 0.15 ms: a frame counts 1, or a KiB of inflated data, or
INPUT_PER_WORK bytes of compressed data."""
INPUT_PER_WORK = 64
"""Bytes of compressed data that count 1. Blocks that are nothing but their Huffman codes inflate to
nothing, at 100 ns for each byte."""
UNCOUNTED = 65536
"""Bytes of a WebSocket's messages that `MessageMemory` does not count. Most never have more, so
they cost nothing."""


class Holder(Protocol):
    """A WebSocket, as far as `MessageMemory` needs it."""

    def give_up_memory(self, size: int, limit: float) -> None:
        """All WebSockets hold more than `limit` bytes, and this one the most: drop its `size`."""


class MessageMemory:
    """The bytes of messages that are not complete, or not read, of all WebSockets of a worker."""

    __slots__ = ("_limit", "_sizes", "total")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._sizes: dict[Holder, int] = {}
        """The bytes of each WebSocket with more than UNCOUNTED."""
        self.total = 0

    def hold(self, holder: Holder, size: int) -> bool:
        """`holder` has `size` bytes now. Returns whether they are counted.

        Above the limit, the holder of the most has to give them up, which may be `holder` itself.
        """
        before = self._sizes.pop(holder, 0)
        if size > UNCOUNTED:
            self._sizes[holder] = size
        else:
            size = 0
        self.total += size - before
        while self.total > self._limit:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            given_up = self._sizes.pop(largest)
            self.total -= given_up
            largest.give_up_memory(given_up, self._limit)
        return holder in self._sizes


class WebSocketShare:
    """The limits that the WebSockets of a worker share."""

    __slots__ = ("memory", "work_left")

    def __init__(self, memory_limit: float) -> None:
        self.memory = MessageMemory(memory_limit)
        self.work_left = WORK_PER_STEP
        """Work until the next reader stops, and continues in a later turn of the loop.

        Nothing resets it at a new packet, which would cost each packet: a step in a later turn
        does. So the packets that arrive in a turn have one step together, however many they are.
        """
