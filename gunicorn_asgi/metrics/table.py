"""The rows of all workers, in memory that they share. The format of a row is in `catalog`.

A worker is the only writer of its row. The master is the only writer of the totals: the counters of
workers whose rows were given to others. So the sums of totals and rows never fall.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence

from .catalog import FIRST_COUNTER, FIRST_GAUGE, PID, SEEN, WIDTH, Row

SLOTS = 512
"""Workers that may live at the same time. Memory is only taken by rows that were used."""
TRIES = 1000
"""Looks at a table that the master changes meanwhile, which takes microseconds."""


class MetricsTable:
    """One row for each worker. Made in the master, so that all workers inherit the same memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (SLOTS + 1) * WIDTH * 8 + 16)
        numbers = memoryview(self._memory)
        self._heads = numbers[:16].cast("Q")
        """How often the master has begun and finished to change rows; the number of used rows."""
        self._floats = numbers[16:].cast("d")
        self._totals = self._floats[:WIDTH]

    # In the master.

    def take(self, slot: int) -> MetricsRow:
        """Give the row at `slot`, whose worker has ended, to a new worker."""
        heads, totals, row = self._heads, self._totals, self._row(slot)
        heads[0] += 1  # odd: what is read now may count twice, or not at all
        for place in range(FIRST_COUNTER, FIRST_GAUGE):
            totals[place] += row[place]
        row[:] = array("d", bytes(WIDTH * 8))
        heads[1] = max(heads[1], slot + 1)
        heads[0] += 1
        return MetricsRow(self, slot, row)

    # In a worker.

    def read(self) -> tuple[Row, list[Row]]:
        """Return the totals, and the rows that were used by their slots."""
        heads = self._heads
        for _ in range(TRIES):
            begun = heads[0]
            totals = self._totals.tolist()
            rows: list[Row] = [self._row(slot).tolist() for slot in range(heads[1])]
            if begun == heads[0] and begun % 2 == 0:
                break
        return totals, rows

    def has_older(self, slot: int, since: float) -> bool:
        """Whether a row below `slot` was written after `since`, by a worker that lives."""
        return any(self._row(other)[SEEN] > since for other in range(slot))

    def _row(self, slot: int) -> memoryview[float]:
        start = WIDTH * (slot + 1)
        return self._floats[start : start + WIDTH]


class MetricsRow:
    """The row of one worker."""

    def __init__(self, table: MetricsTable, slot: int, row: memoryview[float]) -> None:
        self.table = table
        self.slot = slot
        self.values = row
        """The numbers, in the shared memory: what is written here is seen by all."""

    def write(self, values: Sequence[float]) -> None:
        """Write the whole row."""
        self.values[:] = array("d", values)

    def end(self) -> None:
        """The worker ends: its counters stay, and nothing else."""
        self.values[SEEN] = self.values[PID] = 0.0
