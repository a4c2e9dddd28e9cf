"""A turn of the loop: parts of a body that are sent within one leave together.

An application that streams often has several parts ready at once, and a system call costs more than
everything else about a small part. So a writer writes the first part of a turn at once, and gathers
the others until the turn ends. One callback ends the turn for all writers.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

GATHER_SIZE = 65536
"""Bytes from which gathered parts do not wait for the end of the turn: the loop's own high-water
mark. A writer gathers only while the loop has sent everything before. So gathered bytes count for
that mark as if they were written."""


class Gathering(Protocol):
    """A writer, as a turn sees it."""

    def flush(self) -> None:
        """Write the gathered parts."""


class Turn:
    """The current turn, or the last one in which a part was written."""

    __slots__ = ("_end", "_gathering", "_loop", "has_begun", "number")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._end = self.end  # made once, not in each turn
        self.number = 0
        """Another one in each turn."""
        self.has_begun = False
        """A part was written in this turn, and its end is on the loop."""
        self._gathering: list[Gathering] = []

    def begin(self) -> None:
        """A first part is written: the turn ends once the loop has run what is ready now."""
        self.has_begun = True
        self._loop.call_soon(self._end)

    def gather(self, writer: Gathering) -> None:
        """`writer` has parts that leave when the turn ends."""
        self._gathering.append(writer)

    def end(self) -> None:
        """Write everything that was gathered."""
        self.number += 1
        self.has_begun = False
        gathering, self._gathering = self._gathering, []
        for writer in gathering:
            writer.flush()
