"""``receive()`` and ``send()`` in a task of trio: they wait for asyncio's futures there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class Bridge:
    """Runs the coroutines of this package within tasks of trio.

    They are made for asyncio: they wait for its futures, and are cancelled by its CancelledError.
    After that they must not wait again.
    """

    def __init__(self, schedule: Callable[[], bool]) -> None:
        """`schedule` has trio's loop run soon: see `TrioLoop.schedule`."""
        self._schedule = schedule

    async def receive(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call ``receive()``. Called in a task of trio.

        It can be cancelled where it waits and where it pauses, and has taken no message then. A
        message that is there is returned even if the task is cancelled. Frameworks poll in this
        way: they cancel a ``receive()``, and look whether it returns all the same (Starlette's
        ``is_disconnected``).
        """
        return await self._run(function(), trio.lowlevel.checkpoint)

    async def send(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Call ``send()``. Called in a task of trio.

        It can be cancelled before it begins, and where it waits. At its first pause, for other
        tasks to run, it is mostly complete, so it cannot be cancelled there.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._run(function(*arguments), trio.lowlevel.cancel_shielded_checkpoint)

    async def _run(self, awaitable: Awaitable[T], pause: Callable[[], Awaitable[None]]) -> T:
        """Run a coroutine to its end. `pause` is its first ``asyncio.sleep(0)``."""
        coroutine: Any = awaitable
        try:
            awaited = coroutine.send(None)
            while True:
                try:
                    if awaited is None:  # asyncio.sleep(0)
                        await pause()
                        pause = trio.lowlevel.checkpoint
                    else:
                        await self._wait_for(awaited)
                except trio.Cancelled:
                    _cancel(coroutine)
                    raise
                awaited = coroutine.send(None)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _wait_for(self, future: asyncio.Future[Any]) -> None:
        """Wait until `future` is done. A cancellation cancels it."""
        task = trio.lowlevel.current_task()

        def wake(_: object) -> None:
            if self._schedule():
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            if future.done():
                # `wake` is on its way. The result counts, and a later wait is cancelled.
                return trio.lowlevel.Abort.FAILED
            future.remove_done_callback(wake)
            future.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        future.add_done_callback(wake)
        await trio.lowlevel.wait_task_rescheduled(abort)


def _cancel(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Cancel a coroutine that waits. Raises another error that comes of it."""
    try:
        coroutine.throw(asyncio.CancelledError())
    except asyncio.CancelledError:
        return
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits again after it was cancelled")
