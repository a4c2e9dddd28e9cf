"""The end of a worker's process: its exit code, and how long threads of the application are waited for.

Python waits at its end, without a limit, for every thread that is no daemon and for the threads of
executors. A worker has a limit: Gunicorn kills it after ``graceful_timeout``, and before that, one
whose heartbeat has stopped.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn, Protocol

from ..observe import stalls
from ..observe.printable import printable

BOOT_ERRORS = frozenset({3, 4})
"""Exit codes at which Gunicorn's arbiter halts (WORKER_BOOT_ERROR, APP_LOAD_ERROR)."""
HURRY_SECONDS = 1.0
"""Time limit for threads after QUIT and INT."""
HURRYING = (signal.SIGQUIT, signal.SIGINT)
"""Signals that shorten the time for threads."""
ATEXIT_SECONDS = 0.5
"""Time limit for ``atexit`` handlers once threads have used up theirs."""
ABORT_SECONDS = 0.7
"""Time limit for an orderly exit after ABRT: Gunicorn kills a second after that signal."""
POLL_SECONDS = 0.1
"""Time between two looks at the clock while threads are waited for."""
STUCK_HANDLER = "An atexit handler of the application did not end in time"
MAX_NAMED = 10
"""Threads that the log line names."""


class Log(Protocol):
    """The part of Gunicorn's logger that reading an exit code needs."""

    def error(self, message: str, *args: object) -> None: ...

    def warning(self, message: str, *args: object) -> None: ...


def read_exit_code(error: SystemExit | KeyboardInterrupt, log: Log) -> int:
    """The exit code of a worker whose application has raised `error`, from 0 to 255.

    As the interpreter reads it, but never one of BOOT_ERRORS: once a worker has booted, these would
    stop the master and all other workers.
    """
    if not isinstance(error, SystemExit):
        log.warning("The application has raised KeyboardInterrupt: the worker exits with 1")
        return 1
    code = error.code
    if code is None:
        return 0
    if not isinstance(code, int):
        log.error("sys.exit: %s", printable(_read_text(code)))  # the interpreter prints it
        return 1
    status = code & 0xFF  # what the operating system keeps of it
    if status in BOOT_ERRORS:
        log.warning(
            "The application has called sys.exit(%d): the worker exits with 1, since %d would stop Gunicorn",
            code,
            status,
        )
        return 1
    return status


def _read_text(code: object) -> str:
    try:
        return str(code)
    except Exception:  # noqa: BLE001 # an object of the application, whose text is its own
        return object.__repr__(code)


def exit_in_time(code: int) -> None:
    """End the process with `code` even if the exit that is about to begin does not end.

    Threads of the application that are stuck as its loop was would hold the exit up until the
    arbiter kills and wonders about the memory.
    """
    timer = threading.Timer(ABORT_SECONDS, os._exit, (code,))
    timer.daemon = True
    with suppress(RuntimeError):  # no more threads are to be had
        timer.start()


@atexit.register  # at the import, before the application: the first to be registered is the last to run
def _stop_alarm() -> None:
    if not ThreadLimit.has_begun:
        return
    # Python gives signals that have a handler their default action when it ends: an alarm, or a signal
    # that the arbiter repeats, would then kill the process. It leaves those alone that are ignored.
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, HURRYING)
    for number in (signal.SIGALRM, *HURRYING):
        signal.signal(number, signal.SIG_IGN)


class ThreadLimit:
    """A time limit for the application's threads at the end of the interpreter.

    `begin` is called by the interpreter after ``worker_exit``, before it waits for threads. From then on
    an alarm looks at the clock: it keeps the heartbeat going, and when the time is up it names the
    threads in one log line, runs the ``atexit`` handlers and ends the process.
    """

    has_begun = False
    """In this process: an alarm is set."""

    def __init__(self, code: int, deadline: float, heartbeat: int, log: stalls.Log) -> None:
        """`code` is the exit code, `deadline` on the clock of ``time.monotonic``.

        `heartbeat` is a descriptor of the worker's heartbeat file; it is this object's own from now on.
        """
        self._code = code
        self._deadline = deadline
        self._heartbeat = heartbeat
        self._log = log
        self._waits_for_threads = True
        """False once all threads have ended and ``atexit`` handlers run."""
        self._has_skipped = False
        """An ``atexit`` handler was interrupted. It is not done twice: the next alarm ends the process."""
        self._report = ""
        self._is_due = threading.Event()
        # Made before it is needed: from Python 3.12 on, no thread can be started once the interpreter ends. And a thread of
        # its own, since another may hold the lock of the log.
        self._writer = threading.Thread(target=self._write, name="gunicorn_asgi log", daemon=True)

    def install(self) -> None:
        """Have the interpreter call `begin` when it is about to wait. To be called once, last."""
        with suppress(RuntimeError):  # no more threads are to be had
            self._writer.start()
        # The only place between Gunicorn's worker_exit and the wait. Python's executors use it for the same purpose.
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            register(self.begin)
        else:
            self.begin()  # worker_exit has to share the time
        atexit.register(self._threads_have_ended)  # the last to be registered is the first to run

    def begin(self) -> None:
        """Start to look at the clock; QUIT and INT shorten the time from now on, and ABRT ends it."""
        ThreadLimit.has_begun = True
        signal.signal(signal.SIGALRM, self._on_alarm)
        for number in HURRYING:
            signal.signal(number, self._hurry)
        signal.signal(
            signal.SIGABRT, self._abort
        )  # its usual handler reports on the loop, which has ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, *HURRYING))
        signal.setitimer(signal.ITIMER_REAL, POLL_SECONDS, POLL_SECONDS)

    def _threads_have_ended(self) -> None:
        self._waits_for_threads = False

    def _hurry(self, _number: int, _frame: FrameType | None) -> None:
        self._deadline = min(self._deadline, time.monotonic() + HURRY_SECONDS)

    def _abort(self, _number: int, _frame: FrameType | None) -> None:
        self._code = 1
        self._give_up()

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        with suppress(OSError):
            os.utime(self._heartbeat, (now, now))  # as Gunicorn's WorkerTmp.notify does
        if now >= self._deadline:
            self._give_up()

    def _give_up(self) -> None:
        signal.signal(signal.SIGALRM, self._on_late_alarm)
        signal.setitimer(signal.ITIMER_REAL, ATEXIT_SECONDS / 2, ATEXIT_SECONDS / 2)
        if not self._waits_for_threads:
            self._tell(STUCK_HANDLER)
            self._skip_handler()
        self._tell(_name_threads())
        atexit._run_exitfuncs()  # in the main thread, where the interpreter would run them
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed, or replaced by something else
                stream.flush()
        os._exit(self._code)

    def _on_late_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._has_skipped:
            os._exit(self._code)
        stalls.write_directly(self._log, "WARNING", STUCK_HANDLER)
        self._skip_handler()

    def _skip_handler(self) -> NoReturn:
        """Raise out of the ``atexit`` handler that does not end: Python prints that, and goes on with the next."""
        self._has_skipped = True
        raise TimeoutError(STUCK_HANDLER)

    def _tell(self, report: str) -> None:
        self._report = report
        self._is_due.set()
        if self._writer.ident is not None:
            self._writer.join(stalls.LOG_SECONDS)
        if self._writer.ident is None or self._writer.is_alive():
            stalls.write_directly(self._log, "WARNING", report)

    def _write(self) -> None:
        self._is_due.wait()
        self._log.warning("%s", self._report)


def _name_threads() -> str:
    main = threading.main_thread()
    threads = [
        thread for thread in threading.enumerate() if thread is not main and not thread.daemon
    ]
    named = [stalls.describe_thread(thread) for thread in threads[:MAX_NAMED]]
    if len(threads) > MAX_NAMED:
        named.append(f"and {len(threads) - MAX_NAMED} more")
    return (
        f"Threads of the application that did not end in time: {len(threads)} ({'; '.join(named)})"
    )
