"""The exit code of a worker's process, and an exit within a time limit."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from ..observe.log import Log
from ..observe.printable import printable

BOOT_ERRORS = frozenset({3, 4})
"""Exit codes at which Gunicorn's arbiter halts (WORKER_BOOT_ERROR, APP_LOAD_ERROR)."""
ABORT_SECONDS = 0.7
"""Time limit for an orderly exit after ABRT: Gunicorn kills a second after the signal."""


def read_exit_code(error: SystemExit | KeyboardInterrupt, log: Log) -> int:
    """Return the exit code of a worker whose application has raised `error`, from 0 to 255.

    It is the interpreter's, but never one of BOOT_ERRORS: from a booted worker, these would stop
    the master and all other workers.
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
    status = code & 0xFF  # the part kept by the operating system
    if status in BOOT_ERRORS:
        log.warning(
            "The application has called sys.exit(%d): the worker exits with 1, "
            "since %d would stop Gunicorn",
            code,
            status,
        )
        return 1
    return status


def _read_text(code: object) -> str:
    try:
        return str(code)
    except Exception:  # noqa: BLE001 # `code` is an object of the application
        return object.__repr__(code)


def exit_in_time(code: int) -> None:
    """End the process with `code` even if the exit that is about to begin does not end.

    Blocked threads of the application would delay the exit until the arbiter kills the process. The
    arbiter then logs that memory may have run out.
    """
    timer = threading.Timer(ABORT_SECONDS, os._exit, (code,))
    timer.daemon = True
    with suppress(RuntimeError):  # no more threads are to be had
        timer.start()
