"""trio as the application's library: one run of trio in the worker's loop, and its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ..http.contract import ApplicationTask
from ..observe.log import Log
from ..observe.running_requests import MAX_PATH
from ..observe.tasks import NamedTask
from .endings import find_exit, without_cancellations
from .exchange import is_set_within
from .scope import Application, Receive, Scope, Send
from .trio_bridge import Bridge
from .trio_loop import TrioLoop

if TYPE_CHECKING:
    import outcome

CRASH_SECONDS = 0.1
"""Time for tasks to end after a crash, before it is reported without waiting for them."""
MAX_NAMED_TASKS = 10
"""Tasks that the log line names."""


class Trio:
    """The run of trio, with one nursery for all exchanges and the lifespan.

    Tasks are started and cancelled by asyncio's callbacks. trio allows this in guest mode.
    """

    cancelled = trio.Cancelled
    cancels_tasks_at_end = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.loop = loop
        self.trio_loop = TrioLoop(loop)
        self._log = log
        self._on_crash = on_crash
        self._bridge = Bridge(self.trio_loop.schedule)
        self._nursery: trio.Nursery | None = None
        self._root: trio.lowlevel.Task | None = None
        self._main_task: trio.lowlevel.Task | None = None
        self.tasks: set[TrioTask] = set()
        """Those that have not ended."""
        self._is_ready = asyncio.Event()
        self._is_over = asyncio.Event()
        self._is_closing = False
        self._is_reported = False
        """`on_crash` was called although tasks hold up the end of the run."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended: none of its tasks takes another step."""
        return self._is_over.is_set()

    async def start(self) -> None:
        self.trio_loop.start(self._main, self._ended)
        await self._is_ready.wait()

    async def _main(self) -> None:
        self._root = trio.lowlevel.current_root_task()
        self._main_task = trio.lowlevel.current_task()
        async with trio.open_nursery() as self._nursery:
            self._is_ready.set()
            try:
                await trio.sleep_forever()
            finally:
                # The run is going to end, once all tasks have ended.
                self.loop.call_later(CRASH_SECONDS, self._report_crash)

    def _ended(self, result: outcome.Outcome[None]) -> None:
        self._is_ready.set()
        self._end_tasks()
        error: BaseException | None = None
        try:
            result.unwrap()
        except BaseException as reason:  # noqa: BLE001 # handed on
            error = _without_wrappers(reason)
        if error is None and not self._is_closing:
            error = RuntimeError("the run of trio has ended")
        if error is not None and not self._is_reported:
            self._on_crash(error)

    def _report_crash(self) -> None:
        """Report the end of a run that tasks hold up: no new task can do anything in it."""
        if self.is_over or self._is_closing:
            return
        assert self._root is not None
        errors: list[BaseException] = []
        for nursery in (self._nursery, *self._root.child_nurseries):
            errors += getattr(nursery, "_pending_excs", ())
        reasons = [error for error in errors if without_cancellations(error, trio.Cancelled)]
        self._is_reported = True
        self._on_crash(
            _without_wrappers(reasons[0]) if reasons else RuntimeError("all tasks were cancelled")
        )

    def _end_tasks(self) -> None:
        self._is_over.set()
        for task in list(self.tasks):
            task.end(is_cancelled=True)

    async def close(self, seconds: float) -> None:
        self._is_closing = True
        if self._nursery is None or self.is_over:
            return
        self.cancel(self._nursery.cancel_scope)
        if not await is_set_within(seconds, self._is_over):
            left = self.list_tasks(())
            self._log.warning(
                "Tasks of the application that did not end in time: %d (%s)",
                len(left),
                "; ".join(map(str, left[:MAX_NAMED_TASKS])),
            )
            self.trio_loop.abandon()
            self._end_tasks()

    def list_tasks(self, besides: Collection[ApplicationTask]) -> list[NamedTask]:
        """Everything but `besides`, trio's own tasks, and the one that keeps the nursery open."""
        if self._main_task is None or self._root is None:
            return []
        known = {task.task for task in list(besides) if isinstance(task, TrioTask)}
        return [
            NamedTask(task.name, task.coro)
            for task in _descendants(self._root, known)
            if task is not self._main_task and not _is_of_trio(task)
        ]

    # Tasks.

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: Context) -> TrioTask:
        return self._start(coroutine, "exchange", context)

    def create_task(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> TrioTask:
        return self._start(coroutine, name, copy_context())

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str, context: Context) -> TrioTask:
        task = TrioTask(self, coroutine)
        self.tasks.add(task)
        if self._nursery is not None and self.trio_loop.schedule():
            try:
                # The new task gets a copy of the current context.
                context.run(partial(self._nursery.start_soon, task.run, name=name))
            except RuntimeError:  # the run is just ending
                pass
            else:
                return task
        coroutine.close()
        self.loop.call_soon(task.end, True)
        return task

    def report(self, error: BaseException) -> bool:
        """Report an `error` that has left a task, unless it is a cancellation.

        Returns whether it is one: by the nursery, or made by an application. An error that reached
        the nursery would cancel all other tasks.
        """
        reason = without_cancellations(error, trio.Cancelled)
        if reason is None:
            return True
        exit_error = find_exit(reason)
        if exit_error is not None:
            self.loop.call_soon(_raise, exit_error)  # out of the loop, as from asyncio's tasks
        else:
            self.loop.call_exception_handler(
                {"message": "Error in a task of trio", "exception": reason}
            )
        return False

    def cancel(self, scope: trio.CancelScope) -> None:
        """Cancel everything in `scope`."""
        self.trio_loop.schedule()
        try:
            scope.cancel()
        except Exception as error:  # noqa: BLE001 # of an application's abort function
            self.report(error)

    def adapt(self, app: Application) -> Application:
        bridge = self._bridge

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                trio.lowlevel.current_task().name = _name(scope)
            await app(scope, partial(bridge.receive, receive), partial(bridge.send, send))

        return application


def _raise(error: SystemExit | KeyboardInterrupt) -> None:
    raise error


def _name(scope: Scope) -> str:
    method = scope["method"] if scope["type"] == "http" else "WebSocket"
    return f"{method} {scope['raw_path'][:MAX_PATH].decode('latin-1')}"


def _without_wrappers(error: BaseException) -> BaseException:
    """Return the error that has ended the run, without those that trio puts around it."""
    if isinstance(error, trio.TrioInternalError) and error.__cause__ is not None:
        error = error.__cause__
    inner: Sequence[BaseException]
    while len(inner := getattr(error, "exceptions", ())) == 1:
        error = inner[0]
    return error


def _descendants(
    task: trio.lowlevel.Task, besides: Collection[trio.lowlevel.Task | None] = ()
) -> Iterator[trio.lowlevel.Task]:
    """Yield the tasks in the nurseries of `task`, and in theirs, but none of `besides`.

    Sets and lists are copied at once, since the tasks may go on meanwhile.
    """
    nurseries = list(task.child_nurseries)
    while nurseries:
        for child in nurseries.pop().child_tasks:
            if child not in besides:
                yield child
                nurseries += child.child_nurseries


def _is_of_trio(task: trio.lowlevel.Task) -> bool:
    frame = getattr(task.coro, "cr_frame", None)
    return frame is not None and frame.f_globals.get("__name__", "").startswith("trio._core.")


def _abandon_nurseries(task: trio.lowlevel.Task) -> None:
    """Cancel the nurseries that an application has opened and not left, and forget them.

    Otherwise trio would raise an error of its own in the nursery of the worker.
    """
    for nursery in task.child_nurseries:
        nursery.cancel_scope.cancel()
        with suppress(AttributeError):  # private in trio
            nursery._closed = True  # as trio does: no task begins in it any more
    left: list[trio.Nursery] = getattr(task, "_child_nurseries", [])
    left.clear()


class TrioTask:
    """A task of trio, with the part of asyncio.Task's interface that is used here."""

    __slots__ = (
        "_callbacks",
        "_coroutine",
        "_is_cancelled",
        "_is_done",
        "_is_to_end",
        "_scope",
        "_trio",
        "task",
    )

    def __init__(self, library: Trio, coroutine: Coroutine[Any, Any, None]) -> None:
        self._trio = library
        self._coroutine = coroutine
        self._scope = trio.CancelScope()
        self._callbacks: list[Callable[[TrioTask], object]] = []
        self._is_to_end = False
        """`cancel` was called. The scope would ask trio's clock about it."""
        self._is_done = False
        self._is_cancelled = False
        self.task: trio.lowlevel.Task | None = None
        """trio's own object, once the task runs."""

    async def run(self) -> None:
        """The whole work of the task."""
        self.task = trio.lowlevel.current_task()
        is_cancelled = True
        try:
            if self._is_to_end:
                self._coroutine.close()  # as asyncio does before the first step of a task
            else:
                with self._scope:
                    await self._coroutine
                is_cancelled = self._scope.cancelled_caught
        except BaseException as error:  # noqa: BLE001 # must not end the other tasks
            # After the end, the coroutine is closed by the collection of garbage.
            is_cancelled = self._is_done or self._trio.report(error)
        if self.task.child_nurseries and not self._is_done:
            _abandon_nurseries(self.task)
        self.end(is_cancelled)

    def end(self, is_cancelled: bool) -> None:
        """Note that the task takes no more steps, and call its callbacks. Only once."""
        if self._is_done:
            return
        self._is_done = True
        self._is_cancelled = is_cancelled
        self._trio.tasks.discard(self)
        try:
            for callback in self._callbacks:
                callback(self)
        except Exception as error:  # noqa: BLE001 # must not end the other tasks
            self._trio.report(error)

    def cancel(self) -> bool:
        """Cancel the task, once and for all: every later wait in it raises, too."""
        if self._is_done:
            return False
        self._is_to_end = True
        self._trio.cancel(self._scope)
        return True

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return self._is_cancelled

    def add_done_callback(self, callback: Callable[[TrioTask], object]) -> None:
        """Have `callback` called at the end of the task. Only while it is running."""
        self._callbacks.append(callback)

    def get_coro(self) -> Coroutine[Any, Any, None]:
        return self._coroutine

    def list_children(self) -> list[NamedTask]:
        if self.task is None:
            return []
        return [NamedTask(task.name, task.coro) for task in _descendants(self.task)]
