"""Applications of the tests, written for asyncio, as applications of trio.

`as_trio` makes an application of trio, for `Trio.adapt`: it runs in a task of trio, and calls the functions made for that. The waits of
asyncio that it has itself (``asyncio.sleep``, ``asyncio.Event``) become waits of trio, so a cancelled scope ends them, too. It sees
``asyncio.CancelledError`` where trio raises ``Cancelled``. One thing it cannot hide: in a cancelled scope, each later wait is cancelled as well.

Tasks and time limits need the functions of this module, which are those of the library that runs the application.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import trio

T = TypeVar("T")

running: set[TrioFuture] = set()
"""What `start_task` has begun in trio and that has not ended."""


class ForBoth:
    """An application that runs in both libraries as it is, by anyio."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def as_trio(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return `app`, written for asyncio, as an application of trio."""
    if isinstance(app, ForBoth):
        return app

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await drive(app(scope, _like_asyncio(receive), _like_asyncio(send)))

    return application


def _like_asyncio(function: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    async def call(*arguments: Any) -> T:
        try:
            return await function(*arguments)
        except trio.Cancelled as error:
            raise asyncio.CancelledError from error

    return call


async def drive(awaitable: Awaitable[T]) -> T:
    """Wait for `awaitable`, made for asyncio, in a task of trio."""
    steps = awaitable.__await__()
    step: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        except asyncio.CancelledError:
            await trio.lowlevel.checkpoint_if_cancelled()  # raises trio's own
            raise  # it is not the scope that is cancelled
        try:
            result = await _wait_for(awaited)
        except trio.Cancelled:
            step = partial(steps.throw, asyncio.CancelledError())
        else:
            step = partial(steps.send, result)


async def _wait_for(awaited: Any) -> Any:
    if awaited is None:  # asyncio.sleep(0)
        # trio runs the tasks of a turn in any order: only after the second turn has each task that was ready taken a step.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    elif asyncio.isfuture(awaited):
        await _wait_for_future(awaited)
    else:
        return await _hand_on(awaited)
    return None


@types.coroutine
def _hand_on(trap: Any) -> Generator[Any, Any, Any]:
    """A wait of trio itself, from within ``receive()`` or ``send()``."""
    return (yield trap)


async def _wait_for_future(future: asyncio.Future[Any]) -> None:
    task = trio.lowlevel.current_task()
    is_waiting = True

    def wake(_: object) -> None:
        if is_waiting:
            trio.lowlevel.reschedule(task)

    def abort(_: object) -> trio.lowlevel.Abort:
        nonlocal is_waiting
        is_waiting = False
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(wake)
    await trio.lowlevel.wait_task_rescheduled(abort)


def is_trio() -> bool:
    """Whether a task of trio calls this."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def turn() -> None:
    """Let other tasks take a step: ``asyncio.sleep(0)``, and no more than that."""
    if is_trio():
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


def current_task() -> object:
    """The task of the application's library."""
    return trio.lowlevel.current_task() if is_trio() else asyncio.current_task()


class TrioFuture(asyncio.Future[Any]):
    """A task of trio, as far as tests use asyncio's: to wait for it and to cancel it."""

    def __init__(self) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.scope = trio.CancelScope()
        running.add(self)

    async def run(self, awaitable: Awaitable[Any]) -> None:
        try:
            with self.scope:
                self.set_result(await drive(awaitable))
            if not self.done():
                super().cancel()
        except asyncio.CancelledError:
            super().cancel()
        except trio.Cancelled:
            super().cancel()
            raise
        except BaseException as error:
            self.set_exception(error)
        finally:
            running.discard(self)

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.scope.cancel()
        return True


def start_task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """``asyncio.ensure_future`` for applications: begin a task of their library."""
    if not is_trio():
        return asyncio.ensure_future(coroutine)
    future = TrioFuture()
    trio.lowlevel.spawn_system_task(
        future.run, coroutine, name="start_task", context=copy_context()
    )
    return future


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """``asyncio.wait_for`` for applications: by trio's own scope where they run in trio."""
    if not is_trio():
        return await asyncio.wait_for(awaitable, seconds)
    try:
        with trio.move_on_after(seconds):
            return await drive(awaitable)
    except trio.Cancelled as error:
        raise asyncio.CancelledError from error
    raise asyncio.TimeoutError
