"""A time limit for the application's threads at the end of a worker's process.

Python waits at its end for each thread that is no daemon, and for the threads of executors. It has
no limit. A worker has one: Gunicorn kills it after ``graceful_timeout``, and earlier if its
heartbeat has stopped.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from ..observe.emergency_log import LOG_SECONDS, FileLog, write_directly
from ..observe.stacks import describe_thread

QUICK_THREAD_SECONDS = 1.0
"""Time limit for threads after QUIT and INT."""
QUICK_SIGNALS = (signal.SIGQUIT, signal.SIGINT)
"""Signals that shorten the time limit for threads."""
ATEXIT_SECONDS = 0.5
"""Time limit for ``atexit`` handlers after the time limit for threads has passed."""
POLL_SECONDS = 0.1
"""Time between two looks at the clock during the wait for threads."""
STUCK_HANDLER = "An atexit handler of the application did not end in time"
MAX_NAMED_THREADS = 10
"""Threads that the log line names."""


@atexit.register  # at the import, before the application's: the first registered runs last
def _stop_alarm() -> None:
    if not ThreadLimit.has_begun:
        return
    # At its end, Python gives handled signals their default action. An alarm, or a signal repeated
    # by the arbiter, would then kill the process. Python does not touch ignored signals.
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, QUICK_SIGNALS)
    for number in (signal.SIGALRM, *QUICK_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


class ExitStage(IntEnum):
    """How far the end of the interpreter is. Only ever grows."""

    THREADS = 0
    """The interpreter waits for threads."""
    HANDLERS = 1
    """All threads have ended, and ``atexit`` handlers run."""
    HANDLER_SKIPPED = 2
    """An ``atexit`` handler was interrupted. The next alarm ends the process."""


class ThreadLimit:
    """A time limit for the application's threads at the end of the interpreter.

    The interpreter calls `begin` after ``worker_exit``, before it waits for threads. From then on
    an alarm looks at the clock and keeps the heartbeat going. When the time is up, it names the
    threads in one log line, runs the ``atexit`` handlers and ends the process.
    """

    has_begun = False
    """An alarm is set in this process."""

    def __init__(self, code: int, deadline: float, heartbeat: int, log: FileLog) -> None:
        """`code` is the exit code, `deadline` on the clock of ``time.monotonic``.

        `heartbeat` is a descriptor of the worker's heartbeat file, from now on this object's own.
        """
        self._code = code
        self._deadline = deadline
        self._heartbeat = heartbeat
        self._log = log
        self._stage = ExitStage.THREADS
        self._report = ""
        self._has_report = threading.Event()
        # Made before it is needed: from Python 3.12 on, no thread can be started at the end of the
        # interpreter. It is a thread, since another one may have the lock of the log.
        self._writer = threading.Thread(target=self._write, name="gunicorn_asgi log", daemon=True)

    def install(self) -> None:
        """Have the interpreter call `begin` when it is about to wait. To be called once, last."""
        with suppress(RuntimeError):  # no more threads are to be had
            self._writer.start()
        # The only place between Gunicorn's worker_exit and the wait. Executors use it, too.
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            register(self.begin)
        else:
            self.begin()  # the time limit then includes worker_exit
        atexit.register(self._threads_have_ended)  # the last registered runs first

    def begin(self) -> None:
        """Start to look at the clock.

        From now on, QUIT and INT shorten the time limit, and ABRT ends it.
        """
        ThreadLimit.has_begun = True
        signal.signal(signal.SIGALRM, self._on_alarm)
        for number in QUICK_SIGNALS:
            signal.signal(number, self._shorten)
        # The usual handler of ABRT reports on the event loop, which has ended.
        signal.signal(signal.SIGABRT, self._abort)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *QUICK_SIGNALS))
        signal.setitimer(signal.ITIMER_REAL, POLL_SECONDS, POLL_SECONDS)

    def _threads_have_ended(self) -> None:
        self._stage = max(self._stage, ExitStage.HANDLERS)

    def _shorten(self, _number: int, _frame: FrameType | None) -> None:
        self._deadline = min(self._deadline, time.monotonic() + QUICK_THREAD_SECONDS)

    def _abort(self, _number: int, _frame: FrameType | None) -> None:
        self._code = 1
        self._end_process()

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        with suppress(OSError):
            os.utime(self._heartbeat, (now, now))  # as in Gunicorn's WorkerTmp.notify
        if now >= self._deadline:
            self._end_process()

    def _end_process(self) -> None:
        signal.signal(signal.SIGALRM, self._on_late_alarm)
        signal.setitimer(signal.ITIMER_REAL, ATEXIT_SECONDS / 2, ATEXIT_SECONDS / 2)
        if self._stage is not ExitStage.THREADS:
            self._tell(STUCK_HANDLER)
            self._skip_handler()
        self._tell(_name_threads())
        atexit._run_exitfuncs()  # in the main thread, where the interpreter would run them
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # it may be closed, or replaced by another object
                stream.flush()
        os._exit(self._code)

    def _on_late_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._stage is ExitStage.HANDLER_SKIPPED:
            os._exit(self._code)
        write_directly(self._log, "WARNING", STUCK_HANDLER)
        self._skip_handler()

    def _skip_handler(self) -> NoReturn:
        """Raise out of the stuck ``atexit`` handler. Python prints the error and runs the next."""
        self._stage = ExitStage.HANDLER_SKIPPED
        raise TimeoutError(STUCK_HANDLER)

    def _tell(self, report: str) -> None:
        self._report = report
        self._has_report.set()
        if self._writer.ident is not None:
            self._writer.join(LOG_SECONDS)
        if self._writer.ident is None or self._writer.is_alive():
            write_directly(self._log, "WARNING", report)

    def _write(self) -> None:
        self._has_report.wait()
        self._log.warning("%s", self._report)


def _name_threads() -> str:
    main = threading.main_thread()
    threads = [
        thread for thread in threading.enumerate() if thread is not main and not thread.daemon
    ]
    named = [describe_thread(thread) for thread in threads[:MAX_NAMED_THREADS]]
    if len(threads) > MAX_NAMED_THREADS:
        named.append(f"and {len(threads) - MAX_NAMED_THREADS} more")
    return (
        f"Threads of the application that did not end in time: {len(threads)} ({'; '.join(named)})"
    )
