"""Work that would hold the loop for too long: its steps, continued in later turns of the loop.

A packet of a few kilobytes may ask for very much work: thousands of frames, or a message that
inflates to megabytes. Its reader stops after a bounded step, and leaves the rest to the `WorkQueue`
of the worker. All connections share its time in a turn, so the steps after the first hold the loop
no longer for many connections than for one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

Step = Callable[[], bool]
"""Does a bounded part of some work. Returns whether there is more to do."""

TURN_SECONDS = 0.005
"""Time that the steps of one turn take together. The last step may exceed it. So a step should take
no more than two milliseconds."""


class WorkQueue:
    """Steps of the connections of a worker, one of each in turn."""

    __slots__ = ("_is_scheduled", "_loop", "_steps")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Step] = deque()
        self._is_scheduled = False

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: Step) -> None:
        """Call `step` in later turns of the loop, until it returns False."""
        self._steps.append(step)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        steps = self._steps
        end = perf_counter() + TURN_SECONDS
        try:
            for _ in range(len(steps)):
                step = steps.popleft()
                if step():
                    steps.append(step)
                if perf_counter() >= end:
                    break
        finally:
            # Also where a step raises, which the loop logs: its own work is lost, the others' not.
            if steps:
                self._schedule()
