"""Writing to a log whose lock may be taken: in a signal handler, and at the end of the process."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Protocol

from .log import Log

LOG_SECONDS = 0.3
"""Time limit for the log to take a report."""
PIPE_BUF = 512
"""Bytes that a pipe takes at once if it takes any (the minimum of POSIX)."""


class FileLog(Log, Protocol):
    """Gunicorn's logger, with the handlers that write to its file."""

    @property
    def error_log(self) -> logging.Logger: ...

    def critical(self, message: str, *args: object) -> None: ...


def log_in_time(
    log: FileLog, report: str, level: Literal["CRITICAL", "WARNING"] = "CRITICAL"
) -> None:
    """Log `report`. If that takes too long, write it to the file of the log.

    A signal may interrupt code that has the lock of a log handler, or is writing to its file. Then
    nobody else can write, not even the same thread. Or another thread has the lock, because the
    reader of the log is stuck.
    """
    write = log.critical if level == "CRITICAL" else log.warning
    if not call_in_time(write, "%s", report):
        write_directly(log, level, report)


def call_in_time(function: Callable[..., object], *args: object) -> bool:
    """Call `function` in a thread. Return whether it has returned within LOG_SECONDS."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads are to be had
        return False
    thread.join(LOG_SECONDS)
    return not thread.is_alive()


def write_directly(log: FileLog, level: str, report: str) -> None:
    """Write `report` to the file of the log without its handlers, as far as it does not block."""
    data = f"[{os.getpid()}] [{level}] {report}\n".encode(errors="replace")
    with suppress(OSError, ValueError):
        fd = log_descriptor(log)
        while data and select.select([], [fd], [], 0)[1]:
            data = data[os.write(fd, data[:PIPE_BUF]) :]


def log_descriptor(log: FileLog) -> int:
    """Return the descriptor of the error log's file; of stderr if the log has no file."""
    for handler in log.error_log.handlers:
        with suppress(AttributeError, OSError, ValueError):
            # Not every handler has a stream.
            fd: int = handler.stream.fileno()  # type: ignore[attr-defined]
            return fd
    return 2
