"""A worker that is stuck explains itself: a warning while its loop does not turn, and a report when the arbiter gives it up (ABRT).

The warning comes from a thread, the report from a signal handler. Both need the interpreter: a thread runs once whatever blocks has released
the GIL, a handler once it has returned to the interpreter or asks for signals, as ``time.sleep`` and ``re`` do. For C code that does neither
there is `faulthandler`, whose handler needs nothing.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import logging
import math
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any, Protocol

from ..asgi.http import HTTPStream
from ..http.contract import ASGIStream
from .printable import printable

MAX_CALLS = 60
"""Calls of a stack that are shown, the innermost ones."""
MAX_LISTED = 50
"""Requests, tasks and threads that a report lists, of each. The arbiter kills a second after ABRT."""
MAX_BRIEF = 5
"""Calls that are shown of what a task or thread is at, the innermost ones."""
MAX_PATH = 200
LOG_SECONDS = 0.3
"""What the log may take for a report."""
OWN = "gunicorn_asgi "
"""What the names of this package's own tasks begin with: a report shows them only where they hold the loop."""
PIPE_ROOM = 512
"""Bytes that a pipe takes at once if it takes any (PIPE_BUF of POSIX)."""

Running = Mapping["asyncio.Task[None]", tuple[ASGIStream, float]]
"""The tasks of running requests, each with its exchange and when that began (``time.monotonic``)."""
RUNS = (HTTPStream.run.__code__,)
"""What calls the application for an exchange, its `self`."""
WAITS = frozenset({"asyncio.base_events", "selectors"})
"""Modules whose calls are all that there is while asyncio's loop waits. (uvloop's are no Python calls.)"""
Call = tuple[FrameType, int]
"""A call and the line that it is at."""


class Log(Protocol):
    """What of Gunicorn's logger is used here."""

    @property
    def error_log(self) -> logging.Logger: ...

    def warning(self, message: str, *args: object) -> None: ...

    def critical(self, message: str, *args: object) -> None: ...


class StallWatch:
    """Warns once per stall, when a heartbeat is `seconds` late, and says when the loop turns again.

    It costs the loop nothing but to set `beat` every `interval` seconds: its thread sleeps until the last beat that it knows would be too old.
    With `seconds` infinite there is no thread.
    """

    def __init__(
        self, seconds: float, interval: float, loop: asyncio.AbstractEventLoop, log: Log
    ) -> None:
        self.beat = time.monotonic()
        """When the loop turned last."""
        self.running: Running = {}
        self._patience = interval + seconds
        self._poll = interval / 2
        self._loop = loop
        self._log = log
        self._runner: CodeType | None = None
        """What runs the loop: calls outside of it are not shown."""
        self._ident = 0
        """Of the loop's thread."""
        self._fd = -1
        """What faulthandler writes to, where that is this object's doing."""
        self._aborted = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="gunicorn_asgi stalls", daemon=True
        )

    def start(self, runner: CodeType) -> None:
        """Begin to watch the loop that `runner` is about to run in this thread."""
        self.beat = time.monotonic()
        self._ident = threading.get_ident()
        self._runner = runner
        if self._patience < math.inf:
            if (
                not faulthandler.is_enabled()
            ):  # else the operator, or the application, has made a choice
                self._fd = os.dup(
                    _descriptor(self._log)
                )  # nobody else closes this one, so that its number becomes a client's
                self._arm()
            self._thread.start()

    def stop(self) -> None:
        """The loop is about to end. May be called again."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(LOG_SECONDS)  # not for ever: whoever reads the log may be stuck
        self._disarm()

    def reopen(self) -> None:
        """The log files have been reopened (USR1)."""
        if self._fd >= 0:
            os.dup2(_descriptor(self._log), self._fd, inheritable=False)

    def abort(self, frame: FrameType | None) -> bool:
        """Report what is blocked in `frame`; returns whether anything is. For the signal handler: takes a bounded time and never raises."""
        self._aborted = True
        is_idle = self._is_idle(frame)
        _log_in_time(
            self._log,
            "Aborted, although the event loop is not blocked"
            if is_idle
            else self._report("Aborted: the", frame),
        )
        return not is_idle

    def _is_idle(self, frame: FrameType | None) -> bool:
        """Whether the loop waits for events and is not blocked, as far as the time and `frame`, its innermost call, tell."""
        calls, stream = _read_stack(frame, self._runner)
        is_waiting = stream is None and all(
            call.f_globals.get("__name__") in WAITS for call, _ in calls
        )
        return is_waiting and time.monotonic() - self.beat < self._patience

    def _arm(self) -> None:
        """Have ABRT, and the signals of a crash, write the stack from C, before the interpreter's own handler runs, if that ever does."""
        if self._fd >= 0:
            faulthandler.enable(self._fd, all_threads=False)

    def _disarm(self) -> None:
        if self._fd >= 0:
            faulthandler.disable()

    def _watch(self) -> None:
        while not self._stopped.wait(
            min(self.beat + self._patience - time.monotonic(), threading.TIMEOUT_MAX)
        ):
            beat = self.beat
            if time.monotonic() - beat < self._patience:
                continue
            report = self._report("The", sys._current_frames().get(self._ident))
            # Where C code has held the GIL, this is the moment at which ABRT is handled, too, and that says more.
            if self._stopped.wait(0.01) or self._aborted:
                return
            self._disarm()  # the stack is told by the next line, and ABRT may come as soon as that can be read
            self._log.warning("%s", report)
            while self.beat == beat:
                if self._stopped.wait(self._poll):
                    return
            self._log.warning("The event loop turns again, after %.1f s", self.beat - beat)
            self._arm()

    # The report.

    def _report(self, subject: str, frame: FrameType | None) -> str:
        """What holds the loop, and what waits for it. `frame` is the innermost call of the loop's thread."""
        silence = time.monotonic() - self.beat
        head = f"{subject} event loop has not turned for {silence:.1f} s"
        try:
            calls, stream = _read_stack(frame, self._runner)
            title = f", in {_title(stream)}" if stream is not None else ""
            return "\n".join(
                [
                    f"{head}{title}. What holds it (the innermost call last):",
                    *(_format_stack(calls) or ["  (no Python code)"]),
                    *self._list_requests(stream, silence),
                    *self._list_tasks(stream),
                    *self._list_threads(),
                ]
            )
        except Exception as error:  # noqa: BLE001 # whatever it is that changes meanwhile, or is not as it should be
            return f"{head}. What holds it cannot be told: {error!r}"

    def _list_requests(self, holder: ASGIStream | None, silence: float) -> list[str]:
        """A line for each running request, the oldest first."""
        now = time.monotonic()
        requests: list[tuple[float, ASGIStream, asyncio.Task[None] | None]]
        requests = [(began, stream, task) for task, (stream, began) in list(self.running.items())]
        requests.sort(key=lambda request: request[0])
        if holder is not None and not any(stream is holder for _, stream, _ in requests):
            requests.append(
                (now - silence, holder, None)
            )  # in its first step, so the loop has not turned since it began
        return _list(
            "Running requests",
            [
                f"{_title(stream)} for {now - began:.1f} s, {HOLDS if stream is holder else _brief(_read_awaits(task))}"
                for began, stream, task in requests[:MAX_LISTED]
            ],
            len(requests),
        )

    def _list_tasks(self, holder: ASGIStream | None) -> list[str]:
        current = asyncio.current_task(self._loop)
        others = asyncio.all_tasks(self._loop) - self.running.keys()
        tasks = {task for task in others if task is current or not task.get_name().startswith(OWN)}
        if current is not None and holder is not None:
            tasks.discard(current)  # the request's
        shown = sorted(tasks, key=lambda task: (task is not current, task.get_name()))[:MAX_LISTED]
        lines = [
            f"{printable(task.get_name())}, {HOLDS if task is current else _brief(_read_awaits(task))}"
            for task in shown
        ]
        return _list("Other tasks", lines, len(tasks))

    def _list_threads(self) -> list[str]:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        threads = [
            f"{printable(str(names.get(ident, ident)))}, {_brief(_read_stack(frame, None)[0][::-1])}"
            for ident, frame in sys._current_frames().items()
            if ident not in (self._ident, self._thread.ident)
        ]
        return _list("Other threads", threads[:MAX_LISTED], len(threads)) if threads else []


HOLDS = "which holds the loop"


def _read_stack(
    frame: FrameType | None, runner: CodeType | None
) -> tuple[list[Call], ASGIStream | None]:
    """The calls inside of `runner`, the innermost first; those of an application's code alone, and its request, if that is what runs.

    Lines are read at once, for the thread may go on meanwhile. The request is not found where its application has made a task of its own.
    """
    calls: list[Call] = []
    while frame is not None and frame.f_code is not runner:
        if frame.f_code in RUNS:
            return calls, frame.f_locals["self"]
        calls.append((frame, frame.f_lineno))
        frame = frame.f_back
    return calls, None


def _read_awaits(task: asyncio.Task[Any] | None) -> list[Call]:
    """The coroutines that a task waits in, the innermost last. (``Task.get_stack`` knows only the outermost.)"""
    calls: list[Call] = []
    awaited: object = task.get_coro() if task is not None else None
    while True:
        if inspect.iscoroutine(awaited):
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif inspect.isgenerator(awaited):
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            return calls
        if frame is not None:
            calls.append((frame, frame.f_lineno))


def _format_stack(calls: list[Call]) -> list[str]:
    """Its lines as a traceback has them."""
    return (
        "".join(traceback.StackSummary.extract(reversed(calls[:MAX_CALLS])).format())
        .rstrip()
        .splitlines()
    )


def _brief(calls: list[Call]) -> str:
    """In one line, the innermost last."""
    places = [
        f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
        for frame, line in calls[-MAX_BRIEF:]
    ]
    return "in " + " > ".join(places) if places else "at its end"


def _title(stream: ASGIStream) -> str:
    return printable(f"{stream.method} {stream.raw_path[:MAX_PATH].decode('latin-1')}")


def _list(title: str, lines: list[str], count: int) -> list[str]:
    more = [f"  and {count - len(lines)} more"] if count > len(lines) else []
    return [f"{title}: {count}", *(f"  {line}" for line in lines), *more]


def describe_thread(thread: threading.Thread) -> str:
    """The name of `thread` and the calls that it is in, in one line. The calls by which Python starts a thread are left out."""
    frame = sys._current_frames().get(thread.ident or 0)
    calls = [
        call
        for call in _read_stack(frame, None)[0][::-1]
        if not call[0].f_code.co_name.startswith("_bootstrap")
    ]
    return f"{printable(thread.name)} {_brief(calls)}"


# The log, from a signal handler.


def _log_in_time(log: Log, report: str) -> None:
    """Log `report`. If that takes too long, write it to the file of the log.

    The code that a signal has interrupted may hold the lock of a log handler, or be in the midst of
    writing to its file. Nobody else can write then, not even the same thread. Or another thread holds
    the lock, since the reader of the log is stuck.
    """
    thread = threading.Thread(target=log.critical, args=("%s", report), daemon=True)
    with suppress(RuntimeError):  # no more threads are to be had
        thread.start()
        thread.join(LOG_SECONDS)
        if not thread.is_alive():
            return
    write_directly(log, "CRITICAL", report)


def write_directly(log: Log, level: str, report: str) -> None:
    """Write `report` to the file of the log without its handlers, as far as that does not block."""
    data = f"[{os.getpid()}] [{level}] {report}\n".encode(errors="replace")
    with suppress(OSError, ValueError):
        fd = _descriptor(log)
        while data and select.select([], [fd], [], 0)[1]:
            data = data[os.write(fd, data[:PIPE_ROOM]) :]


def _descriptor(log: Log) -> int:
    """Where the error log is written to; stderr if that is not a file."""
    for handler in log.error_log.handlers:
        with suppress(AttributeError, OSError, ValueError):
            fd: int = handler.stream.fileno()  # type: ignore[attr-defined]  # not every handler has one
            return fd
    return 2
