"""A loop whose clock stands still until it is moved, and that never waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

MAX_TURNS = 5000
"""Turns after which a loop that finds no rest counts as busy without end."""


class InstantSelector(selectors.DefaultSelector):
    """Looks and does not wait: everything that happens is on the loop already."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, on a virtual clock. Functions for threads run on it, in a later turn."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.complaints: list[str] = []
        super().__init__(InstantSelector())
        self.set_exception_handler(lambda _, context: self.complaints.append(repr(context)))

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except BaseException as error:
                future.set_exception(error)

        self.call_soon(run)
        return future

    def turn(self) -> None:
        """One turn: what is ready runs, and timers that are due."""
        self.call_soon(self.stop)
        self.run_forever()

    def settle(self) -> None:
        """Turn until nothing is ready."""
        for _ in range(MAX_TURNS):
            if not self._ready:  # type: ignore[attr-defined]  # asyncio's
                return
            self.turn()
        self.complaints.append(f"the loop finds no rest within {MAX_TURNS} turns")

    def timers(self) -> list[Any]:
        """The timers that are still to fire."""
        return [timer for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]  # asyncio's
