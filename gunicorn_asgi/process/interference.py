"""Changes that an application makes to its process, and that the worker cannot work with or without.

Libraries make them for programs of their own: a signal handler, a configuration of logging, gevent's
patches of the standard library. Nobody is told of them, so the worker looks.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TextIO

from ..errors import ConfigError

PATCHERS = (
    (
        "gevent.monkey",
        "is_module_patched",
        "gevent.monkey.patch_all()",
        ("thread", "socket", "select"),
    ),
    (
        "eventlet.patcher",
        "is_monkey_patched",
        "eventlet.monkey_patch()",
        ("thread", "socket", "select"),
    ),
)
"""A module that patches the standard library, its function that tells so, the usual call, and patches that an event loop cannot run with."""


class Log(Protocol):
    """The part of Gunicorn's logger that is used here."""

    def warning(self, message: str, *args: object) -> None: ...


def find_loggers(log: object) -> list[logging.Logger]:
    """The loggers of ``logging`` that Gunicorn's logger object `log` writes to, as far as its class has them."""
    return [getattr(log, name) for name in ("error_log", "access_log") if hasattr(log, name)]


def refuse_patches() -> None:
    """Raise ConfigError if a library has replaced parts of the standard library that asyncio is built on."""
    for module, function, call, parts in PATCHERS:
        is_patched = getattr(sys.modules.get(module), function, None)
        if is_patched is not None and any(is_patched(part) for part in parts):
            raise ConfigError(
                f"The application has called {call}, and no asyncio event loop runs on what that replaces: remove the "
                f"call, or serve the application with worker_class {module.partition('.')[0]}."
            )


class Watch:
    """Warns once for each signal handler that is displaced, and once for each logger that is disabled."""

    def __init__(
        self, handlers: Mapping[int, Callable[..., Any]], log: Log, stderr: TextIO | None
    ) -> None:
        """`handlers` are the worker's own, by signal number.

        `stderr` is told of disabled loggers: the log itself is silent then.
        """
        self._handlers = dict(handlers)
        self._log = log
        self._stderr = stderr
        self._loggers = find_loggers(log)

    def look(self) -> None:
        """Look at the process; to be called in each heartbeat."""
        for number, handler in list(self._handlers.items()):
            current = signal.getsignal(number)
            if current != handler:
                del self._handlers[number]
                self._log.warning(
                    "The application, or a hook, has replaced the worker's handler of %s with %r. Unless that calls the handler it has "
                    "replaced, the worker does not learn what Gunicorn tells it by this signal",
                    signal.Signals(number).name,
                    current,
                )
        for logger in self._loggers.copy():
            if logger.disabled:
                self._loggers.remove(logger)
                self._write(
                    f"gunicorn_asgi: the application's logging configuration has disabled the logger {logger.name}, so that its lines "
                    "are lost; set disable_existing_loggers to False there\n"
                )

    def _write(self, line: str) -> None:
        if self._stderr is not None:
            with suppress(
                OSError, ValueError
            ):  # closed, or nobody reads it: no reason for the heartbeat to end
                self._stderr.write(line)
                self._stderr.flush()
