"""Failures of the log itself: a line a minute for each kind, and no request that fails by them.

The logging package reports a failed handler on stderr: two tracebacks, and the arguments of the
record, which are the headers of a request. A handler or filter that raises is worse: its exception
ends whatever was about to be logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, TracebackType
from typing import Protocol, TextIO

from .printable import printable

REPORT_SECONDS = 60.0
"""Time between two lines about failures of one kind."""
MAX_KINDS = 50
"""Kinds of failures that are told apart. All further ones are one kind."""
MAX_TEXT = 200
"""Characters of an error's text."""
MAX_REOPENED = 20
"""Log files that a full disk may keep from being closed before they are opened again."""
SYSLOG_SECONDS = 0.1
"""Time limit for a syslog daemon to take a line from its unix socket."""
SYSLOG_PAUSE_SECONDS = 10.0
"""Pause after a line that syslog has not taken in time."""
STATSD_FAILED = "Error sending message to statsd"
"""The beginning of Gunicorn's line, with a traceback, for each metric that cannot be sent."""


class LimitedReport:
    """Reports failures by `write`: the first of a kind at once, then their number once a minute."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def add(self, what: str, error: BaseException) -> None:
        """Count a failure to do `what`, caused by `error`."""
        key: object = (what, type(error), getattr(error, "errno", None))
        kind = self._kinds.get(key)
        if kind is None and len(self._kinds) >= MAX_KINDS:
            key, kind = None, self._kinds.get(None)
        if kind is None:
            line = f"{what}: {describe(error)}"
            kind = self._kinds[key] = _Kind("further failures" if key is None else line)
        kind.count += 1
        self._report(kind)

    def tick(self, is_end: bool = False) -> None:
        """Report what is due, or at the end everything; to be called in each heartbeat."""
        for kind in list(self._kinds.values()):
            if kind.count:
                self._report(kind, is_end)

    def _report(self, kind: _Kind, is_end: bool = False) -> None:
        now = self._clock()
        elapsed = now - kind.reported
        if elapsed < REPORT_SECONDS and not is_end:
            return
        count, kind.count, kind.reported = kind.count, 0, now
        is_first = kind.is_first
        kind.is_first = False
        self._write(kind.line if is_first else f"{kind.line} ({count} more in {elapsed:.0f} s)")


class _Kind:
    """Failures that share a line."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.count = 0
        """Failures since the last line."""
        self.reported = -REPORT_SECONDS
        self.is_first = True


def describe(error: BaseException) -> str:
    """Describe `error` in a line that has nothing of a record in it.

    The text of an error is left out, unless the logging package has raised it: a handler may have
    put the record into it. The place tells more.
    """
    name = type(error).__name__
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and isinstance(number, int):
        return f"{name}: [Errno {number}] {os.strerror(number)}"
    place = _innermost(error.__traceback__)
    if place is None:
        return name
    file, line, function = place
    if file == logging.__file__:
        return f"{name}: {printable(str(error)[:MAX_TEXT])}"
    return printable(f"{name} in {file}:{line} {function}")


def _innermost(trace: TracebackType | None) -> tuple[str, int, str] | None:
    place = None
    for frame, line in traceback.walk_tb(trace):
        place = frame.f_code.co_filename, line, frame.f_code.co_name
    return place


class LogGuard:
    """Keeps failures of the handlers of Gunicorn's two loggers from everybody else.

    What fails is reported on `stderr`, since the log itself has failed.
    """

    def __init__(self, stderr: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stderr = stderr
        self._failures = LimitedReport(self._write, clock)

    def install(self, *loggers: logging.Logger) -> None:
        """Guard `loggers`; to be called once, in the worker.

        An application's own ``Handler.handleError`` stays. The stock one stays for the records of
        other loggers.
        """
        for logger in loggers:
            # It is called as the method would be.
            logger.handle = GuardedHandle(logger, self.report)  # type: ignore[method-assign]
            for handler in logger.handlers:
                _limit_syslog(handler)
        if is_stock(logging.Handler.handleError):
            names = frozenset(logger.name for logger in loggers)
            # The stock method has this signature, too.
            logging.Handler.handleError = _make_handle_error(names, self.report)  # type: ignore[assignment, method-assign]

    def report(self, what: str, error: BaseException) -> None:
        if logging.raiseExceptions:
            self._failures.add(what, error)

    def tick(self, is_end: bool = False) -> None:
        self._failures.tick(is_end)

    def reopen(self, reopen_files: Callable[[], None]) -> None:
        """Call `reopen_files` until it has opened every file.

        A full disk may refuse the last lines of a file, and then closing it fails, but only once.
        """
        for _ in range(MAX_REOPENED):
            try:
                reopen_files()
            except Exception as error:  # noqa: BLE001 # in a signal handler, anybody would get it
                self.report("A log file could not be closed", error)
            else:
                return

    def _write(self, line: str) -> None:
        if self._stderr is not None:
            # RuntimeError: a signal handler has interrupted a write.
            with suppress(OSError, ValueError, RuntimeError):
                self._stderr.write(f"gunicorn_asgi, worker {os.getpid()}: {line}\n")
                self._stderr.flush()


class _Report(Protocol):
    def __call__(self, what: str, error: BaseException) -> None: ...


class GuardedHandle:
    """``Logger.handle`` of one logger: raises nothing."""

    def __init__(self, logger: logging.Logger, report: _Report) -> None:
        self._logger = logger
        self._report = report
        self._handle: Callable[[logging.LogRecord], None] | None = vars(logger).get("handle")
        """What a library has put in the place of the class's method."""
        self._statsd_failures = LimitedReport(self._warn)

    def __call__(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.msg, str) and record.msg.startswith(STATSD_FAILED):
            error = record.exc_info[1]
            if error is not None:
                self._statsd_failures.add(STATSD_FAILED, error)
                return
        self._pass_on(record)

    def _pass_on(self, record: logging.LogRecord) -> None:
        logger = self._logger
        try:
            if self._handle is not None:
                self._handle(record)
            else:
                type(logger).handle(logger, record)
        except Exception as error:  # noqa: BLE001 # of a handler or filter
            self._report(
                f"The log {logger.name} has lost a line, since a handler or filter raised", error
            )

    def _warn(self, line: str) -> None:
        name = self._logger.name
        self._pass_on(logging.LogRecord(name, logging.WARNING, "", 0, line, (), None))


def _make_handle_error(
    names: frozenset[str], report: _Report
) -> Callable[[logging.Handler, logging.LogRecord], None]:
    stock = logging.Handler.handleError

    def handle_error(self: logging.Handler, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is None or record.name not in names:
            stock(self, record)
        else:
            report(f"The log {record.name} has lost a line in {type(self).__name__}", error)

    return handle_error


def is_stock(function: object) -> bool:
    """Return whether `function` is the logging package's own."""
    return type(function) is FunctionType and function.__globals__ is vars(logging)


class UnixSysLogHandler(logging.handlers.SysLogHandler):
    """The standard handler for a unix socket, with a time limit.

    A syslog daemon that does not read would block its writers. After a line that it has not taken
    in time there is a pause, whose lines are lost at once.
    """

    _pause_end = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() >= self._pause_end:
            super().emit(record)
            return
        try:
            raise TimeoutError
        except TimeoutError:
            super().handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging's name
        if isinstance(sys.exc_info()[1], TimeoutError):
            self._pause_end = time.monotonic() + SYSLOG_PAUSE_SECONDS
        super().handleError(record)

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]  # typeshed lacks it
        self.socket.settimeout(SYSLOG_SECONDS)  # type: ignore[attr-defined]  # made by that call


def _limit_syslog(handler: logging.Handler) -> None:
    """Give `handler` the time limit if it is the standard one for a unix socket."""
    if type(handler) is logging.handlers.SysLogHandler and handler.unixsocket:
        handler.__class__ = UnixSysLogHandler
        with suppress(OSError):  # closed, since nobody listened
            handler.socket.settimeout(SYSLOG_SECONDS)  # type: ignore[attr-defined]  # typeshed lacks it
