"""A report on a blocked event loop: a warning meanwhile, and a report when the arbiter sends ABRT.

The warning comes from a thread, the report from a signal handler. Both need the interpreter. A
thread runs once the blocking code has released the GIL. A signal handler runs once the code returns
to the interpreter, or asks for signals, as ``time.sleep`` and ``re`` do. C code may do neither. For
this case there is `faulthandler`: its handler does not need the interpreter.
"""

from __future__ import annotations

import asyncio
import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from types import CodeType, FrameType

from ..http.contract import ApplicationTask, ASGIStream
from .emergency_log import LOG_SECONDS, FileLog, log_descriptor, log_in_time
from .printable import printable
from .running_requests import (
    MAX_LISTED,
    RunningExchanges,
    find_holder,
    list_lines,
    list_requests,
    title,
)
from .stacks import Call, find_log_handler, format_stack, name_calls, read_awaits, read_stack
from .tasks import HOLDS, NamedTask, in_order

OWN = "gunicorn_asgi "
"""The beginning of the names of this package's own tasks. A report shows one only if it blocks."""
LOOP_MODULES = frozenset({"asyncio.base_events", "selectors"})
"""The modules of all calls while asyncio's loop waits. (uvloop's are no Python calls.)"""


class StallWatch:
    """Warns once per stall, when a heartbeat is `seconds` late, and logs when the loop runs again.

    The loop only has to set `beat` every `interval` seconds. A thread sleeps until the last `beat`
    that it knows would be too old. With `seconds` infinite there is no thread.
    """

    def __init__(
        self,
        seconds: float,
        interval: float,
        loop: asyncio.AbstractEventLoop,
        log: FileLog,
        list_tasks: Callable[[Collection[ApplicationTask]], list[NamedTask]] = lambda _: [],
    ) -> None:
        """`list_tasks`: see `AsyncLibrary.list_tasks`."""
        self.beat = time.monotonic()
        """The time of the last heartbeat."""
        self.running: RunningExchanges = {}
        self._patience = interval + seconds
        self._poll = interval / 2
        self._loop = loop
        self._log = log
        self._list_other_tasks = list_tasks
        self._runner: CodeType | None = None
        """The code that runs the loop. Calls outside of it are not reported."""
        self._loop_thread = 0
        self._fd = -1
        """The descriptor given to faulthandler by this object, or -1."""
        self._is_aborted = False
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="gunicorn_asgi stalls", daemon=True
        )

    def start(self, runner: CodeType) -> None:
        """Begin to watch the loop that `runner` is about to run in this thread."""
        self.beat = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._runner = runner
        if self._patience < math.inf:
            # An enabled faulthandler is the choice of the operator or the application.
            if not faulthandler.is_enabled():
                # A copy, which nobody else closes: its number never becomes a client's.
                self._fd = os.dup(log_descriptor(self._log))
                self._arm()
            self._thread.start()

    def stop(self) -> None:
        """The loop is about to end. May be called again."""
        self._is_stopped.set()
        if self._thread.ident is not None:
            self._thread.join(LOG_SECONDS)  # not for ever: the reader of the log may be stuck
        self._disarm()

    def reopen(self) -> None:
        """The log files have been reopened (USR1)."""
        if self._fd >= 0:
            os.dup2(log_descriptor(self._log), self._fd, inheritable=False)

    def abort(self, frame: FrameType | None) -> bool:
        """Report the code that blocks the loop; return whether any does.

        To be called by the signal handler with the interrupted `frame`. Takes a bounded time and
        never raises.
        """
        self._is_aborted = True
        is_idle = self._is_idle(frame)
        log_in_time(
            self._log,
            "Aborted, although the event loop is not blocked"
            if is_idle
            else self._report("Aborted: the", frame),
        )
        return not is_idle

    def _is_idle(self, frame: FrameType | None) -> bool:
        """Return whether the loop waits for events, as far as `beat` and its inner `frame` tell."""
        calls, stream = read_stack(frame, self._runner)
        is_waiting = stream is None and all(
            call.f_globals.get("__name__") in LOOP_MODULES for call, _ in calls
        )
        return is_waiting and time.monotonic() - self.beat < self._patience

    def _arm(self) -> None:
        """Have ABRT, and the signals of a crash, write the stack from C.

        This comes before the interpreter's own handler, which may never run.
        """
        if self._fd >= 0:
            faulthandler.enable(self._fd, all_threads=False)

    def _disarm(self) -> None:
        if self._fd >= 0:
            faulthandler.disable()

    def _watch(self) -> None:
        while not self._is_stopped.wait(
            min(self.beat + self._patience - time.monotonic(), threading.TIMEOUT_MAX)
        ):
            beat = self.beat
            if time.monotonic() - beat < self._patience:
                continue
            report = self._report("The", sys._current_frames().get(self._loop_thread))
            # If C code had the GIL until now, ABRT is handled now, too, and its report says more.
            if self._is_stopped.wait(0.01) or self._is_aborted:
                return
            # The next line has the stack, and ABRT may come as soon as it can be read.
            self._disarm()
            log_in_time(self._log, report, "WARNING")  # a handler of the log may be what blocks
            while self.beat == beat:
                if self._is_stopped.wait(self._poll):
                    return
            self._log.warning("The event loop turns again, after %.1f s", self.beat - beat)
            self._arm()

    # The report.

    def _report(self, subject: str, frame: FrameType | None) -> str:
        """Describe the code that blocks the loop in `frame`, and everything that waits for it."""
        silence = time.monotonic() - self.beat
        head = f"{subject} event loop has not turned for {silence:.1f} s"
        try:
            calls, stream = read_stack(frame, self._runner)
            place = f", in {title(stream)}" if stream is not None else ""
            others = in_order(self._list_other_tasks(self.running))
            if stream is None:
                holder = find_holder(self.running)
                if holder is not None:
                    place = f", in {title(holder[0])}, in its task {printable(holder[1].name)}"
                    calls = _within(calls, holder[1])
                elif others:
                    calls = _within(calls, others[0])
            handler = find_log_handler(calls)
            if handler is not None:
                place += f", in the log handler {printable(type(handler).__name__)}"
            return "\n".join(
                [
                    f"{head}{place}. What holds it (the innermost call last):",
                    *(format_stack(calls) or ["  (no Python code)"]),
                    *list_requests(self.running, stream, silence),
                    *self._list_tasks(stream, others),
                    *self._list_threads(),
                ]
            )
        except Exception as error:  # noqa: BLE001 # tasks and frames change meanwhile
            return f"{head}. What holds it cannot be told: {error!r}"

    def _list_tasks(self, blocking: ASGIStream | None, more: list[NamedTask]) -> list[str]:
        """`more`: tasks of another library than asyncio."""
        current = asyncio.current_task(self._loop)
        others = asyncio.all_tasks(self._loop) - self.running.keys()
        tasks = {task for task in others if task is current or not task.get_name().startswith(OWN)}
        if current is not None and blocking is not None:
            tasks.discard(current)  # the request's
        shown = sorted(tasks, key=lambda task: (task is not current, task.get_name()))[:MAX_LISTED]
        lines = [
            f"{printable(task.get_name())}, "
            f"{HOLDS if task is current else name_calls(read_awaits(task))}"
            for task in shown
        ]
        lines += [str(task) for task in more[: MAX_LISTED - len(lines)]]
        count = len(tasks) + len(more)
        return list_lines("Other tasks", lines, count, count - MAX_LISTED)

    def _list_threads(self) -> list[str]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        threads = [
            f"{printable(str(names.get(ident, ident)))}, {name_calls(read_stack(frame)[0][::-1])}"
            for ident, frame in sys._current_frames().items()
            if ident not in (self._loop_thread, self._thread.ident)
        ]
        count = len(threads)
        lines = threads[:MAX_LISTED]
        return list_lines("Other threads", lines, count, count - MAX_LISTED) if threads else []


def _within(calls: list[Call], task: NamedTask) -> list[Call]:
    """Return those of `calls`, the innermost first, that are the task's, if it makes them."""
    outermost = getattr(task.coroutine, "cr_frame", None)
    for index, (frame, _) in enumerate(calls):
        if frame is outermost:
            return calls[: index + 1]
    return calls
